"""The page at ``/``, where people search, and the files that it loads.

Nothing comes from elsewhere, and the policy that is sent with the page has the browser refuse anything that would: no
script or style inside the page, none of another origin. Pictures may come from a tile server, where one is configured.
"""

from __future__ import annotations

import gzip
import hashlib
import mimetypes
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import orjson
from fastapi import APIRouter, Header, HTTPException
from starlette.responses import Response

from sscm.errors import ConfigError

WEB = Path(__file__).parent / "web"
"""Where the files lie."""

_REFERENCE = "vendor/swagger"  # /docs serves this
_COMPRESSED = frozenset({"text/css", "text/html", "text/javascript", "application/json", "image/svg+xml"})
_TYPES = {".js": "text/javascript", ".json": "application/json"}  # as the machine's own table may not have it
_SETTINGS = "settings.json"


def page_policy(tiles: str | None = None) -> str:
    """The page's Content-Security-Policy.

    Args:
        tiles: URL template of a tile server.
    """
    images = " ".join(["'self'", "data:", "blob:", *_origins(tiles)])
    return (
        f"default-src 'self'; img-src {images}; object-src 'none'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )


def page_routes(tiles: str | None = None, attribution: str | None = None) -> APIRouter:
    """Routes of the page and its files; these are read once, here.

    Args:
        tiles: URL template of a tile server for the map's ground, with ``{z}``, ``{x}`` and ``{y}``, of this origin or
            another; coastlines and borders alone are shown where there is none.
        attribution: what the tile server wants said on the map, plain text.

    Raises:
        ConfigError: the template cannot be one.
    """
    if tiles is not None:
        _require_template(tiles)
    policy = page_policy(tiles)
    files = {name: _File.read(WEB / name) for name in _names()}
    files[_SETTINGS] = _File.of(orjson.dumps({"tiles": tiles, "attribution": attribution}), "application/json")
    page = files.pop("index.html")
    router = APIRouter(include_in_schema=False)

    @router.get("/")
    async def start(
        accept_encoding: Annotated[str, Header()] = "", if_none_match: Annotated[str, Header()] = ""
    ) -> Response:
        answer = page.answer(accept_encoding, if_none_match)
        answer.headers["Content-Security-Policy"] = policy
        return answer

    @router.get("/page/{name:path}")
    async def file(
        name: str, accept_encoding: Annotated[str, Header()] = "", if_none_match: Annotated[str, Header()] = ""
    ) -> Response:
        if name not in files:
            raise HTTPException(404)
        return files[name].answer(accept_encoding, if_none_match)

    return router


@dataclass(frozen=True)
class _File:
    """A file as it is sent: as it is, or compressed for who takes that."""

    kind: str
    plain: bytes
    packed: bytes | None
    tag: str

    @classmethod
    def read(cls, path: Path) -> _File:
        kind = _TYPES.get(path.suffix) or mimetypes.guess_type(path.name)[0] or "text/plain"
        return cls.of(path.read_bytes(), kind)

    @classmethod
    def of(cls, content: bytes, kind: str) -> _File:
        packed = gzip.compress(content, 6, mtime=0) if kind in _COMPRESSED else None
        return cls(kind, content, packed, f'"{hashlib.sha256(content).hexdigest()[:24]}"')

    def answer(self, accepted: str, known: str) -> Response:
        """The answer to a request; an empty one, 304, where the browser has this very content.

        Args:
            accepted: the request's Accept-Encoding.
            known: its If-None-Match.
        """
        # A browser asks each time whether it has the newest: files of two versions never work together.
        headers = {"ETag": self.tag, "Cache-Control": "no-cache", "Vary": "Accept-Encoding"}
        if self.tag in known:
            return Response(status_code=304, headers=headers)
        if self.packed is not None and "gzip" in accepted:
            return Response(self.packed, headers={**headers, "Content-Encoding": "gzip"}, media_type=self.kind)
        return Response(self.plain, headers=headers, media_type=self.kind)


def _names() -> list[str]:
    paths = sorted(path.relative_to(WEB).as_posix() for path in WEB.rglob("*") if path.is_file())
    return [path for path in paths if not path.startswith(_REFERENCE)]


def _origins(tiles: str | None) -> list[str]:
    """Origins that tiles come from, as a policy names them; none where it is our own."""
    if tiles is None or "://" not in tiles:
        return []
    parts = urlsplit(tiles)
    hosts = [parts.netloc.replace("{s}", part) for part in "abc"]  # the map's subdomains, unless it is told others
    return [f"{parts.scheme}://{host}" for host in dict.fromkeys(hosts)]


def _require_template(tiles: str) -> None:
    wanted = "expected a URL with {z}, {x} and {y}, such as https://tiles.example.org/{z}/{x}/{y}.png"
    if missing := [part for part in ("{z}", "{x}", "{y}") if part not in tiles]:
        raise ConfigError(f"tiles {tiles!r} lacks {', '.join(missing)}; {wanted}")
    ours = tiles.startswith("/") and not tiles.startswith("//")
    parts = urlsplit(tiles)
    host = parts.netloc.replace("{s}", "s")
    if not ours and (parts.scheme not in ("http", "https") or not host or not set(host) <= _HOST):
        raise ConfigError(f"tiles {tiles!r} is no http or https URL; {wanted}")


_HOST = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-:[]")
"""What a host and a port are written in: nothing that would end a part of the policy."""
