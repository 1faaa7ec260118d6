"""A window of the training stream: what it is made of, read and put into the order in which it is used.

Whoever reads a window gathers its pairs row group by row group, while a row group is still in the processor's cache;
batches are views of the result, without another copy wherever a batch lies within one window.
"""

from __future__ import annotations

import contextlib
import itertools
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from sscm.archive.order import Piece, StreamPlan, Window
from sscm.archive.plain_pages import NotPlainError, PlainRowGroup
from sscm.archive.schema import decode_group
from sscm.errors import IntegrityError
from sscm.sensors import BandGroup, Modality
from sscm.storage_errors import storage_errors
from sscm.workspace import ARCHIVE, Workspace

Batch = dict[str, npt.NDArray[Any]]

THREADS, AHEAD = 2, 2
"""Threads that read in a process, and windows that are being read or wait."""


@dataclass(frozen=True, eq=False)
class WindowPlan:
    """How a window is put together: its pairs, in the order in which they are used.

    Args:
        pieces: row groups that it is read from, sorted.
        piece: int64 [pairs], which of them a pair is in.
        index: int64 [pairs], which of the complete pairs of that row group it is.
    """

    pieces: tuple[Piece, ...]
    piece: npt.NDArray[np.int64]
    index: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.index)


def plan_window(plan: StreamPlan, epoch: int, window: Window, first: int, batch: int) -> WindowPlan:
    """How a window is put together.

    Args:
        plan: the order.
        epoch: from 0.
        window: one of that epoch.
        first: pairs of the epoch that this worker has used before it, since it began or went on.
        batch: pairs of this worker in a batch. Where a pair stands in its batch means nothing, so that those of a batch
            are in the order of files, row groups and rows, which is how they are read.
    """
    pieces = tuple(sorted({plan.pieces[portion.piece] for portion in window.portions}))
    number = {piece: place for place, piece in enumerate(pieces)}
    piece, index = (np.empty(len(window.slots), np.int64) for _ in range(2))
    for place, portion in enumerate(window.portions):
        chosen = window.slots == place
        piece[chosen] = number[plan.pieces[portion.piece]]
        index[chosen] = plan.rows(epoch, portion)
    order = np.lexsort((index, piece, (first + np.arange(len(index))) // batch))
    return WindowPlan(pieces, piece[order], index[order])


def groups_of(modalities: Sequence[Modality]) -> tuple[BandGroup, ...]:
    """Band groups that training reads."""
    return tuple(group for modality in modalities for group in modality.groups)


def stream_columns(modalities: Sequence[Modality]) -> list[str]:
    """Columns that training reads: ids and images; never labels, never previews."""
    return ["pair_id", *(group.name for group in groups_of(modalities))]


def read_pieces(workspace: Workspace, pieces: Sequence[Piece], columns: Sequence[str]) -> pa.Table:
    """Read row groups, only the columns asked for, sorted by file and row group.

    Raises:
        WorkspaceError: a shard cannot be read.
        IntegrityError: a shard has other row groups than the manifest says.
    """
    tables = []
    for file, wanted in itertools.groupby(sorted(pieces), key=lambda piece: piece.file):
        row_groups = [piece.row_group for piece in wanted]
        with workspace.parquet(ARCHIVE, *file.split("/")) as parquet:
            found = parquet.metadata.num_row_groups
            if row_groups[-1] >= found:
                raise IntegrityError(
                    f"{workspace.uri_of(ARCHIVE, file)}: {found} row groups; the manifest says more: ingest it again"
                )
            with _undamaged(workspace.uri_of(ARCHIVE, file)):
                tables.append(parquet.read_row_groups(row_groups, columns=list(columns)))
    return pa.concat_tables(tables)


def read_window(workspace: Workspace, plan: WindowPlan, groups: Sequence[BandGroup]) -> Batch:
    """Read one window.

    Args:
        workspace: where the archive is.
        plan: the window.
        groups: its band groups.

    Returns:
        ``pair_id`` → array of str [pairs], band-group name → pixels [pairs, bands, height, width], native dtype.

    Raises:
        WorkspaceError: a shard cannot be read.
        IntegrityError: a shard is not what the manifest says.
    """
    window: Batch = {"pair_id": np.empty(len(plan), object)}
    for group in groups:
        # Arrow's memory pool keeps what it is given back; fresh pages from the system cost as much as the copy.
        values = np.frombuffer(pa.allocate_buffer(len(plan) * group.nbytes), group.numpy_dtype)
        window[group.name] = values.reshape(len(plan), *group.shape)
    if workspace.is_local:
        folder = workspace.path_of(ARCHIVE)
        for number, piece in enumerate(plan.pieces):
            places = np.flatnonzero(plan.piece == number)
            try:
                with (
                    storage_errors("read", workspace.uri_of(ARCHIVE, piece.file)),
                    PlainRowGroup(f"{folder}/{piece.file}", piece) as row_group,
                ):
                    _gather(window, groups, places, plan.index[places], row_group)
            except NotPlainError:
                _gather(window, groups, places, plan.index[places], _Decoded(workspace, piece, groups))
        return window
    # A request takes long and little of a core: those of a window are on the way together.
    with ThreadPoolExecutor(len(plan.pieces), thread_name_prefix="read-window") as pool:
        tables = pool.map(lambda piece: _Decoded(workspace, piece, groups), plan.pieces)
        for number, table in enumerate(tables):
            places = np.flatnonzero(plan.piece == number)
            _gather(window, groups, places, plan.index[places], table)
    return window


def read_in_threads(
    workspace: Workspace, plans: Iterator[WindowPlan], groups: Sequence[BandGroup]
) -> Generator[Batch, None, None]:
    """Read windows ahead by threads of this process; what takes time in it holds no lock of Python's.

    Args:
        workspace: where the archive is.
        plans: the windows; asked for as windows are taken, a few ahead.
        groups: their band groups.

    Yields:
        As :func:`read_window` returns them, in order; and raises what it raises.
    """
    pool = ThreadPoolExecutor(THREADS, thread_name_prefix="read-ahead")
    pending: deque[Future[Batch]] = deque()
    try:
        while True:
            for plan in itertools.islice(plans, AHEAD - len(pending)):
                pending.append(pool.submit(read_window, workspace, plan, groups))
            if not pending:
                return
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def pack(window: Batch) -> pa.Table:
    """A window as a table of one row, whose images are one value each: Ray Data cuts blocks between rows, by size."""
    ids = pa.array(window["pair_id"].tolist(), pa.string())
    columns = {"pair_id": pa.ListArray.from_arrays(pa.array([0, len(ids)], pa.int32()), ids)}
    for name, pixels in window.items():
        if name != "pair_id":
            ends = pa.py_buffer(np.array([0, pixels.nbytes], np.int64))
            buffers = [None, ends, pa.py_buffer(pixels.reshape(-1))]
            columns[name] = pa.Array.from_buffers(pa.large_binary(), 1, buffers)
    return pa.table(columns)


def unpack(table: pa.Table, groups: Sequence[BandGroup]) -> Batch:
    """What was packed; pixels are read-only views of the table."""
    (ids,) = table["pair_id"]
    window: Batch = {"pair_id": ids.values.to_numpy(zero_copy_only=False)}
    for group in groups:
        (packed,) = table[group.name]
        values = np.frombuffer(packed.as_buffer(), group.numpy_dtype)
        window[group.name] = values.reshape(-1, *group.shape)
        window[group.name].flags.writeable = False
    return window


def cut_batches(windows: Iterator[Batch], size: int, count: int) -> Iterator[Batch]:
    """Cut windows into batches: views where one lies within a window, which is held until it is used up; else copies.

    Args:
        windows: as :func:`read_window` gives them, asked for as they are needed.
        size: pairs of a batch.
        count: batches; they use all of the last window.
    """
    held: deque[Batch] = deque()
    for _ in range(count):
        parts: list[Batch] = []
        missing = size
        while missing:
            window = held.popleft() if held else next(windows)
            taken = min(missing, len(window["pair_id"]))
            parts.append({name: values[:taken] for name, values in window.items()})
            missing -= taken
            if taken < len(window["pair_id"]):
                held.appendleft({name: values[taken:] for name, values in window.items()})
            del window  # its memory is wanted for what is read ahead
        if len(parts) == 1:
            yield parts[0]
        else:
            yield {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


@contextlib.contextmanager
def _undamaged(uri: str) -> Iterator[None]:
    """Make of what Arrow says of bytes that it cannot decode, which is of many types, an error that names the file."""
    try:
        yield
    except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
        if isinstance(error, OSError) and error.errno:
            raise
        raise IntegrityError(f"{uri} is damaged ({error}); ingest the archive again") from error


class _Decoded:
    """The complete pairs of a row group, decoded by Arrow.

    Raises:
        WorkspaceError: it cannot be read.
        IntegrityError: it is not what the manifest says.
    """

    def __init__(self, workspace: Workspace, piece: Piece, groups: Sequence[BandGroup]) -> None:
        table = read_pieces(workspace, [piece], ["pair_id", *(group.name for group in groups)])
        self._uri = workspace.uri_of(ARCHIVE, piece.file)
        if missing := [group.name for group in groups if group.name not in table.column_names]:
            raise IntegrityError(
                f"{self._uri}: no columns {', '.join(missing)}, which the manifest says; ingest the archive again"
            )
        rows = len(table)
        if any(column.null_count for column in table.columns):
            table = table.drop_null()
        if (rows, len(table)) != (piece.rows, piece.complete):
            raise IntegrityError(
                f"{piece.file}, row group {piece.row_group}: {len(table)} complete pairs of {rows}; the manifest says "
                f"{piece.complete} of {piece.rows}: ingest the archive again"
            )
        self._table = table

    def ids(self) -> list[str]:
        """Ids of all rows."""
        with _undamaged(self._uri):
            ids: list[str] = self._table["pair_id"].to_pylist()
        return ids

    def images(self, group: BandGroup) -> npt.NDArray[Any]:
        """Pixels [rows, bands, height, width] of one band group."""
        return decode_group(self._table[group.name], group)


def _gather(
    window: Batch,
    groups: Sequence[BandGroup],
    places: npt.NDArray[np.int64],
    rows: npt.NDArray[np.int64],
    row_group: PlainRowGroup | _Decoded,
) -> None:
    """Put some rows of a row group into places of a window, sorted: the one copy of a decoded pixel."""
    window["pair_id"][places] = np.array(row_group.ids(), object)[rows]
    edges = [0, *(np.flatnonzero(np.diff(places) != 1) + 1).tolist(), len(places)]
    for group in groups:
        images = row_group.images(group)
        for start, stop in itertools.pairwise(edges):
            # Rows are right: to have NumPy check them would cost a copy.
            out = window[group.name][places[start] : places[stop - 1] + 1]
            np.take(images, rows[start:stop], axis=0, out=out, mode="clip")
