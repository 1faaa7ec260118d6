"""Doing again what failed for a moment: which faults pass, how long to wait, when to give up.

A store that is overloaded, restarts or is cut off says so by throttling (503 ``SlowDown``, 429), by another 5xx, by a
connection that is refused, reset or silent, or by a body that ends early. All of these pass, so that the same operation
is tried again with longer and longer pauses until :data:`PATIENCE` is used up. A refusal (403) passes rarely - new
rights and new credentials take a moment to reach every node of a store - and is tried a few times only. Everything
else, a missing file for one, is final.
"""

from __future__ import annotations

import errno
import logging
import random
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

PATIENCE = 75.0
"""Seconds after which a failing operation is not begun again: a store that is away for a minute, while a node restarts
or a load balancer moves, is survived with a margin; longer than that, somebody has to look."""
ATTEMPTS = 20
"""Attempts in all at one storage operation; :data:`PATIENCE` ends most series before."""
REFUSALS = 3
"""Attempts in all where the store refuses (403): more would only delay the message that the rights are wrong."""
FIRST_WAIT = 0.1
"""Seconds before the second attempt: most faults of a single request have passed by then."""
LONGEST_WAIT = 10.0
"""Seconds between later attempts at most, so that a store that is back is noticed soon."""
TELL_AFTER = 5.0
"""Seconds of failing after which a line is logged: a mistyped endpoint looks like a store that is away."""

_PASSING_CODES = frozenset(
    {
        "SlowDown",
        "Throttling",
        "ThrottlingException",
        "RequestLimitExceeded",
        "TooManyRequests",
        "RequestTimeout",
        "InternalError",
        "ServiceUnavailable",
        "OperationAborted",
        "ConditionalRequestConflict",  # two conditional writes met: S3 asks to send it again
        "BadDigest",  # altered on the way
        "IncompleteBody",
        "XAmzContentSHA256Mismatch",
        "NoSuchUpload",  # a multipart upload whose end was not heard of: the file is sent anew
    }
)
_PASSING_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
_PASSING_ERRNO = frozenset({errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN, errno.EHOSTDOWN})
_PASSING_CLASSES = frozenset(
    {
        ("botocore", "ConnectionError"),  # no connection: refused, timed out, no such host
        ("botocore", "HTTPClientError"),  # one that broke or fell silent
        ("botocore", "ResponseParserError"),  # an answer cut short
        ("botocore", "IncompleteReadError"),
        ("botocore", "ChecksumError"),  # altered on the way
        ("botocore", "FlexibleChecksumError"),
        ("aiohttp", "ClientConnectionError"),
        ("aiohttp", "ClientPayloadError"),  # a body cut short
        ("urllib3", "IncompleteRead"),
        ("http", "IncompleteRead"),
    }
)
_FINAL_CLASSES = frozenset(
    {
        ("botocore", "SSLError"),  # a certificate does not mend itself
        ("aiohttp", "ClientSSLError"),
        ("ssl", "SSLCertVerificationError"),
    }
)
_MOST_CAUSES = 8

T = TypeVar("T")
_log = logging.getLogger(__name__)


class TruncatedError(ConnectionError):
    """Fewer bytes came, or were kept, than were sent."""


def retrying(
    action: Callable[[], T],
    attempts: int | None = None,
    first_wait: float | None = None,
    patience: float | None = None,
) -> T:
    """Do something that may fail for a moment, with a limit.

    Args:
        action: what to do; it must bear being done twice.
        attempts: how often in all; by default :data:`ATTEMPTS`.
        first_wait: seconds before the second attempt, doubled each time up to :data:`LONGEST_WAIT`; by default
            :data:`FIRST_WAIT`. Up to half of it is taken off by chance, so that workers do not return all at once.
        patience: seconds after which no further attempt begins; by default :data:`PATIENCE`.

    Raises:
        Exception: the last attempt's, or any that does not pass, at once.
    """
    attempts = ATTEMPTS if attempts is None else attempts
    if attempts < 1:
        raise ValueError(f"attempts = {attempts}; expected at least 1")
    wait = FIRST_WAIT if first_wait is None else first_wait
    began = time.monotonic()
    end = began + (PATIENCE if patience is None else patience)
    refusals, told = 0, False
    for attempt in range(1, attempts + 1):
        try:
            return action()
        except Exception as error:
            if is_refusal(error):
                refusals += 1
            elif not is_passing(error):
                raise
            pause = min(wait, LONGEST_WAIT) * random.uniform(0.5, 1.0)
            now = time.monotonic()
            if attempt == attempts or refusals >= REFUSALS or now + pause > end:
                raise
            if not told and now - began > TELL_AFTER:
                _log.warning("storage does not answer well (%s); trying for %.0f s more", _named(error), end - now)
                told = True
        time.sleep(pause)
        wait *= 2
    raise AssertionError("the last attempt returns or raises")


def is_passing(error: BaseException) -> bool:
    """Whether an error is one of those that are gone a moment later."""
    for link in _chain(error):
        if _is_of(link, _FINAL_CLASSES):
            return False
        code, status = _answer(link)
        if code in _PASSING_CODES or status in _PASSING_STATUS:
            return True
        if isinstance(link, (ConnectionError, TimeoutError, InterruptedError)) or _is_of(link, _PASSING_CLASSES):
            return True
        if isinstance(link, OSError) and link.errno in _PASSING_ERRNO:
            return True
    return False


def is_refusal(error: BaseException) -> bool:
    """Whether a store refused (403); what the operating system refuses has an ``errno`` and is no such thing."""
    if isinstance(error, PermissionError):
        return error.errno is None
    return status_of(error) == 403


def status_of(error: BaseException) -> int | None:
    """HTTP status that an error goes back to."""
    return next((status for link in _chain(error) if (status := _answer(link)[1]) is not None), None)


def _answer(error: BaseException) -> tuple[str | None, int | None]:
    """Error code and HTTP status of a store's answer, as the clients of S3, HTTP, Google and Azure keep them."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):  # botocore's ClientError
        code = response.get("Error", {}).get("Code")
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        if status is None and isinstance(code, str) and code.isdecimal():
            status = int(code)
        return code, status
    for name in ("status", "status_code", "code"):
        value: Any = getattr(error, name, None)
        if isinstance(value, int) and not isinstance(value, bool):
            return None, value
    return None, None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and what it was raised from."""
    link: BaseException | None = error
    for _ in range(_MOST_CAUSES):
        if link is None:
            return
        yield link
        link = link.__cause__


def _is_of(error: BaseException, classes: frozenset[tuple[str, str]]) -> bool:
    """Whether an error is of a class of a package; names, so that no client need be imported to tell."""
    return any((kind.__module__.partition(".")[0], kind.__name__) in classes for kind in type(error).__mro__)


def _named(error: BaseException) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
