"""What a gateway and the index shards say to one another, and how it travels (:mod:`serve.wire`)."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from sscm.errors import QueryError, SscmError
from sscm.index.filters import Filter

Vector = npt.NDArray[np.float32]

KEPT_FILTERS = 256
"""Filters that a shard keeps parsed: many queries share one."""


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


class ShardHit(NamedTuple):
    """One answer: pair, cosine similarity, and its STAC Item with score and target as JSON."""

    pair_id: str
    score: float
    feature: bytes


@dataclass(frozen=True)
class ShardAnswer:
    """The answers of one shard to a query.

    Args:
        hits: best first.
        matched: how many of its rows the filter lets through.
        scans: scans of codes that it took, averaged over the batch that the query was part of: one a segment with a
            row that may answer, less those of few rows, which are scored at once.
        widened: those of them that looked at more rows than at first, averaged likewise.
        seconds: how long the batch was searched for.
        made: items that were not kept as JSON from an earlier answer, averaged likewise.
    """

    hits: list[ShardHit]
    matched: int
    scans: float = 0.0
    widened: float = 0.0
    seconds: float = 0.0
    made: float = 0.0


@dataclass(frozen=True)
class Found:
    """One row: its item as JSON, where its images lie in the archive, and its embedding where asked for."""

    item: bytes
    archive_file: str
    archive_row: int
    vector: Vector | None = None


@dataclass(frozen=True)
class Listed:
    """Rows that pass a filter.

    Args:
        matched: how many do.
        items: some of them as JSON.
        rows: their numbers.
        following: number of the row after the last of them; None where there is none.
    """

    matched: int
    items: list[bytes]
    rows: list[int]
    following: int | None = None


def pack_queries(queries: Sequence[ShardQuery]) -> list[Any]:
    """Queries as a frame holds them."""
    vectors = np.stack([query.vector for query in queries]).astype(np.float32, copy=False)
    return [
        vectors.tobytes(),
        [[query.target, query.k, pack_filter(query.filter), list(query.exclude), query.least] for query in queries],
    ]


def unpack_queries(value: Sequence[Any]) -> list[ShardQuery]:
    """Queries of a frame."""
    data, told = value
    vectors = np.frombuffer(data, np.float32).reshape(len(told), -1)
    return [
        ShardQuery(
            vector=vector, target=target, k=k, filter=unpack_filter(text), exclude=frozenset(exclude), least=least
        )
        for vector, (target, k, text, exclude, least) in zip(vectors, told, strict=True)
    ]


def pack_answers(answers: Sequence[ShardAnswer | Exception]) -> list[Any]:
    """Answers as a frame holds them; a query that could not be answered has its error."""
    return [
        [type(answer).__name__, str(answer)]
        if isinstance(answer, Exception)
        else [
            answer.matched,
            answer.scans,
            answer.widened,
            answer.seconds,
            answer.made,
            answer.hits,  # tuples, which travel as lists
        ]
        for answer in answers
    ]


def unpack_answers(value: Sequence[Sequence[Any]]) -> list[ShardAnswer | SscmError]:
    """Answers of a frame."""
    answers: list[ShardAnswer | SscmError] = []
    for told in value:
        if len(told) == 2:
            error = QueryError(told[1]) if told[0] == QueryError.__name__ else SscmError(f"{told[0]}: {told[1]}")
            answers.append(error)
        else:
            *rest, hits = told
            answers.append(ShardAnswer(list(map(ShardHit._make, hits)), *rest))
    return answers


def pack_filter(restriction: Filter | None) -> str | None:
    """A filter as text."""
    if restriction is None:
        return None
    given = {field.name: getattr(restriction, field.name) for field in dataclasses.fields(restriction)}
    return json.dumps({name: value for name, value in given.items() if value is not None}, default=dict)


@functools.lru_cache(KEPT_FILTERS)
def unpack_filter(text: str | None) -> Filter | None:
    """A filter that :func:`pack_filter` wrote."""
    return None if text is None else Filter(**json.loads(text))


def pack_found(found: Found | None) -> list[Any] | None:
    """A row as a frame holds it."""
    if found is None:
        return None
    vector = None if found.vector is None else found.vector.astype(np.float32, copy=False).tobytes()
    return [found.item, found.archive_file, found.archive_row, vector]


def unpack_found(value: Sequence[Any] | None) -> Found | None:
    """A row of a frame."""
    if value is None:
        return None
    item, file, row, vector = value
    return Found(item, file, row, None if vector is None else np.frombuffer(vector, np.float32))
