import dataclasses

import numpy as np
import pytest

from sscm.errors import EvaluationError
from sscm.evaluation import geometry, metrics, relevance
from sscm.evaluation.measure import Collection, measure, measure_chance
from sscm.evaluation.protocols import METRICS, Direction, Protocol, choose_protocol

NAMES = ("s1", "s2")
SAME = Protocol(query_split="test", archive_split="test")


def unit(rng, *shape):
    vectors = rng.normal(size=shape)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def collection(images=40, seed=0, prefix="p", **changes):
    rng = np.random.default_rng(seed)
    labels = rng.random((images, 6)) < 0.3
    labels[np.arange(images), rng.integers(6, size=images)] = True
    made = Collection(
        ids=[f"{prefix}{i}" for i in range(images)],
        vectors={name: unit(rng, images, 8) for name in NAMES},
        present={name: np.ones(images, bool) for name in NAMES},
        labels=labels,
        cover=rng.dirichlet(np.ones(4), images),
    )
    return dataclasses.replace(made, **changes)


def value_of(figures, direction, name, k=None):
    (found,) = [f for f in figures if str(f.direction) == direction and f.metric == name and f.k == k]
    return found


def test_every_metric_of_every_direction():
    images = collection()
    figures, notes = measure(images, images, NAMES, SAME, "trained")
    every = {(m.name, k) for m in METRICS for k in SAME.places(m.name)}
    within = {(n, k) for n, k in every if n not in ("partner_recall", "median_rank", "modality_gap", "alignment")}
    across = every - {("uniformity", None)}
    for direction in ("s1→s1", "s2→s2", "s1→s2", "s2→s1"):
        found = [(f.metric, f.k) for f in figures if str(f.direction) == direction]
        assert set(found) == (within if direction[:2] == direction[-2:] else across)
        assert len(found) == len(set(found))
    assert not notes
    assert {(f.encoder, f.query_split, f.archive_split, f.queries, f.archive) for f in figures} == {
        ("trained", "test", "test", 40, 40)
    }


def test_values_are_those_of_the_metrics():
    images = collection()
    s1, s2 = images.vectors["s1"], images.vectors["s2"]
    figures, _ = measure(images, images, NAMES, SAME, "trained")
    ranks = metrics.partner_ranks(s1, s2)
    assert value_of(figures, "s1→s2", "partner_recall", 5).value == metrics.recall_at(ranks, 5)
    assert value_of(figures, "s1→s2", "median_rank").value == metrics.median_rank(ranks)
    _, answers = metrics.top_k(s2, s1, 10, np.arange(40))
    assert value_of(figures, "s2→s1", "mean_pair_f1", 5).value == relevance.mean_pair_f1(
        images.labels, images.labels, answers[:, :5]
    )
    assert value_of(figures, "s2→s1", "cover_distance", 10).value == relevance.cover_distance(
        images.cover, images.cover, answers
    )
    expected = metrics.mean_average_precision(s1, s1, images.labels, images.labels, np.arange(40))
    assert value_of(figures, "s1→s1", "mean_average_precision").value == expected


def test_geometry_of_the_splits():
    queries, archive = collection(20, 1, "q"), collection(30, 2, "a")
    present = {"s1": np.arange(20) >= 2, "s2": np.arange(20) < 17}
    queries = dataclasses.replace(queries, present=present)
    figures, _ = measure(queries, archive, NAMES, Protocol(query_split="train", archive_split="test"), "trained")
    found = value_of(figures, "s2→s1", "alignment")
    assert found.value == geometry.alignment(queries.vectors["s1"][2:17], queries.vectors["s2"][2:17])
    assert (found.query_split, found.archive_split, found.queries) == ("train", "train", 15)
    found = value_of(figures, "s2→s2", "uniformity")
    assert found.value == geometry.uniformity(archive.vectors["s2"])
    assert (found.query_split, found.archive_split, found.queries) == ("test", "test", 30)


def test_ks_of_a_protocol():
    images = collection()
    figures, notes = measure(images, images, NAMES, choose_protocol("mueller"), "resnet50, 100 epochs")
    assert {f.encoder for f in figures} == {"resnet50, 100 epochs"}
    assert [f.k for f in figures if f.metric == "f1_at_rank" and f.direction == Direction("s1", "s2")] == [8, 16, 32]
    assert [f.k for f in figures if f.metric == "mean_average_precision" and f.direction == Direction("s1", "s2")] == [
        None,
        8,
        16,
        32,
    ]
    assert not [f for f in figures if f.metric in ("f1_of_means", "precision")]
    _, answers = metrics.top_k(images.vectors["s1"], images.vectors["s2"], 16)
    found = value_of(figures, "s1→s2", "f1_at_rank", 16)
    assert found.value == relevance.f1_at_rank(images.labels, images.labels, answers)
    found = value_of(figures, "s1→s2", "mean_average_precision", 16)
    assert found.value == relevance.average_precision_at_k(images.labels, images.labels, answers)
    assert any("too few for k = 64, 128, 256, 512, 1000" in note for note in notes)


def test_keeping_the_own_pair_in_raises_label_metrics_of_a_good_encoder_across_modalities_only():
    images = collection()
    images = dataclasses.replace(images, vectors={"s1": images.vectors["s1"], "s2": images.vectors["s1"]})
    out, _ = measure(images, images, NAMES, SAME, "trained")
    kept, _ = measure(images, images, NAMES, dataclasses.replace(SAME, exclude_self=False), "trained")
    # The partner comes first and shares all labels, so it can only displace something worse.
    assert value_of(kept, "s1→s2", "mean_pair_f1", 5).value > value_of(out, "s1→s2", "mean_pair_f1", 5).value
    assert value_of(kept, "s1→s1", "mean_pair_f1", 5) == value_of(out, "s1→s1", "mean_pair_f1", 5)
    assert not value_of(kept, "s1→s2", "mean_pair_f1", 5).own_pair_excluded
    # About the partner itself, so the same in both.
    assert value_of(kept, "s1→s2", "partner_recall", 1) == value_of(out, "s1→s2", "partner_recall", 1)
    assert value_of(out, "s1→s2", "partner_recall", 1).value == 1


