"""Pages of answers: which part of them is asked for, and the token that says where the next one starts.

A page is the answers from one rank to another. Every page is searched for anew, so that a token only holds if the same
query meets the same generation of the index: it says for which it was made. Lists of items go on from a row of a shard.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

import orjson

from serve.api import GEOJSON, MAX_LIMIT, Filters
from serve.messages import Listed, ShardQuery
from sscm.errors import QueryError

_OF_ANOTHER = (
    "token was made for another query; send it with the query that it was given for (only limit may change), or ask "
    "without it"
)
MAX_WINDOW = 10_000
"""Last rank that pages reach: each shard searches and sends all answers up to the end of a page."""


@dataclass(frozen=True, kw_only=True)
class Page:
    """Which of the answers are asked for.

    Args:
        limit: how many.
        offset: how many better ones are passed over.
        query: digest of the query that it continues; None for a first page.
        followed: whether the next page can be asked for with a token.

    Raises:
        QueryError: it reaches beyond :data:`MAX_WINDOW`.
    """

    limit: int
    offset: int = 0
    query: str | None = None
    followed: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "limit", min(self.limit, MAX_LIMIT))
        if self.end > MAX_WINDOW:
            raise QueryError(
                f"answers {self.offset + 1} to {self.end} are asked for; pages reach to {MAX_WINDOW}: ask with limit "
                f"{MAX_WINDOW - self.offset} or less, or for fewer with a filter or min_score"
            )

    @property
    def end(self) -> int:
        """Rank of its last answer."""
        return self.offset + self.limit

    def require(self, queries: Sequence[ShardQuery]) -> None:
        """Check that it continues these queries; raises QueryError where it was made for others."""
        if self.query is not None and self.query != digest(queries):
            raise QueryError(_OF_ANOTHER)

    def links(self, query: str, generation: int) -> list[dict[str, Any]]:
        """The link to the next page, as STAC API has it for POST; none where pages reach no further."""
        limit = min(self.limit, MAX_WINDOW - self.end)
        if not self.followed or limit < 1:
            return []
        token = _token({"generation": generation, "offset": self.end, "query": query})
        where = {"rel": "next", "href": "/v1/search", "method": "POST", "type": GEOJSON}
        return [{**where, "body": {"token": token, "limit": limit}, "merge": True}]


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a search asks for, whatever it searches by.

    Args:
        targets: modalities searched, each once.
        page: which of the answers.
        filters: which items may answer.
        least: least score of an answer; None for any.
    """

    targets: tuple[str, ...]
    page: Page
    filters: Filters = field(default_factory=Filters)
    least: float | None = None


def read_page(limit: int, token: str | None, generation: int) -> Page:
    """The page that a token asks for; the first one without.

    Args:
        limit: how many answers.
        token: from the link to the next page.
        generation: number of the generation that is served.

    Raises:
        QueryError: the token is none, or of another generation.
    """
    if token is None:
        return Page(limit=limit, followed=True)
    value = _read(token, {"generation": int, "offset": int, "query": str})
    if not 1 <= value["offset"] < MAX_WINDOW:
        raise QueryError(_no_token(token))
    _require_generation(value["generation"], generation)
    return Page(limit=limit, offset=value["offset"], query=value["query"], followed=True)


@dataclass(frozen=True, kw_only=True)
class ItemsPage:
    """Which of the items that pass a filter are asked for: so many, from a row of a shard on.

    Args:
        limit: how many.
        shard: number of the shard that the page begins in.
        row: number of its row there.
        filters: digest of the filters that it continues; None for a first page.
    """

    limit: int
    shard: int = 0
    row: int = 0
    filters: str | None = None

    def require(self, text: str | None) -> None:
        """Check that it continues a list of the same filters; raises QueryError where it was made for others."""
        if self.filters is not None and self.filters != _digest_of(text):
            raise QueryError(_OF_ANOTHER)

    def first_of(self, shard: int) -> int:
        """Number of the row of a shard that the page begins with there."""
        return self.row if shard == self.shard else 0

    def room_of(self, shard: int) -> int:
        """Most items that it takes from a shard."""
        return 0 if shard < self.shard else self.limit

    def taken(self, lists: Sequence[Listed], numbers: Sequence[int]) -> tuple[list[bytes], tuple[int, int] | None]:
        """The items of the page, of what each shard gave; and shard and row that the next one begins with, if any."""
        items: list[bytes] = []
        for number, listed in zip(numbers, lists, strict=True):
            if number < self.shard:
                continue
            room = self.limit - len(items)
            items += listed.items[:room]
            if len(listed.items) > room:
                return items, (number, listed.rows[room])
            if listed.following is not None:
                return items, (number, listed.following)
        return items, None

    def links(
        self, following: tuple[int, int], text: str | None, generation: int, asked: Mapping[str, str]
    ) -> list[dict[str, Any]]:
        """The link to the next page.

        Args:
            following: shard and row that it begins with.
            text: the filters.
            generation: number of the generation.
            asked: the query string of the filters, name → value.
        """
        shard, row = following
        value = {"generation": generation, "shard": shard, "row": row, "filters": _digest_of(text)}
        query = urlencode({**asked, "limit": self.limit, "token": _token(value)})
        return [{"rel": "next", "href": f"/v1/items?{query}", "method": "GET", "type": GEOJSON}]


def read_items_page(limit: int, token: str | None, generation: int) -> ItemsPage:
    """The page of items that a token asks for; the first one without.

    Raises:
        QueryError: the token is none, or of another generation.
    """
    limit = min(limit, MAX_LIMIT)
    if token is None:
        return ItemsPage(limit=limit)
    value = _read(token, {"generation": int, "shard": int, "row": int, "filters": str})
    if min(value["shard"], value["row"]) < 0 or max(value["shard"], value["row"]) >= 2**62:
        raise QueryError(_no_token(token))
    _require_generation(value["generation"], generation)
    return ItemsPage(limit=limit, shard=value["shard"], row=value["row"], filters=value["filters"])


def _token(value: Mapping[str, Any]) -> str:
    return base64.urlsafe_b64encode(orjson.dumps(value)).decode().rstrip("=")


def _read(token: str, fields: Mapping[str, type]) -> dict[str, Any]:
    try:
        value = json.loads(base64.urlsafe_b64decode(token.encode("ascii") + b"=" * (-len(token) % 4)))
        if not isinstance(value, dict) or any(type(value.get(name)) is not kind for name, kind in fields.items()):
            raise ValueError(value)
    except (ValueError, TypeError, RecursionError, binascii.Error) as error:
        raise QueryError(_no_token(token)) from error
    return value


def _no_token(token: str) -> str:
    shown = token if len(token) <= 40 else f"{token[:39]}…"
    return f"token {shown!r} is none of this service; take it from the link with rel next"


def _require_generation(made: int, generation: int) -> None:
    if made != generation:
        raise QueryError(f"token is of generation {made} of the index, and {generation} is served now; ask without it")


def _digest_of(text: str | None) -> str:
    return hashlib.sha256((text or "").encode()).hexdigest()[:16]


def digest(queries: Sequence[ShardQuery]) -> str:
    """What tells queries, one a target, from others, whatever part of the answers is asked for."""
    asked = [
        [query.target, query.filter and query.filter.key(), query.least, sorted(query.exclude)] for query in queries
    ]
    return hashlib.sha256(queries[0].vector.tobytes() + orjson.dumps(asked)).hexdigest()[:16]
