"""The images of one split with their embeddings, and where one split's partners lie in another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sscm.evaluation import metrics
from sscm.evaluation.protocols import Direction


@dataclass(frozen=True, kw_only=True, eq=False)
class Collection:
    """The images of one split, pair by pair.

    Args:
        ids: pair ids, n of them, each once.
        vectors: modality → float32 [n, d], unit-norm; rows of pairs that lack the modality are not looked at.
        present: modality → bool [n], which pairs have it.
        labels: bool [n, c], or None where no image has any; a row without a label is an image without labels.
        cover: float64 [n, c], class fractions, NaN where unknown; None where they are for all.
        classes: names of the columns of ``labels``, where known.
        cover_classes: names of the columns of ``cover``, where known.
    """

    ids: Sequence[str]
    vectors: Mapping[str, npt.NDArray[np.float32]]
    present: Mapping[str, npt.NDArray[np.bool_]]
    labels: npt.NDArray[np.bool_] | None = None
    cover: npt.NDArray[np.float64] | None = None
    classes: tuple[str, ...] = ()
    cover_classes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)


def own_rows(queries: Collection, archive: Collection) -> npt.NDArray[np.int64]:
    """Each query's own row among the archive's, int64 [queries], −1 where it is not there."""
    position = {pair_id: row for row, pair_id in enumerate(archive.ids)}
    return np.array([position.get(pair_id, -1) for pair_id in queries.ids], np.int64)


def partner_ranks_of(
    queries: Collection, archive: Collection, direction: Direction, own: npt.NDArray[np.int64] | None = None
) -> tuple[npt.NDArray[np.int64], int] | None:
    """Ranks of the partners of all queries that have theirs in the archive.

    Args:
        queries: the images that ask.
        archive: the images searched.
        direction: across modalities.
        own: of :func:`own_rows`, where it is there already.

    Returns:
        Ranks int64 [queries that have their partner there] and the number of images searched; None where none has.
    """
    own = own_rows(queries, archive) if own is None else own
    searched = archive.present[direction.target]
    here = queries.present[direction.query] & (own >= 0)
    here[here] &= searched[own[here]]
    if not here.any():
        return None
    place = np.cumsum(searched) - 1  # of an archive row among those searched
    ranks = metrics.partner_ranks(
        queries.vectors[direction.query][here], archive.vectors[direction.target][searched], place[own[here]]
    )
    return ranks, int(searched.sum())
