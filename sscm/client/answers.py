"""What the service finds, as typed values: items, and answers in pages.

A value that is not of its type is found when the answer is read, not when it is used.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, Self, TypeVar

from sscm.client.about import ModelName
from sscm.client.reading import UnexpectedAnswer, at_place, checked


@dataclass(frozen=True, kw_only=True)
class Item:
    """A pair of images of the index.

    Args:
        id: its id.
        geometry: footprint, GeoJSON in degrees.
        bbox: west, south, east and north of the footprint, degrees.
        datetime: when the first of its images was taken.
        labels: what it shows, where the source knew.
        properties: all that the index knows, ``split`` among it.
        stac: the STAC Item that the service answered.
    """

    id: str
    geometry: Mapping[str, Any] | None = field(repr=False)
    bbox: tuple[float, ...] | None
    datetime: dt.datetime | None
    labels: tuple[str, ...]
    properties: Mapping[str, Any] = field(repr=False)
    stac: Mapping[str, Any] = field(repr=False)

    @classmethod
    def read(cls, value: Any) -> Self:
        """An item from a STAC Item.

        Raises:
            UnexpectedAnswer: it is none.
        """
        return cls(**_fields(checked(_Feature, value), value))


@dataclass(frozen=True, kw_only=True)
class Hit(Item):
    """An item as an answer to a search.

    Args:
        score: cosine similarity with the query, from -1 to 1.
        target: modality whose image is that similar.
    """

    score: float
    target: str

    @classmethod
    def read(cls, value: Any) -> Self:
        """A hit from a STAC Item with ``properties.score`` and ``properties.target``."""
        feature = checked(_ScoredFeature, value)
        scored = feature.properties
        return cls(**_fields(feature, value), score=scored.score, target=scored.target)


I = TypeVar("I", bound=Item)  # noqa: E741 (an item of either kind)


@dataclass(frozen=True, kw_only=True)
class Page(Generic[I]):
    """A page that is there to be asked for.

    Args:
        method: HTTP method.
        path: path below the service's URL, with its query string.
        body: JSON object to send, for POST.
        kind: what is on it.
    """

    method: str
    path: str
    body: Mapping[str, Any] | None
    kind: type[I]


@dataclass(frozen=True, kw_only=True)
class Answers(Generic[I]):
    """One page of items, best first where they answer a search; a sequence of its items in a ``for`` loop.

    Args:
        items: the items of this page.
        matched: how many pass the filters, on all pages together and whatever their score.
        generation: number of the index generation that answered.
        model: name of the model that answered.
        fingerprint: fingerprint of that model.
        complete: False where part of the index did not answer: there may be better items.
        simulated: whether the images were computed, not observed.
        next: the page after this one; None where this is the last.
        collection: the GeoJSON FeatureCollection that the service answered.
    """

    items: tuple[I, ...]
    matched: int
    generation: int
    model: str
    fingerprint: str
    complete: bool
    simulated: bool
    next: Page[I] | None
    collection: Mapping[str, Any] = field(repr=False)

    def __iter__(self) -> Iterator[I]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Why a search of a batch was not answered (RFC 9457).

    Args:
        status: HTTP status that it would have been answered with by itself.
        title: what that status means.
        detail: what was wrong, what was seen, what would be right.
    """

    status: int
    title: str
    detail: str


def read_answers(value: Any, kind: type[I], body: Mapping[str, Any] | None = None) -> Answers[I]:
    """Answers from a FeatureCollection.

    Args:
        value: the FeatureCollection.
        kind: what it is of.
        body: what was sent for it, which the link to the next page may want sent again.

    Raises:
        UnexpectedAnswer: it is none.
    """
    read = checked(_Collection, value)
    return Answers(
        items=tuple(at_place(f"features.{i}", kind.read, feature) for i, feature in enumerate(read.features)),
        matched=read.numberMatched,
        generation=read.sscm.generation,
        model=read.sscm.model.name,
        fingerprint=read.sscm.model.fingerprint,
        complete=read.sscm.complete,
        simulated=read.sscm.simulated,
        next=_next(read.links, kind, body),
        collection=value,
    )


def read_batch(value: Any, bodies: Sequence[Mapping[str, Any]]) -> list[Answers[Hit] | Problem]:
    """The results of a batch, each in its place; ``bodies`` are the searches sent."""
    results = checked(_Batch, value).results
    if len(results) != len(bodies):
        raise UnexpectedAnswer(f"{len(results)} results of {len(bodies)} searches")
    both = enumerate(zip(results, bodies, strict=True))
    return [at_place(f"results.{i}", _result, result, body) for i, (result, body) in both]


@dataclass(frozen=True)
class _Properties:
    datetime: dt.datetime | None = None
    labels: tuple[str, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class _ScoredProperties(_Properties):
    score: float
    target: str


@dataclass(frozen=True)
class _Feature:
    type: Literal["Feature"]
    id: str
    properties: _Properties
    geometry: dict[str, Any] | None = None
    bbox: tuple[float, ...] | None = None


@dataclass(frozen=True)
class _ScoredFeature(_Feature):
    properties: _ScoredProperties


@dataclass(frozen=True)
class _About:
    generation: int
    model: ModelName
    complete: bool
    simulated: bool


@dataclass(frozen=True)
class _Collection:
    type: Literal["FeatureCollection"]
    features: list[Any]
    numberMatched: int
    links: list[dict[str, Any]]
    sscm: _About


@dataclass(frozen=True)
class _Batch:
    results: list[dict[str, Any]]


@dataclass(frozen=True)
class _Link:
    href: str
    method: Literal["GET", "POST"] = "GET"
    body: dict[str, Any] | None = None
    merge: bool = False


def _fields(feature: _Feature, value: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "id": feature.id,
        "geometry": feature.geometry,
        "bbox": feature.bbox,
        "datetime": feature.properties.datetime,
        "labels": feature.properties.labels or (),
        "properties": value["properties"],
        "stac": value,
    }


def _result(value: Mapping[str, Any], body: Mapping[str, Any]) -> Answers[Hit] | Problem:
    return checked(Problem, value) if "features" not in value else read_answers(value, Hit, body)


def _next(links: Sequence[Mapping[str, Any]], kind: type[I], body: Mapping[str, Any] | None) -> Page[I] | None:
    """The page that the link with rel next leads to, as STAC API has it."""
    for link in links:
        if link.get("rel") != "next":
            continue
        told = at_place("links", checked, _Link, link)
        # Only below the service's own URL: the key goes there, and to nobody else.
        if not told.href.startswith("/") or told.href.startswith("//"):
            raise UnexpectedAnswer(f"links: href {told.href!r}; expected a path of this service")
        merged = {**(body or {}), **(told.body or {})} if told.merge else told.body
        return Page(method=told.method, path=told.href, body=merged if told.method == "POST" else None, kind=kind)
    return None
