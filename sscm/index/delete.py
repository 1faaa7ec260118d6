"""Deleting from an index: tombstones beside the segments, which stay as they are.

Only rows are read, no vectors: ids alone where ids say which pairs go. A pair that is deleted is found no more from the
next generation on; :mod:`sscm.index.compact` takes it out of its file, :mod:`sscm.index.garbage` frees the space.
"""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from sscm.config import DeleteConfig
from sscm.errors import ConfigError, QueryError
from sscm.index.filters import Filter
from sscm.index.generation import Generation, commit, latest_generation, read_generation, successor
from sscm.index.pins import writing
from sscm.index.rows import read_rows
from sscm.index.segment import property_names, rows_schema
from sscm.index.tombstones import read_tombstones, write_tombstones
from sscm.progress import progress
from sscm.workspace import Workspace, open_workspace

NAMED = 5
"""Unknown ids that a message names."""


@dataclass(frozen=True, kw_only=True)
class Deletion:
    """What was deleted.

    Args:
        generation: the generation without these pairs; the one before where none were to go, or on a dry run.
        rows: pairs that were deleted, or would be.
        unknown: ids given that the index does not know.
    """

    generation: Generation
    rows: int
    unknown: tuple[str, ...]


def delete_from_index(config: DeleteConfig) -> Deletion:
    """Delete pairs from a workspace's index, as the command line says which.

    Args:
        config: workspace, and what all holds for the pairs that go.

    Raises:
        ConfigError: the file of ids cannot be read, or has none.
        SscmError: see :func:`delete_pairs`.
    """
    ids = (*config.ids, *(_ids_of(config.ids_file) if config.ids_file is not None else ()))
    which = Filter(
        ids=ids or None,
        bbox=config.bbox,
        datetime=config.datetime,
        labels=config.labels or None,
        split=config.split,
        filter=config.filter,
    )
    return delete_pairs(
        open_workspace(config.workspace), which, ignore_missing=config.ignore_missing, dry_run=config.dry_run
    )


def delete_pairs(
    workspace: Workspace, which: Filter, *, ignore_missing: bool = False, dry_run: bool = False
) -> Deletion:
    """Delete pairs from an index, and commit its next generation.

    Args:
        workspace: where ``index/`` is.
        which: what all holds for the pairs that go; of ``datetime``, an image of any modality.
        ignore_missing: delete those that are there where an id is unknown.
        dry_run: count, and change nothing.

    Returns:
        How many went. Ids that were deleted before are no error: a deletion may be run again.

    Raises:
        GenerationError: there is no index.
        QueryError: ``which`` says nothing, an id is unknown, or the filter refers to what is not there; nothing is
            deleted then.
        IntegrityError: a file is missing or altered.
        ConflictError: another writer committed first; run again.
        WorkspaceError: the workspace cannot be written.
    """
    if which == Filter():
        raise QueryError("a deletion that says nothing of which pairs would delete all; say which")
    if dry_run:
        before = read_generation(workspace)
        going, unknown = _find(workspace, before, which)
        _tell(going, before, unknown, ignore_missing, "would go")
        return Deletion(generation=before, rows=sum(map(len, going)), unknown=unknown)
    with writing(workspace, "sscm index delete"):
        before = latest_generation(workspace)
        going, unknown = _find(workspace, before, which)
        _tell(going, before, unknown, ignore_missing, "go")
        count = sum(map(len, going))
        if not count:
            return Deletion(generation=before, rows=0, unknown=unknown)
        segments = []
        for info, rows in zip(before.segments, going, strict=True):
            if len(rows):
                gone = np.concatenate([read_tombstones(workspace, info.name, info.deleted), rows])
                info = dataclasses.replace(info, deleted=write_tombstones(workspace, info.name, gone))
            segments.append(info)
        after = successor(before, tuple(segments))
        commit(workspace, after)
        return Deletion(generation=after, rows=count, unknown=unknown)


def _find(
    workspace: Workspace, generation: Generation, which: Filter
) -> tuple[list[npt.NDArray[np.int64]], tuple[str, ...]]:
    """Live rows of each segment that go, and the ids that are in none, deleted or not."""
    ids = pa.array(dict.fromkeys(which.ids or ()), pa.string())
    only_ids = which == Filter(ids=which.ids)
    columns = ["pair_id"] if only_ids else rows_schema(generation.modalities).names
    known = None if only_ids else _properties(workspace, generation)
    seen = np.zeros(len(ids), np.bool_)
    going = []
    with progress("find", sum(info.rows for info in generation.segments), "rows") as advance:
        for info in generation.segments:
            rows = read_rows(workspace, info, columns)
            places = pc.fill_null(pc.index_in(rows["pair_id"], value_set=ids), -1).to_numpy()
            seen[places[places >= 0]] = True
            passes = places >= 0 if only_ids else which.bitmap(rows, None, known)
            passes[read_tombstones(workspace, info.name, info.deleted)] = False
            going.append(np.flatnonzero(passes))
            advance(info.rows)
    return going, tuple(ids.filter(pa.array(~seen)).to_pylist())


def _properties(workspace: Workspace, generation: Generation) -> set[str]:
    """Names of the properties that any row of an index has; read where its manifest is older than they are noted."""
    names: set[str] = set()
    for info in generation.segments:
        if info.properties is None:
            names.update(property_names(read_rows(workspace, info, ["properties"])))
        else:
            names.update(info.properties)
    return names


def _tell(
    going: list[npt.NDArray[np.int64]], before: Generation, unknown: tuple[str, ...], ignore_missing: bool, verb: str
) -> None:
    if unknown:
        more = f" and {len(unknown) - NAMED} more" if len(unknown) > NAMED else ""
        told = f"{len(unknown)} ids are not in index generation {before.number}: {', '.join(unknown[:NAMED])}{more}"
        if not ignore_missing:
            raise QueryError(f"{told}; nothing was deleted: correct them, or pass --ignore-missing")
        print(f"index: {told}", file=sys.stderr)
    print(f"index: {sum(map(len, going)):,} of {before.rows:,} pairs {verb}", file=sys.stderr)


def _ids_of(file: Path) -> list[str]:
    try:
        lines = file.expanduser().read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: {error}; expected a text file of ids, one a line") from error
    ids = [line.strip() for line in lines if line.strip()]
    if not ids:
        raise ConfigError(f"{file} has no ids; expected one a line")
    return ids
