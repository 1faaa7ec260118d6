"""The API's description for people: Swagger UI at ``/docs``, without a request to anywhere else.

FastAPI's own page loads Swagger UI from a content delivery network, which a machine without Internet cannot and which
would let somebody else's server run scripts beside the user's key. Ours is swagger-ui-dist 5.35.0 from npm, in
``web/vendor/swagger`` with its licence.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import FastAPI
from starlette.responses import HTMLResponse, Response

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
"""What the page may load. Swagger UI sets styles on elements, and its icons are data URLs."""

_FILES = {"swagger-ui-bundle.js": "text/javascript", "swagger-ui.css": "text/css"}
_AGE_S = 3600
"""Seconds for which a browser may keep Swagger UI."""
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>sscm: API</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="docs/swagger-ui.css">
</head>
<body>
<div id="swagger-ui"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</body>
</html>
"""
_START = """SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  validatorUrl: null,
});
"""


def add_reference(api: FastAPI) -> None:
    """Add ``/docs`` and what it loads to an application."""
    folder = Path(__file__).parent / "web" / "vendor" / "swagger"
    _add_file(api, "start.js", "text/javascript", _START.encode())
    for name, kind in _FILES.items():
        _add_file(api, name, kind, (folder / name).read_bytes())

    @api.get("/docs", include_in_schema=False)
    async def reference() -> HTMLResponse:
        return HTMLResponse(_PAGE, headers={"Content-Security-Policy": POLICY})


def describe_keys(api: FastAPI) -> None:
    """Say in the description that routes want a key, and how it is sent; Swagger UI then asks for it."""
    plain = api.openapi

    def described() -> dict[str, Any]:
        document = plain()
        document.setdefault("components", {})["securitySchemes"] = {
            "bearer": {"type": "http", "scheme": "bearer"},
            "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
        }
        document["security"] = [{"bearer": []}, {"header": []}]
        for path in ("/livez", "/readyz"):
            for operation in document["paths"].get(path, {}).values():
                operation["security"] = []
        return document

    api.openapi = described  # type: ignore[method-assign]


def _add_file(api: FastAPI, name: str, kind: str, content: bytes) -> None:
    @api.get(f"/docs/{name}", include_in_schema=False)
    async def file() -> Response:
        return Response(content, media_type=kind, headers={"Cache-Control": f"public, max-age={_AGE_S}"})
