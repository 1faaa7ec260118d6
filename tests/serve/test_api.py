"""Requests are checked before anything is asked, and refusals say what was seen."""

from __future__ import annotations

import json
import re

import pytest
from pydantic import ValidationError

from serve.api import PROBLEM, Filters, ItemFilters, SearchRequest, explain, parse_filters, problem, read_search, shown
from sscm.errors import QueryError
from sscm.index.filters import Filter


def refusal(**fields):
    with pytest.raises(ValidationError) as caught:
        SearchRequest(**{"modality": "s1", "target": "s2", "id": "p", **fields})
    return explain(caught.value.errors())


def test_exactly_one_example():
    assert "neither of vector and id given, and no positives; expected exactly one" in refusal(id=None)
    assert "vector and id given; expected exactly one" in refusal(vector=[1.0])
    assert "id and positives given; expected exactly one" in refusal(positives=[{"id": "q"}])
    assert "negatives given and no positives" in refusal(negatives=[{"id": "q"}])
    assert SearchRequest(modality="s1", target="s2", vector=[1.0]).limit == 10


def test_examples_are_items_or_vectors_of_a_known_modality():
    assert "neither of vector and id" in refusal(id=None, positives=[{"modality": "s1"}])
    assert "both of vector and id" in refusal(id=None, positives=[{"id": "q", "vector": [1]}])
    assert "at most 100 items" in refusal(id=None, positives=[{"id": "q"}] * 101)
    for told in ({"id": None, "positives": [{"id": "q"}]}, {"id": "q"}, {"id": None, "vector": [1.0]}):
        assert "modality is missing" in refusal(modality=None, **told)
    example = {"id": "q", "modality": "s2"}
    assert SearchRequest(target="s2", positives=[example, {"vector": [1]}], negatives=[example]).modality is None


def test_refusals_name_field_complaint_and_value():
    assert "less than or equal to 1, seen 2" in refusal(min_score=2)
    assert "min_score" in refusal(min_score=float("nan"))
    assert refusal(limit=0) == "limit: Input should be greater than or equal to 1, seen 0"
    assert refusal(bbox="everywhere").startswith("bbox: Input should be a valid list, seen 'everywhere'")
    assert refusal(target=5) == "target: Input should be a valid string or Input should be a valid list, seen 5"
    assert refusal(colour="red") == "colour: Extra inputs are not permitted, seen 'red'"


def test_filters_become_the_index_s_filter_or_none():
    assert Filters().restriction() is None
    given = Filters(bbox=[1, 2, 3, 4], labels=["Pastures"], split="test", datetime="2018-06-01T00:00:00Z/..")
    assert given.restriction() == Filter(
        bbox=[1, 2, 3, 4], labels=["Pastures"], split="test", datetime="2018-06-01T00:00:00Z/.."
    )
    with pytest.raises(QueryError, match="south is north of north"):
        Filters(bbox=[0, 5, 1, 4]).restriction()


def test_cql2_is_part_of_a_filter_by_the_names_that_stac_gives_it():
    tree = {"op": "=", "args": [{"property": "split"}, "test"]}
    wanted = Filter(filter=tree)
    for told in (
        {"filter": "split = 'test'"},
        {"filter": "split = 'test'", "filter-lang": "cql2-text"},
        {"filter": tree, "filter_lang": "cql2-json"},
        {"filter": json.dumps(tree), "filter-lang": "cql2-json"},
    ):
        assert Filters(**told).restriction() == wanted
        assert parse_filters(json.dumps(told)).restriction() == wanted
    with pytest.raises(QueryError, match=r"filter: column 9, at the end"):
        Filters(filter="split = ").restriction()
    with pytest.raises(QueryError, match="is given and no filter"):
        Filters(**{"filter-lang": "cql2-text"}).restriction()
    assert "filter: Input should be a valid string or Input" in refusal(filter=3)


