"""Headers that every answer has: what browsers may do with it, and which pages of other origins may read it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

Header = tuple[bytes, bytes]

_ALWAYS: tuple[Header, ...] = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"x-frame-options", b"DENY"),
)
_POLICY = b"content-security-policy"
_NOTHING: Header = (_POLICY, b"default-src 'none'; frame-ancestors 'none'")
_PREFLIGHT_S = 600
"""Seconds for which a browser may remember what a preflight said."""


class AnswerHeaders:
    """Security headers of all answers, and CORS headers for the origins named.

    A key travels in a header that a page has to set itself, never in a cookie, so that credentials are not allowed to
    pages: nothing is to be had with a visitor's browser that the page could not have without it.

    Args:
        origins: origins whose pages may read answers, e.g. ``https://map.example.org``.
    """

    def __init__(self, origins: Sequence[str] = ()) -> None:
        self._origins = frozenset(origin.encode("ascii") for origin in origins)
        self._base = (*_ALWAYS, (b"vary", b"Origin")) if origins else _ALWAYS

    def added(self, headers: Iterable[Header], origin: bytes | None) -> list[Header]:
        """An answer's headers with those that are missing.

        Args:
            headers: of the answer; a Content-Security-Policy among them stays, any other answer may load nothing.
            origin: the request's Origin header.
        """
        result = [*headers, *self._base]
        if all(name != _POLICY for name, _ in result):
            result.append(_NOTHING)
        if origin is not None and origin in self._origins:
            result.append((b"access-control-allow-origin", origin))
            result.append((b"access-control-expose-headers", b"Retry-After, X-Request-ID"))
        return result

    def preflight(self, method: str, told: Mapping[bytes, bytes]) -> list[Header] | None:
        """What a browser is answered that asks whether a page may send a request; None where it does not ask that.

        Args:
            method: HTTP method of the request.
            told: its headers.
        """
        if method != "OPTIONS" or not self._origins or b"access-control-request-method" not in told:
            return None
        if told.get(b"origin") not in self._origins:
            return []  # without an allowed origin the browser refuses the page
        return [
            (b"access-control-allow-methods", b"GET, POST"),
            (b"access-control-allow-headers", b"Authorization, Content-Type, X-API-Key, X-Request-ID"),
            (b"access-control-max-age", str(_PREFLIGHT_S).encode()),
        ]
