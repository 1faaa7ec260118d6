"""Baselines that have no weights, measured on an archive: the mean spectrum, and the rows that chance is drawn for."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from sscm.archive.manifest import Manifest
from sscm.evaluation.collect import Part, collect
from sscm.evaluation.figures import Figure
from sscm.evaluation.measure import Collection, measure
from sscm.evaluation.protocols import Protocol
from sscm.experiment.prepared import sample_rows
from sscm.experiment.spectrum import Features, canonical_projections, patch_features, standardise, unit_rows
from sscm.index.embed import embed_shard
from sscm.sensors import Modality
from sscm.workspace import Workspace

ENCODER = "spectrum"
"""What figures call it."""
CHANCE_DIMENSION = 128
"""Of random embeddings: as many as encoders have by default."""
_BATCH = 64


def measure_spectrum(
    workspace: Workspace, manifest: Manifest, protocol: Protocol, pairs: int | None, adapt: bool = False
) -> tuple[list[Figure], list[str]]:
    """Figures of the mean-spectrum baseline in all directions.

    Args:
        workspace: where the archive is.
        manifest: what it holds.
        protocol: which images ask, and which may answer.
        pairs: sample of training pairs to fit on; None for all.
        adapt: standardise queries and archive by the images searched, as adapted encoders do, not by the training's.

    Returns:
        Figures and notes, as of :func:`~sscm.evaluation.measure.measure`.
    """
    names = [m.name for m in manifest.modalities]
    encoder = _FeatureEncoder(manifest)
    train = _training_features(workspace, manifest, encoder, pairs)
    splits = tuple(dict.fromkeys((protocol.query_split, protocol.archive_split)))
    images = collect(_parts(workspace, manifest, splits, encoder), splits, names)
    queries, archive = images[protocol.query_split], images[protocol.archive_split]
    scaled = {}
    for name in names:
        width = encoder.widths[name]
        both = [collection.vectors[name][:, :width].astype(np.float64) for collection in (queries, archive)]
        scaled[name] = standardise(train[name], *both)
        if adapt:
            scaled[name][1:] = standardise(both[1][archive.present[name]], *both)[1:]
    figures: list[Figure] = []
    notes: dict[str, None] = {}

    def add(vectors: Mapping[str, Sequence[Features]], crosses: bool) -> None:
        asking, searched = (
            dataclasses.replace(collection, vectors={name: unit_rows(both[side]) for name, both in vectors.items()})
            for side, collection in enumerate((queries, archive))
        )
        found, noted = measure(asking, searched, list(vectors), protocol, ENCODER)
        figures.extend(figure for figure in found if figure.direction.crosses == crosses)
        notes.update(dict.fromkeys(noted))

    for name in names:
        add({name: scaled[name][1:]}, crosses=False)
    for first, second in itertools.combinations(names, 2):
        turns = canonical_projections(scaled[first][0], scaled[second][0])
        turned = zip((first, second), turns, strict=True)
        add({name: [features @ turn for features in scaled[name][1:]] for name, turn in turned}, crosses=True)
    return figures, list(notes)


def measure_rows(workspace: Workspace, manifest: Manifest, protocol: Protocol) -> tuple[Collection, Collection]:
    """Queries and archive with labels and fractions but without embeddings (zeros): what chance is measured on."""
    names = [m.name for m in manifest.modalities]
    splits = tuple(dict.fromkeys((protocol.query_split, protocol.archive_split)))
    images = collect(_parts(workspace, manifest, splits, _NoEncoder()), splits, names)
    return images[protocol.query_split], images[protocol.archive_split]


class _FeatureEncoder:
    """Patch features in the place of embeddings; narrower modalities are filled up with zeros."""

    name = "mean spectrum"

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        empty = {m.name: {g.name: np.zeros((1, *g.shape), g.dtype) for g in m.groups} for m in manifest.modalities}
        self.widths = {m.name: self._features(m, empty[m.name]).shape[1] for m in manifest.modalities}
        self.dimension = max(self.widths.values())

    def encode(self, modality: str, groups: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[np.float32]:
        """Features float32 [N, dimension] of images of one modality."""
        features = self._features(self.manifest.modality(modality), groups)
        return np.pad(features, ((0, 0), (0, self.dimension - features.shape[1]))).astype(np.float32)

    def _features(self, modality: Modality, groups: Mapping[str, npt.NDArray[Any]]) -> Features:
        return patch_features(groups, modality, self.manifest.statistics)


class _NoEncoder:
    """Zeros in the place of embeddings."""

    name = "none"
    dimension = CHANCE_DIMENSION

    def encode(self, modality: str, groups: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[np.float32]:
        """float32 [N, dimension], zeros."""
        return np.zeros((len(next(iter(groups.values()))), self.dimension), np.float32)


def _parts(workspace: Workspace, manifest: Manifest, splits: Sequence[str], encoder: Any) -> list[Part]:
    """Rows and vectors of some splits, read as an index reads them."""
    parts = []
    for shard in manifest.shards:
        if shard.split in splits:
            found = embed_shard(workspace, encoder, shard, manifest.modalities, _BATCH)
            parts.append(Part(rows=found.rows, vectors=found.vectors))
    return parts


def _training_features(
    workspace: Workspace, manifest: Manifest, encoder: _FeatureEncoder, pairs: int | None
) -> dict[str, Features]:
    """Modality → float64 [pairs, features] of the complete training pairs, or of their sample."""
    parts = _parts(workspace, manifest, ("train",), encoder)
    names = list(encoder.widths)
    present = np.concatenate(
        [np.all([part.rows[f"has_{name}"].to_numpy() for name in names], axis=0) for part in parts]
    )
    chosen = np.flatnonzero(present)[sample_rows(manifest, pairs)]
    return {
        name: np.concatenate([part.vectors[name] for part in parts])[chosen, : encoder.widths[name]].astype(np.float64)
        for name in names
    }
