"""Approximate indexes of the segments of a generation, each built and tuned as a Ray task of its own."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import pickle
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import ray

from sscm import placement, runtime
from sscm.errors import GenerationError, SscmError
from sscm.index.approximate import ApproximateScan, build_lists
from sscm.index.effort import ApproximateInfo
from sscm.index.exact import ExactScan
from sscm.index.manifest import SegmentInfo
from sscm.index.segment import SEGMENTS, open_segment
from sscm.index.tuning import held_out, measure, tune
from sscm.progress import progress
from sscm.workspace import INDEX, Stored, Workspace

MAX_ATTEMPTS = 3
THREADS = 2
"""CPUs of a task."""


def approximate_prefix(modality: str) -> str:
    """How the name of the file of a modality's approximate index begins; it ends with a digest of its content."""
    return f"approximate_{modality}-"


def approximate_segments(
    workspace: Workspace,
    segments: Sequence[SegmentInfo],
    modalities: Sequence[str],
    recall: float,
    exact_rows: int,
) -> tuple[SegmentInfo, ...]:
    """Segments with an approximate index where they are to have one.

    Args:
        workspace: where ``index/`` is; all files of the segments are written.
        segments: those that have the right one already stay as they are.
        modalities: names of their modalities.
        recall: recall@10 asked for; 1 for no approximate index at all.
        exact_rows: most rows of a segment that is searched exactly whatever the recall.

    Raises:
        IntegrityError: a file of a segment is missing or altered.
        GenerationError: a task died again and again.
        WorkspaceError: a file cannot be written.
    """
    done = [_without(info) if recall >= 1 or info.live <= exact_rows else info for info in segments]
    missing = [
        (place, name)
        for place, info in enumerate(done)
        if recall < 1 and info.live > exact_rows
        for name in modalities
        if name not in info.approximate or info.approximate[name].asked != recall
    ]
    if not missing:
        return tuple(done)
    rows = sum(done[place].live for place, _ in missing)
    cpus = max(os.cpu_count() or 1, runtime.LOCAL_CPUS, THREADS)
    with runtime.ray_session(cpus), progress("approximate", rows, "rows") as advance:
        placement.require_node("data")
        build = _build.options(label_selector=placement.selector("data"))
        waiting = {
            build.remote(workspace, done[place], list(modalities), name, recall): (place, name)
            for place, name in missing
        }
        try:
            while waiting:
                ready, _ = ray.wait(list(waiting), num_returns=1)
                place, name = waiting.pop(ready[0])
                error, built = ray.get(ready[0])
                if error:
                    raise pickle.loads(error)  # written by our own task, never read from storage
                done[place] = _without(done[place], name) if built is None else _with(done[place], name, built)
                advance(done[place].live)
        except ray.exceptions.RayError as error:
            raise GenerationError(
                f"building an approximate index failed: {error}; run the same command again"
            ) from error
        finally:
            for reference in waiting:
                ray.cancel(reference)
    exact = [f"{done[place].name}/{name}" for place, name in missing if name not in done[place].approximate]
    if exact:
        print(
            f"index: recall {recall} is not to be had approximately in {', '.join(exact)}: searched exactly",
            file=sys.stderr,
        )
    return tuple(done)


@dataclass(frozen=True, kw_only=True)
class Built:
    """An approximate index that was written."""

    info: ApproximateInfo
    stored: Stored


def build_approximate(
    workspace: Workspace, segment: SegmentInfo, modalities: Sequence[str], target: str, recall: float, threads: int
) -> Built | None:
    """Build, tune, measure and write the approximate index of one modality of a segment.

    Args:
        workspace: where ``index/`` is.
        segment: what is indexed; deleted rows too, since which these are changes.
        modalities: names of its modalities: queries of each are tuned on.
        target: modality that is searched.
        recall: recall@10 asked for.
        threads: CPU threads.

    Returns:
        None where no effort reaches the recall, or there are too few rows of that modality.

    Raises:
        IntegrityError: a file of the segment is missing or altered.
        WorkspaceError: it cannot be written.
    """
    opened = open_segment(workspace, segment.name, segment.files, modalities)
    vectors = opened.vectors(target)
    present = {name: opened.has(name) for name in modalities}
    exact = ExactScan(vectors, threads, form=opened.forms.get(target))
    kinds = held_out(exact, opened.embeddings, present, target)
    if not kinds:
        return None
    index = build_lists(vectors, exact.form, present[target], threads)
    effort = tune(index, vectors, recall, {name: kind.half(0) for name, kind in kinds.items()})
    if effort is None:
        return None
    halves = {name: kind.half(1) for name, kind in kinds.items()}
    measured = measure(ApproximateScan(vectors, index, effort, exact), halves, present[target])
    with tempfile.TemporaryDirectory(prefix="sscm-approximate-") as folder:
        path = Path(folder) / "index.npy"
        index.save(path)
        data = path.read_bytes()
    file = f"{approximate_prefix(target)}{hashlib.sha256(data).hexdigest()[:12]}.npy"
    info = ApproximateInfo(
        file=file,
        lists=index.count,
        effort=effort,
        asked=recall,
        recall=measured,
        queries=sum(len(half.queries) for half in halves.values()),
    )
    return Built(info=info, stored=workspace.write_bytes(data, INDEX, SEGMENTS, segment.name, file))


@ray.remote(num_cpus=THREADS, max_retries=MAX_ATTEMPTS - 1)  # type: ignore[untyped-decorator]
def _build(
    workspace: Workspace, segment: SegmentInfo, modalities: list[str], target: str, recall: float
) -> tuple[bytes, Built | None]:
    try:
        return b"", build_approximate(workspace, segment, modalities, target, recall, THREADS)
    except SscmError as error:
        return pickle.dumps(error), None


def _with(segment: SegmentInfo, modality: str, built: Built) -> SegmentInfo:
    bare = _without(segment, modality)
    return dataclasses.replace(
        bare,
        files={**bare.files, built.info.file: built.stored},
        approximate={**bare.approximate, modality: built.info},
    )


def _without(segment: SegmentInfo, *modalities: str) -> SegmentInfo:
    """A segment without the approximate index of some modalities, or of any where none is named."""
    gone = {name: info for name, info in segment.approximate.items() if not modalities or name in modalities}
    if not gone:
        return segment
    files = {info.file for info in gone.values()}
    return dataclasses.replace(
        segment,
        files={name: stored for name, stored in segment.files.items() if name not in files},
        approximate={name: info for name, info in segment.approximate.items() if name not in gone},
    )
