"""Rows of a segment without its vectors: what is deleted, compared and counted needs none of them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from sscm.errors import IntegrityError, WorkspaceError
from sscm.index.manifest import SegmentInfo
from sscm.index.segment import ROWS, SEGMENTS
from sscm.storage_errors import storage_errors
from sscm.workspace import INDEX, Workspace

BATCH_ROWS = 65_536
"""Ids read at a time."""


def read_rows(workspace: Workspace, info: SegmentInfo, columns: Sequence[str]) -> pa.Table:
    """Some columns of a segment's rows, in their order.

    Args:
        workspace: where ``index/`` is.
        info: the segment; its file's size is compared, not its checksum.
        columns: names of the columns.

    Raises:
        IntegrityError: the file is missing, or is not what the manifest says.
    """
    with _rows_file(workspace, info) as file:
        return file.read(columns=list(columns)).combine_chunks()


def read_ids(workspace: Workspace, info: SegmentInfo) -> Iterator[pa.Array]:
    """Pair ids of a segment, sorted, some at a time, deleted ones too.

    Raises:
        IntegrityError: the file is missing, or is not what the manifest says.
    """
    with _rows_file(workspace, info) as file:
        for batch in file.iter_batches(BATCH_ROWS, columns=["pair_id"]):
            yield batch.column(0)


@contextlib.contextmanager
def _rows_file(workspace: Workspace, info: SegmentInfo) -> Iterator[pq.ParquetFile]:
    parts = (INDEX, SEGMENTS, info.name, ROWS)
    where = workspace.uri_of(*parts)
    remedy = "restore it, or run `sscm index` to build anew"
    try:
        size = workspace.size(*parts)
    except WorkspaceError as error:
        if workspace.exists(*parts):
            raise
        raise IntegrityError(f"{where} is missing; {remedy}") from error
    if size != info.files[ROWS].bytes:
        raise IntegrityError(f"{where} has {size} bytes; its manifest says {info.files[ROWS].bytes}; {remedy}")
    with workspace.parquet(*parts) as file, storage_errors("read", where):
        try:
            yield file
        except pa.ArrowInvalid as error:
            raise IntegrityError(f"{where} cannot be decoded ({error}); {remedy}") from error
        if file.metadata.num_rows != info.rows:
            raise IntegrityError(f"{where} has {file.metadata.num_rows} rows; its manifest says {info.rows}; {remedy}")
