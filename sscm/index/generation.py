"""Index generations: what an index consists of at one moment, committed by one last small write.

``index/generations/<n>/manifest.json`` lists immutable segments with sizes and checksums, which of their rows are
deleted, which model made them of which archive, and what adapted it to that archive. ``index/CURRENT`` names the
generation that readers open. Appending adds a segment, deleting adds tombstones, compaction puts one segment in the
place of several: each is a generation of its own. The manifest is created only where there is none yet, so that of two
writers at a time one wins and the other is told; a writer that died between manifest and ``CURRENT`` is finished by the
next (:func:`settle`).
"""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sscm.errors import ConflictError, GenerationError, IntegrityError
from sscm.index.manifest import AdaptationInfo, Generation, SegmentInfo
from sscm.index.segment import Segment, open_segment
from sscm.index.tombstones import bury, read_tombstones
from sscm.retries import retrying, status_of
from sscm.storage_errors import storage_errors
from sscm.version import code_version
from sscm.workspace import INDEX, Workspace

__all__ = [
    "AdaptationInfo",
    "Generation",
    "SegmentInfo",
    "commit",
    "current_number",
    "generation_numbers",
    "latest_generation",
    "now",
    "open_segments",
    "read_generation",
    "settle",
    "successor",
]

GENERATIONS = "generations"
MANIFEST = "manifest.json"
CURRENT = "CURRENT"


def current_number(workspace: Workspace) -> int | None:
    """Number of the generation that readers open; None where nothing is indexed.

    Raises:
        IntegrityError: ``CURRENT`` was altered.
    """
    if not workspace.exists(INDEX, CURRENT):
        return None
    value = workspace.read_json(INDEX, CURRENT)
    number = value.get("generation") if isinstance(value, dict) else None
    if not isinstance(number, int):
        raise IntegrityError(
            f'{workspace.uri_of(INDEX, CURRENT)} holds {value!r}; expected {{"generation": <number>}}; the next '
            "`sscm index` command that writes points it at the newest generation"
        )
    return number


def read_generation(workspace: Workspace, number: int | None = None) -> Generation:
    """A generation of a workspace's index.

    Args:
        workspace: where ``index/`` is.
        number: which one; the current one if None.

    Raises:
        GenerationError: there is no index, or no such generation; those there are, are named.
        IntegrityError: its manifest was altered.
    """
    wanted = current_number(workspace) if number is None else number
    if wanted is None:
        raise GenerationError(f"{workspace.uri_of(INDEX)}: there is no index in this workspace; `sscm index` makes one")
    where = workspace.uri_of(INDEX, GENERATIONS, str(wanted), MANIFEST)
    if not workspace.exists(INDEX, GENERATIONS, str(wanted), MANIFEST):
        raise GenerationError(f"{where}: there is no such generation; the index has {generation_numbers(workspace)}")
    return Generation.from_json(workspace.read_json(INDEX, GENERATIONS, str(wanted), MANIFEST), where)


def open_segments(
    workspace: Workspace, generation: Generation, verify: bool = True, opened: Mapping[str, Segment] | None = None
) -> tuple[Segment, ...]:
    """Open all segments of a generation.

    Args:
        workspace: where ``index/`` is.
        generation: which one.
        verify: compare checksums, not only sizes.
        opened: name → segment that is open already, of an earlier generation. Segments never change, only which of
            their rows are deleted: a reader that follows an index reads what is new and nothing else.

    Raises:
        IntegrityError: a file is missing, truncated or altered; it is named.
    """
    return tuple(_open(workspace, info, generation.modalities, verify, opened or {}) for info in generation.segments)


def _open(
    workspace: Workspace, info: SegmentInfo, modalities: tuple[str, ...], verify: bool, opened: Mapping[str, Segment]
) -> Segment:
    deleted = read_tombstones(workspace, info.name, info.deleted)
    before = opened.get(info.name)
    if before is not None:
        return bury(before, deleted)
    return open_segment(workspace, info.name, info.files, modalities, verify, deleted, info.approximate)


