"""Requests and answers of the HTTP API: what they look like, and the problems reported when they cannot be had.

Filters follow STAC Item Search; answers are GeoJSON FeatureCollections of STAC Items (1.1.0); errors are problem
details (RFC 9457).
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from http import HTTPStatus
from typing import Annotated, Any, Self

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.config import JsonDict
from starlette.responses import JSONResponse, Response

from serve.logs import request_id
from sscm.errors import QueryError
from sscm.index.filters import Filter

MAX_LIMIT = 1000
"""Most answers to one query; larger wishes are cut to it, as STAC asks."""
MAX_EXAMPLES = 100
"""Most positive, and most negative, examples of one query: each that is an item is looked for in every shard."""
MAX_TARGETS = 8
"""Most modalities searched at once."""
MAX_BATCH = 64
"""Most searches of one batch."""
GEOJSON = "application/geo+json"
PROBLEM = "application/problem+json"


Limit = Annotated[int, Field(ge=1, description=f"answers wanted; more than {MAX_LIMIT} are cut to that")]


class Filters(BaseModel):
    """Which items may answer; what is left out does not restrict.

    ``datetime``, ``intersects`` and ``filter`` are checked by the index, which knows what it can compare.
    """

    model_config = ConfigDict(extra="forbid")

    bbox: list[float] | None = Field(
        default=None, description="west, south, east, north, degrees; or six with heights", examples=[[20, 44, 21, 45]]
    )
    intersects: dict[str, Any] | None = Field(default=None, description="GeoJSON geometry that a footprint meets")
    datetime: str | None = Field(
        default=None,
        description="RFC 3339 time, or an interval of two, .. for open",
        examples=["2018-06-01T00:00:00Z/.."],
    )
    ids: list[str] | None = Field(default=None, max_length=10_000, description="only these items")
    labels: list[str] | None = Field(default=None, max_length=1000, description="items with one of these labels")
    split: str | None = Field(default=None, description="train, validation or test")
    filter: str | dict[str, Any] | None = Field(
        default=None,
        description="CQL2, text or JSON, over id, split, labels, datetime, geometry and the items' properties",
        examples=["country = 'Serbia' AND NOT a_contains(labels, ('Pastures'))"],
    )
    filter_lang: str | None = Field(
        default=None,
        validation_alias=AliasChoices("filter-lang", "filter_lang"),
        description="cql2-text or cql2-json; told by the type of filter if not given",
    )

    def restriction(self) -> Filter | None:
        """The index's filter, or None where nothing is restricted.

        Raises:
            QueryError: a value cannot be one.
        """
        values = {name: getattr(self, name) for name in _FILTERS}
        if all(value is None for value in values.values()):
            return None
        return Filter(**values)


_FILTERS = tuple(Filters.model_fields)


class ItemFilters(BaseModel):
    """The same in a query string: lists are separated by commas, or JSON where a value has commas of its own.

    ``intersects`` and CQL2 JSON are written as JSON.
    """

    model_config = ConfigDict(extra="forbid")

    bbox: str | None = Field(default=None, description="west,south,east,north, degrees", examples=["20,44,21,45"])
    intersects: str | None = Field(default=None, description="GeoJSON geometry that a footprint meets")
    datetime: str | None = Field(default=None, description="RFC 3339 time, or an interval of two, .. for open")
    ids: str | None = Field(default=None, description="only these items")
    labels: str | None = Field(
        default=None,
        description="items with one of these labels; a JSON list where one has a comma",
        examples=["Pastures,Mixed forest", '["Transitional woodland, shrub"]'],
    )
    split: str | None = Field(default=None, description="train, validation or test")
    filter: str | None = Field(default=None, description="CQL2, text or JSON")
    filter_lang: str | None = Field(default=None, alias="filter-lang", description="cql2-text or cql2-json")
    limit: Limit = 10
    token: str | None = Field(default=None, description="from the link with rel next: the page after")
    sample: Limit | None = Field(default=None, description="so many of them, drawn at random, instead of a page")

    @property
    def asked(self) -> dict[str, str]:
        """The filters alone, as they came."""
        told = self.model_dump(by_alias=True, exclude_none=True, exclude={"limit", "token", "sample"})
        return {name: str(value) for name, value in told.items()}

    def filters(self) -> Filters:
        """The filters as in the body of a search.

        Raises:
            QueryError: a value cannot be one.
        """
        values: dict[str, Any] = self.asked
        try:
            for name in ("ids", "labels"):
                if name in values:
                    value = values[name]
                    values[name] = json.loads(value) if value.startswith("[") else value.split(",")
            if "bbox" in values:
                values["bbox"] = [float(number) for number in values["bbox"].split(",")]
            if "intersects" in values:
                values["intersects"] = json.loads(values["intersects"])
            if values.get("filter", "").lstrip().startswith("{"):
                values["filter"] = json.loads(values["filter"])
            return Filters.model_validate(values)
        except ValidationError as error:
            raise QueryError(explain(error.errors(), "filters")) from error
        except (ValueError, RecursionError) as error:
            raise QueryError(
                f"filters: {error}; expected numbers in bbox, JSON in intersects, in CQL2 JSON and in lists with ["
            ) from error


MinScore = Annotated[float, Field(ge=-1, le=1, description="least score, a cosine similarity, of an answer")]


class Example(BaseModel):
    """An image as example: an item's, or one that is given by its embedding."""

    model_config = ConfigDict(extra="forbid")

    id: str | None = Field(default=None, description="an item whose image of ``modality`` is the example")
    modality: str | None = Field(default=None, description="the query's if not given")
    vector: list[float] | None = Field(default=None, description="embedding; of any norm above 0")

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.vector is None) == (self.id is None):
            given = "both" if self.vector is not None else "neither"
            raise ValueError(f"{given} of vector and id given; expected exactly one")
        return self


