"""What holds for every request: who may ask, how many, how long, how large; and that it is counted and logged.

It is on the path of thousands of requests a second: plain ASGI, one pass over the headers, nothing copied.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ray.serve import get_replica_context
from ray.serve.exceptions import RayServeException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.api import problem
from serve.auth import HEADERS, Access, KeyRing
from serve.headers import AnswerHeaders, Header
from serve.logs import LogFormat, RequestLine, log_request, request_id
from serve.metrics import GatewayMetrics

CLIENT_LEFT = 499
"""Status under which requests are counted whose client did not wait for the answer."""
MAX_ID = 128
"""Longest request id that is taken from a client."""
PROBES = frozenset({"/livez", "/readyz", "/metrics"})
"""What machines ask every few seconds; always answered, whatever else there is to do."""

_READ = HEADERS | {
    b"access-control-request-method",
    b"content-length",
    b"origin",
    b"transfer-encoding",
    b"x-request-id",
}
_VISIBLE = bytes(range(0x21, 0x7F))


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What a service's settings say of every request.

    Args:
        keys: path or URI of a key file; None where no keys are needed.
        local: whether the service listens on a loopback address only.
        cors_origins: origins whose pages may read answers.
        max_in_flight: requests that a gateway has in hand; more are refused with 429.
        log_format: of the line that is written of each request.
    """

    keys: str | None = None
    local: bool = False
    cors_origins: tuple[str, ...] = ()
    max_in_flight: int = 512
    log_format: LogFormat = "json"

    def access(self) -> Access:
        """Who may ask; raises as :class:`serve.auth.KeyRing` where there is no such key file."""
        return Access(KeyRing(self.keys) if self.keys is not None else None, self.local)


