"""An HTTP proxy in front of an object store that counts requests and lets some of them go wrong.

It stands between client and store as a network does: what it does to a request is what a client sees of an overloaded,
restarting or unplugged store, on real sockets.
"""

import contextlib
import http.client
import random
import re
import socket
import struct
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal, NamedTuple
from urllib.parse import urlsplit

Kind = Literal["slow", "status", "reset", "truncated", "stalled", "lost", "deaf"]

_CODES = {403: "AccessDenied", 412: "PreconditionFailed", 429: "TooManyRequests", 500: "InternalError", 503: "SlowDown"}


class Request(NamedTuple):
    """What a client asked."""

    method: str
    path: str
    signed: bool


@dataclass
class Fault:
    """What goes wrong, and with which requests.

    Args:
        kind: ``slow``: the answer comes ``seconds`` later. ``status``: an error of the store's, ``status``. ``reset``:
            the connection is reset before anything happens. ``truncated``: half the body, then the connection closes.
            ``stalled``: half the body, then silence. ``lost``: it happens, and the connection is reset before the
            answer. ``deaf``: the request's body is not read, and nothing is answered.
        method: only requests of this method.
        path: only requests whose path and query this regular expression is found in.
        times: how many matching requests at most.
        after: how many matching requests are let pass before.
        share: of the matching requests, chosen by ``seed``.
        until: time (:func:`time.monotonic`) after which nothing goes wrong any more.
    """

    kind: Kind
    method: str | None = None
    path: str = ""
    times: float = float("inf")
    after: int = 0
    share: float = 1.0
    seed: int = 0
    until: float = float("inf")
    status: int = 503
    seconds: float = 0.0
    matched: int = 0
    done: int = 0
    chance: random.Random = field(init=False)

    def __post_init__(self):
        self.chance = random.Random(self.seed)

    def strikes(self, method, path):
        """Whether it happens to a request, which is counted."""
        if self.method not in (None, method) or not re.search(self.path, path) or time.monotonic() > self.until:
            return False
        self.matched += 1
        if self.matched <= self.after or self.done >= self.times or self.chance.random() >= self.share:
            return False
        self.done += 1
        return True


class FaultProxy:
    """The proxy, on a free port of this machine.

    Args:
        upstream: URL of the store.
    """

    def __init__(self, upstream):
        self.upstream = urlsplit(upstream)
        self.faults = []
        self.requests = []
        self.sent = 0
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        proxy = self

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 64

            def handle_error(self, request, client_address):
                """A client that gave up is no news."""

        class Handler(_Handler):
            owner = proxy

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stopped.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def add(self, kind, **settings):
        """Let something go wrong from now on; the fault, which counts how often it did."""
        fault = Fault(kind, **settings)
        with self._lock:
            self.faults.append(fault)
        return fault

    def away(self, seconds):
        """Reset every connection for some time."""
        return self.add("reset", until=time.monotonic() + seconds)

    def clear(self):
        """Let nothing go wrong any more, and forget what was counted."""
        with self._lock:
            self.faults.clear()
            self.requests.clear()
            self.sent = 0

    @contextlib.contextmanager
    def counted(self):
        """The requests of a block, as a counter of ``METHOD`` and of ``METHOD path``."""
        counts = Counter()
        first = len(self.requests)
        yield counts
        with self._lock:
            for method, path, _ in self.requests[first:]:
                counts[method] += 1
                counts[f"{method} {path.partition('?')[0]}"] += 1

    def _note(self, request):
        """Count a request; the fault that happens to it, if any."""
        with self._lock:
            self.requests.append(request)
            return next((fault for fault in self.faults if fault.strikes(request.method, request.path)), None)


class _Handler(BaseHTTPRequestHandler):
    owner: FaultProxy
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    def handle_expect_100(self):
        """Answered once it is known that the body is wanted."""
        return True

    def do_any(self):
        fault = self.owner._note(Request(self.command, self.path, "Authorization" in self.headers))
        kind = fault.kind if fault else None
        if kind == "slow":
            time.sleep(fault.seconds)
        if kind == "reset":
            return self._reset()
        if kind == "deaf":
            self.owner._stopped.wait(60)
            return self._reset()
        if self.headers.get("Expect", "").lower() == "100-continue":
            self.send_response_only(100)
            self.end_headers()
            self.wfile.flush()
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if kind == "status":
            return self._answer(fault.status, [("Content-Type", "application/xml")], _error(fault.status))
        status, headers, answer = self._forward(body)
        if kind == "lost":
            return self._reset()
        return self._answer(status, headers, answer, kind)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = do_any

    def _forward(self, body):
        connection = http.client.HTTPConnection(self.owner.upstream.hostname, self.owner.upstream.port, timeout=60)
        try:
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in ("connection", "expect"):
                    connection.putheader(name, value)
            connection.endheaders(body or None)
            answer = connection.getresponse()
            data = answer.read()
            return answer.status, answer.getheaders(), data
        finally:
            connection.close()

    def _answer(self, status, headers, body, kind=None):
        self.send_response_only(status)
        length = len(body)
        for name, value in headers:
            if name.lower() == "content-length":
                length = int(value)  # of HEAD, too
            elif name.lower() not in ("connection", "transfer-encoding", "keep-alive"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        self.owner.sent += len(body)
        if self.command == "HEAD":
            return
        if kind in ("truncated", "stalled"):
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            if kind == "stalled":
                self.owner._stopped.wait(60)
            self.close_connection = True
        else:
            self.wfile.write(body)

    def _reset(self):
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        # The connection is closed, and so reset, only when these let go of it.
        self.rfile.close()
        self.connection.close()

    def log_message(self, *_):
        """Nothing is written."""


def _error(status):
    return (
        f'<?xml version="1.0" encoding="UTF-8"?><Error><Code>{_CODES[status]}</Code>'
        f"<Message>by the proxy</Message></Error>"
    ).encode()
