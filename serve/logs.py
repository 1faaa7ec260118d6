"""What a gateway writes of each request: one line, as JSON or as text.

Inside Ray Serve the lines go where a replica's lines go, ``logs/serve/replica_sscm_gateway_*.log`` of Ray's session
folder, by the logger ``ray.serve``. Ray's own JSON encoding would put its names for time, level, route and request id
over ours, and ids of tasks and actors into every line, so that the formatter is ours. Ray's access log is off for
gateways, since these lines replace it.

No line holds a key, a header's value, a query vector, an id of an item or the content of a file: what is asked for is
told by the route's template.
"""

from __future__ import annotations

import asyncio
import atexit
import json
import logging
import time
from contextvars import ContextVar
from datetime import UTC, datetime
from logging.handlers import MemoryHandler
from typing import Any, Literal, NamedTuple

import orjson

LogFormat = Literal["text", "json"]

log = logging.getLogger("ray.serve")

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
"""Id of the request that is being answered."""


TOGETHER_S = 0.1
"""Seconds that a request's line waits for others."""


class RequestLine(NamedTuple):
    """What is written of one request.

    Args:
        request_id: the client's, or made.
        method: HTTP method.
        route: template of the route, ``unknown`` where there is none.
        status: of the answer; 499 where the client did not wait for it.
        ms: milliseconds in the gateway.
        bytes_in: of the body, as far as it was read.
        bytes_out: of the answer's body.
        client: name of the key, None without one.
        generation: of the index that is served.
        replica: of the gateway.
    """

    request_id: str
    method: str
    route: str
    status: int
    ms: float
    bytes_in: int
    bytes_out: int
    client: str | None
    generation: int
    replica: str

    def __str__(self) -> str:
        return (
            f"{self.method} {self.route} {self.status} {self.ms:.1f} ms, {self.bytes_in} B in, {self.bytes_out} B out, "
            f"client {self.client or '-'}, generation {self.generation}, request {self.request_id}"
        )


class Together:
    """Lines of requests, written together a tenth of a second later: one by one they cost as much as the answers.

    Args:
        logger: what writes them; its handlers format with :class:`JsonLines`.
    """

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._lines: list[tuple[float, RequestLine]] = []

    def add(self, line: RequestLine) -> None:
        """Have a line written soon; needs a running event loop."""
        if not self._lines:
            asyncio.get_running_loop().call_later(TOGETHER_S, self.write)
        self._lines.append((time.time(), line))

    def write(self) -> None:
        """Write what was added."""
        lines, self._lines = self._lines, []
        if lines:
            told = [
                orjson.dumps({"time": _moment(when), "level": "INFO", **line._asdict()}).decode()
                for when, line in lines
            ]
            name, level = self._logger.name, logging.INFO
            self._logger.handle(logging.LogRecord(name, level, __file__, 0, Written("\n".join(told)), None, None))


class Written(str):
    """Lines that are formatted already."""


class JsonLines(logging.Formatter):
    """One JSON object a line: that of a request, or of anything else that is logged, with its traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """A record as one line."""
        if isinstance(record.msg, Written):
            return record.msg
        moment = _moment(record.created)
        line: dict[str, Any] = {"time": moment, "level": record.levelname}
        if isinstance(record.msg, RequestLine):
            line |= record.msg._asdict()
        else:
            line |= {"request_id": request_id.get(), "message": record.getMessage()}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line)


def log_request(line: RequestLine, error: BaseException | None, probe: bool) -> None:
    """Write a request's line.

    Args:
        line: what is written.
        error: what it failed by, to be told with its traceback.
        probe: whether a machine asks this every few seconds; where it is answered well that is for level DEBUG.
    """
    if error is not None:
        level = logging.ERROR
    elif line.status >= 500:
        level = logging.WARNING
    else:
        level = logging.DEBUG if probe and line.status < 400 else logging.INFO
    if not log.isEnabledFor(level):
        return
    if level == logging.INFO and _together is not None:
        _together.add(line)
    else:
        log.log(level, line, exc_info=error)


def set_up_logs(how: LogFormat, logger: logging.Logger = log) -> None:
    """Have the lines of this process written at once and in one format.

    Ray's fast path holds back a thousand lines and writes them one after the other then, which would stop a gateway for
    a moment and tell nothing for long where there is little to do.

    Args:
        how: ``json``, or ``text`` as Ray Serve formats it.
        logger: whose handlers are set up.
    """
    for handler in logger.handlers:
        target: logging.Handler | None = handler
        if isinstance(handler, MemoryHandler):
            handler.flush()
            handler.capacity = 1
            target = handler.target
        if target is not None and how == "json":
            target.setFormatter(JsonLines())
    if how == "json" and logger is log:
        global _together
        _together = Together(logger)
        atexit.register(_together.write)


_together: Together | None = None


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
