"""Text columns as codes, against lists of Python's strings."""

from bisect import bisect_left

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from sscm.index.texts import Texts, coded_texts, fold, like, matches

TEXT = st.text(st.sampled_from("aAbßéÉ%_\\.*[]\n 漢\U0001f6f0"), max_size=6)


@settings(deadline=None)
@given(column=st.lists(st.none() | TEXT, max_size=60), asked=st.lists(TEXT, max_size=60))
def test_codes_are_places_among_the_sorted_values(column, asked):
    texts = coded_texts(pa.array(column, pa.string()))
    values = sorted({value for value in column if value is not None})
    assert texts.values.to_pylist() == values
    assert texts.rows().to_pylist() == column
    assert texts.valid().tolist() == [value is not None for value in column]
    assert [texts.place(text) for text in asked] == [bisect_left(values, text) for text in asked]
    assert {values[place] for place in texts.places(asked)} == set(asked) & set(values)
    assert texts.among(texts.places(asked)).tolist() == [value in asked for value in column]
    low, high = min(len(values), 2), min(len(values), 5)
    assert texts.within(low, high).tolist() == [value in values[low:high] for value in column]
    sorted_ = Texts(pa.array(values, pa.string()), None)
    assert sorted_.within(low, high).tolist() == coded_texts(sorted_.values).within(low, high).tolist()
    assert sorted_.among(sorted_.places(asked)).tolist() == [value in asked for value in values]


@settings(deadline=None)
@given(column=st.lists(st.none() | TEXT, max_size=30))
def test_folded_values_that_become_the_same_are_one(column):
    texts = coded_texts(pa.array(column, pa.string()))
    folded = texts.changed(pa.array([fold(value, "casei") for value in texts.values.to_pylist()], pa.string()))
    assert folded.rows().to_pylist() == [value if value is None else value.casefold() for value in column]
    assert folded.values.to_pylist() == sorted({value.casefold() for value in column if value is not None})


def slow_like(text, pattern):
    if not pattern:
        return not text
    first, rest = pattern[0], pattern[1:]
    if first == "%":
        return any(slow_like(text[i:], rest) for i in range(len(text) + 1))
    if first == "\\" and rest:
        return text[:1] == rest[0] and slow_like(text[1:], rest[1:])
    return bool(text) and first in ("_", text[0]) and slow_like(text[1:], rest)


@settings(max_examples=500, deadline=None)
@given(text=TEXT, pattern=TEXT)
def test_like(text, pattern):
    assert like(text, pattern) == slow_like(text, pattern)


def test_like_of_a_column_and_the_characters_that_regular_expressions_mean_something_by():
    values = pa.array(["a.b", "axb", "a+b", "(a)", "", "a\nb"])
    assert matches(values, "a.b").tolist() == [True, False, False, False, False, False]
    assert matches(values, "a_b").tolist() == [True, True, True, False, False, True]
    assert matches(values, "%").tolist() == [True] * 6
    for character in map(chr, range(1, 300)):
        assert like(character, f"\\{character}") and like(character, "_")
        assert not like("x" + character, f"\\{character}")


def test_folds():
    assert fold("Straße", "casei") == fold("STRASSE", "casei") == "strasse"
    assert fold("Événement ﬁn", "accenti") == "Evenement fin"
    assert np.array_equal([fold(t, "accenti") for t in ("papá", "papa")], ["papa", "papa"])
