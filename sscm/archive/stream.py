"""The training stream: windows of an epoch, read ahead by Ray Data from the shards that the manifest names.

What is read in which order is :mod:`sscm.archive.order`'s. Ray Data reads ahead in short executions, a bounded number
of bytes each, two at a time while the one before them is used up; they run on over the ends of epochs, so that an epoch
costs no start-up. One long execution would keep its scheduler busy for as long as training is slower than reading:
measured on two cores, its thread took 70 % of one of them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from sscm import placement, runtime
from sscm.archive.manifest import Manifest
from sscm.archive.order import Deal, Piece, StreamPlan, Window
from sscm.archive.schema import decode_group
from sscm.errors import IntegrityError
from sscm.sensors import Modality
from sscm.workspace import ARCHIVE, Workspace

READ_AHEAD_BYTES = 512_000_000
"""About what one execution reads at most: what it costs, a tenth of a second, is little beside that."""
STORE_SHARE = 0.15
"""Share of a node's object store that one execution of each of its workers may fill: there are three of each, beside
the windows in use, and from four fifths on Ray writes objects to disk."""
EXECUTIONS = 2
"""Executions that read at a time."""

Batch = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True, kw_only=True)
class Reader:
    """Where one worker is in a training's stream.

    Args:
        worker: which worker this is, from 0.
        epochs: epochs to read.
        deals: how the first of them has been dealt so far; the last deal says how many workers there are now.
        steps: steps of the first epoch that were done since its last deal.
        neighbours: workers on this node, this one counted.
    """

    worker: int
    epochs: range
    deals: tuple[Deal, ...]
    steps: int = 0
    neighbours: int = 1

    @property
    def workers(self) -> int:
        """Workers that share the stream."""
        return self.deals[-1].workers

    def deals_of(self, epoch: int) -> tuple[Deal, ...]:
        """How an epoch is dealt."""
        return self.deals if epoch == self.epochs.start else (Deal(0, self.workers),)

    def windows(self, plan: StreamPlan) -> Iterator[Window]:
        """Windows of all epochs, in the order in which they are read."""
        for epoch in self.epochs:
            done = self.steps if epoch == self.epochs.start else 0
            yield from plan.windows(epoch, self.deals_of(epoch), self.worker, done)

    def steps_of(self, plan: StreamPlan, epoch: int) -> int:
        """Steps that are left of an epoch."""
        done = self.deals[-1].step + self.steps if epoch == self.epochs.start else 0
        return plan.steps_per_epoch - done


def read_pieces(workspace: Workspace, pieces: Sequence[Piece], columns: Sequence[str]) -> pa.Table:
    """Read row groups, only the columns asked for, sorted by file and row group.

    Raises:
        WorkspaceError: a shard cannot be read.
        IntegrityError: a shard has other row groups than the manifest says.
    """
    tables = []
    for file, group in itertools.groupby(sorted(pieces), key=lambda piece: piece.file):
        wanted = list(group)
        with workspace.parquet(ARCHIVE, *file.split("/")) as parquet:
            found = parquet.metadata.num_row_groups
            if wanted[-1].row_group >= found:
                raise IntegrityError(
                    f"{workspace.uri_of(ARCHIVE, file)}: {found} row groups; the manifest says more: ingest it again"
                )
            tables.append(parquet.read_row_groups([p.row_group for p in wanted], columns=list(columns)))
    return pa.concat_tables(tables)


def stream_columns(modalities: Sequence[Modality]) -> list[str]:
    """Columns that training reads: ids and images; never labels, never previews."""
    return ["pair_id", *(group.name for modality in modalities for group in modality.groups)]


def stream_batches(
    workspace: Workspace, manifest: Manifest, plan: StreamPlan, reader: Reader
) -> Iterator[Iterator[Batch]]:
    """Batches of one worker, epoch by epoch, read ahead by Ray Data.

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
    with contextlib.closing(_read_ahead(workspace, manifest, plan, reader)) as tables:
        for epoch in reader.epochs:
            yield _epoch_batches(tables, manifest, plan, reader, epoch)


