"""A call of the service: one request, and how its answer is read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, NoReturn, TypeVar

import httpx

from sscm.client.reading import UnexpectedAnswer
from sscm.errors import ServiceError

T_co = TypeVar("T_co", covariant=True)


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
