"""What a gateway and the index shards say to one another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sscm.index.filters import Filter

Vector = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class ShardQuery:
    """One query of one shard.

    Args:
        vector: float32 [dimension], unit norm.
        target: modality searched.
        k: answers wanted.
        filter: which rows may answer, or None.
        exclude: pairs that may not.
        least: least score of an answer; None for any.
    """

    vector: Vector
    target: str
    k: int
    filter: Filter | None = None
    exclude: frozenset[str] = frozenset()
    least: float | None = None


@dataclass(frozen=True)
class ShardHit:
    """One answer: pair, cosine similarity, STAC Item without score."""

    pair_id: str
    score: float
    item: dict[str, Any]


@dataclass(frozen=True)
class ShardAnswer:
    """The answers of one shard to a query.

    Args:
        hits: best first.
        matched: how many of its rows the filter lets through.
        scans: scans of codes that it took, averaged over the batch that the query was part of: one a segment with a
            row that may answer, less those of few rows, which are scored at once.
        widened: those of them that looked at more rows than at first, averaged likewise.
    """

    hits: list[ShardHit]
    matched: int
    scans: float = 0.0
    widened: float = 0.0


@dataclass(frozen=True)
class Found:
    """One row: its item, where its images lie in the archive, and its embedding where asked for."""

    item: dict[str, Any]
    archive_file: str
    archive_row: int
    vector: Vector | None = None