class _Executions:
    """Runs Ray Data executions: one after the other in this process until an actor that does so is up.

    The schedulers of Ray Data are threads of Python. In the process that trains they would hold up each of its steps:
    measured with small encoders on two cores, by a fifth.
    """

    def __init__(self, workspace: Workspace, columns: Sequence[str]) -> None:
        self._columns = workspace, tuple(columns)
        # On this node: what it owns is lost with it, and with this node all is lost anyway.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        options = {"max_concurrency": EXECUTIONS, "scheduling_strategy": here}
        self._actor: Any = _Scheduler.options(**options).remote(*self._columns)  # type: ignore[attr-defined]
        self._ready = self._actor.ready.remote()
        self._is_ready = False

    def __call__(self, asked: Sequence[str]) -> list[ray.ObjectRef]:
        """Tables of some windows, each given by its row groups as JSON; references in the same order."""
        self._is_ready = self._is_ready or bool(ray.wait([self._ready], timeout=0)[0])
        if self._is_ready:
            found: list[ray.ObjectRef] = ray.get(self._actor.execute.remote(asked))
            return found
        return execute(asked, *self._columns)

    def close(self) -> None:
        """End the actor."""
        ray.kill(self._actor)


@ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=3)
class _Scheduler:
    """Runs the Ray Data executions of one worker."""

    def __init__(self, workspace: Workspace, columns: Sequence[str]) -> None:
        self._columns = workspace, columns

    def ready(self) -> None:
        """Return once the actor is up."""

    def execute(self, asked: Sequence[str]) -> list[ray.ObjectRef]:
        """See :func:`execute`."""
        return execute(asked, *self._columns)


def _read_ahead(
    workspace: Workspace, manifest: Manifest, plan: StreamPlan, reader: Reader
) -> Generator[tuple[Window, pa.Table], None, None]:
    """Windows and their tables, in order; Ray Data reads some while others are used."""
    windows = reader.windows(plan)
    pair_bytes = sum(group.nbytes for modality in manifest.modalities for group in modality.groups)
    most = min(READ_AHEAD_BYTES, int(runtime.object_store_bytes() * STORE_SHARE / reader.neighbours))
    # The first executions are small, so that the first batch is there soon.
    sizes = itertools.chain((most >> shift for shift in (3, 2, 1)), itertools.repeat(most))
    executions = _Executions(workspace, stream_columns(manifest.modalities))
    with contextlib.closing(executions), ThreadPoolExecutor(EXECUTIONS, thread_name_prefix="read-ahead") as pool:
        pending: deque[Future[list[tuple[Window, ray.ObjectRef]]]] = deque()
        following: list[Window] = []

        def read(chosen: list[Window]) -> list[tuple[Window, ray.ObjectRef]]:
            asked = [json.dumps([dataclasses.astuple(piece) for piece in _pieces(plan, window)]) for window in chosen]
            return list(zip(chosen, executions(asked), strict=True))

        def start() -> None:
            room = next(sizes)
            chosen: list[Window] = []
            while (window := following.pop() if following else next(windows, None)) is not None:
                room -= pair_bytes * sum(piece.rows for piece in _pieces(plan, window))
                if chosen and room < 0:
                    following.append(window)
                    break
                chosen.append(window)
            if chosen:
                pending.append(pool.submit(read, chosen))

        for _ in range(EXECUTIONS):
            start()
        while pending:
            tables = deque(pending.popleft().result())
            start()
            while tables:
                window, reference = tables.popleft()
                yield window, ray.get(reference)


def execute(asked: Sequence[str], workspace: Workspace, columns: Sequence[str]) -> list[ray.ObjectRef]:
    """Read row groups by one Ray Data execution.

    Args:
        asked: JSON of the row groups of one table each.
        workspace: where the archive is.
        columns: what is read of them.

    Returns:
        References to the tables, in order.
    """
    runtime.quiet_ray_data()
    ray.data.DataContext.get_current().execution_options.preserve_order = True
    dataset = ray.data.from_items([{"pieces": pieces} for pieces in asked], override_num_blocks=len(asked)).map_batches(
        _window_reader(workspace, columns),
        batch_size=1,
        batch_format="numpy",
        num_cpus=1,
        label_selector=placement.selector("data"),
    )
    return list(dataset.materialize().to_arrow_refs())


def _pieces(plan: StreamPlan, window: Window) -> list[Piece]:
    """Row groups that a window is read from, each once, in the order of :func:`read_pieces`."""
    return sorted({plan.pieces[portion.piece] for portion in window.portions})


