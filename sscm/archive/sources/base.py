"""What a source of pairs is: it plans cheaply, then reads pair by pair on any worker."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from sscm.archive.schema import Pair
from sscm.sensors import Modality


@dataclass(frozen=True, kw_only=True, slots=True)  # there are millions
class PairRef:
    """Where a pair (or the tiles of one large pair) is to be read; small and picklable.

    Args:
        key: unique in the source; the pair's id where it yields one pair.
        split: split of all it yields.
        args: what the source's ``read`` needs, JSON values only.
    """

    key: str
    split: str
    args: Mapping[str, Any] = field(default_factory=dict)


class Source(Protocol):
    """A place that pairs come from. Instances are pickled to the workers."""

    name: str
    simulated: bool

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """The modalities of every pair."""
        ...

    @property
    def pairs_per_ref(self) -> int:
        """About how many pairs one reference yields; sizes the shards."""
        ...

    def describe(self) -> Mapping[str, Any]:
        """The settings that tell this source from another, JSON values; part of an archive's identity."""
        ...

    def plan(self) -> Sequence[PairRef]:
        """All references, keys unique, in a stable order. Raises ArchiveError where the source cannot be used."""
        ...

    def read(self, ref: PairRef) -> Iterator[Pair]:
        """Read what a reference names. Raises PairError where it cannot be read."""
        ...


def split_by_hash(key: str, validation: float = 0.1, test: float = 0.1) -> str:
    """A split that depends on the key alone, so that it is the same on every machine and for ever.

    Args:
        key: what is to be kept together: a pair's id, or the name of its scene or block.
        validation: share of keys in ``validation``.
        test: share of keys in ``test``.
    """
    place = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8]) / 2**64
    if place < test:
        return "test"
    return "validation" if place < test + validation else "train"
