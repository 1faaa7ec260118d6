"""Following an index: a reader opens what is new of a generation, and keeps the one it has where that is not whole."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from sscm.errors import GenerationError, IntegrityError, SscmError
from sscm.index.generation import Generation, SegmentInfo, current_number, open_segments, read_generation
from sscm.index.segment import Segment
from sscm.workspace import Workspace


@dataclass(frozen=True, kw_only=True, eq=False)
class Opened:
    """A generation, open for reading.

    Args:
        generation: which one.
        segments: its segments, in its order.
        refused: why a later generation is not the one that is open; None where there is none.
    """

    generation: Generation
    segments: tuple[Segment, ...]
    refused: SscmError | None = None


def open_current(workspace: Workspace, previous: Opened | None = None, verify: bool = True) -> Opened:
    """Open the current generation, or stay with the one that is open.

    Segments that are open already are taken over: after an append, only what was appended is read.

    Args:
        workspace: where ``index/`` is.
        previous: what is open.
        verify: compare checksums of what is opened, not only sizes.

    Returns:
        The current generation; ``previous`` with the reason in ``refused`` where a file of the current one is missing,
        truncated or altered.

    Raises:
        GenerationError: there is no index, and nothing is open.
        IntegrityError: the current generation is not whole, and nothing is open.
        WorkspaceError: storage cannot be reached.
    """
    try:
        number = current_number(workspace)
        if previous is not None and number == previous.generation.number:
            return previous if previous.refused is None else dataclasses.replace(previous, refused=None)
        generation = read_generation(workspace, number)
        return Opened(generation=generation, segments=_segments(workspace, generation, previous, verify))
    except (GenerationError, IntegrityError) as error:
        if previous is None:
            raise
        return dataclasses.replace(previous, refused=error)


def _segments(
    workspace: Workspace, generation: Generation, previous: Opened | None, verify: bool
) -> tuple[Segment, ...]:
    """Segments of a generation; those of which nothing changed are not even looked at."""
    known = {} if previous is None else {info.name: info for info in previous.generation.segments}
    opened = {} if previous is None else {segment.name: segment for segment in previous.segments}
    same = {info.name for info in generation.segments if known.get(info.name) == info}
    reusable = {
        info.name: opened[info.name] for info in generation.segments if _is_reusable(known.get(info.name), info)
    }
    changed = tuple(info for info in generation.segments if info.name not in same)
    fresh = open_segments(workspace, dataclasses.replace(generation, segments=changed), verify, reusable)
    found = {segment.name: segment for segment in fresh} | {name: opened[name] for name in same}
    return tuple(found[info.name] for info in generation.segments)


def _is_reusable(before: SegmentInfo | None, now: SegmentInfo) -> bool:
    """Whether an open segment has the same files; which of its rows are deleted may differ."""
    return before is not None and before.files == now.files