def test_another_archive_split_has_no_partners():
    queries, archive = collection(20, 1, "q"), collection(30, 2, "a")
    protocol = Protocol(query_split="validation", archive_split="test")
    figures, notes = measure(queries, archive, NAMES, protocol, "trained")
    assert not [f for f in figures if f.metric in ("partner_recall", "median_rank")]
    assert any("partner recall left out" in note for note in notes)
    _, answers = metrics.top_k(queries.vectors["s1"], archive.vectors["s1"], 10)
    found = value_of(figures, "s1→s1", "f1_of_means", 10)
    assert found.value == relevance.f1_of_means(queries.labels, archive.labels, answers)
    assert (found.queries, found.archive, found.own_pair_excluded) == (20, 30, False)


def test_rows_that_lack_a_modality_or_labels_take_no_part():
    images = collection()
    present = {"s1": np.arange(40) >= 4, "s2": np.arange(40) < 35}
    labels = images.labels.copy()
    labels[10:13] = False
    cover = images.cover.copy()
    cover[20] = np.nan
    images = dataclasses.replace(images, present=present, labels=labels, cover=cover)
    figures, notes = measure(images, images, NAMES, SAME, "trained")
    partner = value_of(figures, "s1→s2", "partner_recall", 1)
    assert (partner.queries, partner.archive) == (31, 35)  # both modalities; everything in s2 is searched
    ranks = metrics.partner_ranks(images.vectors["s1"][4:35], images.vectors["s2"][:35], np.arange(4, 35))
    assert partner.value == metrics.recall_at(ranks, 1)
    judged = value_of(figures, "s1→s2", "mean_pair_f1", 5)
    assert (judged.queries, judged.archive) == (33, 32)
    here, there = [i for i in range(4, 40) if i not in (10, 11, 12)], [i for i in range(35) if i not in (10, 11, 12)]
    own = np.array([there.index(i) if i in there else -1 for i in here])
    _, answers = metrics.top_k(images.vectors["s1"][here], images.vectors["s2"][there], 5, own)
    assert judged.value == relevance.mean_pair_f1(labels[here], labels[there], answers)
    assert value_of(figures, "s1→s2", "cover_distance", 5).queries == 35
    assert any("3 queries and 3 archive images without labels" in note for note in notes)


def test_what_is_unknown_is_left_out_and_said():
    images = collection(labels=None, cover=None)
    figures, notes = measure(images, images, NAMES, SAME, "trained")
    assert {f.metric for f in figures} == {
        "partner_recall",
        "median_rank",
        "modality_gap",
        "alignment",
        "uniformity",
    }
    assert any("no labels" in note for note in notes)


def test_too_few_images_for_k():
    images = collection(8)
    figures, notes = measure(images, images, NAMES, SAME, "trained")
    assert {f.k for f in figures if f.metric == "mean_pair_f1"} == {5}
    assert any("7 images to find, too few for k = 10" in note for note in notes)


def test_no_query_with_a_relevant_image():
    images = collection(4, labels=np.eye(4, dtype=bool))
    figures, notes = measure(images, images, NAMES, SAME, "trained")
    assert not [f for f in figures if f.metric == "mean_average_precision"]
    assert any("no query has a relevant image" in note for note in notes)


def test_a_modality_without_images_is_an_error():
    images = collection()
    images = dataclasses.replace(images, present={**images.present, "s2": np.zeros(40, bool)})
    with pytest.raises(EvaluationError, match="no image of modality s2"):
        measure(images, images, NAMES, SAME, "trained")


def test_chance():
    images = collection(300)
    figures = measure_chance(images, images, NAMES, SAME, seed=5)
    assert {f.encoder for f in figures} == {"chance"}
    assert value_of(figures, "s1→s2", "partner_recall", 10).value == pytest.approx(10 / 300)
    assert value_of(figures, "s1→s2", "median_rank").value == 150.5
    # A random answer is any other image: the mean over all pairs of different images.
    everything = np.array([[j for j in range(300) if j != i] for i in range(300)])
    for name, judge in (("mean_pair_f1", relevance.mean_pair_f1), ("f1_of_means", relevance.f1_of_means)):
        expected = judge(images.labels, images.labels, everything)
        assert value_of(figures, "s2→s1", name, 10).value == pytest.approx(expected, abs=0.02)
    assert value_of(figures, "s1→s1", "cover_distance", 10).value == pytest.approx(
        relevance.cover_distance(images.cover, images.cover, everything), abs=0.02
    )
    assert figures == measure_chance(images, images, NAMES, SAME, seed=5)
    assert figures != measure_chance(images, images, NAMES, SAME, seed=6)


def test_figures_as_json():
    images = collection()
    figures, _ = measure(images, images, NAMES, SAME, "trained")
    found = value_of(figures, "s1→s2", "mean_pair_f1", 5)
    assert found.direction == Direction("s1", "s2")
    assert found.to_json() == {
        "direction": "s1->s2",
        "encoder": "trained",
        "query_modality": "s1",
        "target_modality": "s2",
        "metric": "mean_pair_f1",
        "k": 5,
        "value": found.value,
        "query_split": "test",
        "archive_split": "test",
        "queries": 40,
        "archive": 40,
        "own_pair_excluded": True,
    }
