"""Examples against the formula written out, and its symmetries."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from sscm.errors import QueryError
from sscm.index.examples import NEGATIVE_WEIGHT, combine_examples

D = 5
ONES = st.floats(-1, 1, width=32).map(lambda v: v + 2 if v >= 0 else v - 2)
VECTORS = arrays(np.float32, D, elements=ONES)


def unit(vector):
    return np.float64(vector) / np.linalg.norm(np.float64(vector))


def test_one_positive_is_itself_and_of_any_length():
    vector = np.float32([1, -2, 3, 0, 0.5])
    for scale in (1e-300, 1e-3, 1, 7, 1e300):
        query = combine_examples([np.float64(vector) * scale], dimension=D)
        assert query.dtype == np.float32
        np.testing.assert_allclose(query, unit(vector), atol=1e-7)
    assert combine_examples(np.eye(D, dtype=int), dimension=D) == pytest.approx(np.full(D, 5**-0.5))


def test_it_is_the_formula():
    rng = np.random.default_rng(0)
    positives, negatives = rng.normal(size=(3, D)), rng.normal(size=(4, D))
    wanted = sum(map(unit, positives)) / 3 - 0.2 * sum(map(unit, negatives)) / 4
    assert NEGATIVE_WEIGHT == pytest.approx(0.15 / 0.75)
    np.testing.assert_allclose(combine_examples(positives, negatives, dimension=D), unit(wanted), atol=1e-7)
    np.testing.assert_allclose(
        combine_examples(positives, negatives, dimension=D, weight=0), combine_examples(positives, dimension=D)
    )


@settings(deadline=None)
@given(positives=st.lists(VECTORS, min_size=1, max_size=4), negative=VECTORS)
def test_order_repetition_and_length_do_not_matter_and_negatives_push_away(positives, negative):
    try:
        query = combine_examples(positives, [negative], dimension=D)
        without = combine_examples(positives, dimension=D)
    except QueryError as error:
        assert "cancel" in str(error)
        return
    assert np.linalg.norm(query) == pytest.approx(1, abs=1e-6)
    again = [vector * 3 for vector in reversed(positives)] * 2
    mean = np.linalg.norm(np.mean([unit(v) for v in positives], axis=0) - 0.2 * unit(negative))
    if mean > 1e-3:  # otherwise rounding decides
        np.testing.assert_allclose(combine_examples(again, [negative, negative], dimension=D), query, atol=1e-3)
        assert query @ unit(negative) <= without @ unit(negative) + 1e-3


@pytest.mark.parametrize(
    ("positives", "negatives", "message"),
    [
        ([], [[1, 0]], "no positive example"),
        ([[1, 0], [1, 0, 0]], [], r"positives.1: int64 \[3\]; expected 2 numbers"),
        ([[[1, 0]]], [], r"positives.0: int64 \[1, 2\]"),
        ([["a", "b"]], [], "positives.0: <U1"),
        ([[1, 0]], [[np.nan, 1]], "negatives.0 has a value that is NaN"),
        ([[1, 0]], [[0, 1], [np.inf, 1]], "negatives.1 has a value that is NaN or infinite"),
        ([[0, 0]], [], "positives.0 has norm zero"),
        ([[1, 1], [-2, -2]], [], "cancel each other out"),
    ],
)
def test_what_makes_no_query(positives, negatives, message):
    with pytest.raises(QueryError, match=message):
        combine_examples(positives, negatives, dimension=2)


@pytest.mark.parametrize("weight", [-1, np.nan, np.inf])
def test_weights(weight):
    with pytest.raises(QueryError, match="weight"):
        combine_examples([[1, 0]], [[0, 1]], dimension=2, weight=weight)
    with pytest.raises(QueryError, match="cancel"):
        combine_examples([[1, 0]], [[2, 0]], dimension=2, weight=1)
