"""Staging: embedded shards, one a file, until they are gathered into segments.

``index/staging/<model>-<adaptation>/`` holds what a build or an append has embedded and not committed yet. Killed and
run again, it embeds the rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import PurePosixPath

import numpy as np
import pyarrow as pa

from sscm.archive.manifest import Shard
from sscm.errors import IntegrityError
from sscm.index.embed import EmbeddedShard
from sscm.index.generation import SegmentInfo
from sscm.index.manifest import SEGMENT_ROWS
from sscm.index.segment import SEGMENTS, property_names, write_segment
from sscm.workspace import INDEX, Workspace

STAGING = "staging"


def part_name(shard: Shard) -> str:
    """Name of the file that a shard is staged in: by its content, so that another shard of that name is another."""
    return f"{PurePosixPath(shard.file).stem}-{shard.sha256[:12]}.parquet"


def staged(workspace: Workspace, shards: Sequence[Shard], staging: str) -> Iterator[tuple[Shard, bool]]:
    """Each shard, and whether it is staged whole in a folder under ``index/staging/``."""
    there = set(workspace.names(INDEX, STAGING, staging))
    for shard in shards:
        name = part_name(shard)
        yield shard, name in there and _rows_of(workspace, INDEX, STAGING, staging, name) == shard.rows


def gather_segments(
    workspace: Workspace, shards: Sequence[Shard], staging: str, names: Sequence[str]
) -> tuple[SegmentInfo, ...]:
    """Write what is staged as segments.

    Args:
        workspace: where ``index/`` is.
        shards: what was staged, in the order of the segments.
        staging: folder under ``index/staging/``.
        names: of the modalities.

    Raises:
        GenerationError: a pair id occurs twice in a segment.
        WorkspaceError: they cannot be read or written.
    """
    return tuple(_segment(workspace, group, staging, names) for group in _gathered(shards, SEGMENT_ROWS))


def unstage(workspace: Workspace, shards: Sequence[Shard], staging: str) -> None:
    """Delete what was staged of some shards, now that segments have it; what another writer stages beside it stays."""
    for shard in shards:
        workspace.delete(INDEX, STAGING, staging, part_name(shard))
    if not workspace.names(INDEX, STAGING, staging):
        workspace.delete(INDEX, STAGING, staging)


def sweep(workspace: Workspace, segments: Sequence[SegmentInfo]) -> None:
    """Delete what a killed build left half-written beside the files of these segments."""
    for segment in segments:
        for name in workspace.names(INDEX, SEGMENTS, segment.name):
            if name.startswith(".") and name.endswith(".part"):
                workspace.delete(INDEX, SEGMENTS, segment.name, name)


def _rows_of(workspace: Workspace, *path: str) -> int | None:
    """Rows of a Parquet file; None where it is not a whole one."""
    try:
        with workspace.parquet(*path) as file:
            return int(file.metadata.num_rows)
    except IntegrityError:
        return None


def _gathered(shards: Iterable[Shard], most: int) -> Iterator[list[Shard]]:
    """Consecutive shards of at most so many rows together, at least one."""
    group: list[Shard] = []
    for shard in shards:
        if group and sum(s.rows for s in group) + shard.rows > most:
            yield group
            group = []
        group.append(shard)
    if group:
        yield group


def _segment(workspace: Workspace, shards: Sequence[Shard], staging: str, names: Sequence[str]) -> SegmentInfo:
    parts = [
        EmbeddedShard.from_parquet(shard.file, workspace.read_bytes(INDEX, STAGING, staging, part_name(shard)), names)
        for shard in shards
    ]
    rows = pa.concat_tables([part.rows for part in parts])
    vectors = {name: np.concatenate([part.vectors[name] for part in parts]) for name in names}
    name, files = write_segment(workspace, rows, vectors)
    sources = {shard.file: shard.sha256 for shard in shards}
    return SegmentInfo(name=name, rows=rows.num_rows, files=files, sources=sources, properties=property_names(rows))
