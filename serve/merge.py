"""The k best of the answers of several shards."""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from itertools import islice
from typing import Protocol, TypeVar


class Scored(Protocol):
    """What can be merged."""

    @property
    def score(self) -> float:
        """Similarity, larger is better."""
        ...

    @property
    def pair_id(self) -> str:
        """The pair found; breaks ties, so that an answer does not depend on how rows are spread over shards."""
        ...


S = TypeVar("S", bound=Scored)


def merge(answers: Iterable[Iterable[S]], k: int) -> list[S]:
    """Merge sorted answers.

    Args:
        answers: one list a shard, each by falling score, equal scores by rising ``pair_id``.
        k: how many to keep.

    Returns:
        The k best of all, in the same order; fewer where there are fewer.
    """
    lists = list(answers)
    if len(lists) == 1:
        return list(islice(lists[0], k))
    return list(islice(heapq.merge(*lists, key=lambda hit: (-hit.score, hit.pair_id)), k))
