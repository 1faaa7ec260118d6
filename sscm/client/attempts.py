"""When a call is sent again, and after how long: decided here, without a socket or a clock of its own."""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Callable
from datetime import UTC
from email.utils import parsedate_to_datetime
from http import HTTPStatus

import httpx

from sscm.client.call import Call
from sscm.client.connection import URL, Connection
from sscm.errors import ServiceError

FIRST_WAIT_S = 0.25
"""Seconds before the second attempt; doubled each time, unless the service says how long to wait."""
PATIENCE_S = 60.0
"""No attempt starts later than this after the first one, seconds, whatever the service says."""

_PASSING = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)
_BROKEN = (httpx.NetworkError, httpx.RemoteProtocolError, httpx.ConnectTimeout)
"""No connection, or one that ended before the answer did."""


class Attempts:
    """The attempts of one call: tells after each whether, and when, to try once more.

    Every call is a read, or changes nothing when repeated, so that it may be sent again though it may have been
    answered. A refusal other than 429 and 503 would be repeated: it is not asked for.

    Args:
        connection: whom the call goes to.
        call: the call.
        now: seconds of a clock that only goes forward.
        wall: seconds since 1970, which a date in ``Retry-After`` is compared with.
        draw: a random number from 0 to 1: clients that were refused together do not come back together.
    """

    def __init__(
        self,
        connection: Connection,
        call: Call[object],
        *,
        now: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._connection, self._call = connection, call
        self._now, self._wall, self._draw = now, wall, draw
        self._until = now() + PATIENCE_S
        self._made = 0
        self.request_id = uuid.uuid4().hex
        """Sent with each attempt as ``X-Request-ID``: the service's log has it, too."""

    def after(self, response: httpx.Response) -> float | None:
        """Seconds to wait before another attempt; None where the response is to be read."""
        self._made += 1
        if response.status_code not in _PASSING or response.status_code in self._call.answers:
            return None
        wished = _wished(response.headers.get("Retry-After", ""), self._wall())
        return self._wait(wished)

    def after_failure(self, error: httpx.HTTPError) -> float:
        """Seconds to wait before another attempt, where there was no response.

        Raises:
            ServiceError: it is not worth another, or there were enough.
        """
        self._made += 1
        wait = self._wait(None) if isinstance(error, _BROKEN) else None
        if wait is not None:
            return wait
        url = self._connection.url
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
            why = f"no server answers at {url} ({_words(error)}); start one with `sscm serve`"
        elif isinstance(error, httpx.TimeoutException):
            why = f"{url} did not answer within {self._connection.timeout_s:g} s; ask again, or for less"
        elif isinstance(error, _BROKEN):
            why = f"{url} broke the connection off ({_words(error)}); ask again in a moment"
        else:
            why = f"{url}: {_words(error)}; expected an sscm service, such as {URL}"
        raise ServiceError(f"{why} {self.named}") from error

    @property
    def named(self) -> str:
        """What errors name the call by."""
        times = f", asked {self._made} times" if self._made > 1 else ""
        return f"[request {self.request_id}{times}]"

    def _wait(self, wished: float | None) -> float | None:
        """Seconds until the next attempt; None where none is left, or none in time."""
        if self._made >= self._connection.attempts:
            return None
        if wished is None:
            wait = FIRST_WAIT_S * 2 ** (self._made - 1) * (0.5 + 0.5 * self._draw())
        else:
            wait = wished + FIRST_WAIT_S * self._draw()  # never earlier than it said
        return wait if self._now() + wait <= self._until else None


def _wished(told: str, wall: float) -> float | None:
    """Seconds that a ``Retry-After`` header asks for (RFC 9110, 10.2.3); None where it says nothing."""
    if told.isascii() and told.isdigit():
        return float(told)
    try:
        date = parsedate_to_datetime(told)
    except (ValueError, TypeError):
        return None
    # HTTP dates are GMT; one without a zone is read as that.
    return max(0.0, (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - wall)


def _words(error: Exception) -> str:
    return str(error) or type(error).__name__
