"""Exact search against a float64 scan of everything."""

import numpy as np
import pytest

from sscm.errors import IntegrityError, QueryError
from sscm.index import choosing, exact
from sscm.index.exact import ExactScan
from sscm.index.passing import Passing


def unit(rows, dimension, seed=0):
    values = np.random.default_rng(seed).standard_normal((rows, dimension))
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)


def brute_force(vectors, queries, k, allowed=None):
    """Every product in float64, rounded to float32; sorted by score, then by row."""
    scores, rows = [], []
    places = np.arange(len(vectors)) if allowed is None else np.flatnonzero(allowed)
    for query in queries:
        found = [
            (np.float32((vectors[row].astype(np.float64) * query.astype(np.float64)).sum()), row) for row in places
        ]
        found.sort(key=lambda hit: (-hit[0], hit[1]))
        scores.append([score for score, _ in found[:k]])
        rows.append([row for _, row in found[:k]])
    return np.array(scores, np.float32), np.array(rows, np.int64)


@pytest.fixture
def small_blocks(monkeypatch):
    """Many blocks, groups and parts in little data."""
    monkeypatch.setattr(exact, "BLOCK_SCORES", 300)
    monkeypatch.setattr(exact, "HELD_SCORES", 600)
    monkeypatch.setattr(exact, "THREAD_SCORES", 1)
    monkeypatch.setattr(exact, "GROUP_ROWS", 8)
    monkeypatch.setattr(exact, "QUERY_ROWS", 3)
    monkeypatch.setattr(exact, "DIRECT_ROWS", 0)
    monkeypatch.setattr(choosing, "COLUMNS", 20)


@pytest.mark.parametrize("k", [1, 5, 60, 417])
@pytest.mark.parametrize("share", [None, 0.9, 0.05])
def test_equals_brute_force(small_blocks, k, share):
    vectors, queries = unit(417, 16), unit(7, 16, seed=1)
    allowed = None if share is None else np.random.default_rng(2).random(417) < share
    scores, rows = ExactScan(vectors).search(queries, k, allowed)
    wanted_scores, wanted_rows = brute_force(vectors, queries, k, allowed)
    np.testing.assert_array_equal(rows, wanted_rows)
    np.testing.assert_array_equal(scores, wanted_scores)
    assert scores.dtype == np.float32 and rows.dtype == np.int64


def test_duplicates_come_in_the_order_of_their_rows(small_blocks):
    vectors = np.repeat(unit(40, 16), 10, axis=0)[np.random.default_rng(3).permutation(400)]
    queries = vectors[:5]
    scores, rows = ExactScan(vectors).search(queries, 25)
    wanted_scores, wanted_rows = brute_force(vectors, queries, 25)
    np.testing.assert_array_equal(rows, wanted_rows)
    np.testing.assert_array_equal(scores, wanted_scores)
    assert (np.diff(rows[0, :10]) > 0).all()


def test_near_ties_are_told_apart_as_float64_does(small_blocks):
    """Vectors that differ by one unit in the last place of one value: a float32 product cannot order them."""
    base = unit(1, 64)[0]
    vectors = np.tile(base, (300, 1))
    rng = np.random.default_rng(4)
    for row in range(300):
        place = rng.integers(64)
        vectors[row, place] = np.nextafter(vectors[row, place], np.float32(rng.choice([-1, 1])))
    queries = np.stack([base, unit(1, 64, seed=5)[0]])
    float32 = queries @ vectors.T
    naive = np.argsort(-float32, axis=1, kind="stable")[:, :50]
    scores, rows = ExactScan(vectors).search(queries, 50)
    wanted_scores, wanted_rows = brute_force(vectors, queries, 50)
    np.testing.assert_array_equal(rows, wanted_rows)
    np.testing.assert_array_equal(scores, wanted_scores)
    assert (naive != wanted_rows).any()  # the case is hard: plain float32 gets it wrong


def test_same_answer_for_any_batch_block_and_thread_count(monkeypatch):
    vectors, queries = unit(1500, 128), unit(70, 128, seed=1)
    scores, rows = ExactScan(vectors).search(queries, 10)
    monkeypatch.setattr(exact, "DIRECT_ROWS", 0)
    monkeypatch.setattr(choosing, "COLUMNS", 20)
    monkeypatch.setattr(exact, "THREAD_SCORES", 1)
    for block, held, threads, batch in ((64, 640, 1, 70), (1000, 9999, 2, 33), (2**18, 2**23, 1, 1)):
        monkeypatch.setattr(exact, "BLOCK_SCORES", block)
        monkeypatch.setattr(exact, "HELD_SCORES", held)
        scan = ExactScan(vectors, threads)
        parts = [scan.search(queries[start : start + batch], 10) for start in range(0, 70, batch)]
        np.testing.assert_array_equal(np.concatenate([part[0] for part in parts]), scores)
        np.testing.assert_array_equal(np.concatenate([part[1] for part in parts]), rows)


