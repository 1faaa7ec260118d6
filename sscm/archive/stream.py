"""The training stream: epochs of batches for one worker.

What is read in which order is :mod:`sscm.archive.order`'s, how a window is read :mod:`sscm.archive.windows`', and how
Ray Data reads ahead :mod:`sscm.archive.read_ahead`'s.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from sscm.archive.manifest import Manifest
from sscm.archive.order import WINDOW, Deal, StreamPlan
from sscm.archive.read_ahead import depth_of, read_ahead
from sscm.archive.windows import Batch, WindowPlan, cut_batches, groups_of, plan_window, read_in_threads
from sscm.config import StreamBy
from sscm.workspace import Workspace


@dataclass(frozen=True, kw_only=True)
class Reader:
    """Where one worker is in a training's stream.

    Args:
        worker: which worker this is, from 0.
        epochs: epochs to read.
        deals: how the first of them has been dealt so far; the last deal says how many workers there are now.
        steps: steps of the first epoch that were done since its last deal.
        neighbours: workers on this node, this one counted.
        by: who reads.
    """

    worker: int
    epochs: range
    deals: tuple[Deal, ...]
    steps: int = 0
    neighbours: int = 1
    by: StreamBy = "auto"

    @property
    def workers(self) -> int:
        """Workers that share the stream."""
        return self.deals[-1].workers

    def deals_of(self, epoch: int) -> tuple[Deal, ...]:
        """How an epoch is dealt."""
        return self.deals if epoch == self.epochs.start else (Deal(0, self.workers),)

    def batch_of(self, plan: StreamPlan) -> int:
        """Pairs of this worker in a batch."""
        return plan.local_batch(self.worker, self.workers)

    def window_plans(self, plan: StreamPlan) -> Iterator[WindowPlan]:
        """How the windows of all epochs are put together, in the order in which they are read."""
        for epoch in self.epochs:
            done = self.steps if epoch == self.epochs.start else 0
            used = 0
            for window in plan.windows(epoch, self.deals_of(epoch), self.worker, done):
                yield plan_window(plan, epoch, window, used, self.batch_of(plan))
                used += len(window.slots)

    def steps_of(self, plan: StreamPlan, epoch: int) -> int:
        """Steps that are left of an epoch."""
        done = self.deals[-1].step + self.steps if epoch == self.epochs.start else 0
        return plan.steps_per_epoch - done


def stream_batches(
    workspace: Workspace, manifest: Manifest, plan: StreamPlan, reader: Reader
) -> Iterator[Iterator[Batch]]:
    """Batches of one worker, epoch by epoch, read ahead.

    Args:
        workspace: where the archive is.
        manifest: what it holds.
        plan: the order.
        reader: which worker, which epochs, and where in the first of them.

    Yields:
        For each epoch an iterator over its batches, to be used up before the next is asked for: ``pair_id`` → array of
        str [n], band-group name → pixels [n, bands, height, width], native dtype; n is the plan's ``local_batch``.

    Raises:
        WorkspaceError: a shard cannot be read.
        IntegrityError: a shard is not what the manifest says.
    """
    groups = groups_of(manifest.modalities)
    plans = reader.window_plans(plan)
    if reader.by == "workers" or (reader.by == "auto" and workspace.is_local):
        ahead = read_in_threads(workspace, plans, groups)
    else:
        largest = WINDOW * max(piece.rows for piece in plan.pieces) * sum(group.nbytes for group in groups)
        ahead = read_ahead(workspace, groups, plans, depth_of(largest, reader.workers, reader.neighbours))
    with contextlib.closing(ahead) as windows:
        for epoch in reader.epochs:
            yield cut_batches(windows, reader.batch_of(plan), reader.steps_of(plan, epoch))
