"""What the service answers, as typed values: items, answers in pages, embeddings, and what is served.

A value that is not of its type is found when the answer is read, not when it is used.
"""

from __future__ import annotations

import datetime as dt
import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, Self, TypeVar

from pydantic import TypeAdapter, ValidationError

from sscm.sensors import Modality

T = TypeVar("T")


class UnexpectedAnswer(ValueError):
    """An answer that an sscm service does not give; the client tells it as a :class:`sscm.errors.ServiceError`."""


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
        return cls(**_fields(_checked(_Feature, value), value))


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
        feature = _checked(_ScoredFeature, value)
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


@dataclass(frozen=True, kw_only=True)
class ModelName:
    """Which model it was."""

    name: str
    fingerprint: str


@dataclass(frozen=True, kw_only=True)
class Embedding:
    """An image as the model sees it.

    Args:
        modality: what the image is of.
        vector: numbers of unit norm, as many as the index has dimensions.
        model: what embedded it; only vectors of one model compare.
    """

    modality: str
    vector: tuple[float, ...] = field(repr=False)
    model: ModelName


@dataclass(frozen=True, kw_only=True)
class ServedModality:
    """A modality that can be searched by, and searched for."""

    name: str
    title: str


@dataclass(frozen=True, kw_only=True)
class Index:
    """What is searched.

    Args:
        generation: its number; it grows with every change of the index.
        created: when the generation was committed.
        items: how many pairs.
        modalities: their modalities.
        dimension: length of an embedding.
        recall: recall@10 that searches are tuned to; 1 where all are exact.
        properties: names of the properties that filters may use; None where the index does not say.
        simulated: whether the images were computed, not observed.
        model: what embedded them.
    """

    generation: int
    created: dt.datetime
    items: int
    modalities: tuple[ServedModality, ...]
    dimension: int
    recall: float
    properties: tuple[str, ...] | None
    simulated: bool
    model: ModelName


@dataclass(frozen=True, kw_only=True)
class Model:
    """What embeds images.

    Args:
        name: its name.
        fingerprint: tells its weights from others.
        dimension: length of an embedding.
        simulated: whether it was trained on computed images.
        modalities: the modalities that it knows, with the bands that it wants.
        about: all that the service says of it.
    """

    name: str
    fingerprint: str
    dimension: int
    simulated: bool
    modalities: tuple[Modality, ...] = field(repr=False)
    about: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Readiness:
    """Whether the service answers searches.

    Args:
        ready: whether all of it does.
        generation: number of the index generation that is served.
        loading: number of the one that is being loaded to take its place; None where none is.
        refused: why a later one does not take its place; None where there is none.
        parts: what each part says.
    """

    ready: bool
    generation: int
    loading: int | None
    refused: str | None
    parts: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Reload:
    """What a service serves after it was told to look for the index's current generation.

    Args:
        generation: number of the generation that is served.
        loading: number of one that takes longer to load than a request may; it takes its place when it is ready.
    """

    generation: int
    loading: int | None


def read_answers(value: Any, kind: type[I], body: Mapping[str, Any] | None = None) -> Answers[I]:
    """Answers from a FeatureCollection.

    Args:
        value: the FeatureCollection.
        kind: what it is of.
        body: what was sent for it, which the link to the next page may want sent again.

    Raises:
        UnexpectedAnswer: it is none.
    """
    read = _checked(_Collection, value)
    return Answers(
        items=tuple(_at(f"features.{i}", kind.read, feature) for i, feature in enumerate(read.features)),
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
    results = _checked(_Batch, value).results
    if len(results) != len(bodies):
        raise UnexpectedAnswer(f"{len(results)} results of {len(bodies)} searches")
    return [
        _at(f"results.{i}", _result, result, body) for i, (result, body) in enumerate(zip(results, bodies, strict=True))
    ]


def read_model(value: Any) -> Model:
    """A model from what ``/v1/model`` answers."""
    if not isinstance(value, Mapping) or not isinstance(value.get("modalities"), list):
        raise UnexpectedAnswer("modalities: no list")
    try:
        modalities = tuple(Modality.from_json(modality) for modality in value["modalities"])
    except (KeyError, TypeError, ValueError) as error:
        raise UnexpectedAnswer(f"modalities: {error!r}") from error
    named = _checked(_Model, value)
    return Model(
        name=named.name,
        fingerprint=named.fingerprint,
        dimension=named.dimension,
        simulated=named.simulated,
        modalities=modalities,
        about=value,
    )


def read(kind: type[T], value: Any) -> T:
    """A value of a class without more to it, such as :class:`Index`."""
    return _checked(kind, value)


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
class _Model(ModelName):
    dimension: int
    simulated: bool


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
    return _checked(Problem, value) if "features" not in value else read_answers(value, Hit, body)


def _next(links: Sequence[Mapping[str, Any]], kind: type[I], body: Mapping[str, Any] | None) -> Page[I] | None:
    """The page that the link with rel next leads to, as STAC API has it."""
    for link in links:
        if link.get("rel") != "next":
            continue
        told = _at("links", _checked, _Link, link)
        # Only below the service's own URL: the key goes there, and to nobody else.
        if not told.href.startswith("/") or told.href.startswith("//"):
            raise UnexpectedAnswer(f"links: href {told.href!r}; expected a path of this service")
        merged = {**(body or {}), **(told.body or {})} if told.merge else told.body
        return Page(method=told.method, path=told.href, body=merged if told.method == "POST" else None, kind=kind)
    return None


@functools.cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _checked(kind: type[T], value: Any) -> T:
    wanted: Any = kind  # to mypy a class that is a type variable has no hash
    try:
        checked: T = _adapter(wanted).validate_python(value)
        return checked
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "answer"
        seen = repr(first["input"])
        raise UnexpectedAnswer(f"{place}: {first['msg']}, seen {seen[:60]}{'…' * (len(seen) > 60)}") from error


def _at(place: str, reader: Any, *values: Any) -> Any:
    """What a reader makes of values, with the place of them in its error."""
    try:
        return reader(*values)
    except UnexpectedAnswer as error:
        raise UnexpectedAnswer(f"{place}.{error}") from error
