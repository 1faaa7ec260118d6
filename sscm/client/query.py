"""What a search may ask for, and how it is written as JSON and in a query string."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Required, TypedDict

from sscm.errors import QueryError


class Filters(TypedDict, total=False):
    """Which items may answer; what is left out does not restrict.

    Args:
        bbox: west, south, east, north in degrees: footprints that touch it.
        intersects: GeoJSON geometry that footprints meet, in place of ``bbox``.
        datetime: RFC 3339 instant, or interval ``start/end`` of which one end may be ``..``.
        ids: these items only.
        labels: items with any of these labels.
        split: train, validation or test.
        filter: condition in CQL2, as text or as JSON.
    """

    bbox: Sequence[float] | None
    intersects: Mapping[str, Any] | None
    datetime: str | None
    ids: Sequence[str] | None
    labels: Sequence[str] | None
    split: str | None
    filter: str | Mapping[str, Any] | None


class Example(TypedDict, total=False):
    """An image as example: one of the index by its ``id``, or any by its ``vector``; ``modality``: the query's if not
    given."""  # noqa: D205, D209 (one sentence)

    id: str
    vector: Iterable[float]
    modality: str | None


class Query(Filters, total=False):
    """A search: by exactly one of ``vector``, ``id`` and ``positives``.

    Args:
        target: modality of the images searched; or several, each of which then has up to ``limit`` answers.
        vector: embedding of the query.
        id: item whose image of ``modality`` is the example.
        positives: examples like which others are wanted; a bare string is an id.
        negatives: examples like which others are not wanted.
        modality: of the query image, or of examples that do not say.
        limit: answers wanted; the service gives up to 1000 at a time, and 10 where nothing is said.
        min_score: least score of an answer.
    """

    target: Required[str | Sequence[str]]
    vector: Iterable[float] | None
    id: str | None
    positives: Sequence[str | Example] | None
    negatives: Sequence[str | Example] | None
    modality: str | None
    limit: int | None
    min_score: float | None


def search_body(query: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON body of a search."""
    require_known(query, Query)
    body = given(query)
    if "target" not in body:
        raise QueryError("target is missing; expected the modality of the images searched, such as s2")
    body["target"] = targets(body["target"])
    if "vector" in body:
        body["vector"] = _numbers(body["vector"])
    for name in ("positives", "negatives"):
        if name in body:
            body[name] = [_example(example) for example in body[name]]
    return body


def _example(example: str | Example) -> dict[str, Any]:
    if isinstance(example, str):
        return {"id": example}
    require_known(example, Example)
    body = given(example)
    if "vector" in body:
        body["vector"] = _numbers(body["vector"])
    return body


def _numbers(vector: Iterable[float]) -> list[float]:
    """A vector of any kind (list, NumPy, torch) as JSON has it."""
    numbers = [float(number) for number in vector]
    if not all(map(math.isfinite, numbers)):
        raise QueryError("vector: holds NaN or infinity; expected finite numbers")
    return numbers


def targets(target: str | Sequence[str]) -> str | list[str]:
    """Modalities searched as JSON has them."""
    return target if isinstance(target, str) else list(target)


def given(values: Mapping[str, Any]) -> dict[str, Any]:
    """What is not None: the service has its own defaults."""
    return {name: value for name, value in values.items() if value is not None}


def require_known(given: Mapping[str, Any], kind: Any) -> None:
    """Refuse names that mean nothing: the query string of a browse would pass over them, and restrict nothing."""
    known = sorted(kind.__annotations__)
    unknown = [name for name in given if name not in known]
    if unknown:
        raise QueryError(f"{', '.join(unknown)}: unknown; known are {', '.join(known)}")


def without_commas(filters: Mapping[str, Any]) -> dict[str, Any]:
    """Filters whose lists a query string can hold.

    It separates names by commas, which names may have: many labels of land cover do. A list with such a name becomes a
    condition of the filter.
    """
    told = dict(filters)
    for name, text, operator, column in (
        ("ids", "id IN ({})", "in", "id"),
        ("labels", "a_overlaps(labels, ({}))", "a_overlaps", "labels"),
    ):
        if isinstance(told.get(name), str) or not any("," in value for value in told.get(name, ())):
            continue
        values, before = list(told.pop(name)), told.get("filter")
        if isinstance(before, Mapping):
            condition = {"op": operator, "args": [{"property": column}, values]}
            told["filter"] = {"op": "and", "args": [before, condition]}
        else:
            quoted = ", ".join("'{}'".format(value.replace("'", "''")) for value in values)
            told["filter"] = text.format(quoted) if before is None else f"({before}) AND {text.format(quoted)}"
    return told