_BY_ITEM: JsonDict = {"id": "pair_0042", "modality": "s1", "target": "s2", "limit": 5}
_BY_EXAMPLES: JsonDict = {
    "positives": [{"id": "pair_0042"}, {"id": "pair_0043", "modality": "s2"}],
    "negatives": [{"id": "pair_0044"}],
    "modality": "s1",
    "target": ["s1", "s2"],
    "limit": 5,
    "min_score": 0.1,
    "bbox": [20, 44, 23, 45],
    "datetime": "2018-06-01T00:00:00Z/..",
    "filter": "country = 'Serbia'",
}


class SearchRequest(Filters):
    """Search by a vector, by an item of the index as example, or by several examples.

    Exactly one of ``vector``, ``id`` and ``positives``; ``negatives`` go with ``positives``.
    """

    model_config = ConfigDict(json_schema_extra={"examples": [_BY_ITEM, _BY_EXAMPLES]})

    vector: list[float] | None = Field(default=None, description="embedding of the query; of any norm above 0")
    id: str | None = Field(default=None, description="an item whose image of ``modality`` is the example")
    positives: list[Example] | None = Field(
        default=None, max_length=MAX_EXAMPLES, description="images like which others are wanted"
    )
    negatives: list[Example] | None = Field(
        default=None, max_length=MAX_EXAMPLES, description="images like which others are not wanted"
    )
    modality: str | None = Field(
        default=None, description="modality of the query image, or of examples that do not say", examples=["s1"]
    )
    target: str | Annotated[list[str], Field(min_length=1, max_length=MAX_TARGETS)] = Field(
        description="modality of the images searched; of several, each has up to `limit` answers, which take turns",
        examples=["s2", ["s1", "s2"]],
    )
    limit: Limit = 10
    min_score: MinScore | None = None
    token: str | None = Field(default=None, description="from the link with rel next: the page after")

    @model_validator(mode="after")
    def _one_query(self) -> Self:
        ways = {"vector": self.vector, "id": self.id, "positives": self.positives}
        given = [name for name, value in ways.items() if value is not None]
        if not given:
            raise ValueError("neither of vector and id given, and no positives; expected exactly one")
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} given; expected exactly one")
        if self.negatives is not None and self.positives is None:
            raise ValueError("negatives given and no positives; expected both")
        return self

    @model_validator(mode="after")
    def _modality_known(self) -> Self:
        examples = (*(self.positives or ()), *(self.negatives or ()))
        silent = [example.id for example in examples if example.id is not None and example.modality is None]
        if self.modality is None and (self.positives is None or silent):
            raise ValueError("modality is missing; expected that of the query image, such as s1")
        return self

    @property
    def targets(self) -> tuple[str, ...]:
        """Modalities searched, each once."""
        return (self.target,) if isinstance(self.target, str) else tuple(dict.fromkeys(self.target))


