"""Freeing the space of what no generation needs any more.

Old generations go first, then what no manifest that is left names: segments, tombstones, adaptations, what is staged.
What was written lately stays, since a writer may be about to commit it, and while a writer is at work nothing goes but
generations and pins that ran out. A generation goes before its files, so that there is never one that lacks some.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from sscm.config import CollectConfig
from sscm.errors import GenerationError
from sscm.index.generation import GENERATIONS, MANIFEST, Generation, current_number, read_generation
from sscm.index.pins import LEASE_S, PINS, Pin, leases
from sscm.index.segment import SEGMENTS
from sscm.progress import progress
from sscm.retries import retrying
from sscm.storage_errors import storage_errors
from sscm.workspace import INDEX, Workspace, open_workspace

# What writes these loads Ray, which freeing space does without.
ADAPTATIONS = "adaptations"
STAGING = "staging"

Path = tuple[str, ...]
"""Parts of a path under ``index/``."""


@dataclass(frozen=True, kw_only=True)
class Collected:
    """What was freed.

    Args:
        generations: numbers of the generations that went.
        segments: segments that went as a whole.
        files: files that went, those of the segments too.
        bytes: their size.
        waiting: bytes that nothing names and that are too young to go.
        writers: who is at work, so that nothing but generations went.
    """

    generations: tuple[int, ...]
    segments: int
    files: int
    bytes: int
    waiting: int
    writers: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class _File:
    path: Path
    bytes: int
    written: float


@dataclass(frozen=True, kw_only=True)
class _Unit:
    """Files that go together or not at all; a folder where ``path`` is one."""

    path: Path
    files: tuple[_File, ...]

    @property
    def bytes(self) -> int:
        return sum(file.bytes for file in self.files)

    def older_than(self, moment: float) -> bool:
        return all(file.written <= moment for file in self.files)


def collect_garbage(config: CollectConfig) -> Collected:
    """Delete what a workspace's index does not need any more.

    The current generation stays, the newest, and those that somebody has pinned (:mod:`sscm.index.pins`), with all that
    they name.

    Args:
        config: workspace, how many generations stay, and how old the rest must be.

    Raises:
        GenerationError: there is no index, or a generation that stays is of an unknown format.
        IntegrityError: the manifest of a generation that stays was altered: what it names is not known.
        WorkspaceError: something cannot be listed or deleted; what was deleted until then is gone, run again.
    """
    workspace = open_workspace(config.workspace)
    if config.dry_run or not workspace.exists(INDEX):
        return _collect(workspace, config)
    with Pin(workspace, None, "sscm index gc", collects=True):
        return _collect(workspace, config)


def _collect(workspace: Workspace, config: CollectConfig) -> Collected:
    cutoff = time.time() - 3600 * config.min_age
    # Pins before files, files before manifests: a writer that is not seen here waits until we have ended.
    held = leases(workspace)
    files = _files(workspace)
    written = {int(f.path[1]): f for f in files if _is_manifest(f.path)}
    if not written:
        raise GenerationError(f"{workspace.uri_of(INDEX)}: there is no index in this workspace; `sscm index` makes one")
    stay = {current_number(workspace), *sorted(written)[-config.keep :]}
    stay |= {lease.generation for lease in held if lease.alive}
    gone = [n for n, file in sorted(written.items()) if n not in stay and file.written <= cutoff]
    left = [read_generation(workspace, number) for number in written if number not in gone]
    if not config.dry_run:
        returned = _delete_generations(workspace, gone)
        left += returned
        gone = [number for number in gone if number not in {generation.number for generation in returned}]
    expired = [_Unit(path=(PINS, lease.file), files=()) for lease in held if not lease.alive]
    writers = tuple(lease.holder for lease in held if lease.alive and lease.writes)
    units = list(_unnamed(files, left)) if not writers else []
    going = [unit for unit in units if unit.older_than(cutoff)]
    if not config.dry_run:
        with progress("free", len(going) + len(expired), "files and folders") as advance:
            for unit in (*expired, *going):
                workspace.delete(INDEX, *unit.path)
                advance(1)
    return Collected(
        generations=tuple(gone),
        segments=sum(len(unit.path) == 2 and unit.path[0] == SEGMENTS for unit in going),
        files=len(gone) + sum(len(unit.files) for unit in going),
        bytes=sum(written[number].bytes for number in gone) + sum(unit.bytes for unit in going),
        waiting=sum(unit.bytes for unit in units) - sum(unit.bytes for unit in going),
        writers=writers,
    )


def _delete_generations(workspace: Workspace, numbers: Sequence[int]) -> list[Generation]:
    """Delete manifests; those that somebody pinned at the same moment are put back and returned.

    A reader pins first and reads then: whoever read a manifest before it went has a pin that is seen after it.
    """
    before = {number: workspace.read_bytes(INDEX, GENERATIONS, str(number), MANIFEST) for number in numbers}
    for number in numbers:
        workspace.delete(INDEX, GENERATIONS, str(number))
    pinned = {lease.generation for lease in leases(workspace) if lease.alive} if numbers else set()
    returned = []
    for number in (n for n in numbers if n in pinned):
        workspace.write_bytes(before[number], INDEX, GENERATIONS, str(number), MANIFEST)
        returned.append(read_generation(workspace, number))
    return returned


def _unnamed(files: Iterable[_File], generations: Iterable[Generation]) -> Iterator[_Unit]:
    """What no generation names: segments and tombstones, adaptations, all that is staged, litter of killed writers.

    A pin that is being written is none: nothing says so but its age.
    """
    named: set[Path] = set()
    for generation in generations:
        for info in generation.segments:
            named.update((SEGMENTS, info.name, file) for file in info.files)
            if info.deleted is not None:
                named.add((SEGMENTS, info.name, info.deleted.file))
        if generation.adaptation is not None:
            named.add(tuple(generation.adaptation.file.split("/")))
    segments = {path[1] for path in named if path[0] == SEGMENTS}
    units: dict[Path, list[_File]] = {}
    for file in files:
        kind, *rest = file.path
        if kind == STAGING:
            units.setdefault((STAGING,), []).append(file)  # parts of one build are written hours apart
        elif kind == SEGMENTS and rest[0] not in segments:
            units.setdefault((SEGMENTS, rest[0]), []).append(file)
        elif kind in (SEGMENTS, ADAPTATIONS) and file.path not in named:
            units[file.path] = [file]
        elif _is_litter(file.path[-1]) and (kind != PINS or file.written < time.time() - LEASE_S):
            units[file.path] = [file]
    for path, found in units.items():
        yield _Unit(path=path, files=tuple(found))


def _is_manifest(path: Path) -> bool:
    return len(path) == 3 and path[0] == GENERATIONS and path[1].isdecimal() and path[2] == MANIFEST


def _is_litter(name: str) -> bool:
    """Whether a file was being written when its writer was killed."""
    return name.startswith(".") and name.endswith(".part")


def _files(workspace: Workspace) -> list[_File]:
    """All files under ``index/``."""
    root = workspace.path_of(INDEX)
    with storage_errors("list", workspace.uri_of(INDEX)):
        workspace.fs.invalidate_cache()
        found = retrying(lambda: workspace.fs.find(root, detail=True))
        workspace.fs.invalidate_cache()
    return [
        _File(path=tuple(path[len(root) :].strip("/").split("/")), bytes=int(info["size"]), written=_written(info))
        for path, info in found.items()
    ]


def _written(info: dict[str, object]) -> float:
    """When a file was written, in seconds since 1970, as file systems tell it each in its way."""
    for name in ("mtime", "LastModified", "last_modified", "updated", "created"):
        value = info.get(name)
        if isinstance(value, int | float):
            return float(value)
        if hasattr(value, "timestamp"):
            return float(value.timestamp())
    return time.time()  # unknown: it stays