def settle(workspace: Workspace) -> int:
    """Finish a commit whose writer died before ``CURRENT`` was written; mend a ``CURRENT`` that was altered or lost.

    Returns:
        Number of the newest generation, which is the current one now; 0 where there is none.
    """
    current = _pointed(workspace)
    # Numbers have no gaps above the current one: no need to look at all that there are.
    newest = current or max(generation_numbers(workspace), default=0)
    while _is_written(workspace, newest + 1):
        newest += 1
    if newest > current:
        _point(workspace, newest)
    return newest


def latest_generation(workspace: Workspace) -> Generation:
    """What a writer goes on from: the newest generation, its commit finished.

    Raises:
        GenerationError: there is no index.
        IntegrityError: its manifest was altered.
    """
    return read_generation(workspace, settle(workspace) or None)


def successor(before: Generation, segments: tuple[SegmentInfo, ...], **changes: Any) -> Generation:
    """The generation after one: of the same model and adaptation, with other segments.

    Args:
        before: what was read, and is to be followed.
        segments: all segments of the new one.
        changes: other fields that differ.
    """
    return dataclasses.replace(
        before, number=before.number + 1, segments=segments, created=now(), code_version=code_version(), **changes
    )


def now() -> str:
    """ISO 8601 time of writing, fine enough that no two manifests are the same."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def commit(workspace: Workspace, generation: Generation) -> None:
    """Make a generation the current one; all its segments must have been written.

    Raises:
        ConflictError: another writer committed this number, or a later one, first.
        WorkspaceError: it cannot be written.
    """
    data = (json.dumps(generation.to_json(), indent=1, allow_nan=False) + "\n").encode()
    where = workspace.uri_of(INDEX, GENERATIONS, str(generation.number), MANIFEST)
    conflict = f"{where}: another `sscm index` committed first; run the same command again"
    if _pointed(workspace) >= generation.number:
        raise ConflictError(conflict)
    with storage_errors("write", where):
        try:
            _create(workspace, data, INDEX, GENERATIONS, str(generation.number), MANIFEST)
        except FileExistsError as error:
            raise ConflictError(conflict) from error
    _point(workspace, generation.number)


def generation_numbers(workspace: Workspace) -> list[int]:
    """Numbers of the generations that have a manifest, sorted."""
    found = (int(name) for name in workspace.names(INDEX, GENERATIONS) if name.isdecimal())
    return sorted(n for n in found if _is_written(workspace, n))


def _is_written(workspace: Workspace, number: int) -> bool:
    return workspace.exists(INDEX, GENERATIONS, str(number), MANIFEST)


def _pointed(workspace: Workspace) -> int:
    """Number in ``CURRENT``; 0 where there is none to be read: manifests say as much."""
    try:
        return current_number(workspace) or 0
    except IntegrityError:
        return 0


def _point(workspace: Workspace, number: int) -> None:
    """Name a generation in ``CURRENT``, or a later one that is written by the time: ``CURRENT`` never stays behind."""
    while True:
        if _pointed(workspace) < number:
            workspace.write_json({"generation": number}, INDEX, CURRENT)
        if not _is_written(workspace, number + 1):
            return
        number += 1


def _create(workspace: Workspace, data: bytes, *parts: str) -> None:
    """Write a file whole, and only where there is none.

    Raises:
        FileExistsError: there is one.
    """
    if not workspace.is_local:
        # Object stores put an object on the condition that there is none (S3: If-None-Match).
        try:
            retrying(lambda: workspace.fs.pipe_file(workspace.path_of(*parts), data, mode="create"))
        except OSError as error:
            # 412 without saying which condition failed, as Ceph answers, is not taken for FileExistsError by s3fs.
            if not isinstance(error, FileExistsError) and status_of(error) != 412:
                raise
            # It may be ours: an attempt whose answer was lost is made again.
            if workspace.read_bytes(*parts) != data:
                raise FileExistsError(workspace.uri_of(*parts)) from error
        return
    target = Path(workspace.path_of(*parts))
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}-{time.time_ns()}.part")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.link(temporary, target)  # unlike a rename, never replaces
        for folder in (target.parent, target.parent.parent):
            _flush(folder)
    finally:
        temporary.unlink(missing_ok=True)


def _flush(folder: Path) -> None:
    """Have what is new in a folder on disk, before anything points there."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