class BatchRequest(BaseModel):
    """Several searches at once."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"searches": [_BY_ITEM, _BY_EXAMPLES]}]})

    searches: list[dict[str, Any]] = Field(
        min_length=1,
        max_length=MAX_BATCH,
        description="bodies of `POST /v1/search`",
    )


class Problem(BaseModel):
    """Why a request was not answered (RFC 9457)."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    request_id: str | None = Field(default=None, description="of the request, as in X-Request-ID and in the log")


class Collection(BaseModel):
    """Answers, best first: a GeoJSON FeatureCollection of STAC Items."""

    model_config = ConfigDict(extra="allow")

    type: str = "FeatureCollection"
    features: list[dict[str, Any]]
    numberMatched: int = Field(description="items that pass the filters, whatever their score")
    numberReturned: int
    links: list[dict[str, Any]] = Field(
        description="to the next page, where there is one: rel, method, href, body, merge"
    )
    sscm: dict[str, Any] = Field(description="generation, model, target, simulated, complete")


class Batch(BaseModel):
    """The answer to each search of a batch, in order: a collection, or the problem that it met."""

    results: list[Collection | Problem]


class HttpProblem(Exception):
    """Ends a request with a problem."""

    def __init__(self, status: int, detail: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(status, detail)
        self.status = status
        self.detail = detail
        self.headers = headers


def problem(status: int, detail: str, headers: dict[str, str] | None = None) -> Response:
    """A problem as HTTP answer."""
    return JSONResponse(problem_body(status, detail), status, headers=headers, media_type=PROBLEM)


def problem_body(status: int, detail: str) -> dict[str, Any]:
    """A problem as JSON object."""
    body = Problem(title=HTTPStatus(status).phrase, status=status, detail=detail, request_id=request_id.get())
    return body.model_dump(exclude_none=True)


def read_search(body: bytes | dict[str, Any]) -> SearchRequest:
    """The body of a search.

    Raises:
        QueryError: it is none; what is wrong is told.
    """
    try:
        if isinstance(body, bytes):
            return SearchRequest.model_validate_json(body)
        return SearchRequest.model_validate(body)
    except ValidationError as error:
        raise QueryError(explain(error.errors())) from error


def parse_filters(text: str | None) -> Filters:
    """Filters of a form field: a JSON object, as in the body of a search.

    Raises:
        QueryError: it is not one.
    """
    if not text:
        return Filters()
    try:
        return Filters.model_validate(json.loads(text))
    except ValidationError as error:
        raise QueryError(explain(error.errors(), "filters")) from error
    except (ValueError, RecursionError) as error:
        raise QueryError(f"filters: {shown(text)} is not JSON ({error}); expected an object") from error


_TYPE = re.compile(r"(str|int|float|dict\[.*\]|list\[.*\])$")
"""How pydantic names, in the place of an error, which of several types a value was tried as."""


def explain(errors: Sequence[Any], where: str = "request") -> str:
    """What pydantic found wrong, as text: place, complaint, value seen."""
    told: dict[tuple[str, str], list[str]] = {}
    for error in errors:
        # What may be of several types is wrong in as many ways: one complaint, without pydantic's names of types.
        place = ".".join(str(part) for part in error["loc"] if part != "body" and not _TYPE.match(str(part))) or where
        seen = "" if error["type"] in ("missing", "value_error") else f", seen {shown(error.get('input'))}"
        messages = told.setdefault((place, seen), [])
        message = str(error["msg"]).removeprefix("Value error, ")
        if message not in messages:
            messages.append(message)
    shown_first = [f"{place}: {' or '.join(messages)}{seen}" for (place, seen), messages in told.items()]
    more = f" (and {len(told) - 5} more)" if len(told) > 5 else ""
    return "; ".join(shown_first[:5]) + more


def shown(value: Any, length: int = 80) -> str:
    """A value as a message shows it: short."""
    text = repr(value)
    return text if len(text) <= length else text[: length - 1] + "…"
