"""The training stream: seeded, equal on all workers, read by Ray Data from the shards that the manifest names.

The order of an epoch is a function of the seed and the epoch alone. Row groups are shuffled over the whole split,
dealt to the workers, and gathered in windows within which pairs are shuffled once more; ingest has mixed the pairs over
shards before. Since every worker knows the plan, all take the same number of steps by construction, and a run that
starts again at an epoch sees what it would have seen.

Ray Data reads ahead in short executions, a bounded number of bytes each, while the one before is used up; they run on
over the ends of epochs, so that an epoch costs no start-up. One long execution would keep its scheduler busy for as
long as training is slower than reading: measured on two cores, its thread took 70 % of one of them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import ray

from sscm import runtime
from sscm.archive.manifest import Manifest, Shard
from sscm.archive.schema import decode_group
from sscm.errors import ConfigError, IntegrityError
from sscm.sensors import Modality
from sscm.workspace import ARCHIVE, Workspace

WINDOW = 8
"""Row groups gathered and shuffled together: 512 pairs, about 140 MB of Sentinel pairs."""
READ_AHEAD_BYTES = 256_000_000
"""About what one execution reads; two of them are held at most."""

Batch = dict[str, npt.NDArray[Any]]


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
        workers: how many share the stream.
        local_batch: pairs of a batch of one worker.
    """

    shards: tuple[Shard, ...]
    seed: int
    workers: int
    local_batch: int

    def __post_init__(self) -> None:
        if self.steps_per_epoch < 1:
            rows = sum(piece.complete for piece in pieces_of(self.shards))
            raise ConfigError(
                f"{rows} pairs with all modalities do not fill one batch of {self.local_batch} pairs "
                f"on each of {self.workers} workers; "
                "choose a smaller batch size or fewer workers"
            )

    def order(self, epoch: int, worker: int) -> tuple[Piece, ...]:
        """Row groups of one worker in one epoch, shuffled over the whole split, then dealt like cards."""
        pieces = pieces_of(self.shards)
        shuffled = np.random.default_rng([self.seed, epoch]).permutation(len(pieces))
        return tuple(pieces[i] for i in shuffled[worker :: self.workers])

    @property
    def steps_per_epoch(self) -> int:
        """Steps that every worker can take in any epoch.

        Dealing whole row groups gives workers unlike numbers of pairs; the fewest that any worker can get in any epoch
        count, and what is left over is seen in other epochs.
        """
        sizes = sorted(piece.complete for piece in pieces_of(self.shards))
        return sum(sizes[: len(sizes) // self.workers]) // self.local_batch

    def windows(self, epoch: int, worker: int) -> Iterator[tuple[Piece, ...]]:
        """The order of one worker in one epoch, :data:`WINDOW` row groups at a time."""
        pieces = iter(self.order(epoch, worker))
        while window := tuple(itertools.islice(pieces, WINDOW)):
            yield window


def read_pieces(workspace: Workspace, pieces: Sequence[Piece], columns: Sequence[str]) -> pa.Table:
    """Read row groups, only the columns asked for.

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
    workspace: Workspace,
    manifest: Manifest,
    plan: StreamPlan,
    worker: int,
    epochs: range,
) -> Iterator[Iterator[Batch]]:
    """Batches of one worker, epoch by epoch, read ahead by Ray Data.

    Args:
        workspace: where the archive is.
        manifest: what it holds.
        plan: the order.
        worker: which worker this is, from 0.
        epochs: which epochs; one iterator of batches is yielded for each, to be used up before the next is asked for.

    Yields:
        For each epoch an iterator over exactly ``plan.steps_per_epoch`` batches: ``pair_id`` → array of str
        [local_batch], band-group name → pixels [local_batch, bands, height, width], native dtype.
    """
    with contextlib.closing(_read_ahead(workspace, manifest, plan, worker, epochs)) as tables:
        for epoch in epochs:
            yield _epoch_batches(tables, manifest, plan, worker, epoch)


def _read_ahead(
    workspace: Workspace, manifest: Manifest, plan: StreamPlan, worker: int, epochs: range
) -> Generator[pa.Table, None, None]:
    """Tables of some epochs' windows, in order; Ray Data reads some while others are used."""
    runtime.quiet_ray_data()
    ray.data.DataContext.get_current().execution_options.preserve_order = True
    read = _window_reader(workspace, stream_columns(manifest.modalities))
    windows = (window for epoch in epochs for window in plan.windows(epoch, worker))
    pair_bytes = sum(group.nbytes for modality in manifest.modalities for group in modality.groups)
    most = max(1, READ_AHEAD_BYTES // (pair_bytes * max(sum(p.rows for p in w) for w in plan.windows(0, worker))))
    # The first executions are small, so that the first batch is there soon.
    sizes = itertools.chain((2**n for n in range(most.bit_length() - 1)), itertools.repeat(most))
    with ThreadPoolExecutor(1, thread_name_prefix="read-ahead") as pool:

        def start() -> Future[list[ray.ObjectRef]] | None:
            chosen = list(itertools.islice(windows, next(sizes)))
            return pool.submit(_execute, chosen, read) if chosen else None

        pending = start()
        while pending is not None:
            tables = pending.result()
            pending = start()
            while tables:
                yield ray.get(tables.pop(0))


def _execute(
    windows: Sequence[tuple[Piece, ...]], read: Callable[[Mapping[str, Any]], pa.Table]
) -> list[ray.ObjectRef]:
    """Read windows by one Ray Data execution; references to their tables, in order."""
    items = [{"pieces": json.dumps([dataclasses.astuple(piece) for piece in window])} for window in windows]
    dataset = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
        read, batch_size=1, batch_format="numpy", num_cpus=1
    )
    return list(dataset.materialize().to_arrow_refs())


def _window_reader(workspace: Workspace, columns: Sequence[str]) -> Callable[[Mapping[str, Any]], pa.Table]:
    def read(batch: Mapping[str, Any]) -> pa.Table:
        pieces = [Piece(*fields) for fields in json.loads(str(batch["pieces"][0]))]
        return read_pieces(workspace, pieces, columns)

    return read


def _epoch_batches(
    tables: Iterator[pa.Table], manifest: Manifest, plan: StreamPlan, worker: int, epoch: int
) -> Iterator[Batch]:
    """Shuffle and cut the windows of one epoch; takes all its tables, so that the next epoch starts clean."""
    rng = np.random.default_rng([plan.seed, epoch, worker])
    groups = [group for modality in manifest.modalities for group in modality.groups]
    left = sum(piece.rows for piece in plan.order(epoch, worker))
    held: list[tuple[Batch, npt.NDArray[np.int64]]] = []
    count = steps = 0
    while left > 0:
        table = next(tables)
        left -= len(table)
        columns: Batch = {group.name: decode_group(table[group.name], group) for group in groups}
        columns["pair_id"] = table["pair_id"].to_numpy(zero_copy_only=False)
        held.append((columns, _complete_rows(table, rng)))
        count += len(held[-1][1])
        while count >= plan.local_batch and steps < plan.steps_per_epoch:
            yield _take(held, plan.local_batch)
            count -= plan.local_batch
            steps += 1
    if steps < plan.steps_per_epoch:
        raise IntegrityError(
            f"epoch {epoch}: {steps} batches where the plan has {plan.steps_per_epoch}; the shards hold fewer complete "
            "pairs than the manifest says: ingest them again"
        )


def _complete_rows(table: pa.Table, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Rows that have every column, shuffled."""
    valid = np.ones(len(table), bool)
    for column in table.columns:
        if column.null_count:
            valid &= column.is_valid().to_numpy(zero_copy_only=False)
    return rng.permutation(np.flatnonzero(valid))


def _take(held: list[tuple[Batch, npt.NDArray[np.int64]]], rows: int) -> Batch:
    """Take rows from the front of what is held; the one copy on the way from the file to the device."""
    parts: list[tuple[Batch, npt.NDArray[np.int64]]] = []
    while rows:
        columns, order = held.pop(0)
        parts.append((columns, order[:rows]))
        if len(order) > rows:
            held.insert(0, (columns, order[rows:]))
        rows -= min(rows, len(order))
    names = parts[0][0]
    return {name: np.concatenate([columns[name][order] for columns, order in parts]) for name in names}
