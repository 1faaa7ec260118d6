import numpy as np
import pytest
import torch

from sscm.errors import IntegrityError, QueryError
from sscm.index.approximate import ApproximateScan, build_lists, lists_of, load_approximate
from sscm.index.effort import Effort
from sscm.index.exact import ExactScan
from sscm.index.openmp import faiss
from sscm.index.ranking import inner_products
from sscm.index.tuning import held_out, measure, tune

ROWS, DIMENSION = 20_000, 32
EFFORT = Effort(probes=24, candidates=64, widest=1_000, margin=0.02)


def unit(values):
    return np.ascontiguousarray(values / np.linalg.norm(values, axis=1, keepdims=True), np.float32)


@pytest.fixture(scope="module")
def vectors():
    """Rows about 200 centres, and another view of each."""
    rng = np.random.default_rng(5)
    centres = rng.standard_normal((200, DIMENSION))[rng.integers(200, size=ROWS)]
    rows = centres + 0.5 * rng.standard_normal((ROWS, DIMENSION))
    return {"s1": unit(rows + 0.3 * rng.standard_normal((ROWS, DIMENSION))), "s2": unit(rows)}


@pytest.fixture(scope="module")
def exact(vectors):
    return ExactScan(vectors["s2"])


@pytest.fixture(scope="module")
def index(vectors, exact):
    return build_lists(vectors["s2"], exact.form, np.ones(ROWS, np.bool_))


@pytest.fixture(scope="module")
def scan(vectors, exact, index):
    return ApproximateScan(vectors["s2"], index, EFFORT, exact)


def recall(found, wanted):
    return float((found[:, :, None] == wanted[:, None, :]).any(axis=1).mean())


@pytest.mark.parametrize("k", [1, 10, 40])
def test_finds_nearly_all_with_exact_scores(vectors, exact, scan, k):
    queries = vectors["s1"][:500]
    scores, rows = scan.search(queries, k)
    wanted_scores, wanted = exact.search(queries, k)
    assert recall(rows, wanted) > 0.97
    same = rows == wanted
    assert np.array_equal(scores[same], wanted_scores[same])
    assert (np.diff(scores, axis=1) <= 0).all()


def test_a_batch_answers_as_single_queries_do(vectors, scan):
    queries = vectors["s1"][:64]
    scores, rows = scan.search(queries, 10)
    alone = [scan.search(queries[i : i + 1], 10) for i in range(64)]
    assert np.array_equal(rows, np.concatenate([r for _, r in alone]))
    assert np.array_equal(scores, np.concatenate([s for s, _ in alone]))


@pytest.mark.parametrize("share", [0.0, 0.0001, 0.05, 0.3, 0.7, 0.9999])
def test_only_allowed_rows_are_found(vectors, exact, scan, share):
    allowed = np.random.default_rng(1).random(ROWS) < share
    queries = vectors["s1"][:200]
    scores, rows = scan.search(queries, 10, allowed)
    _, wanted = exact.search(queries, 10, allowed)
    assert rows.shape == wanted.shape == scores.shape
    assert allowed[rows].all()
    assert rows.shape[1] == 0 or recall(rows, wanted) > 0.97


def test_a_filter_that_leaves_out_where_the_query_is(vectors, exact, scan):
    queries = vectors["s2"][:40]
    near = vectors["s2"] @ queries.T > 0.5
    for query, dropped in zip(queries, near.T, strict=True):
        _, rows = scan.search(query[None], 10, ~dropped)
        _, wanted = exact.search(query[None], 10, ~dropped)
        assert (~dropped)[rows].all()
        assert rows.shape == wanted.shape


def test_queries_whose_lists_run_dry_are_answered_exactly(vectors, exact, index):
    scan = ApproximateScan(vectors["s2"], index, Effort(probes=1, candidates=64, widest=128, margin=0.0), exact)
    centre = vectors["s2"][13_000]
    allowed = vectors["s2"] @ centre < 0.1  # nothing in the lists about it
    _, rows = scan.search(centre[None], 10, allowed)
    assert scan.counts.widened == 1
    assert np.array_equal(rows, exact.search(centre[None], 10, allowed)[1])


@pytest.mark.parametrize("share", [0.005, 0.05, 0.3])
def test_what_a_selective_filter_passes_is_searched_exactly(vectors, exact, scan, share):
    allowed = np.random.default_rng(4).random(ROWS) < share
    queries = vectors["s1"][:50]
    for found, wanted in zip(scan.search(queries, 10, allowed), exact.search(queries, 10, allowed), strict=True):
        assert np.array_equal(found, wanted)


def test_filters_that_go_with_where_rows_lie_keep_the_recall(vectors, exact, scan):
    """What passes is on one side of the space, what is asked on the other."""
    side = vectors["s2"] @ vectors["s2"][5]
    allowed = side < np.quantile(side, 0.6)
    queries = vectors["s1"][np.argsort(-side)[:400]]
    _, rows = scan.search(queries, 10, allowed)
    assert allowed[rows].all()
    assert recall(rows, exact.search(queries, 10, allowed)[1]) > 0.97


def test_queries_too_crowded_for_their_codes_are_answered_exactly(vectors, exact, index):
    effort = Effort(probes=24, candidates=64, widest=128, margin=1e9, crowded=1e9)
    scan = ApproximateScan(vectors["s2"], index, effort, exact)
    queries = vectors["s1"][:20]
    assert np.array_equal(scan.search(queries, 10)[1], exact.search(queries, 10)[1])
    assert (scan.counts.queries, scan.counts.widened) == (20, 20)


