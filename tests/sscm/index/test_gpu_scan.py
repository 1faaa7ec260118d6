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
    from sscm.index.gpu_kernels import group_maxima, rows_from

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
    chosen = torch.argsort(torch.rand(queries, groups, generator=torch.Generator().manual_seed(3)))[:, :3].contiguous()
    least = torch.full((queries,), 1_000, dtype=torch.int32)
    found, count = rows_from(*given, chosen.to(DEVICE), least.to(DEVICE), 40)
    for query in range(queries):
        inside = {int(g) * 64 + r for g in chosen[query] for r in range(64)}
        expected = {row for row in inside if wanted[query, row] >= 1_000}
        assert count[query] == len(expected)
        written = found[query, : min(40, len(expected))].tolist()
        assert len(set(written)) == len(written) and set(written) <= expected


@runs
@pytest.mark.parametrize("placed", [False, True])
@pytest.mark.parametrize("dimension", [8, 100, 384])
def test_keys_of_scores(dimension, placed):
    from sscm.index.gpu_kernels import NOTHING, score_keys, scores_of

    vectors, queries = unit(50, dimension), unit(5, dimension, 1)
    vectors[3] = 0
    places = torch.randperm(50, generator=torch.Generator().manual_seed(5)) if placed else None
    rows = torch.randint(50, (5, 70), generator=torch.Generator().manual_seed(4), dtype=torch.int32)
    found = torch.tensor([70, 0, 69, 1, 99], dtype=torch.int32)
    keys = score_keys(
        *(torch.from_numpy(a).to(DEVICE) for a in (queries, vectors)),
        None if places is None else places.to(DEVICE),
        rows.to(DEVICE),
        found.to(DEVICE),
        1e-15,
    ).cpu()
    there = torch.arange(70) < found[:, None]
    assert torch.equal(keys == NOTHING, ~there)
    scores, got, doubtful = scores_of(keys.numpy())
    actual = (rows.long() if places is None else places[rows.long()]).numpy()
    wanted = (queries[:, None].astype(np.float64) * vectors[actual]).sum(2).astype(np.float32)
    sure = there.numpy() & ~doubtful
    assert sure.sum() > 0.95 * there.sum()
    np.testing.assert_array_equal(scores[sure], wanted[sure])
    np.testing.assert_array_equal(got[there], actual[there])
    for query in range(5):  # larger keys are better answers: higher scores, then lower rows
        row = np.flatnonzero(sure[query])
        by_key = row[np.argsort(-keys[query].numpy()[row], kind="stable")]
        by_score = row[np.lexsort((actual[query][row], -wanted[query][row]))]
        np.testing.assert_array_equal(actual[query][by_key], actual[query][by_score])
    assert np.isnan(scores[~there.numpy()]).all()


@runs
@pytest.mark.parametrize("k", [1, 10])
@pytest.mark.parametrize("share", [None, 0.9, 0.3])
def test_the_answers_of_the_cpu(no_direct, monkeypatch, k, share):
    from sscm.index import gpu_scan

    # The last rows are no whole group, and there are more groups than are looked at.
    monkeypatch.setattr(gpu_scan, "FIRST_OF_FEW", 64)
    vectors, queries = unit(8_000 - 3, 16), unit(4, 16, 1)
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
        looks.append((looked, found.proven.tolist()))
        return found

    monkeypatch.setattr(gpu_scan._Batch, "look", counted)
    monkeypatch.setattr(gpu_scan, "FIRST_OF_FEW", 4)
    monkeypatch.setattr(gpu_scan, "MORE", 1)
    vectors, queries = unit(6_000, 24), unit(6, 24, 1)
    vectors[1000:1300] = vectors[5]  # so many equals that no fixed number of answers holds them
    queries[0] = vectors[5]
    scan, scores, rows = answers_of(vectors, queries, 3)
    wanted_scores, wanted_rows = ExactScan(vectors).search(queries, 3)
    np.testing.assert_array_equal(rows, wanted_rows)
    np.testing.assert_array_equal(scores, wanted_scores)
    assert rows[0].tolist() == [5, 1000, 1001]
    assert [looked for looked, _ in looks] == [7, 28, 112]
    assert all(False in proven for _, proven in looks)  # the last is left to the other scan
    assert len(looks[0][1]) > len(looks[1][1]) >= len(looks[2][1])
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
