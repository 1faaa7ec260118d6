"""Pages of answers: which part of them is asked for, and the token that says where the next one starts.

A page is the answers from one rank to another. Every page is searched for anew, so that a token only holds if the same
query meets the same generation of the index: it says for which it was made.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

from serve.api import GEOJSON, MAX_LIMIT, Filters
from serve.messages import ShardQuery
from sscm.errors import QueryError

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

    def require(self, query: str) -> None:
        """Check that it continues a query; raises QueryError where it was made for another."""
        if self.query is not None and self.query != query:
            raise QueryError(
                "token was made for another query; send it with the query that it was given for (only limit may "
                "change), or ask without it"
            )

    def links(self, query: str, generation: int) -> list[dict[str, Any]]:
        """The link to the next page, as STAC API has it for POST; none where pages reach no further."""
        limit = min(self.limit, MAX_WINDOW - self.end)
        if not self.followed or limit < 1:
            return []
        value = json.dumps({"generation": generation, "offset": self.end, "query": query})
        token = base64.urlsafe_b64encode(value.encode()).decode().rstrip("=")
        where = {"rel": "next", "href": "/v1/search", "method": "POST", "type": GEOJSON}
        return [{**where, "body": {"token": token, "limit": limit}, "merge": True}]


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a search asks for, whatever it searches by.

    Args:
        target: modality searched.
        page: which of the answers.
        filters: which items may answer.
        least: least score of an answer; None for any.
    """

    target: str
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
    try:
        value = json.loads(base64.urlsafe_b64decode(token.encode("ascii") + b"=" * (-len(token) % 4)))
        made, offset, query = value["generation"], value["offset"], value["query"]
        if (
            type(made) is not int
            or type(offset) is not int
            or not 1 <= offset < MAX_WINDOW
            or not isinstance(query, str)
        ):
            raise ValueError(value)
    except (ValueError, TypeError, KeyError, RecursionError, binascii.Error) as error:
        shown = token if len(token) <= 40 else f"{token[:39]}…"
        raise QueryError(f"token {shown!r} is none of this service; take it from the link with rel next") from error
    if made != generation:
        raise QueryError(f"token is of generation {made} of the index, and {generation} is served now; ask without it")
    return Page(limit=limit, offset=offset, query=query, followed=True)


def digest(query: ShardQuery) -> str:
    """What tells a query from another, whatever part of the answers is asked for."""
    restriction = query.filter and query.filter.key()
    asked = json.dumps([query.target, restriction, query.least, sorted(query.exclude)])
    return hashlib.sha256(query.vector.tobytes() + asked.encode()).hexdigest()[:16]
