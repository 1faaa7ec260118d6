"""What would end or stop the process that reads a filter is refused, and what would not is read in time."""

import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sscm.errors import QueryError
from sscm.index.cql2_text import parse_text

TOKENS = [
    "(",
    "(",
    ")",
    "NOT",
    "-",
    "a",
    "casei(",
    "'x'",
    "1",
    ",",
    "=",
    "AND",
    "IN",
    "POLYGON((",
    "BBOX(",
    "1 -2",
    "is",
]


@pytest.mark.parametrize(
    "text",
    [
        "(" * 500 + "flag" + ")" * 500,
        "(" * 30 + "a = " + ")" * 30,
        "NOT (" * 20 + "a = " + ")" * 20,
        "NOT " * 100_000 + "a",
        "NOT " * 101 + "a",
        "casei(" * 101 + "a" + ")" * 101 + " = 'x'",
        "a = " + "-" * 5000 + "1",
        "a" + " ^ a" * 5000 + " = 1",
        "a = 1" + "-1" * 3000,
        "a" + " = a" * 5000,
        "x" * 100_001,
        "POLYGON(" * 40 + "(" * 40 + "1 1" + ")" * 80,
    ],
)
def test_texts_that_the_library_would_not_survive_are_refused_at_once(text):
    started = time.perf_counter()
    with pytest.raises(QueryError, match=r"too long, or too deep|characters; expected at most"):
        parse_text(text)
    assert time.perf_counter() - started < 0.5


@pytest.mark.parametrize(
    "text",
    [
        "NOT " * 100 + "a",
        "a = " + "-" * 100 + "b",
        "a" + " ^ a" * 490 + " = 1",
        "a" + " = a" * 490,
        "a = 1" + " AND a = 1" * 330,
        "casei(" * 100 + "a" + ")" * 100 + " = 'x'",
        "a IN (" + ", ".join(f"'value {n}'" for n in range(5000)) + ")",
        "a IN (" + ", ".join(f"-{n}" for n in range(5000)) + ")",
        "s_intersects(geometry, POLYGON((" + ", ".join(f"{n % 90} -{n % 80}.5" for n in range(5000)) + ")))",
    ],
)
def test_the_largest_texts_are_read_even_in_a_thread_of_little_stack(text):
    result = []
    size = threading.stack_size(2 * 2**20)
    try:
        thread = threading.Thread(target=lambda: result.append(parse_text(text)))
        thread.start()
    finally:
        threading.stack_size(size)
    thread.join()
    assert isinstance(result[0], dict)


@settings(max_examples=300, deadline=1000)
@given(tokens=st.lists(st.sampled_from(TOKENS), max_size=60))
def test_anything_is_read_or_refused_in_time(tokens):
    text = " ".join(tokens)
    text += ")" * max(0, text.count("(") - text.count(")"))
    try:
        parse_text(text)
    except QueryError as error:
        assert str(error).startswith("filter")


def test_quotes_parentheses_and_brackets_within_quotes_are_text():
    assert parse_text("a = '(' AND \"b)\" = 'o''(('") == {
        "op": "and",
        "args": [{"op": "=", "args": [{"property": "a"}, "("]}, {"op": "=", "args": [{"property": "b)"}, "o'(("]}],
    }


def test_coordinates_may_have_exponents_as_numbers_have():
    told = parse_text("s_intersects(geometry, MULTIPOINT(1.5e1 -2E0, 3 4)) AND a < 1e3 AND b = '(1e0 1e0'")
    assert told["args"][0]["args"][1]["coordinates"] == [[15, -2], [3, 4]]
    assert told["args"][1]["args"][1] == 1000
    assert told["args"][2]["args"][1] == "(1e0 1e0"
