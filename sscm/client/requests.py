"""What is sent to the service, a value a call: both clients send the same, and read the answers by the same."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, NoReturn, Required, TypedDict, TypeVar, Unpack
from urllib.parse import quote

import httpx

from sscm.client.answers import (
    Answers,
    Embedding,
    Hit,
    I,
    Index,
    Item,
    Model,
    Page,
    Problem,
    Readiness,
    Reload,
    UnexpectedAnswer,
    read,
    read_answers,
    read_batch,
    read_model,
)
from sscm.errors import QueryError, ServiceError

T_co = TypeVar("T_co", covariant=True)

File = str | Path | tuple[str, bytes]
"""A file of an image: its path, or its name and bytes."""


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


@dataclass(frozen=True, kw_only=True)
class Call(Generic[T_co]):
    """One request, and how its answer is read.

    Args:
        method: HTTP method.
        path: path below the service's URL.
        content: what goes with it, as arguments of httpx: ``params``, ``json``, or ``data`` and ``files``.
        decode: what is made of a response that is no refusal; raises UnexpectedAnswer, or another ValueError.
        answers: statuses that are no refusals.
    """

    method: str
    path: str
    content: Mapping[str, Any]
    decode: Callable[[httpx.Response], T_co]
    answers: frozenset[int] = frozenset({200})

    def read(self, response: httpx.Response, url: str, named: str) -> T_co:
        """What the service answered.

        Args:
            response: the response.
            url: whom it is from, for messages.
            named: what a message names the call by.

        Raises:
            ServiceError: it refuses, or the answer is none of an sscm service.
        """
        if response.status_code not in self.answers:
            _refused(response, url, named)
        try:
            return self.decode(response)
        except (ValueError, RecursionError) as error:  # of which JSON's and UnexpectedAnswer are kinds
            why = str(error) if isinstance(error, UnexpectedAnswer) else repr(response.text[:80])
            _unexpected(response, url, why, named)


def search(**query: Unpack[Query]) -> Call[Answers[Hit]]:
    """A search by vector, id or examples."""
    body = _body(query)
    return Call(method="POST", path="/v1/search", content={"json": body}, decode=_json(read_answers, Hit, body))


def search_image(
    files: File | Sequence[File],
    *,
    modality: str,
    target: str | Sequence[str],
    limit: int | None = None,
    min_score: float | None = None,
    **filters: Unpack[Filters],
) -> Call[Answers[Hit]]:
    """A search by an image; reads its files.

    Raises:
        ServiceError: a file cannot be read.
    """
    form = _given({"modality": modality, "target": _targets(target), "limit": limit, "min_score": min_score})
    restriction = _given(filters)
    _known(restriction, Filters)
    if restriction:
        form["filters"] = json.dumps(restriction)
    content = {"files": _uploads(files), "data": form}
    return Call(method="POST", path="/v1/search/image", content=content, decode=_json(read_answers, Hit))


def batch(searches: Sequence[Query]) -> Call[list[Answers[Hit] | Problem]]:
    """Several searches at once."""
    bodies = [_body(query) for query in searches]
    content = {"json": {"searches": bodies}}
    return Call(method="POST", path="/v1/search/batch", content=content, decode=_json(read_batch, bodies))


def embed(files: File | Sequence[File], *, modality: str) -> Call[Embedding]:
    """The embedding of an image; reads its files.

    Raises:
        ServiceError: a file cannot be read.
    """
    content = {"files": _uploads(files), "data": {"modality": modality}}
    return Call(method="POST", path="/v1/embed", content=content, decode=_json(functools.partial(read, Embedding)))


def item(item_id: str) -> Call[Item]:
    """One item."""
    return Call(method="GET", path=_item_path(item_id), content={}, decode=_json(Item.read))


def preview(item_id: str, modality: str) -> Call[bytes]:
    """A small picture of an image."""
    path = f"{_item_path(item_id)}/preview/{quote(modality, safe='')}"
    return Call(method="GET", path=path, content={}, decode=_picture)


def similar(
    item_id: str,
    *,
    modality: str,
    target: str | None = None,
    limit: int | None = None,
    min_score: float | None = None,
) -> Call[Answers[Hit]]:
    """A search with one image of the index as example."""
    params = _given({"modality": modality, "target": target, "limit": limit, "min_score": min_score})
    path = f"{_item_path(item_id)}/similar"
    return Call(method="GET", path=path, content={"params": params}, decode=_json(read_answers, Hit))


def browse(*, limit: int | None = None, sample: int | None = None, **filters: Unpack[Filters]) -> Call[Answers[Item]]:
    """Items without a query."""
    params: dict[str, Any] = _given({"limit": limit, "sample": sample})
    restriction = _given(filters)
    _known(restriction, Filters)
    for name, value in _without_commas(restriction).items():
        if isinstance(value, Mapping):
            params[name] = json.dumps(value)
        elif isinstance(value, str):
            params[name] = value
        else:
            params[name] = ",".join(map(str, value))
    return Call(method="GET", path="/v1/items", content={"params": params}, decode=_json(read_answers, Item))


def page(wanted: Page[I]) -> Call[Answers[I]]:
    """A page that another one named as the next."""
    content = {} if wanted.body is None else {"json": wanted.body}
    return Call(
        method=wanted.method, path=wanted.path, content=content, decode=_json(read_answers, wanted.kind, wanted.body)
    )


def index() -> Call[Index]:
    """What is searched."""
    return Call(method="GET", path="/v1/index", content={}, decode=_json(functools.partial(read, Index)))


def model() -> Call[Model]:
    """What embeds images."""
    return Call(method="GET", path="/v1/model", content={}, decode=_json(read_model))


def ready() -> Call[Readiness]:
    """Whether the service answers searches; that it does not is an answer, too."""
    decode = _json(functools.partial(read, Readiness))
    return Call(method="GET", path="/readyz", content={}, decode=decode, answers=frozenset({200, 503}))


def reload() -> Call[Reload]:
    """Have the service move to the index's current generation."""
    decode = _json(functools.partial(read, Reload))
    return Call(method="POST", path="/v1/admin/reload", content={}, decode=decode)


