"""Compacting an index: small segments become one, and deleted rows go.

Answers stay the same: they do not depend on how rows are spread over segments. What the new segments were embedded from
is noted with them as before, so that an append does not bring back what was deleted.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from sscm.config import CompactConfig
from sscm.errors import GenerationError
from sscm.index.approximate_build import approximate_segments
from sscm.index.duplicates import find_duplicates
from sscm.index.generation import (
    Generation,
    SegmentInfo,
    commit,
    latest_generation,
    open_segments,
    successor,
)
from sscm.index.manifest import SEGMENT_ROWS
from sscm.index.pins import writing
from sscm.index.segment import Segment, property_names, write_segment
from sscm.progress import progress
from sscm.workspace import Workspace, open_workspace


@dataclass(frozen=True, kw_only=True)
class Compaction:
    """What was compacted.

    Args:
        generation: the compacted generation; the one before where there was nothing to do.
        merged: segments that others stand for now.
        written: segments that were written for them.
        dropped: deleted rows that are in no segment any more.
    """

    generation: Generation
    merged: int
    written: int
    dropped: int


def compact_index(config: CompactConfig) -> Compaction:
    """Merge small segments, take deleted rows out, and commit the index's next generation.

    Segments that are neither small nor much deleted stay as they are, and are not read but for their ids: an index that
    has a pair twice is refused, since nobody could tell afterwards which of the two was meant.

    Args:
        config: workspace, and what counts as small and as much deleted.

    Raises:
        GenerationError: there is no index, or it has a pair more than once; some are named.
        IntegrityError: a file is missing or altered: what is merged is read whole and compared with its checksums.
        ConflictError: another writer committed first; run again.
        WorkspaceError: the workspace cannot be written.
    """
    workspace = open_workspace(config.workspace)
    with writing(workspace, "sscm index compact"):
        before = latest_generation(workspace)
        groups = plan(before.segments, config.small, config.deleted)
        if not groups:
            return Compaction(generation=before, merged=0, written=0, dropped=0)
        duplicates = find_duplicates(workspace, before)
        if duplicates:
            raise GenerationError(
                f"{duplicates}; `sscm index delete --ids` takes every row of them out, then append the right ones"
            )
        with progress("compact", sum(info.rows for group in groups for info in group), "rows") as advance:
            for_first = {}
            for group in groups:
                for_first[group[0].name] = _merge(workspace, before, group)
                advance(sum(info.rows for info in group))
        merged = [info for group in groups for info in group]
        gone = {info.name for info in merged}
        segments = []
        emptied = dict(before.emptied)
        for info in before.segments:
            new = for_first.get(info.name)
            if info.name not in gone:
                segments.append(info)
            elif new is not None and new.rows:
                segments.append(new)
            elif new is not None:
                emptied.update(new.sources)
        known = {info.name for info in before.segments}
        fresh = [info for info in segments if info.name not in known]
        built = approximate_segments(workspace, fresh, before.modalities, before.recall, before.exact_rows)
        ready = {info.name: info for info in built}
        after = successor(before, tuple(ready.get(info.name, info) for info in segments), emptied=emptied)
        commit(workspace, after)
    written = sum(new.rows > 0 for new in for_first.values())
    dropped = sum(info.rows - info.live for info in merged)
    return Compaction(generation=after, merged=len(merged), written=written, dropped=dropped)


def plan(segments: Sequence[SegmentInfo], small: float, deleted: float) -> list[list[SegmentInfo]]:
    """Which segments are merged with which, in order.

    Args:
        segments: of a generation.
        small: share of the most rows of a segment below which one is small.
        deleted: share of its rows above which a segment is written anew.

    Returns:
        Groups of at most :data:`~sscm.index.manifest.SEGMENT_ROWS` live rows; none of one small segment alone, which
        would be written anew for nothing.
    """

    def much_deleted(info: SegmentInfo) -> bool:
        return info.rows - info.live > deleted * info.rows

    groups: list[list[SegmentInfo]] = []
    for info in segments:
        if info.live < small * SEGMENT_ROWS or much_deleted(info):
            if groups and sum(one.live for one in groups[-1]) + info.live <= SEGMENT_ROWS:
                groups[-1].append(info)
            else:
                groups.append([info])
    return [group for group in groups if len(group) > 1 or much_deleted(group[0])]


def _merge(workspace: Workspace, generation: Generation, group: Sequence[SegmentInfo]) -> SegmentInfo:
    """One segment of the live rows of several; of no rows, and not written, where there are none."""
    sources = {file: sha256 for info in group for file, sha256 in info.sources.items()}
    live = tuple(info for info in group if info.live)
    if not live:
        return SegmentInfo(name="", rows=0, files={}, sources=sources)
    opened = open_segments(workspace, dataclasses.replace(generation, segments=live))
    kept = [_kept(segment) for segment in opened]
    rows = pa.concat_tables([segment.rows.filter(pa.array(mask)) for segment, mask in zip(opened, kept, strict=True)])
    vectors = {
        name: np.concatenate([segment.vectors(name)[mask] for segment, mask in zip(opened, kept, strict=True)])
        for name in generation.modalities
    }
    name, files = write_segment(workspace, rows, vectors)
    return SegmentInfo(name=name, rows=rows.num_rows, files=files, sources=sources, properties=property_names(rows))


def _kept(segment: Segment) -> np.ndarray:
    return np.ones(len(segment), np.bool_) if segment.deleted is None else ~segment.deleted
