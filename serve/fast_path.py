"""A short way to the routes that are asked thousands of times a second.

FastAPI finds a route, makes contexts for dependencies and for exceptions, and takes as long for that as the answer
does. A request for one of these routes goes straight to its function; the rest, and the description, is FastAPI's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send


class FastPath:
    """ASGI middleware.

    Args:
        app: what answers everything else.
        routes: method and path → route whose function takes the request alone.
        told: the answer to an exception; None where it is not one to be answered.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        routes: Mapping[tuple[str, str], Any],
        told: Callable[[Exception], Response | None],
    ) -> None:
        self.app = app
        self.routes = dict(routes)
        self.told = told

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        route = self.routes.get((scope["method"], scope["path"])) if scope["type"] == "http" else None
        if route is None:
            await self.app(scope, receive, send)
            return
        scope["route"] = route  # requests are counted by it
        try:
            response = await route.endpoint(Request(scope, receive))
        except Exception as error:
            told = self.told(error)
            if told is None:
                raise
            response = told
        await response(scope, receive, send)
