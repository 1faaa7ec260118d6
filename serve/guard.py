"""What holds for every request: a deadline, a largest body, and being counted."""

from __future__ import annotations

import asyncio
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.api import problem
from serve.metrics import GatewayMetrics

CLIENT_LEFT = 499
"""Status under which requests are counted whose client did not wait for the answer."""


class Guard:
    """ASGI middleware.

    Args:
        app: the application.
        metrics: where requests are counted, by route template, so that ids make no label.
        deadline_s: longest time of a request, seconds; then 504.
        max_body_bytes: largest body; a larger one is refused with 413, as soon as its length is told or reached.
    """

    def __init__(self, app: ASGIApp, metrics: GatewayMetrics, deadline_s: float, max_body_bytes: int) -> None:
        self.app = app
        self.metrics = metrics
        self.deadline_s = deadline_s
        self.max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        exchange = _Exchange(scope, receive, send, self.max_body_bytes)
        start = time.perf_counter()
        try:
            if exchange.told_length > self.max_body_bytes:
                exchange.too_large = True
                await exchange.refuse(413, self._too_large(exchange.told_length))
                return
            try:
                async with asyncio.timeout(self.deadline_s) as timer:
                    await self.app(scope, exchange.receive, exchange.send)
            except TimeoutError:
                if not timer.expired():
                    raise
                await exchange.refuse(
                    504, f"not answered within {self.deadline_s:g} s; try again, or with a lower limit or fewer filters"
                )
            if exchange.too_large:
                await exchange.refuse(413, self._too_large(exchange.received))
        except asyncio.CancelledError:
            exchange.status = exchange.status or CLIENT_LEFT
            raise
        except Exception:
            exchange.status = exchange.status or 500
            raise
        finally:
            route = getattr(scope.get("route"), "path", "unknown")
            self.metrics.requests.inc(route, str(exchange.status))
            self.metrics.latency.observe(time.perf_counter() - start, route)

    def _too_large(self, size: int) -> str:
        return f"body of {size} bytes or more; expected at most {self.max_body_bytes} (--max-upload-mb of `sscm serve`)"


class _Exchange:
    """One request's messages as they pass."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, limit: int) -> None:
        self._scope, self._receive, self._send, self._limit = scope, receive, send, limit
        self.status = 0
        self.received = 0
        self.too_large = False
        length = dict(scope["headers"]).get(b"content-length", b"0")
        self.told_length = int(length) if length.isdigit() else 0

    async def receive(self) -> Message:
        """The next message from the client; a body over the limit ends there."""
        message = await self._receive()
        if message["type"] == "http.request":
            self.received += len(message.get("body", b""))
            if self.received > self._limit:
                self.too_large = True
                return {"type": "http.disconnect"}
        return message

    async def send(self, message: Message) -> None:
        """Pass a message to the client, unless the request is to be refused."""
        if self.too_large and not self.status:
            return
        if message["type"] == "http.response.start":
            self.status = message["status"]
        await self._send(message)

    async def refuse(self, status: int, detail: str) -> None:
        """Answer with a problem, unless an answer has begun."""
        if self.status:
            return
        self.status = status
        await problem(status, detail)(self._scope, self._receive, self._send)