def _window_reader(workspace: Workspace, columns: Sequence[str]) -> Callable[[Mapping[str, Any]], pa.Table]:
    def read(batch: Mapping[str, Any]) -> pa.Table:
        pieces = [Piece(*fields) for fields in json.loads(str(batch["pieces"][0]))]
        return read_pieces(workspace, pieces, columns)

    return read


def _epoch_batches(
    tables: Iterator[tuple[Window, pa.Table]], manifest: Manifest, plan: StreamPlan, reader: Reader, epoch: int
) -> Iterator[Batch]:
    """Cut the windows of one epoch into batches; windows are used up by the last of them."""
    size = plan.local_batch(reader.worker, reader.workers)
    held: deque[_Mixed] = deque()
    for _ in range(reader.steps_of(plan, epoch)):
        while sum(len(mixed) for mixed in held) < size:
            window, table = next(tables)
            held.append(_Mixed(plan, epoch, window, table, manifest))
        yield _take(held, size)


class _Mixed:
    """A window's pairs in the order in which they are used, as views of its table; ``taken`` of them are used up."""

    def __init__(self, plan: StreamPlan, epoch: int, window: Window, table: pa.Table, manifest: Manifest) -> None:
        pieces = _pieces(plan, window)
        if len(table) != sum(piece.rows for piece in pieces):
            raise IntegrityError(
                f"{len(table)} rows in {pieces}; the manifest says otherwise: ingest the archive again"
            )
        starts = dict(zip(pieces, itertools.accumulate((piece.rows for piece in pieces), initial=0), strict=False))
        valid = _complete(table)
        rows = np.empty(len(window.slots), np.int64)
        for place, portion in enumerate(window.portions):
            piece = plan.pieces[portion.piece]
            complete = starts[piece] + np.flatnonzero(valid[starts[piece] : starts[piece] + piece.rows])
            if len(complete) != piece.complete:
                raise IntegrityError(
                    f"{piece.file}, row group {piece.row_group}: {len(complete)} complete pairs; the manifest says "
                    f"{piece.complete}: ingest the archive again"
                )
            rows[window.slots == place] = complete[plan.rows(epoch, portion)]
        self.rows = rows
        self.taken = 0
        self.ids = table["pair_id"].to_numpy()
        groups = [group for modality in manifest.modalities for group in modality.groups]
        # Chunk by chunk: to put them together would be one copy more.
        self.images = {group.name: [decode_group(c, group) for c in table[group.name].chunks] for group in groups}

    def __len__(self) -> int:
        return len(self.rows) - self.taken

    def take(self, into: Batch, first: int, count: int) -> None:
        """Move the next so many pairs into rows of a batch, from one on: which row a pair has there means nothing."""
        rows = np.sort(self.rows[self.taken : self.taken + count])
        self.taken += count
        into["pair_id"][first : first + count] = self.ids[rows]
        for name, chunks in self.images.items():
            ends = np.cumsum([len(chunk) for chunk in chunks])
            edges = [0, *np.searchsorted(rows, ends).tolist()]
            for chunk, end, (start, stop) in zip(chunks, ends.tolist(), itertools.pairwise(edges), strict=True):
                # Indices are right: to have NumPy check them would cost a copy.
                out = into[name][first + start : first + stop]
                np.take(chunk, rows[start:stop] - (end - len(chunk)), axis=0, out=out, mode="clip")


def _complete(table: pa.Table) -> npt.NDArray[np.bool_]:
    """Which rows have every column: bool [rows]."""
    valid = np.ones(len(table), bool)
    for column in table.columns:
        if column.null_count:
            valid &= column.is_valid().to_numpy(zero_copy_only=False)
    return valid


def _take(held: deque[_Mixed], rows: int) -> Batch:
    """Take pairs from the front of what is held; the one copy on the way from the table to the device."""
    images = {name: chunks[0] for name, chunks in held[0].images.items()}
    batch: Batch = {name: np.empty((rows, *image.shape[1:]), image.dtype) for name, image in images.items()}
    batch["pair_id"] = np.empty(rows, object)
    filled = 0
    while filled < rows:
        count = min(rows - filled, len(held[0]))
        held[0].take(batch, filled, count)
        filled += count
        if not len(held[0]):
            held.popleft()
    return batch
