import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchmetrics.retrieval import RetrievalHitRate, RetrievalMAP, RetrievalMRR

from sscm.errors import EvaluationError
from sscm.evaluation import metrics
from tests.plugins.embeddings import some_labels, unit


@pytest.fixture(params=[1 << 22, 100], ids=["one chunk", "many chunks"])
def _chunked(request, monkeypatch):
    monkeypatch.setattr(metrics, "SCORES_PER_CHUNK", request.param)


@pytest.mark.usefixtures("_chunked")
class TestPartnerRanks:
    def test_equals_a_sort(self):
        rng = np.random.default_rng(0)
        queries, archive = unit(rng, 40, 8), unit(rng, 40, 8)
        expected = [list(np.argsort(-(archive @ q))).index(i) + 1 for i, q in enumerate(queries)]
        assert metrics.partner_ranks(queries, archive).tolist() == expected

    def test_partners_anywhere(self):
        rng = np.random.default_rng(1)
        queries, archive = unit(rng, 7, 8), unit(rng, 30, 8)
        partners = rng.integers(30, size=7)
        expected = [list(np.argsort(-(archive @ q))).index(p) + 1 for q, p in zip(queries, partners, strict=True)]
        assert metrics.partner_ranks(queries, archive, partners).tolist() == expected

    def test_the_same_embeddings_find_themselves(self):
        vectors = unit(np.random.default_rng(2), 50, 16)
        assert metrics.partner_ranks(vectors, vectors).tolist() == [1] * 50

    @pytest.mark.parametrize("images", [2, 9, 100])
    def test_a_collapsed_encoder_gains_nothing(self, images):
        collapsed = np.repeat(unit(np.random.default_rng(3), 1, 128), images, axis=0)
        ranks = metrics.partner_ranks(collapsed, collapsed)
        assert len(set(ranks.tolist())) == 1
        assert metrics.median_rank(ranks) >= metrics.chance_median_rank(images)
        assert metrics.recall_at(ranks, 1) == 0

    def test_a_tie_of_two_counts_as_the_second(self):
        archive = np.array([[1, 0], [1, 0], [0, 1]], np.float32)
        assert metrics.partner_ranks(archive, archive).tolist() == [2, 2, 1]


def test_ranks_refuse_what_does_not_fit():
    rng = np.random.default_rng(0)
    with pytest.raises(EvaluationError, match="4 queries and 5 archive"):
        metrics.partner_ranks(unit(rng, 4, 8), unit(rng, 5, 8))
    with pytest.raises(EvaluationError, match=r"\(4, 8\) and archive \(4, 9\)"):
        metrics.partner_ranks(unit(rng, 4, 8), unit(rng, 4, 9))
    with pytest.raises(EvaluationError, match="0 to 3"):
        metrics.partner_ranks(unit(rng, 2, 8), unit(rng, 4, 8), np.array([0, 4]))
    broken = unit(rng, 4, 8)
    broken[2, 3] = np.nan
    with pytest.raises(EvaluationError, match="archive: embeddings that are not finite"):
        metrics.partner_ranks(unit(rng, 4, 8), broken)
    with pytest.raises(EvaluationError, match="queries: no embeddings"):
        metrics.partner_ranks(unit(rng, 0, 8), unit(rng, 4, 8), np.zeros(0, np.int64))


def test_recall_and_median_of_known_ranks():
    ranks = np.array([1, 2, 5, 6, 11])
    assert [metrics.recall_at(ranks, k) for k in (1, 5, 10)] == [0.2, 0.6, 0.8]
    assert metrics.median_rank(ranks) == 5
    with pytest.raises(EvaluationError, match="no ranks"):
        metrics.recall_at(np.zeros(0, np.int64), 1)


def test_chance_is_what_random_embeddings_reach():
    rng = np.random.default_rng(4)
    ranks = metrics.partner_ranks(unit(rng, 2000, 32), unit(rng, 2000, 32))
    for k in (20, 200):
        assert metrics.recall_at(ranks, k) == pytest.approx(metrics.chance_recall(2000, k), rel=0.5)
    assert metrics.median_rank(ranks) == pytest.approx(metrics.chance_median_rank(2000), rel=0.1)
    assert metrics.chance_recall(3, 5) == 1


