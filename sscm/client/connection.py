"""Where a service is, with which key and how patiently it is asked."""

from __future__ import annotations

import os
from typing import Any

import httpx

from sscm.errors import ServiceError
from sscm.version import code_version

URL = "http://127.0.0.1:8000"
"""Where `sscm serve` listens by default."""
KEY_VARIABLE = "SSCM_API_KEY"
"""Environment variable that the key is taken from where none is given."""
TIMEOUT_S = 30.0
"""Longest wait for an answer, seconds: above the service's own deadline, whose message says more."""
CONNECT_S = 5.0
"""Longest wait for a connection, seconds: a host that takes longer is not there."""
ATTEMPTS = 4
"""Requests in all where the service is overloaded, just starting or out of reach."""


class Connection:
    """Settings of a client, checked when made.

    Args:
        url: where the service is; it may lie below a path.
        api_key: key, for a service that wants one; None for that of the environment variable ``SSCM_API_KEY``, if any.
        timeout_s: longest wait for one answer, seconds.
        attempts: requests in all for one call.

    Raises:
        ServiceError: one of them cannot be.
    """

    def __init__(self, url: str, api_key: str | None, timeout_s: float, attempts: int) -> None:
        self.url = url.rstrip("/")
        self.timeout_s = timeout_s
        self.attempts = attempts
        try:
            parsed = httpx.URL(url)
        except (httpx.InvalidURL, ValueError) as error:
            raise ServiceError(f"{url!r} is no URL ({error}); expected one like {URL}") from error
        if parsed.scheme not in ("http", "https") or not parsed.host:
            raise ServiceError(f"{url!r} is no URL of a service; expected one like {URL}")
        if not timeout_s > 0:
            raise ServiceError(f"timeout_s = {timeout_s}; expected more than 0")
        if attempts < 1:
            raise ServiceError(f"attempts = {attempts}; expected at least 1")
        key = os.environ.get(KEY_VARIABLE) if api_key is None else api_key
        if key and not (key.isascii() and key.isprintable() and " " not in key):
            raise ServiceError("the API key has characters that no HTTP header can have; expected printable ASCII")
        self._key = key

    def options(self) -> dict[str, Any]:
        """What an httpx client is made with."""
        headers = {"User-Agent": f"sscm/{code_version()}"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        # A call that waits for a free connection waits for other calls, each of which has its own limit.
        timeout = httpx.Timeout(self.timeout_s, connect=min(CONNECT_S, self.timeout_s), pool=None)
        return {"base_url": self.url, "headers": headers, "timeout": timeout}
