"""Verifying an index: every file by its checksum, every row, every vector, and the model that made them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.table import Table

from sscm.config import VerifyConfig
from sscm.errors import IntegrityError, SscmError, WorkspaceError
from sscm.index.duplicates import find_duplicates
from sscm.index.encoders import load_model, read_adaptation
from sscm.index.generation import Generation, SegmentInfo
from sscm.index.incoming import vector_faults
from sscm.index.pins import pinned
from sscm.index.segment import SEGMENTS, Segment, open_segment, property_names
from sscm.index.tombstones import bury, read_tombstones
from sscm.progress import Advance, progress
from sscm.workspace import INDEX, Workspace, file_sha256, open_workspace

REMEDY = "restore it, or run `sscm index` to build anew"


@dataclass(frozen=True, kw_only=True)
class Checked:
    """One part of a generation.

    Args:
        part: what was looked at.
        about: how much of it there is.
        faults: what is wrong, each with what mends it; empty where nothing is.
    """

    part: str
    about: str
    faults: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What was found.

    Args:
        generation: number of the generation.
        parts: everything that was looked at.
    """

    generation: int
    parts: tuple[Checked, ...]

    @property
    def faults(self) -> tuple[str, ...]:
        """All that is wrong."""
        return tuple(fault for part in self.parts for fault in part.faults)

    def table(self) -> Table:
        """A table for people."""
        table = Table(title=f"index generation {self.generation}", title_justify="left")
        for name in ("part", "about", "state"):
            table.add_column(name, overflow="fold")
        for part in self.parts:
            table.add_row(part.part, part.about, "\n".join(part.faults) or "sound")
        return table


def verify_index(config: VerifyConfig) -> Verification:
    """Look through a generation of a workspace's index.

    Args:
        config: workspace and generation.

    Raises:
        GenerationError: there is no index, or no such generation.
        IntegrityError: its manifest was altered, so that nothing can be looked at.
        WorkspaceError: storage cannot be reached.
    """
    workspace = open_workspace(config.workspace)
    with pinned(workspace, config.generation, "sscm index verify") as generation:
        # Every row twice: with its vectors, and its id among all others.
        with progress("verify", 2 * sum(info.rows for info in generation.segments), "rows") as advance:
            parts = []
            for info in generation.segments:
                faults = tuple(_segment_faults(workspace, generation, info))
                about = f"{info.rows:,} rows, {info.rows - info.live:,} deleted, {info.bytes / 1e6:,.1f} MB"
                parts.append(Checked(part=f"segment {info.name}", about=about, faults=faults))
                advance(info.rows)
            parts.append(
                Checked(
                    part="pairs",
                    about=f"{generation.rows:,}",
                    faults=_faults_of(lambda: _require_unique(workspace, generation, advance)),
                )
            )
        adapted = generation.adaptation
        parts.append(
            Checked(
                part="adaptation",
                about="none" if adapted is None else f"{adapted.kind}, by {adapted.pairs:,} pairs",
                faults=_faults_of(lambda: read_adaptation(workspace, generation)),
            )
        )
        parts.append(
            Checked(
                part=f"model {generation.bundle}",
                about=f"fingerprint {generation.fingerprint[:12]}",
                faults=_faults_of(lambda: load_model(workspace, generation), f"; {REMEDY}"),
            )
        )
    return Verification(generation=generation.number, parts=tuple(parts))


def _segment_faults(workspace: Workspace, generation: Generation, info: SegmentInfo) -> Iterator[str]:
    where = workspace.uri_of(INDEX, SEGMENTS, info.name)
    with tempfile.TemporaryDirectory(prefix="sscm-verify-") as folder:
        # Downloaded once: what is hashed is what is opened.
        here = workspace if workspace.is_local else open_workspace(folder)
        target = Path(folder, INDEX, SEGMENTS, info.name)
        target.mkdir(parents=True)
        whole = True
        for file in info.files:
            fault = _file_fault(workspace, info, file, target)
            if fault:
                whole = False
                yield fault
        try:
            dead = read_tombstones(workspace, info.name, info.deleted)
            if info.deleted is not None and (
                len(dead) != info.deleted.rows or (np.diff(dead.astype(np.int64)) < 1).any()
            ):
                yield f"{where}/{info.deleted.file}: {len(dead)} rows, not {info.deleted.rows} in order; {REMEDY}"
            if whole:
                segment = open_segment(here, info.name, info.files, generation.modalities, verify=False)
                yield from _content_faults(bury(segment, dead), generation, info, where)
        except SscmError as error:
            yield str(error)


def _file_fault(workspace: Workspace, info: SegmentInfo, file: str, target: Path) -> str | None:
    parts = (INDEX, SEGMENTS, info.name, file)
    where, told = workspace.uri_of(*parts), info.files[file]
    try:
        path = workspace.local_copy(target, *parts)
        size = path.stat().st_size
    except (WorkspaceError, FileNotFoundError):
        if workspace.exists(*parts):
            raise
        return f"{where} is missing; {REMEDY}"
    if size != told.bytes:
        return f"{where} has {size} bytes; its manifest says {told.bytes}; {REMEDY}"
    if file_sha256(path) != told.sha256:
        return f"{where} was altered: its SHA-256 is not the one of its manifest; {REMEDY}"
    return None


def _content_faults(segment: Segment, generation: Generation, info: SegmentInfo, where: str) -> Iterator[str]:
    if len(segment) != info.rows:
        yield f"{where} has {len(segment)} rows; its manifest says {info.rows}; {REMEDY}"
    if info.properties is not None and property_names(segment.rows) != info.properties:
        yield f"{where} has properties {list(property_names(segment.rows))}; its manifest says {list(info.properties)}"
    for name in generation.modalities:
        values = segment.vectors(name)
        if values.shape[1] != generation.dimension:
            yield f"{where}: embeddings of {name} have {values.shape[1]} numbers, not {generation.dimension}; {REMEDY}"
        for rows, what in vector_faults(values, segment.has(name)):
            # What is deleted answers nothing; but no scan takes a value that is not finite, wherever it is.
            matters = np.ones(len(rows), np.bool_) if segment.deleted is None else ~segment.deleted[rows]
            bad = rows[matters | ~np.isfinite(values[rows]).all(axis=1)]
            if not len(bad):
                continue
            first = segment.rows["pair_id"][int(bad[0])].as_py()
            yield (
                f"{where}: {len(bad)} embeddings of {name} are {what} (first: pair {first!r}); delete these pairs with "
                "`sscm index delete`, or run `sscm index` to build anew"
            )


def _require_unique(workspace: Workspace, generation: Generation, advance: Advance) -> None:
    duplicates = find_duplicates(workspace, generation, advance)
    if duplicates:
        raise IntegrityError(
            f"{duplicates}; `sscm index delete --ids` takes every row of them out, then append the right ones"
        )


def _faults_of(check: Callable[[], object], remedy: str = "") -> tuple[str, ...]:
    """What a check raises, as faults."""
    try:
        check()
    except SscmError as error:
        return (f"{error}{remedy}",)
    return ()
