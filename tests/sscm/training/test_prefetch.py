"""Batches are made ready ahead, in order, and faults of whoever reads them arrive."""

import threading

import numpy as np
import pytest
import torch

from sscm.errors import IntegrityError
from sscm.training.prefetch import prefetched

CPU = torch.device("cpu")


def batches(count, asked=None):
    for number in range(count):
        if asked is not None:
            asked.append(number)
        yield {"s1": np.full((2, 1, 3, 3), number, np.uint16), "pair_id": np.array(["a", "b"], object)}


def test_they_come_in_order_as_tensors():
    with prefetched(batches(5), CPU) as ready:
        found = list(ready)
    assert [int(batch.groups["s1"][0, 0, 0, 0]) for batch in found] == list(range(5))
    assert all(batch.groups["s1"].dtype == torch.uint16 and batch.pair_ids == ["a", "b"] for batch in found)


def test_no_more_is_read_ahead_than_is_wanted():
    asked = []
    with prefetched(batches(50, asked), CPU) as ready:
        for _ in range(3):
            next(ready)
    assert len(asked) <= 3 + 3
    assert not any(thread.name == "prefetch" for thread in threading.enumerate())


def test_a_fault_arrives_where_the_batch_would():
    def broken():
        yield from batches(2)
        raise IntegrityError("a shard is cut short")

    with prefetched(broken(), CPU) as ready:
        next(ready), next(ready)
        with pytest.raises(IntegrityError, match="cut short"):
            next(ready)
