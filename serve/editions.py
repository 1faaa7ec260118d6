"""Editions: an index generation as a service serves it, dealt to shards; and the plan that all parts follow."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from serve.channel import Address
from sscm.errors import GenerationError, QueryError
from sscm.index.generation import Generation, read_generation
from sscm.index.tombstones import RowNumbers, read_tombstones
from sscm.model.about import BundleAbout, read_about
from sscm.sensors import Modality
from sscm.workspace import Workspace


@dataclass(frozen=True, kw_only=True)
class Slice:
    """Rows of one segment.

    Args:
        segment: its name.
        start: first row.
        stop: one after the last row.
    """

    segment: str
    start: int
    stop: int


@dataclass(frozen=True, kw_only=True)
class Edition:
    """One index generation and its model, as they are served.

    Args:
        workspace: where they are.
        generation: number of the generation.
        created: ISO 8601 time of the generation.
        code_version: version of sscm that wrote the generation.
        modalities: modalities that can be asked by and searched.
        dimension: length of an embedding.
        model: name, fingerprint, origin and normalisation of the model, JSON values.
        simulated: whether the images were computed, not observed.
        recall: recall@10 that approximate searches are tuned to; 1 where all are exact.
        slices: rows of each shard.
        shard_rows: how many of them are not deleted.
        properties: names of the properties that any item has; None where the index does not say.
    """

    workspace: Workspace
    generation: int
    created: str
    code_version: str = ""
    modalities: tuple[Modality, ...]
    dimension: int
    model: Mapping[str, Any]
    simulated: bool
    recall: float = 1.0
    slices: tuple[tuple[Slice, ...], ...] = ()
    shard_rows: tuple[int, ...]
    properties: tuple[str, ...] | None = None

    def modality(self, name: str, what: str) -> Modality:
        """A modality by name; raises QueryError where there is none."""
        for modality in self.modalities:
            if modality.name == name:
                return modality
        raise QueryError(f"{what}: {name!r} is unknown; this index has {[m.name for m in self.modalities]}")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What all parts of a service are to do; the coordinator hands it out.

    Args:
        version: another one says something else.
        current: what gateways answer from.
        following: what is being loaded to take its place; None where nothing is.
        held: generations that encoders and shards keep loaded.
        replicas: for each shard, its replicas that have loaded what is current: name → address.
        refused: why a later generation does not take its place; None where there is none.
    """

    version: tuple[str, int]
    current: Edition
    following: Edition | None = None
    held: tuple[int, ...] = ()
    replicas: tuple[Mapping[str, Address], ...] = field(default=())
    refused: str | None = None

    def edition(self, generation: int) -> Edition | None:
        """The edition of a generation, if it is one of the plan's."""
        for edition in (self.current, self.following):
            if edition is not None and edition.generation == generation:
                return edition
        return None


def read_edition(workspace: Workspace, shards: int, number: int | None = None) -> Edition:
    """The edition of a generation; files of vectors and weights are not read.

    Args:
        workspace: where ``index/`` and ``models/`` are.
        shards: index shards.
        number: which generation; the current one if None.

    Raises:
        GenerationError: there is no such generation, it has no rows, or it was made by another model than that of its
            name.
        BundleError: there is no such model.
        IntegrityError: a manifest was altered.
    """
    generation = read_generation(workspace, number)
    about = read_about(workspace, generation.bundle)
    if about.fingerprint != generation.fingerprint:
        raise GenerationError(
            f"model {about.name} has fingerprint {about.fingerprint[:12]}, index generation {generation.number} was "
            f"made with {generation.fingerprint[:12]}; build the index anew with `sscm index`"
        )
    if not generation.rows:
        raise GenerationError(
            f"index generation {generation.number} has no rows; ingest an archive and run `sscm index`"
        )
    segments = generation.segments
    whole = {segment.name for segment in segments if segment.approximate}
    slices = deal([(segment.name, segment.rows) for segment in segments], shards, whole)
    slices += [()] * (shards - len(slices))
    deleted = {segment.name: read_tombstones(workspace, segment.name, segment.deleted) for segment in segments}
    return Edition(
        workspace=workspace,
        generation=generation.number,
        created=generation.created,
        code_version=generation.code_version,
        modalities=tuple(about.modality(name) for name in generation.modalities),
        dimension=generation.dimension,
        model=_about(about, generation),
        simulated=generation.simulated,
        recall=generation.recall if whole else 1.0,
        slices=tuple(slices),
        shard_rows=tuple(live_rows(part, deleted) for part in slices),
        properties=_properties(generation),
    )


def deal(
    segments: Sequence[tuple[str, int]], shards: int, whole: Collection[str] = frozenset()
) -> list[tuple[Slice, ...]]:
    """Deal the rows of all segments, one after the other, evenly over shards.

    Args:
        segments: name and rows of each.
        shards: how many shards are wanted.
        whole: names of segments that are not to be cut, since an approximate index searches all of one.

    Returns:
        The slices of each shard; where all may be cut, their rows differ by at most one between shards. Fewer shards
        where there are fewer rows, or fewer segments that are not to be cut.
    """
    total = sum(rows for _, rows in segments)
    shards = max(1, min(shards, total))
    bounds = {_edge(segments, total * i // shards, whole) for i in range(shards + 1)}
    dealt: list[tuple[Slice, ...]] = []
    if not total:
        return [()]
    for low, high in itertools.pairwise(sorted(bounds)):
        slices, first = [], 0
        for name, rows in segments:
            start, stop = max(low - first, 0), min(high - first, rows)
            if start < stop:
                slices.append(Slice(segment=name, start=start, stop=stop))
            first += rows
        dealt.append(tuple(slices))
    return dealt


def _edge(segments: Sequence[tuple[str, int]], bound: int, whole: Collection[str]) -> int:
    """A bound between shards; the nearer end of the segment that it would cut where that is not to be cut."""
    first = 0
    for name, rows in segments:
        if first < bound < first + rows:
            return bound if name not in whole else first if 2 * (bound - first) < rows else first + rows
        first += rows
    return bound


def live_rows(slices: Sequence[Slice], deleted: Mapping[str, RowNumbers]) -> int:
    """Rows of some slices that are not deleted.

    Args:
        slices: the slices.
        deleted: segment → numbers of its deleted rows, sorted.
    """
    rows = 0
    for part in slices:
        low, high = np.searchsorted(deleted[part.segment], (part.start, part.stop))
        rows += part.stop - part.start - int(high - low)
    return rows


def _properties(generation: Generation) -> tuple[str, ...] | None:
    """Names of the properties that any row has; None where a segment is older than they are noted."""
    names: set[str] = set()
    for segment in generation.segments:
        if segment.properties is None:
            return None
        names.update(segment.properties)
    return tuple(sorted(names))


def _about(about: BundleAbout, generation: Generation) -> dict[str, Any]:
    adapted = generation.adaptation
    return {
        "name": about.name,
        "fingerprint": about.fingerprint,
        "backbone": about.config.backbone,
        "dimension": about.config.dimension,
        "image_size": about.config.image_size,
        "trained_on_split": about.split,
        "simulated": about.simulated,
        "created": about.created,
        "code_version": about.code_version,
        "normalisation": {
            "resampling": about.resampling,
            "bands": {name: {"mean": found.mean, "std": found.std} for name, found in about.statistics.items()},
        },
        "adaptation": adapted
        and {"kind": adapted.kind, "fingerprint": adapted.fingerprint, "images": dict(adapted.images)},
    }