class Guard:
    """ASGI middleware.

    A request's id is the client's ``X-Request-ID`` if that is at most 128 visible ASCII characters, else made here. It
    is in the answer's header and in problems and logs. Ray Serve puts the id that came, or one that it makes, into the
    answer by itself: inside it the header is added here only where the one that came is not taken.

    Args:
        app: the application.
        metrics: where requests are counted, by route template, so that ids make no label.
        deadline_s: longest time of a request, seconds; then 504, or 408 where its body is not there yet.
        max_body_bytes: largest body; a larger one is refused with 413, as soon as its length is told or reached.
        rules: what else holds.
        access: who may ask.
        replica: name of the gateway, for logs.
        generation: tells the number of the index generation that it answers from, for logs.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        metrics: GatewayMetrics,
        deadline_s: float,
        max_body_bytes: int,
        rules: Rules,
        access: Access,
        replica: str,
        generation: Callable[[], int],
    ) -> None:
        self.app = app
        self.metrics = metrics
        self.deadline_s = deadline_s
        self.max_body_bytes = max_body_bytes
        self.max_in_flight = rules.max_in_flight
        self.access = access
        self.replica = replica
        self.generation = generation
        self.tells_id = not inside_serve()
        self.headers = AnswerHeaders(rules.cors_origins)
        self.in_flight = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start = time.perf_counter()
        exchange = _Exchange(scope, receive, send, self)
        path = _path_below_root(scope)
        failure: Exception | None = None
        token = request_id.set(exchange.id)
        try:
            await self._answer(exchange, path)
        except asyncio.CancelledError:
            exchange.status = exchange.status or CLIENT_LEFT
            raise
        except Exception as error:
            failure = error
            if exchange.status and not exchange.ended:
                raise  # the server then cuts the connection, which tells the client that the answer is not whole
            await exchange.refuse(500, f"{type(error).__name__} in {path}; the server's log says more")
        finally:
            request_id.reset(token)
            seconds = time.perf_counter() - start
            route = getattr(scope.get("route"), "path", "unknown")
            self.metrics.requests.inc(route, str(exchange.status))
            self.metrics.latency.observe(seconds, route)
            line = RequestLine(
                exchange.id,
                scope["method"],
                route,
                exchange.status,
                round(1000 * seconds, 2),
                exchange.received,
                exchange.sent,
                exchange.client,
                self.generation(),
                self.replica,
            )
            log_request(line, failure, path in PROBES)

    async def _answer(self, exchange: _Exchange, path: str) -> None:
        preflight = self.headers.preflight(exchange.scope["method"], exchange.told)
        if preflight is not None:
            await exchange.send({"type": "http.response.start", "status": 204, "headers": preflight})
            await exchange.send({"type": "http.response.body", "body": b""})
            return
        exchange.client, refusal = self.access.admit(path, exchange.told)
        if refusal is not None:
            await exchange.refuse(refusal.status, refusal.detail, refusal.headers)
            return
        if path in PROBES:
            await self._limited(exchange)
            return
        if self.in_flight >= self.max_in_flight:
            await exchange.refuse(
                429, f"{self.in_flight} requests are being answered here; try again in a second", {"Retry-After": "1"}
            )
            return
        self.in_flight += 1
        try:
            await self._limited(exchange)
        finally:
            self.in_flight -= 1

    async def _limited(self, exchange: _Exchange) -> None:
        if exchange.told_length > self.max_body_bytes:
            exchange.too_large = True
            await exchange.refuse(413, self._too_large(exchange.told_length))
            return
        try:
            async with asyncio.timeout(self.deadline_s) as timer:
                await self.app(exchange.scope, exchange.receive, exchange.send)
        except ClientDisconnect:
            pass  # said by us or by the server; told below
        except TimeoutError:
            if not timer.expired():
                raise
            if exchange.reading:
                await exchange.refuse(
                    408, f"{exchange.received} bytes of the body came within {self.deadline_s:g} s; send it faster"
                )
            else:
                await exchange.refuse(
                    504, f"not answered within {self.deadline_s:g} s; try again, or with a lower limit or fewer filters"
                )
        if exchange.too_large:
            await exchange.refuse(413, self._too_large(exchange.received))
        elif exchange.left:
            exchange.status = exchange.status or CLIENT_LEFT

    def _too_large(self, size: int) -> str:
        return f"body of {size} bytes or more; expected at most {self.max_body_bytes} (--max-upload-mb of `sscm serve`)"


class _Exchange:
    """One request's messages as they pass."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, guard: Guard) -> None:
        self.scope, self._receive, self._send = scope, receive, send
        self._limit = guard.max_body_bytes
        self._headers = guard.headers
        self.told: dict[bytes, bytes] = {name: value for name, value in scope["headers"] if name in _READ}
        given = self.told.get(b"x-request-id", b"")
        taken = 0 < len(given) <= MAX_ID and not given.translate(None, _VISIBLE)
        self.id = given.decode("ascii") if taken else secrets.token_hex(16)
        self._tells_id = not taken or guard.tells_id
        self.status = 0
        self.received = 0
        self.sent = 0
        self.reading = False
        self._whole = False
        self.too_large = False
        self.left = False
        self.ended = False
        self.client: str | None = None
        length = self.told.get(b"content-length", b"0")
        self.told_length = int(length) if length.isdigit() else 0

    async def receive(self) -> Message:
        """The next message from the client; a body over the limit ends there."""
        self.reading = not self._whole
        message = await self._receive()
        self.reading = False
        if message["type"] == "http.request":
            self._whole = not message.get("more_body", False)
            self.received += len(message.get("body", b""))
            if self.received > self._limit:
                self.too_large = True
                return {"type": "http.disconnect"}
        elif not self._whole:
            self.left = True
        return message

    async def send(self, message: Message) -> None:
        """Pass a message to the client, unless its body was cut: what the application makes of that is no answer."""
        if (self.too_large or self.left) and not self.status:
            return
        await self._pass(message)

    async def refuse(self, status: int, detail: str, headers: dict[str, str] | None = None) -> None:
        """Answer with a problem, unless an answer has begun."""
        if not self.status:
            await problem(status, detail, headers)(self.scope, self._receive, self._pass)

    async def _pass(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers: Sequence[Header] = message.get("headers", ())
            added = self._headers.added(headers, self.told.get(b"origin"))
            if self._tells_id:
                added.append((b"x-request-id", self.id.encode("ascii")))
            if not self._whole and (self.told_length or b"transfer-encoding" in self.told):
                added.append((b"connection", b"close"))  # else the server would read the rest, without end or deadline
            message["headers"] = added
        elif message["type"] == "http.response.body":
            self.sent += len(message.get("body", b""))
            self.ended = not message.get("more_body", False)
        await self._send(message)


def inside_serve() -> bool:
    """Whether this process is a replica of Ray Serve."""
    try:
        get_replica_context()
    except RayServeException:
        return False
    return True


def _path_below_root(scope: Scope) -> str:
    """The path that routes are told by, exactly as Starlette finds it: else a key could be got round."""
    path, root = str(scope["path"]), str(scope.get("root_path", ""))
    return path[len(root) :] if root and path.startswith(f"{root}/") else path
