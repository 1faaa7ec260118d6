"""The scan of fixed shape and its kernels: on a GPU where there is one, interpreted by Triton on the CPU where not."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from sscm.index import exact
from sscm.index.exact import ExactScan

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cuda" if torch.cuda.is_available() and not INTERPRETED else "cpu"
NEVER = torch.iinfo(torch.int32).min

# Triton decides as it is imported: interpreting takes a process of its own.
runs = pytest.mark.skipif(
    DEVICE == "cpu" and not INTERPRETED, reason="no GPU; test_on_the_cpu_by_interpretation runs this in a process"
)


def unit(rows, dimension, seed=0):
    values = np.random.default_rng(seed).standard_normal((rows, dimension))
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)


def integers(rows, width, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-127, 128, (rows, width), generator=generator, dtype=torch.int8)


def answers_of(vectors, queries, k, allowed=None):
    """A search of fixed shape with vectors and queries, whatever the device."""
    scan = ExactScan(vectors, device=DEVICE)
    scan._has_kernels = True
    return scan, *scan.search(queries, k, allowed)


@pytest.fixture
def no_direct(monkeypatch):
    """Few rows are scanned, too."""
    monkeypatch.setattr(exact, "DIRECT_ROWS", 0)


@pytest.mark.skipif(INTERPRETED, reason="this is the process")
def test_on_the_cpu_by_interpretation():
    pytest.importorskip("triton")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    done = subprocess.run(
        command, env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "1 skipped" in done.stdout and "failed" not in done.stdout


@runs
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("queries", "rows", "width"), [(1, 700, 64), (3, 64, 16), (33, 257, 112), (130, 300, 144)])
def test_products_of_codes(queries, rows, width, masked):
    from sscm.index.gpu_kernels import group_maxima, group_products

    asked, codes = integers(queries, width, 1), integers(rows, width, 2)
    mask = torch.arange(rows) % 3 == 0 if masked else torch.ones(rows, dtype=torch.bool)
    if masked:
        mask[:64] = False
    groups = -(-rows // 64)
    wanted = torch.full((queries, groups * 64), NEVER, dtype=torch.int32)
    wanted[:, :rows] = torch.where(mask, asked.int() @ codes.int().T, NEVER)
    given = (asked.to(DEVICE), codes.to(DEVICE), mask.to(DEVICE) if masked else None)
    maxima = group_maxima(*given).cpu()
    assert torch.equal(maxima, wanted.view(queries, groups, 64).amax(2))
    chosen = torch.randint(groups, (queries, 3), generator=torch.Generator().manual_seed(3))
    inside = group_products(*given, chosen.to(DEVICE)).cpu().view(queries, 3, 64)
    assert torch.equal(inside, wanted.view(queries, groups, 64)[torch.arange(queries)[:, None], chosen])


@runs
@pytest.mark.parametrize("dimension", [8, 100, 384])
def test_scores(dimension):
    from sscm.index.gpu_kernels import exact_scores

    vectors, queries = unit(50, dimension), unit(5, dimension, 1)
    rows = torch.randint(-1, 50, (5, 70), generator=torch.Generator().manual_seed(4))
    found = exact_scores(*(torch.from_numpy(a).to(DEVICE) for a in (queries, vectors)), rows.to(DEVICE)).cpu()
    wanted = (queries[:, None].astype(np.float64) * vectors[rows.numpy()]).sum(2)
    wanted[rows.numpy() < 0] = -np.inf
    np.testing.assert_allclose(found.numpy(), wanted, rtol=0, atol=1e-15)


@runs
@pytest.mark.parametrize("k", [1, 10])
@pytest.mark.parametrize("share", [None, 0.9, 0.3])
def test_the_answers_of_the_cpu(no_direct, k, share):
    # The last rows are no whole group, and there are more groups than are looked at.
    vectors, queries = unit(20_000 - 3, 16), unit(4, 16, 1)
    allowed = None if share is None else np.random.default_rng(2).random(len(vectors)) < share
    scan, scores, rows = answers_of(vectors, queries, k, allowed)
    wanted_scores, wanted_rows = ExactScan(vectors).search(queries, k, allowed)
    np.testing.assert_array_equal(rows, wanted_rows)
    np.testing.assert_array_equal(scores, wanted_scores)
    assert scan.counts.queries == 4


@runs
def test_queries_that_need_more_get_more(no_direct, monkeypatch):
    from sscm.index import gpu_scan

    looks = []
    look = gpu_scan._Batch.look

    def counted(batch, looked, kept):
        found = look(batch, looked, kept)
        looks.append((looked, found[:, -1].tolist()))
        return found

    monkeypatch.setattr(gpu_scan._Batch, "look", counted)
    monkeypatch.setattr(gpu_scan, "FIRST", 4)
    monkeypatch.setattr(gpu_scan, "MORE", 1)
    vectors, queries = unit(6_000, 24), unit(6, 24, 1)
    vectors[1000:1300] = vectors[5]  # so many equals that no fixed number of answers holds them
    queries[0] = vectors[5]
    scan, scores, rows = answers_of(vectors, queries, 3)
    wanted_scores, wanted_rows = ExactScan(vectors).search(queries, 3)
    np.testing.assert_array_equal(rows, wanted_rows)
    np.testing.assert_array_equal(scores, wanted_scores)
    assert rows[0].tolist() == [5, 1000, 1001]
    (first, proven_first), (second, proven_second) = looks
    assert (first, second) == (7, 56)
    assert 0 in proven_first and 0 in proven_second  # the last is left to the other scan
    assert scan.counts.queries == 6 and scan.counts.widened >= 1


@runs
def test_sums_of_another_order_are_not_trusted_where_they_round_apart(no_direct):
    """A score in the middle between two float32: the last bit of a float64 sum decides which it becomes."""
    vectors = unit(500, 16)
    vectors[7] = 0
    vectors[7, 0], vectors[7, 1] = 1.0, 2.0**-25
    queries = np.zeros((1, 16), np.float32)
    queries[0, 0], queries[0, 1] = 1.0 + 2.0**-23, 1.0
    from sscm.index import gpu_scan

    scan = ExactScan(vectors, device=DEVICE)
    asked = scan._asked(queries, 1, scan._codes, None, None)
    scan._tensor[7, 1] = 2.0**-24  # 1 + 2⁻²³ + 2⁻²⁴ lies between two float32
    found = gpu_scan.search(asked, scan._codes, scan._tensor)
    assert not found.proven[0]
