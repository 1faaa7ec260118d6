"""Recall of an index that grew, against ranks over all of it at once."""

import numpy as np
import pyarrow as pa
import pytest

from sscm.evaluation.metrics import partner_ranks
from sscm.evaluation.protocols import Direction
from sscm.index.segment import Segment
from sscm.refresh.recall import growth
from tests.plugins.embeddings import unit

ACROSS = Direction("s1", "s2")


def segment(rng, rows, noise, lacking=(), deleted=(), trained=0):
    """Pairs whose two embeddings are alike but for some noise; some have no s2, some are deleted."""
    first = unit(rng, rows, 16)
    second = first + noise * unit(rng, rows, 16)
    second /= np.linalg.norm(second, axis=1, keepdims=True)
    has = np.ones(rows, bool)
    has[list(lacking)] = False
    second[~has] = 0
    gone = np.zeros(rows, bool)
    gone[list(deleted)] = True
    names = {"pair_id": [f"{n}" for n in range(rows)], "split": ["train"] * trained + ["test"] * (rows - trained)}
    table = pa.table({**names, "has_s1": np.ones(rows, bool), "has_s2": has})
    return Segment(name="segment", rows=table, embeddings={"s1": first, "s2": second}, deleted=gone)


def pairs_of(segments):
    """Embeddings of the live pairs that have both modalities."""
    keep = [s.has("s1") & s.has("s2") for s in segments]
    return [np.concatenate([s.vectors(m)[k] for s, k in zip(segments, keep, strict=True)]) for m in ("s1", "s2")]


def test_it_is_what_ranks_over_everything_give():
    rng = np.random.default_rng(0)
    before = [segment(rng, 300, 1.2, lacking=(3, 200), deleted=(7,)), segment(rng, 150, 1.2)]
    new = [segment(rng, 90, 3.0, deleted=(0, 5)), segment(rng, 10, 3.0)]
    found = growth(before, new, ACROSS, depth=5, most=10_000)
    asked, partners = pairs_of(before)
    ranks = partner_ranks(asked, partners)
    assert found.before.value == np.mean(ranks <= 5)
    assert (found.before.queries, found.before.archive, found.before.depth) == (447, 447, 5)
    everything = pairs_of([*before, *new])
    ranks = partner_ranks(*everything)
    assert found.after.archive == found.new.archive == 447 + 98
    assert found.after.depth == found.new.depth == 6  # 5 of 447 are 6 of 545
    assert found.after.value == np.mean(ranks[:447] <= 6)
    assert found.new.value == np.mean(ranks[447:] <= 6)
    assert found.new.value < found.after.value
    assert (found.gained - found.lost) / 447 == pytest.approx(found.after.value - found.before.value)
    assert found.lost + found.gained > 0


def test_some_of_the_pairs_stand_for_all():
    rng = np.random.default_rng(1)
    before, new = [segment(rng, 2000, 1.2)], [segment(rng, 500, 1.2)]
    every, some = (growth(before, new, ACROSS, depth=5, most=most) for most in (10_000, 400))
    assert (some.before.queries, some.new.queries) == (400, 400)
    assert some.before.value == pytest.approx(every.before.value, abs=0.1)
    assert some == growth(before, new, ACROSS, depth=5, most=400)


def test_what_was_trained_on_is_found_and_does_not_ask():
    rng = np.random.default_rng(3)
    before, new = [segment(rng, 300, 1.2, trained=100)], [segment(rng, 50, 1.2, trained=50)]
    found = growth(before, new, ACROSS, depth=5, most=1000)
    ranks = partner_ranks(*pairs_of(before))
    assert (found.before.queries, found.before.archive, found.new.queries) == (200, 300, 50)
    assert found.before.value == np.mean(ranks[100:] <= 5)
    assert growth([segment(rng, 30, 1.2, trained=30)], new, ACROSS, depth=5, most=1000).before.queries == 30


def test_nothing_to_compare():
    rng = np.random.default_rng(2)
    some, none = [segment(rng, 5, 1.0)], [segment(rng, 5, 1.0, lacking=range(5))]
    for before, new in ((some, none), (none, some), (some, []), ([], some)):
        assert growth(before, new, ACROSS, depth=5, most=10) is None


def test_ties_get_the_place_in_their_middle():
    """An encoder that maps everything to one point has the recall of chance."""
    same = np.zeros((100, 16), np.float32)
    same[:, 0] = 1
    names = {"pair_id": [f"{n}" for n in range(100)], "split": ["test"] * 100}
    table = pa.table({**names, "has_s1": [True] * 100, "has_s2": [True] * 100})
    one = Segment(name="segment", rows=table, embeddings={"s1": same, "s2": same})
    found = growth([one], [one], ACROSS, depth=49, most=1000)
    assert found.before.value == found.after.value == found.new.value == 0
    assert growth([one], [one], ACROSS, depth=51, most=1000).after.value == 1
