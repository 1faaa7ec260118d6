"""``sscm refresh``: ingest what is new, embed it, compare with what is indexed, and commit it or leave the index as is.

Each part is one that can be run again. What was ingested stays in the archive, and what was embedded lies ready, where
the index stays: the next refresh, or one with ``--accept``, goes on from there.
"""

from __future__ import annotations

import dataclasses
import itertools
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from rich.table import Table

from sscm.archive.ingest import ingest
from sscm.archive.sources.base import Source
from sscm.config import IngestConfig, RefreshConfig
from sscm.errors import RefreshError
from sscm.evaluation.protocols import Direction
from sscm.index.append import append_to_index
from sscm.index.generation import Generation, open_segments, read_generation
from sscm.refresh.recall import Growth, Recall, growth
from sscm.refresh.rule import objections
from sscm.version import code_version
from sscm.workspace import Workspace, open_workspace

REFRESHES = "refreshes"
"""Folder of a workspace with a record of each refresh that found something new."""


@dataclass(frozen=True, kw_only=True)
class Refresh:
    """What a refresh came to.

    Args:
        generation: the index generation that is served now.
        rows: pairs that are new in it.
        growth: recalls by direction; none where nothing was new, or nothing could be compared.
        objections: what spoke against it, and was accepted.
        record: where all that is written; None where nothing was new.
    """

    generation: Generation
    rows: int = 0
    growth: tuple[Growth, ...] = ()
    objections: tuple[str, ...] = ()
    record: str | None = None


def refresh(source: Source | None, config: RefreshConfig) -> Refresh:
    """Bring a workspace's archive and index up to a source; a running service follows the index.

    Args:
        source: where pairs come from; None for those that the archive has and the index has not.
        config: workspace, and what decides.

    Returns:
        What it came to, where the index is up to date now.

    Raises:
        RefreshError: what is new does worse than what is indexed: the index stays as it was. The record is named.
        ArchiveError: the source has no pairs, or too many that cannot be used.
        GenerationError: there is no index.
        ConflictError: another writer committed meanwhile; run again.
        WorkspaceError: the workspace cannot be written.
    """
    workspace = open_workspace(config.workspace)
    read_generation(workspace)  # raises where there is none, before anything is ingested
    if source is not None:
        ingest(source, IngestConfig(workspace=config.workspace, codec=config.codec, max_bad=config.max_bad, add=True))
    found: list[Refresh] = []

    def decide(before: Generation, after: Generation) -> None:
        found.append(_decide(workspace, config, before, after))

    generation = append_to_index(config, decide)
    return found[0] if found else Refresh(generation=generation)


def _decide(workspace: Workspace, config: RefreshConfig, before: Generation, after: Generation) -> Refresh:
    """Compare; write down what was seen and what follows.

    Raises:
        RefreshError: the index must stay.
    """
    found = compare(workspace, before, after, config)
    told = objections(found, config.tolerance, config.least)
    stays = bool(told) and not config.accept
    name = f"{datetime.now(UTC):%Y%m%dT%H%M%S%fZ}-generation-{after.number}.json"
    result = Refresh(
        generation=after,
        rows=after.rows - before.rows,
        growth=found,
        objections=told,
        record=workspace.uri_of(REFRESHES, name),
    )
    workspace.write_json(_to_json(result, config, "stays" if stays else "committed"), REFRESHES, name)
    if stays:
        raise RefreshError(
            f"the index stays generation {before.number}, {result.rows:,} new pairs are not in it: {'; '.join(told)}. "
            f"{result.record} has all figures; --accept commits them nevertheless"
        )
    return result


def compare(workspace: Workspace, before: Generation, after: Generation, config: RefreshConfig) -> tuple[Growth, ...]:
    """Partner recall before and after, in each direction between two modalities.

    Args:
        workspace: where ``index/`` is.
        before: a generation.
        after: one that has its segments and new ones.
        config: depth and number of queries.
    """
    held = {info.name for info in before.segments}
    new = dataclasses.replace(after, segments=tuple(info for info in after.segments if info.name not in held))
    old_segments, new_segments = open_segments(workspace, before, verify=False), open_segments(workspace, new)
    found = []
    for query, target in itertools.permutations(before.modalities, 2):
        one = growth(old_segments, new_segments, Direction(query, target), config.depth, config.queries)
        if one is not None:
            found.append(one)
    return tuple(found)


def growth_table(found: Refresh) -> Table:
    """Recalls of a refresh as a table for people."""
    table = Table()
    for name in ("direction", "images", "recall", "queries", "before", "now"):
        table.add_column(name, justify="left" if name in ("direction", "images") else "right")
    for one in found.growth:
        rows: tuple[tuple[str, Recall], ...] = (("were indexed", one.after), ("new", one.new))
        for whose, recall in rows:
            known = f"{one.before.value:.3f}" if recall is one.after else ""
            table.add_row(
                str(one.direction), whose, f"@{recall.depth}", f"{recall.queries:,}", known, f"{recall.value:.3f}"
            )
    return table


def _to_json(result: Refresh, config: RefreshConfig, decision: str) -> dict[str, Any]:
    return {
        "decision": decision,
        "accepted_against": list(result.objections) if decision == "committed" else [],
        "objections": list(result.objections),
        "generation": result.generation.number,
        "new_pairs": result.rows,
        "tolerance": config.tolerance,
        "least": config.least,
        "growth": [
            {
                "direction": str(one.direction),
                "lost": one.lost,
                "gained": one.gained,
                **{name: dataclasses.asdict(getattr(one, name)) for name in ("before", "after", "new")},
            }
            for one in result.growth
        ],
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "code_version": code_version(),
    }