def test_a_search_leaves_the_threads_of_others_alone(vectors, scan):
    before = torch.get_num_threads(), faiss.omp_get_max_threads()
    scan.search(vectors["s1"][:3], 10)
    assert (torch.get_num_threads(), faiss.omp_get_max_threads()) == before


def test_many_answers_are_found_exactly(vectors, exact, scan):
    queries = vectors["s1"][:3]
    assert np.array_equal(scan.search(queries, 900)[1], exact.search(queries, 900)[1])
    assert scan.search(queries, ROWS + 5)[1].shape == (3, ROWS)


@pytest.mark.parametrize(
    ("queries", "k"),
    [
        (np.ones((2, DIMENSION - 1), np.float32), 10),
        (np.full((2, DIMENSION), np.nan, np.float32), 10),
        (np.zeros((2, DIMENSION), np.float32), 10),
        (np.ones((2, DIMENSION), np.float32), 0),
        (np.full((2, DIMENSION), 1e38, np.float32), 10),
    ],
)
def test_bad_queries(scan, queries, k):
    with pytest.raises(QueryError):
        scan.search(queries, k)


def test_no_query(scan):
    assert scan.search(np.empty((0, DIMENSION), np.float32), 10)[1].shape == (0, 10)


def test_saved_and_loaded(tmp_path, vectors, exact, index, scan):
    index.save(tmp_path / "a.npy")
    loaded = load_approximate(tmp_path / "a.npy", "a.npy")
    again = ApproximateScan(vectors["s2"], loaded, EFFORT, exact)
    queries = vectors["s1"][:100]
    assert np.array_equal(again.search(queries, 10)[1], scan.search(queries, 10)[1])
    assert (loaded.count, loaded.rows) == (index.count, ROWS)
    assert (tmp_path / "a.npy").stat().st_size < 64 * ROWS


@pytest.mark.parametrize("keep", [0, 10, 1_000, 100_000])
def test_a_truncated_file_is_refused(tmp_path, index, keep):
    index.save(tmp_path / "a.npy")
    (tmp_path / "a.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:keep])
    with pytest.raises(IntegrityError, match="where it lies is not a whole approximate index"):
        load_approximate(tmp_path / "a.npy", "where it lies")


def test_rows_without_the_modality_are_in_no_list(vectors, exact):
    present = np.arange(ROWS) % 3 > 0
    index = build_lists(vectors["s2"], exact.form, present)
    assert index.rows == present.sum()
    scan = ApproximateScan(vectors["s2"], index, EFFORT, exact)
    queries = vectors["s1"][:100]
    _, rows = scan.search(queries, 10, present)
    assert present[rows].all()
    assert recall(rows, exact.search(queries, 10, present)[1]) > 0.97


@pytest.mark.parametrize("asked", [0.8, 0.95, 0.99])
def test_tuned_effort_reaches_the_recall_on_queries_not_tuned_on(vectors, exact, index, asked):
    present = {name: np.ones(ROWS, np.bool_) for name in vectors}
    kinds = held_out(exact, vectors, present, "s2")
    assert set(kinds) == {"s1", "s2"}
    effort = tune(index, vectors["s2"], asked, {name: kind.half(0) for name, kind in kinds.items()})
    assert effort is not None
    scan = ApproximateScan(vectors["s2"], index, effort, exact)
    measured = measure(scan, {name: kind.half(1) for name, kind in kinds.items()}, present["s2"])
    assert set(measured) == {"s1", "s2"}
    assert min(measured.values()) > asked - 0.01
    wanted = exact.search(vectors["s1"][1::7], 10)[1]
    assert recall(scan.search(vectors["s1"][1::7], 10)[1], wanted) > asked - 0.01


def test_more_recall_takes_more_effort(vectors, exact, index):
    kinds = held_out(exact, vectors, {name: np.ones(ROWS, np.bool_) for name in vectors}, "s2")
    little, much = (tune(index, vectors["s2"], asked, kinds) for asked in (0.5, 0.995))
    assert little is not None
    assert much is not None
    assert (little.probes, little.candidates, little.margin) < (much.probes, much.candidates, much.margin)


def test_a_recall_that_codes_cannot_reach():
    """Thousands of rows closer together than codes can tell."""
    rng = np.random.default_rng(0)
    present = np.ones(6_000, np.bool_)
    rows = unit(1 + 1e-6 * rng.standard_normal((6_000, DIMENSION)))
    exact = ExactScan(rows)
    index = build_lists(rows, exact.form, present)
    kinds = held_out(exact, {"s2": rows}, {"s2": present}, "s2")
    assert tune(index, rows, 0.999, kinds) is None


def test_a_row_is_no_answer_to_itself(vectors, exact):
    kind = held_out(exact, vectors, {name: np.ones(ROWS, np.bool_) for name in vectors}, "s2")["s2"]
    assert (kind.answers != kind.own[:, None]).all()
    assert kind.answers.shape == (2_000, 10)


def test_score_of_no_row(vectors):
    rows = np.array([[3, -1], [-1, 5]])
    scores = inner_products(vectors["s2"], vectors["s2"][[3, 5]], rows)
    assert np.isneginf(scores[[0, 1], [1, 0]]).all()
    assert scores[[0, 1], [0, 1]] == pytest.approx(1)


@pytest.mark.parametrize(("rows", "lists"), [(1, 4), (100, 32), (20_000, 512), (200_000, 2_048), (1_000_000, 4_096)])
def test_lists_grow_with_the_root_of_rows(rows, lists):
    assert lists_of(rows) == lists
