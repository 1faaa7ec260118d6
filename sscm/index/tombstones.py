"""Tombstones: which rows of an immutable segment are deleted.

``index/segments/<name>/deleted_<sha>.npy`` holds sorted row numbers (uint32 [deleted]) and is named by its content, so
that several generations of the same segment stand side by side. A generation's manifest names the one that holds in it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sscm.errors import IntegrityError, WorkspaceError
from sscm.index.segment import SEGMENTS, Segment
from sscm.workspace import INDEX, Workspace

RowNumbers = npt.NDArray[np.uint32]


@dataclass(frozen=True, kw_only=True)
class Tombstones:
    """The deleted rows of a segment, as a generation's manifest names them.

    Args:
        file: name in the segment's folder.
        bytes: size of the file.
        sha256: hexadecimal SHA-256 of its content.
        rows: how many rows are deleted.
    """

    file: str
    bytes: int
    sha256: str
    rows: int


def write_tombstones(workspace: Workspace, segment: str, rows: npt.NDArray[np.integer]) -> Tombstones | None:
    """Write which rows of a segment are deleted; nothing that was written before changes.

    Args:
        workspace: where ``index/`` is.
        segment: name of the segment.
        rows: numbers of all its deleted rows, in any order.

    Returns:
        What the manifest says of them; None where there are none.

    Raises:
        WorkspaceError: they cannot be written.
    """
    if not len(rows):
        return None
    numbers = np.unique(rows).astype(np.uint32)
    buffer = io.BytesIO()
    np.save(buffer, numbers, allow_pickle=False)
    data = buffer.getvalue()
    file = f"deleted_{hashlib.sha256(data).hexdigest()[:12]}.npy"
    stored = workspace.write_bytes(data, INDEX, SEGMENTS, segment, file)
    return Tombstones(file=file, bytes=stored.bytes, sha256=stored.sha256, rows=len(numbers))


def read_tombstones(workspace: Workspace, segment: str, told: Tombstones | None) -> RowNumbers:
    """Numbers of the deleted rows of a segment, sorted: uint32 [deleted].

    Args:
        workspace: where ``index/`` is.
        segment: name of the segment.
        told: what its generation's manifest says of them; None for none.

    Raises:
        IntegrityError: the file is missing or altered; it is named.
    """
    if told is None:
        return np.empty(0, np.uint32)
    parts = (INDEX, SEGMENTS, segment, told.file)
    where = workspace.uri_of(*parts)
    remedy = "restore it, or run `sscm index` to build anew"
    try:
        data = workspace.read_bytes(*parts)
    except WorkspaceError as error:
        if workspace.exists(*parts):
            raise
        raise IntegrityError(f"{where} is missing: the segment's deleted rows are not known; {remedy}") from error
    if len(data) != told.bytes or hashlib.sha256(data).hexdigest() != told.sha256:
        raise IntegrityError(
            f"{where} was altered: {len(data)} bytes that are not the {told.bytes} bytes written; {remedy}"
        )
    numbers = np.load(io.BytesIO(data), allow_pickle=False)
    return np.asarray(numbers, np.uint32)


def bury(segment: Segment, rows: RowNumbers) -> Segment:
    """An open segment of which just these rows are deleted, over the same memory.

    Raises:
        IntegrityError: a row is deleted that is not there.
    """
    if not len(rows):
        return segment if segment.deleted is None else dataclasses.replace(segment, deleted=None)
    if int(rows.max()) >= len(segment):
        raise IntegrityError(f"segment {segment.name} has {len(segment)} rows; its tombstones name {int(rows.max())}")
    deleted = np.zeros(len(segment), np.bool_)
    deleted[rows] = True
    if segment.deleted is not None and np.array_equal(segment.deleted, deleted):
        return segment
    return dataclasses.replace(segment, deleted=deleted)