def test_unscaled_vectors_keep_the_bound(small_blocks):
    rng = np.random.default_rng(6)
    vectors = (rng.standard_normal((400, 32)) * 10.0 ** rng.integers(-3, 4, (400, 1))).astype(np.float32)
    queries = (rng.standard_normal((4, 32)) * 100).astype(np.float32)
    scores, rows = ExactScan(vectors).search(queries, 20)
    wanted_scores, wanted_rows = brute_force(vectors, queries, 20)
    np.testing.assert_array_equal(rows, wanted_rows)
    np.testing.assert_array_equal(scores, wanted_scores)


def test_fewer_allowed_than_asked_for():
    allowed = np.zeros(50, np.bool_)
    allowed[[3, 40]] = True
    scores, rows = ExactScan(unit(50, 8)).search(unit(2, 8, seed=1), 10, allowed)
    assert scores.shape == rows.shape == (2, 2)
    assert set(rows.ravel()) == {3, 40}
    scores, rows = ExactScan(unit(50, 8)).search(unit(2, 8, seed=1), 10, np.zeros(50, np.bool_))
    assert scores.shape == rows.shape == (2, 0)


def test_nothing_to_search_and_nothing_asked():
    assert ExactScan(np.empty((0, 8), np.float32)).search(unit(2, 8), 3)[1].shape == (2, 0)
    assert ExactScan(unit(5, 8)).search(np.empty((0, 8), np.float32), 3)[1].shape == (0, 3)


def test_reads_a_memory_mapped_file_and_leaves_threads_alone(tmp_path):
    import torch

    vectors = unit(300, 16)
    np.save(tmp_path / "v.npy", vectors)
    before = torch.get_num_threads()
    rows = ExactScan(np.load(tmp_path / "v.npy", mmap_mode="r"), threads=1).search(vectors[:4], 1)[1]
    assert rows[:, 0].tolist() == [0, 1, 2, 3]
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    ("change", "k", "message"),
    [
        (lambda q: q, 0, "k = 0"),
        (lambda q: q[:, :7], 3, r"\(2, 7\).*\[queries, 8\]"),
        (lambda q: q[0], 3, r"\(8,\)"),
        (lambda q: np.where(np.arange(2)[:, None] == 1, np.nan, q), 3, "query 1 .*NaN"),
        (lambda q: q * np.inf, 3, "query 0 .*infinite"),
        (lambda q: q.astype(np.float64) * 1e300, 3, "query 0 .*infinite"),
        (lambda q: q * 0, 3, "query 0 has norm zero"),
        (lambda q: q.astype(np.float64) * 1e-300, 3, "query 0 has norm zero"),
        (lambda q: q * np.float32(3e38), 3, "norm 3e"),
        (lambda q: q.astype(str), 3, "expected numbers"),
    ],
)
def test_bad_queries(change, k, message):
    scan = ExactScan(unit(10, 8) * 10)
    with pytest.raises(QueryError, match=message):
        scan.search(change(unit(2, 8)), k)


def test_bad_bitmap_and_vectors():
    with pytest.raises(QueryError, match=r"allowed has shape \(9,\)"):
        ExactScan(unit(10, 8)).search(unit(1, 8), 1, np.ones(9, np.bool_))
    with pytest.raises(IntegrityError, match="float64"):
        ExactScan(unit(10, 8).astype(np.float64))
    broken = unit(10, 8)
    broken[4, 2] = np.nan
    with pytest.raises(IntegrityError, match="not finite"):
        ExactScan(broken)


@pytest.mark.parametrize("share", [0.02, 0.3, 0.7, 0.9])
def test_a_filter_asked_with_again_and_again_answers_the_same(small_blocks, share):
    vectors, queries = unit(400, 24), unit(30, 24, seed=1)
    bitmap = np.random.default_rng(4).random(400) < share
    passing = Passing(bitmap)
    scan = ExactScan(vectors)
    before = passing.bytes
    for start in range(0, 30, 3):
        part = queries[start : start + 3]
        scores, rows = scan.search(part, 5, passing)
        wanted_scores, wanted = brute_force(vectors, part, 5, bitmap)
        assert np.array_equal(rows, wanted)
        assert np.array_equal(scores, wanted_scores)
    # Few rows are gathered, many are masked.
    assert (passing.bytes > before) == (share < 0.75)
