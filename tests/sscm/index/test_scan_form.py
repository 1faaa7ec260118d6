"""The scan form bounds every inner product, and survives a file."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sscm.errors import IntegrityError
from sscm.index import scan_form
from sscm.index.scan_form import load_scan_form, make_scan_form


def vectors_of(rows, dimension, directions, scale, seed):
    """Vectors that mostly lie in a few directions."""
    rng = np.random.default_rng(seed)
    mixed = rng.standard_normal((rows, directions)) @ rng.standard_normal((directions, dimension))
    return (scale * (mixed + 0.02 * rng.standard_normal((rows, dimension)))).astype(np.float32)


def bounds(form, queries):
    coded = form.queries(queries)
    products = coded.codes.astype(np.int64) @ form.codes.astype(np.int64).T
    return coded.unit[:, None] * products + coded.slack[:, None]


@settings(deadline=None, max_examples=60)
@given(
    rows=st.integers(1, 80),
    dimension=st.integers(2, 90),
    directions=st.integers(1, 8),
    scale=st.sampled_from([1e-6, 1.0, 1e6]),
    strange=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_no_product_exceeds_its_bound(rows, dimension, directions, scale, strange, seed):
    vectors = vectors_of(rows, dimension, directions, scale, seed)
    form = make_scan_form(vectors)
    # Strange queries lie in all directions alike: the rest, which codes leave out, is most of them.
    queries = np.random.default_rng(seed).standard_normal((5, dimension)).astype(np.float32) if strange else vectors[:5]
    exact = queries.astype(np.float64) @ vectors.astype(np.float64).T
    assert (bounds(form, queries) >= exact).all()


def test_few_directions_take_few_codes_and_the_bound_is_close():
    vectors = vectors_of(5000, 128, 8, 1.0, seed=0)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    form = make_scan_form(vectors)
    assert form.codes.shape == (5000, 32) and form.basis.shape == (128, 30)
    exact = vectors[:50].astype(np.float64) @ vectors.astype(np.float64).T
    assert (bounds(form, vectors[:50]) - exact).mean() < 0.04


def test_rows_in_all_directions_keep_all_of_them():
    vectors = np.random.default_rng(0).standard_normal((3000, 64)).astype(np.float32)
    form = make_scan_form(vectors)
    assert form.basis.shape == (64, 64) and form.rest == 0
    np.testing.assert_allclose(form.basis.T @ form.basis, np.eye(64), atol=1e-12)


def test_in_chunks_as_at_once(monkeypatch):
    vectors = vectors_of(1000, 40, 3, 1.0, seed=1)
    whole = make_scan_form(vectors)
    monkeypatch.setattr(scan_form, "CHUNK_ROWS", 77)
    parts = make_scan_form(vectors)
    np.testing.assert_array_equal(whole.codes, parts.codes)
    assert whole.error == parts.error and whole.longest == parts.longest


def test_zeros_nothing_and_one_row():
    assert make_scan_form(np.zeros((0, 8), np.float32)).codes.shape[0] == 0
    form = make_scan_form(np.zeros((3, 8), np.float32))
    assert (bounds(form, np.ones((1, 8), np.float32)) >= 0).all()


def test_round_trip_and_damage(tmp_path):
    vectors = vectors_of(200, 40, 3, 1.0, seed=2)
    form = make_scan_form(vectors)
    path = tmp_path / "scan.safetensors"
    form.save(path)
    again = load_scan_form(path, "there")
    np.testing.assert_array_equal(again.codes, form.codes)
    np.testing.assert_array_equal(again.basis, form.basis)
    assert again.queries(vectors[:3]).slack.tolist() == form.queries(vectors[:3]).slack.tolist()
    whole = path.read_bytes()
    for damage in (whole[: len(whole) // 2], b"", b"\xff" * 100):
        path.write_bytes(damage)
        with pytest.raises(IntegrityError, match="there is not a whole scan form"):
            load_scan_form(path, "there")


def test_refuses_what_is_not_finite():
    vectors = np.ones((5, 8), np.float32)
    vectors[3, 2] = np.nan
    with pytest.raises(IntegrityError, match="not finite"):
        make_scan_form(vectors)
