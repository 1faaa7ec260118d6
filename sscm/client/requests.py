"""What is sent to the service, a value a call: both clients send the same, and read the answers by the same."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, Unpack
from urllib.parse import quote

import httpx

from sscm.client.about import Embedding, Index, Model, Readiness, Reload, read_model
from sscm.client.answers import Answers, Hit, I, Item, Page, Problem, read_answers, read_batch
from sscm.client.call import Call
from sscm.client.query import Filters, Query, given, require_known, search_body, targets, without_commas
from sscm.client.reading import UnexpectedAnswer, checked
from sscm.errors import ServiceError

T = TypeVar("T")

File = str | Path | tuple[str, bytes]
"""A file of an image: its path, or its name and bytes."""


def search(**query: Unpack[Query]) -> Call[Answers[Hit]]:
    """A search by vector, id or examples."""
    body = search_body(query)
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
    form = given({"modality": modality, "target": targets(target), "limit": limit, "min_score": min_score})
    restriction = given(filters)
    require_known(restriction, Filters)
    if restriction:
        form["filters"] = json.dumps(restriction)
    content = {"files": _uploads(files), "data": form}
    return Call(method="POST", path="/v1/search/image", content=content, decode=_json(read_answers, Hit))


def batch(searches: Sequence[Query]) -> Call[list[Answers[Hit] | Problem]]:
    """Several searches at once."""
    bodies = [search_body(query) for query in searches]
    content = {"json": {"searches": bodies}}
    return Call(method="POST", path="/v1/search/batch", content=content, decode=_json(read_batch, bodies))


def embed(files: File | Sequence[File], *, modality: str) -> Call[Embedding]:
    """The embedding of an image; reads its files.

    Raises:
        ServiceError: a file cannot be read.
    """
    content = {"files": _uploads(files), "data": {"modality": modality}}
    return Call(method="POST", path="/v1/embed", content=content, decode=_json(functools.partial(checked, Embedding)))


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
    params = given({"modality": modality, "target": target, "limit": limit, "min_score": min_score})
    path = f"{_item_path(item_id)}/similar"
    return Call(method="GET", path=path, content={"params": params}, decode=_json(read_answers, Hit))


def browse(*, limit: int | None = None, sample: int | None = None, **filters: Unpack[Filters]) -> Call[Answers[Item]]:
    """Items without a query."""
    params: dict[str, Any] = given({"limit": limit, "sample": sample})
    restriction = given(filters)
    require_known(restriction, Filters)
    for name, value in without_commas(restriction).items():
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
    return Call(method="GET", path="/v1/index", content={}, decode=_json(functools.partial(checked, Index)))


def model() -> Call[Model]:
    """What embeds images."""
    return Call(method="GET", path="/v1/model", content={}, decode=_json(read_model))


def ready() -> Call[Readiness]:
    """Whether the service answers searches; that it does not is an answer, too."""
    decode = _json(functools.partial(checked, Readiness))
    return Call(method="GET", path="/readyz", content={}, decode=decode, answers=frozenset({200, 503}))


def reload() -> Call[Reload]:
    """Have the service move to the index's current generation."""
    decode = _json(functools.partial(checked, Reload))
    return Call(method="POST", path="/v1/admin/reload", content={}, decode=decode)


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


def _json(reader: Callable[..., T], *more: Any) -> Callable[[httpx.Response], T]:
    """Read the JSON of a response by a reader, which gets more arguments after it."""
    return lambda response: reader(response.json(), *more)


def _picture(response: httpx.Response) -> bytes:
    kind = response.headers.get("Content-Type", "")
    if not kind.startswith("image/"):
        raise UnexpectedAnswer(f"content type {kind!r}; expected an image")
    return response.content