def test_partner_recall_and_ranks_equal_torchmetrics():
    # One relevant image a query: its partner. Recall@k is then the hit rate, and 1/rank the reciprocal rank.
    rng = np.random.default_rng(10)
    queries, archive = unit(rng, 30, 8), unit(rng, 30, 8)
    ranks = metrics.partner_ranks(queries, archive)
    scores, partner = torch.from_numpy(queries @ archive.T + 2).ravel(), torch.eye(30, dtype=torch.bool).ravel()
    indexes = torch.arange(30).repeat_interleave(30)
    for k in (1, 5, 10):
        theirs = RetrievalHitRate(top_k=k)(scores, partner, indexes=indexes)
        assert metrics.recall_at(ranks, k) == pytest.approx(float(theirs), abs=1e-6)
    theirs = RetrievalMRR()(scores, partner, indexes=indexes)
    assert np.mean(1 / ranks) == pytest.approx(float(theirs), abs=1e-6)
    median = RetrievalMRR(aggregation="median")(scores, partner, indexes=indexes)
    assert sorted(1 / ranks, reverse=True)[15] == pytest.approx(float(median), abs=1e-6)  # torch takes the lower middle


@pytest.mark.usefixtures("_chunked")
class TestTopK:
    @given(st.data())
    def test_equals_a_stable_sort_with_ties(self, data):
        seed, k = data.draw(st.integers(0, 2**32 - 1)), data.draw(st.integers(1, 11))
        rng = np.random.default_rng(seed)
        # Small whole numbers: exact products and many ties, zeros of both signs among them.
        queries = rng.integers(-1, 2, (5, 2)).astype(np.float32)
        archive = rng.integers(-1, 2, (12, 2)).astype(np.float32)
        excluded = rng.integers(-1, 12, 5)
        scores, rows = metrics.top_k(queries, archive, k, excluded)
        for i in range(5):
            order = [j for j in np.argsort(-(archive @ queries[i]), kind="stable") if j != excluded[i]][:k]
            assert rows[i].tolist() == order
            assert scores[i].tolist() == (archive @ queries[i])[order].tolist()

    def test_refuses_more_than_there_is(self):
        vectors = unit(np.random.default_rng(0), 4, 8)
        with pytest.raises(EvaluationError, match="k = 4 of 3"):
            metrics.top_k(vectors, vectors, 4, np.arange(4))
        with pytest.raises(EvaluationError, match="k = 0"):
            metrics.top_k(vectors, vectors, 0)


@pytest.mark.usefixtures("_chunked")
class TestMeanAveragePrecision:
    @pytest.mark.parametrize("exclude", [False, True])
    def test_equals_torchmetrics_and_the_loop(self, exclude):
        rng = np.random.default_rng(5)
        vectors, other = unit(rng, 30, 8), unit(rng, 30, 8)
        labels = some_labels(rng, 30, classes=8)
        excluded = np.arange(30) if exclude else None
        relevant = labels.astype(int) @ labels.astype(int).T > 0
        kept = ~np.eye(30, dtype=bool) if exclude else np.ones((30, 30), bool)
        scores = vectors @ other.T

        averages = []
        for i in range(30):
            order = [j for j in np.argsort(-scores[i], kind="stable") if kept[i, j]]
            at = [place for place, j in enumerate(order, 1) if relevant[i, j]]
            if at:
                averages.append(np.mean([n / place for n, place in enumerate(at, 1)]))
        ours = metrics.mean_average_precision(vectors, other, labels, labels, excluded)
        assert ours == pytest.approx(np.mean(averages), abs=1e-9)

        indexes = torch.from_numpy(np.nonzero(kept)[0])
        peer = RetrievalMAP(empty_target_action="skip")
        # torchmetrics takes scores for probabilities and ignores what is relevant but not above 0: shift them.
        theirs = peer(torch.from_numpy(scores[kept] + 2), torch.from_numpy(relevant[kept]), indexes=indexes)
        assert ours == pytest.approx(float(theirs), abs=1e-6)

    def test_queries_without_a_relevant_image_are_left_out(self):
        archive = np.eye(3, dtype=np.float32)
        of_archive = np.array([[1, 0], [1, 0], [1, 0]], bool)
        of_queries = np.array([[0, 1], [1, 0], [0, 1]], bool)
        assert metrics.mean_average_precision(archive, archive, of_queries, of_archive) == 1
        assert metrics.mean_average_precision(archive, archive, ~of_archive, of_archive) is None

    def test_closed_form(self):
        # The only relevant image comes third of three.
        archive = np.array([[1, 0], [0.8, 0.6], [0, 1]], np.float32)
        labels = np.array([[1, 0], [1, 0], [0, 1]], bool)
        assert metrics.mean_average_precision(archive[:1], archive, np.array([[False, True]]), labels) == pytest.approx(
            1 / 3
        )
