"""The order of an epoch: every complete pair once, equal shares, and nothing lost or seen twice by an interruption."""

from collections import Counter

import numpy as np
import pytest

from sscm.archive.manifest import Shard
from sscm.archive.order import WINDOW, Deal, Portion, StreamPlan, pieces_of
from sscm.errors import ConfigError


def shards(*sizes, lacking=0):
    return tuple(
        Shard(
            file=f"shards/{i}.parquet",
            split="train",
            rows=sum(groups),
            row_groups=groups,
            complete=tuple(rows - lacking for rows in groups),
            bytes=1,
            sha256="",
        )
        for i, groups in enumerate(sizes)
    )


SIZES = ((16, 16, 7), (16, 16), (16, 3)) * 8


def plan_of(batch_size=8, seed=0, sizes=SIZES, lacking=0):
    return StreamPlan(shards=shards(*sizes, lacking=lacking), seed=seed, batch_size=batch_size)


def pairs_of(plan, epoch, portions):
    """(row group, complete pair in it), one for each pair."""
    return [(portion.piece, row) for portion in portions for row in plan.rows(epoch, portion).tolist()]


def batches_of(plan, epoch, deals, worker, steps=0):
    """What a worker sees, step by step, as a slow reader has it."""
    seen = []
    for window in plan.windows(epoch, deals, worker, steps):
        rows = [iter(pairs_of(plan, epoch, [portion])) for portion in window.portions]
        seen += [next(rows[slot]) for slot in window.slots.tolist()]
    size = plan.local_batch(worker, deals[-1].workers)
    assert len(seen) % size == 0
    return [seen[start : start + size] for start in range(0, len(seen), size)]


def interrupted(plan, epoch, changes):
    """All pairs seen in an epoch of which the deals are ``changes``, each worked at until the next begins."""
    seen = Counter()
    for place in range(len(changes)):
        deals = changes[: place + 1]
        end = changes[place + 1].step if place + 1 < len(changes) else plan.steps_per_epoch
        for worker in range(deals[-1].workers):
            steps = batches_of(plan, epoch, deals, worker)
            assert len(steps) == plan.steps_per_epoch - deals[-1].step
            seen.update(pair for step in steps[: end - deals[-1].step] for pair in step)
    return seen


@pytest.mark.parametrize("workers", [1, 2, 3, 5])
def test_workers_share_an_epoch_in_equal_steps(workers):
    plan = plan_of(batch_size=15)
    whole = Counter(pairs_of(plan, 4, plan.epoch(4)))
    assert set(whole.values()) == {1} and whole.total() == plan.steps_per_epoch * 15
    assert interrupted(plan, 4, [Deal(0, workers)]) == whole


@pytest.mark.parametrize(
    "changes",
    [
        [Deal(0, 2), Deal(7, 2)],
        [Deal(0, 1), Deal(1, 4), Deal(1, 3), Deal(30, 2)],
        [Deal(0, 4), Deal(11, 1), Deal(12, 5), Deal(70, 3)],
        [Deal(0, 3), Deal(0, 2)],
    ],
)
def test_an_epoch_interrupted_and_resized_holds_what_a_whole_one_does(changes):
    for plan in (plan_of(), plan_of(lacking=2, seed=3), plan_of(batch_size=9)):
        assert interrupted(plan, 2, changes) == Counter(pairs_of(plan, 2, plan.epoch(2)))


@pytest.mark.parametrize("steps", [0, 1, 13, 14, 40])
def test_who_goes_on_with_as_many_workers_sees_the_same_batches(steps):
    plan = plan_of()
    deals = [Deal(0, 2), Deal(5, 3)]
    for worker in range(3):
        whole = batches_of(plan, 1, deals, worker)
        again = batches_of(plan, 1, deals, worker, steps)
        assert again == whole[steps:]


def test_what_has_been_seen_is_not_read_again():
    plan = plan_of(sizes=((64,) * 5 * WINDOW,), batch_size=64)
    every = list(plan.windows(0, [Deal(0, 1)], 0))
    assert [len(window.portions) for window in every] == [WINDOW] * 5
    assert len(list(plan.windows(0, [Deal(0, 1)], 0, 2 * WINDOW))) == 3
    [window] = plan.windows(0, [Deal(0, 1)], 0, 5 * WINDOW - 1)
    assert len(window.slots) == 64 == sum(len(portion) for portion in window.portions)


def test_less_than_a_batch_is_left_out_and_other_pairs_in_each_epoch():
    plan = plan_of(batch_size=100)
    assert plan.steps_per_epoch == plan.complete // 100
    everything = {(n, row) for n, piece in enumerate(pieces_of(plan.shards)) for row in range(piece.complete)}
    left = [everything - set(pairs_of(plan, epoch, plan.epoch(epoch))) for epoch in range(4)]
    assert {len(pairs) for pairs in left} == {plan.complete % 100}
    assert len(set.union(*left)) > len(left[0])


def test_epochs_differ_and_repeat_by_seed():
    plan = plan_of()
    assert plan.epoch(0) != plan.epoch(1)
    assert plan.epoch(1) == plan_of().epoch(1)
    assert plan.epoch(1) != plan_of(seed=1).epoch(1)
    first = Portion(0, 0, 16)
    assert plan.rows(0, first).tolist() != plan.rows(1, first).tolist()
    assert sorted(plan.rows(0, first).tolist()) == list(range(16))


def test_pairs_of_a_window_are_mixed():
    plan = plan_of(sizes=((64,) * WINDOW,), batch_size=64)
    [window] = plan.windows(0, [Deal(0, 1)], 0)
    counts = np.bincount(window.slots[:64], minlength=WINDOW)
    assert counts.min() >= 2 and counts.max() <= 24


def test_shares_differ_by_one_pair_at_most():
    plan = plan_of(batch_size=10)
    assert [plan.local_batch(worker, 4) for worker in range(4)] == [2, 3, 2, 3]


def test_a_batch_larger_than_the_split_is_refused():
    with pytest.raises(ConfigError, match="720 pairs with all modalities do not fill one batch of 721"):
        plan_of(batch_size=721)
