import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torchmetrics.retrieval import RetrievalMAP, RetrievalPrecision

from sscm.errors import EvaluationError
from sscm.evaluation import metrics, relevance
from tests.plugins.embeddings import some_labels, unit


@pytest.fixture(params=[1 << 22, 50], ids=["one chunk", "many chunks"])
def _chunked(request, monkeypatch):
    monkeypatch.setattr(metrics, "SCORES_PER_CHUNK", request.param)


@pytest.mark.usefixtures("_chunked")
class TestLabelMetrics:
    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.integers(0, 2**32 - 1))
    def test_equal_the_obvious_loops(self, seed):
        rng = np.random.default_rng(seed)
        of_queries, of_archive = some_labels(rng, 6), some_labels(rng, 20)
        answers = rng.integers(20, size=(6, 4))
        precisions, recalls, f1s, relevant = [], [], [], []
        for query, row in zip(of_queries, answers, strict=True):
            for answer in row:
                q, r = set(np.flatnonzero(query)), set(np.flatnonzero(of_archive[answer]))
                p, s = len(q & r) / len(r), len(q & r) / len(q)
                precisions.append(p)
                recalls.append(s)
                f1s.append(2 * p * s / (p + s) if p + s else 0)
                relevant.append(bool(q & r))
        p, s = np.mean(precisions), np.mean(recalls)
        harmonic = 2 * p * s / (p + s) if p + s else 0
        assert relevance.f1_of_means(of_queries, of_archive, answers) == pytest.approx(harmonic)
        assert relevance.mean_pair_f1(of_queries, of_archive, answers) == pytest.approx(np.mean(f1s))
        assert relevance.precision_at_k(of_queries, of_archive, answers) == pytest.approx(np.mean(relevant))
        assert relevance.f1_at_rank(of_queries, of_archive, answers) == pytest.approx(np.mean(f1s[3::4]))
        averages = []
        for row in np.reshape(relevant, (6, 4)):
            at = [place for place, hit in enumerate(row, 1) if hit]
            averages.append(np.mean([n / place for n, place in enumerate(at, 1)]) if at else 0)
        assert relevance.average_precision_at_k(of_queries, of_archive, answers) == pytest.approx(np.mean(averages))

    def test_the_two_f1_differ(self):
        # One answer is right in one of its two labels, the other has one of the query's two: P (½, 1), R (1, ½).
        of_queries = np.array([[1, 0, 0], [0, 1, 1]], bool)
        of_archive = np.array([[1, 1, 0], [0, 0, 1]], bool)
        answers = np.array([[0], [1]])
        assert relevance.f1_of_means(of_queries, of_archive, answers) == pytest.approx(0.75)
        assert relevance.mean_pair_f1(of_queries, of_archive, answers) == pytest.approx(2 / 3)

    def test_an_image_without_labels_is_refused(self):
        bare = np.zeros((1, 3), bool)
        labelled = np.ones((1, 3), bool)
        for of_queries, of_archive in ((bare, labelled), (labelled, bare)):
            with pytest.raises(EvaluationError, match="without labels"):
                relevance.mean_pair_f1(of_queries, of_archive, np.array([[0]]))

    def test_bitmap(self):
        bitmap = relevance.label_bitmap([["b"], None, ["a", "c"], []], ["a", "b", "c"])
        assert bitmap.astype(int).tolist() == [[0, 1, 0], [0, 0, 0], [1, 0, 1], [0, 0, 0]]


def test_precision_equals_torchmetrics():
    rng = np.random.default_rng(6)
    queries, archive = unit(rng, 12, 8), unit(rng, 40, 8)
    of_queries, of_archive = some_labels(rng, 12, 8), some_labels(rng, 40, 8)
    _, answers = metrics.top_k(queries, archive, 5)
    relevant = of_queries.astype(int) @ of_archive.astype(int).T > 0
    indexes = torch.arange(12).repeat_interleave(40)
    peer = RetrievalPrecision(top_k=5)
    theirs = peer(torch.from_numpy(queries @ archive.T).ravel(), torch.from_numpy(relevant).ravel(), indexes=indexes)
    assert relevance.precision_at_k(of_queries, of_archive, answers) == pytest.approx(float(theirs), abs=1e-6)


@pytest.mark.usefixtures("_chunked")
def test_cover_distance():
    same = np.array([[0.2, 0.8], [1.0, 0.0]])
    assert relevance.cover_distance(same, same, np.array([[0], [1]])) == 0
    assert relevance.cover_distance(same[1:], np.array([[0.0, 1.0]]), np.array([[0]])) == 1
    rng = np.random.default_rng(7)
    of_queries, of_archive = rng.dirichlet(np.ones(4), 6), rng.dirichlet(np.ones(4), 20)
    answers = rng.integers(20, size=(6, 3))
    slow = np.mean([np.abs(of_queries[i] - of_archive[j]).sum() / 2 for i in range(6) for j in answers[i]])
    assert relevance.cover_distance(of_queries, of_archive, answers) == pytest.approx(slow)


def test_f1_at_rank_looks_at_one_answer_only():
    of_queries = np.array([[1, 1, 0]], bool)
    of_archive = np.array([[1, 1, 0], [0, 0, 1], [1, 0, 0]], bool)
    answers = np.array([[0, 1, 2]])
    found = [relevance.f1_at_rank(of_queries, of_archive, answers[:, :k]) for k in (1, 2, 3)]
    assert found == pytest.approx([1, 0, 2 / 3])


@pytest.mark.usefixtures("_chunked")
@pytest.mark.parametrize("k", [1, 3, 8, 39])
def test_average_precision_at_k_equals_torchmetrics(k):
    rng = np.random.default_rng(11)
    queries, archive = unit(rng, 12, 8), unit(rng, 39, 8)
    of_queries, of_archive = some_labels(rng, 12, 8), some_labels(rng, 39, 8)
    _, answers = metrics.top_k(queries, archive, k)
    relevant = of_queries.astype(int) @ of_archive.astype(int).T > 0
    indexes = torch.arange(12).repeat_interleave(39)
    scores = torch.from_numpy(queries @ archive.T + 2).ravel()
    theirs = RetrievalMAP(top_k=k)(scores, torch.from_numpy(relevant).ravel(), indexes=indexes)
    ours = relevance.average_precision_at_k(of_queries, of_archive, answers)
    assert ours == pytest.approx(float(theirs), abs=1e-6)
    if k == 39:
        assert ours == pytest.approx(metrics.mean_average_precision(queries, archive, of_queries, of_archive))


def test_average_precision_divides_by_what_was_found():
    # Two of four answers are relevant, first and third, whatever else the archive has: (1 + 2/3) / 2.
    of_archive = np.array([[1, 0], [0, 1], [1, 0], [0, 1], [1, 0], [1, 0]], bool)
    found = relevance.average_precision_at_k(np.array([[True, False]]), of_archive, np.array([[0, 1, 2, 3]]))
    assert found == pytest.approx(5 / 6)
    nothing = relevance.average_precision_at_k(np.array([[True, False]]), of_archive, np.array([[1, 3]]))
    assert nothing == 0


def test_no_answers():
    with pytest.raises(EvaluationError, match="no answers"):
        relevance.mean_pair_f1(np.ones((0, 2), bool), np.ones((3, 2), bool), np.zeros((0, 5), np.int64))