def test_each_target_is_searched_once_in_the_order_given():
    def targets(target):
        return SearchRequest(modality="s1", target=target, id="p").targets

    assert (targets("s2"), targets(["s2"]), targets(["s2", "s1", "s2"])) == (("s2",), ("s2",), ("s2", "s1"))
    assert "at least 1 item" in refusal(target=[])
    assert "at most 8 items" in refusal(target=["s1"] * 9)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "Invalid JSON"),
        (b"\xff", "Invalid JSON"),
        (b"null", "Input should be an object, seen None"),
        (b"[1]", "Input should be an object, seen [1]"),
        (b'{"modality": "s1", "target": "s2"}', "neither of vector and id given"),
        (
            b'{"modality": "s1", "target": "s2", "id": "p", "colour": 1}',
            "colour: Extra inputs are not permitted, seen 1",
        ),
        (b'{"a":' * 100_000, "recursion limit exceeded"),
    ],
)
def test_a_body_that_is_no_search_is_refused_in_few_words(body, words):
    with pytest.raises(QueryError, match=re.escape(words)) as caught:
        read_search(body)
    assert len(str(caught.value)) < 300


def test_a_search_is_read_alike_from_bytes_and_from_json_values():
    told = {"vector": [1, 2.5], "modality": "s1", "target": ["s2"], "filter": {"op": "x"}, "filter-lang": "cql2-json"}
    assert read_search(told) == read_search(json.dumps(told).encode()) == SearchRequest(**told)
    wrong = {**told, "limit": 0, "min_score": "high"}
    said = []
    for body in (wrong, json.dumps(wrong).encode()):
        with pytest.raises(QueryError) as caught:
            read_search(body)
        said.append(str(caught.value))
    assert said[0] == said[1]


def test_filters_of_a_query_string_are_those_of_a_body():
    square = {"type": "Polygon", "coordinates": [[[20, 44], [21, 44], [21, 45], [20, 44]]]}
    tree = {"op": "=", "args": [{"property": "split"}, "test"]}
    told = {
        "bbox": "20,44, 21,45.5",
        "intersects": json.dumps(square),
        "datetime": "2018-06-01T00:00:00Z/..",
        "ids": "a,b",
        "labels": "Pastures,Mixed forest",
        "split": "test",
        "filter": "country = 'Serbia'",
        "filter-lang": "cql2-text",
    }
    asked = ItemFilters(**told, limit=3, token="t", sample=4)
    assert asked.asked == told
    assert asked.filters() == Filters(
        **{
            **told,
            "bbox": [20, 44, 21, 45.5],
            "intersects": square,
            "ids": ["a", "b"],
            "labels": ["Pastures", "Mixed forest"],
        }
    )
    assert ItemFilters(filter=json.dumps(tree)).filters().filter == tree
    assert ItemFilters().filters() == Filters() and ItemFilters().asked == {}
    for wrong, words in (
        ({"bbox": "20,x"}, "could not convert string to float: 'x'"),
        ({"bbox": ""}, "expected numbers in bbox"),
        ({"intersects": "here"}, "JSON in intersects"),
        ({"intersects": "3"}, "intersects"),
        ({"filter": "{"}, "CQL2 JSON"),
        ({"intersects": "[" * 100_000}, "filters: "),
    ):
        with pytest.raises(QueryError, match=re.escape(words)):
            ItemFilters(**wrong).filters()


def test_filters_of_a_form_are_json():
    assert parse_filters(None) == parse_filters("") == parse_filters("{}") == Filters()
    assert parse_filters('{"ids": ["a"]}').ids == ["a"]
    for text, match in (
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ('"x"', "valid dictionary"),
        ('{"id": 3}', "id: Extra inputs"),
    ):
        with pytest.raises(QueryError, match=match):
            parse_filters(text)


def test_a_problem_is_rfc_9457():
    answer = problem(404, "item 'x' is not here", {"Retry-After": "1"})
    assert answer.status_code == 404
    assert answer.media_type == PROBLEM
    assert answer.headers["Retry-After"] == "1"
    assert json.loads(answer.body) == {
        "type": "about:blank",
        "title": "Not Found",
        "status": 404,
        "detail": "item 'x' is not here",
    }


def test_values_are_shown_short():
    assert shown("x") == "'x'"
    assert len(shown(list(range(1000)))) == 80


def test_lists_in_a_query_string_are_separated_by_commas_or_json():
    assert ItemFilters(labels="Pastures,Mixed forest").filters().labels == ["Pastures", "Mixed forest"]
    assert ItemFilters(labels='["Transitional woodland, shrub"]').filters().labels == ["Transitional woodland, shrub"]
    assert ItemFilters(ids='["a,b", "c"]').filters().ids == ["a,b", "c"]
    for wrong in ('["a', "[1]"):
        with pytest.raises(QueryError, match=r"filters|labels"):
            ItemFilters(labels=wrong).filters()
