"""The order in which an epoch is read: a pure function of seed, epoch and how the workers changed on the way.

An epoch is fixed before anyone reads: row groups shuffled over the whole split, as many complete pairs as fill whole
global batches; what is left over, less than a batch, is another one's in every epoch. That is dealt to the workers in
equal shares, so that all take the same number of steps by construction. A worker gathers its row groups in windows, in
which their pairs are mixed once more; ingest has mixed the pairs over shards before.

Where an interrupted epoch goes on with another number of workers, what nobody has seen yet is shuffled and dealt anew.
What has been seen follows from the plan and the number of steps alone: nothing but that is kept in a checkpoint.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from sscm.archive.manifest import Shard
from sscm.errors import ConfigError

_EPOCH, _PIECE, _WINDOW, _DEAL = 1, 2, 3, 4
"""What a random order is of: part of its key, so that no two are the same."""
WINDOW = 4
"""Portions gathered and mixed together: 256 pairs, about 70 MB of Sentinel pairs."""


@dataclass(frozen=True, order=True)
class Piece:
    """One Parquet row group of a shard.

    Args:
        file: shard, relative to ``archive/``.
        row_group: its number in the file.
        rows: pairs in it.
        complete: pairs that have every modality; only they are trained on.
    """

    file: str
    row_group: int
    rows: int
    complete: int


@dataclass(frozen=True, order=True)
class Portion:
    """Some complete pairs of a row group, as its own shuffled order of the epoch has them.

    Args:
        piece: number of the row group in :func:`pieces_of` the plan's shards.
        start: first place in that order.
        stop: place after the last.
    """

    piece: int
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class Deal:
    """From a step of an epoch on, what is left of it is dealt to so many workers.

    Args:
        step: steps of the epoch that were done before.
        workers: how many share what is left.
    """

    step: int
    workers: int


@dataclass(frozen=True, eq=False)
class Window:
    """Portions whose pairs are mixed.

    Args:
        portions: what is read.
        slots: int64 [pairs], for each pair in the order in which they are used, which portion it comes from; a
            portion's pairs come in its own order.
    """

    portions: tuple[Portion, ...]
    slots: npt.NDArray[np.int64]

    def after(self, seen: int) -> Window:
        """What is left of it when some pairs, fewer than all, have been used."""
        if not seen:
            return self
        counts = np.bincount(self.slots[:seen], minlength=len(self.portions)).tolist()
        left = [Portion(p.piece, p.start + count, p.stop) for p, count in zip(self.portions, counts, strict=True)]
        kept = [place for place, portion in enumerate(left) if len(portion)]
        return Window(tuple(left[place] for place in kept), np.searchsorted(kept, self.slots[seen:]))


def pieces_of(shards: Sequence[Shard]) -> tuple[Piece, ...]:
    """All row groups of some shards, in order."""
    return tuple(
        Piece(shard.file, number, rows, complete)
        for shard in shards
        for number, (rows, complete) in enumerate(zip(shard.row_groups, shard.complete, strict=True))
    )


@dataclass(frozen=True, kw_only=True)
class StreamPlan:
    """Who reads what, in which order; the same on every worker.

    Args:
        shards: shards of the split.
        seed: of the order.
        batch_size: pairs of a global batch.
    """

    shards: tuple[Shard, ...]
    seed: int
    batch_size: int

    def __post_init__(self) -> None:
        if self.steps_per_epoch < 1:
            raise ConfigError(
                f"{self.complete} pairs with all modalities do not fill one batch of {self.batch_size}; "
                "choose a smaller batch size"
            )

    @cached_property
    def pieces(self) -> tuple[Piece, ...]:
        """All row groups of the shards; a portion names one by its place here."""
        return pieces_of(self.shards)

    @cached_property
    def complete(self) -> int:
        """Pairs that have every modality."""
        return sum(piece.complete for piece in self.pieces)

    @property
    def steps_per_epoch(self) -> int:
        """Steps that every worker takes in any epoch."""
        return self.complete // self.batch_size

    def local_batch(self, worker: int, workers: int) -> int:
        """Pairs of a worker in every batch; they differ by one where the batch does not divide."""
        return _edge(worker + 1, self.batch_size, workers) - _edge(worker, self.batch_size, workers)

    def epoch(self, epoch: int) -> tuple[Portion, ...]:
        """All that is seen in an epoch, in the order in which it is dealt: whole batches, each pair at most once."""
        order = self._random(_EPOCH, epoch).permutation(len(self.pieces)).tolist()
        whole = [Portion(i, 0, self.pieces[i].complete) for i in order if self.pieces[i].complete]
        return tuple(_cut(whole, 0, self.steps_per_epoch * self.batch_size))

    def dealt(self, epoch: int, deals: Sequence[Deal], worker: int) -> tuple[Portion, ...]:
        """What one worker reads after the last of some deals, in order.

        Args:
            epoch: from 0.
            deals: how the epoch was shared, the first at step 0; each goes on from what the ones before left.
            worker: from 0, one of the last deal's.
        """
        last = deals[-1]
        share = self.steps_per_epoch - last.step
        left = self._left_after(epoch, deals[:-1], last.step) if len(deals) > 1 else self.epoch(epoch)
        first, end = (share * _edge(r, self.batch_size, last.workers) for r in (worker, worker + 1))
        return tuple(_cut(left, first, end))

    def windows(self, epoch: int, deals: Sequence[Deal], worker: int, steps: int = 0) -> Iterator[Window]:
        """What :meth:`dealt` gives, :data:`WINDOW` portions at a time, and how they are mixed.

        Args:
            epoch: from 0.
            deals: as for :meth:`dealt`.
            worker: as for :meth:`dealt`.
            steps: steps done since the last deal; what they saw is left out.
        """
        portions = iter(self.dealt(epoch, deals, worker))
        seen = steps * self.local_batch(worker, deals[-1].workers)
        for number in itertools.count():
            chosen = tuple(itertools.islice(portions, WINDOW))
            if not chosen:
                return
            slots = np.repeat(np.arange(len(chosen)), [len(portion) for portion in chosen])
            if seen >= len(slots):
                seen -= len(slots)
                continue
            window = Window(chosen, self._random(_WINDOW, epoch, len(deals), worker, number).permutation(slots))
            yield window.after(seen)
            seen = 0

    def rows(self, epoch: int, portion: Portion) -> npt.NDArray[np.int64]:
        """Which of the complete pairs of its row group a portion holds, in its order: int64 [pairs]."""
        order = self._random(_PIECE, epoch, portion.piece).permutation(self.pieces[portion.piece].complete)
        return order[portion.start : portion.stop]

    def _left_after(self, epoch: int, deals: Sequence[Deal], step: int) -> tuple[Portion, ...]:
        """What nobody has seen when a step begins, shuffled for the next deal."""
        left = [
            portion
            for worker in range(deals[-1].workers)
            for window in self.windows(epoch, deals, worker, step - deals[-1].step)
            for portion in window.portions
        ]
        order = self._random(_DEAL, epoch, len(deals)).permutation(len(left)).tolist()
        return tuple(left[i] for i in order)

    def _random(self, *key: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, *key])


def _edge(worker: int, rows: int, workers: int) -> int:
    """Where a worker's share of some rows starts."""
    return worker * rows // workers


def _cut(portions: Iterable[Portion], first: int, end: int) -> Iterator[Portion]:
    """The pairs from a place to another of a sequence of portions; those at the edges are divided."""
    place = 0
    for portion in portions:
        start, stop = max(first - place, 0), min(end - place, len(portion))
        if start < stop:
            yield Portion(portion.piece, portion.start + start, portion.start + stop)
        place += len(portion)
        if place >= end:
            return
