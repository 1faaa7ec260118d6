"""Encoders adapted to the archive that is searched: by its images, without labels; queries are embedded likewise."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from sscm.archive.manifest import Manifest
from sscm.archive.schema import decode_group
from sscm.archive.stream import Piece, pieces_of, read_pieces
from sscm.model.adaptation import Kind, adapt, estimate_adaptation
from sscm.model.bundle import Bundle
from sscm.sensors import Modality
from sscm.workspace import Workspace

BATCH = 64
"""Fewest pairs of a batch, where there are as many: statistics of deep layers depend on batches of like size."""

Groups = dict[str, npt.NDArray[Any]]


def adapted(bundle: Bundle, workspace: Workspace, manifest: Manifest, split: str, kind: Kind) -> Bundle:
    """The same weights, adapted to all images of the split that is searched.

    Args:
        bundle: trained or untrained encoders; left as it is.
        workspace: where the archive is.
        manifest: what it holds.
        split: the split that is searched.
        kind: what is adapted.

    Raises:
        BundleError: the weights are not finite.
        WorkspaceError: a shard cannot be read.
    """
    batches = SplitBatches(workspace, manifest.modalities, batches_of(pieces_of(manifest.of_split(split)), BATCH))
    return adapt(bundle, estimate_adaptation(bundle, batches, kind))


class SplitBatches:
    """All images of a split, read anew each time they are gone through.

    Args:
        workspace: where the archive is.
        modalities: whose images are read.
        batches: row groups of each batch.
    """

    def __init__(
        self, workspace: Workspace, modalities: Sequence[Modality], batches: Sequence[Sequence[Piece]]
    ) -> None:
        self.workspace, self.modalities, self.batches = workspace, modalities, batches

    def __iter__(self) -> Iterator[Mapping[str, Groups]]:
        """Modality → band group → pixels [n, bands, height, width] of the pairs that have it, native dtype."""
        columns = [group.name for modality in self.modalities for group in modality.groups]
        for pieces in self.batches:
            table = read_pieces(self.workspace, pieces, columns)
            found = {modality.name: _images(table, modality) for modality in self.modalities}
            yield {name: groups for name, groups in found.items() if len(next(iter(groups.values())))}


def batches_of(pieces: Sequence[Piece], least: int) -> list[list[Piece]]:
    """Row groups in batches of at least so many pairs; what is left over goes to the last one."""
    batches: list[list[Piece]] = [[]]
    for piece in pieces:
        if sum(each.rows for each in batches[-1]) >= least:
            batches.append([])
        batches[-1].append(piece)
    if len(batches) > 1 and sum(piece.rows for piece in batches[-1]) < least:
        batches[-2:] = [batches[-2] + batches[-1]]
    return batches


def _images(table: pa.Table, modality: Modality) -> Groups:
    """Images of the rows that have all groups of a modality."""
    valid = np.ones(len(table), np.bool_)
    for group in modality.groups:
        if table[group.name].null_count:
            valid &= table[group.name].is_valid().to_numpy(zero_copy_only=False)
    chosen = table if valid.all() else table.filter(pa.array(valid))
    return {group.name: decode_group(chosen[group.name], group) for group in modality.groups}