def _body(query: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON body of a search."""
    _known(query, Query)
    body = _given(query)
    if "target" not in body:
        raise QueryError("target is missing; expected the modality of the images searched, such as s2")
    body["target"] = _targets(body["target"])
    if "vector" in body:
        body["vector"] = _numbers(body["vector"])
    for name in ("positives", "negatives"):
        if name in body:
            body[name] = [_example(example) for example in body[name]]
    return body


def _example(example: str | Example) -> dict[str, Any]:
    if isinstance(example, str):
        return {"id": example}
    _known(example, Example)
    body = _given(example)
    if "vector" in body:
        body["vector"] = _numbers(body["vector"])
    return body


def _numbers(vector: Iterable[float]) -> list[float]:
    """A vector of any kind (list, NumPy, torch) as JSON has it."""
    numbers = [float(number) for number in vector]
    if not all(map(math.isfinite, numbers)):
        raise QueryError("vector: holds NaN or infinity; expected finite numbers")
    return numbers


def _targets(target: str | Sequence[str]) -> str | list[str]:
    return target if isinstance(target, str) else list(target)


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _known(given: Mapping[str, Any], kind: Any) -> None:
    """Refuse names that mean nothing: the query string of a browse would pass over them, and restrict nothing."""
    known = sorted(kind.__annotations__)
    unknown = [name for name in given if name not in known]
    if unknown:
        raise QueryError(f"{', '.join(unknown)}: unknown; known are {', '.join(known)}")


def _without_commas(filters: Mapping[str, Any]) -> dict[str, Any]:
    """Filters whose lists a query string can hold.

    It separates names by commas, which names may have: many labels of land cover do. A list with such a name becomes a
    condition of the filter.
    """
    told = dict(filters)
    for name, text, operator, column in (
        ("ids", "id IN ({})", "in", "id"),
        ("labels", "a_overlaps(labels, ({}))", "a_overlaps", "labels"),
    ):
        if not any("," in value for value in told.get(name, ())):
            continue
        values, given = list(told.pop(name)), told.get("filter")
        if isinstance(given, Mapping):
            condition = {"op": operator, "args": [{"property": column}, values]}
            told["filter"] = {"op": "and", "args": [given, condition]}
        else:
            quoted = ", ".join("'{}'".format(value.replace("'", "''")) for value in values)
            told["filter"] = text.format(quoted) if given is None else f"({given}) AND {text.format(quoted)}"
    return told


def _uploads(files: File | Sequence[File]) -> list[tuple[str, tuple[str, bytes]]]:
    several: Sequence[Any] = [files] if isinstance(files, str | Path) or _is_named_bytes(files) else files
    if not several:
        raise ServiceError("no file given; expected the image to search by")
    try:
        return [
            ("files", file if isinstance(file, tuple) else (Path(file).name, Path(file).read_bytes()))
            for file in several
        ]
    except OSError as error:
        raise ServiceError(f"cannot read {error.filename}: {error.strerror}") from error


def _is_named_bytes(files: File | Sequence[File]) -> bool:
    return isinstance(files, tuple) and len(files) == 2 and isinstance(files[1], bytes)


def _item_path(item_id: str) -> str:
    return f"/v1/items/{quote(item_id, safe='')}"


def _json(reader: Callable[..., T_co], *more: Any) -> Callable[[httpx.Response], T_co]:
    """Read the JSON of a response by a reader, which gets more arguments after it."""
    return lambda response: reader(response.json(), *more)


def _picture(response: httpx.Response) -> bytes:
    kind = response.headers.get("Content-Type", "")
    if not kind.startswith("image/"):
        raise UnexpectedAnswer(f"content type {kind!r}; expected an image")
    return response.content


def _refused(response: httpx.Response, url: str, named: str) -> NoReturn:
    try:
        detail = response.json()["detail"]
    except (ValueError, RecursionError, TypeError, KeyError):
        _unexpected(response, url, repr(response.text[:80]), named)
    raise ServiceError(f"{url} answered {response.status_code}: {detail} {named}")


def _unexpected(response: httpx.Response, url: str, why: str, named: str) -> NoReturn:
    raise ServiceError(
        f"{url} answered {response.status_code} with {why}, not as an sscm service does; check the URL, or start a "
        f"service with `sscm serve` {named}"
    )
