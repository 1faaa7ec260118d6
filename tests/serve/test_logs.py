"""Lines that a gateway writes: one a request, JSON or text, at once, with tracebacks in a field."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from datetime import datetime
from logging.handlers import MemoryHandler, RotatingFileHandler

import pytest

from serve.logs import TOGETHER_S, JsonLines, RequestLine, Together, log, log_request, request_id, set_up_logs

LINE = RequestLine("r1", "POST", "/v1/search", 200, 12.34, 100, 2000, "ann", 7, "k3x9")


@pytest.fixture
def written():
    """What the logger writes as JSON, line by line, from now on."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines())
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    log.removeHandler(handler)
    log.setLevel(level)


def test_a_request_is_one_object_with_these_fields(written):
    log_request(LINE, None, probe=False)
    [line] = written()
    moment = datetime.fromisoformat(line.pop("time"))
    assert moment.utcoffset().total_seconds() == 0
    assert abs(moment.timestamp() - datetime.now().timestamp()) < 60
    assert line == {
        "level": "INFO",
        "request_id": "r1",
        "method": "POST",
        "route": "/v1/search",
        "status": 200,
        "ms": 12.34,
        "bytes_in": 100,
        "bytes_out": 2000,
        "client": "ann",
        "generation": 7,
        "replica": "k3x9",
    }


def test_as_text_it_reads_well():
    assert str(LINE) == ("POST /v1/search 200 12.3 ms, 100 B in, 2000 B out, client ann, generation 7, request r1")
    assert "client -" in str(LINE._replace(client=None))


def test_a_traceback_is_a_field_of_the_same_line(written):
    try:
        raise RuntimeError("two\nlines")
    except RuntimeError as error:
        log_request(LINE._replace(status=500), error, probe=False)
    [line] = written()
    assert (line["level"], line["status"]) == ("ERROR", 500)
    assert line["traceback"].startswith("Traceback (most recent call last)")
    assert line["traceback"].endswith("RuntimeError: two\nlines")


def test_whatever_else_is_logged_tells_the_request_it_belongs_to(written):
    token = request_id.set("r2")
    try:
        log.warning("a %s", "thing")
        log.error("another\nthing")
    finally:
        request_id.reset(token)
    log.info("between requests")
    first, second, third = written()
    assert (first["request_id"], first["message"], first["level"]) == ("r2", "a thing", "WARNING")
    assert second["message"] == "another\nthing"
    assert third["request_id"] is None


@pytest.mark.parametrize(
    ("status", "probe", "level"),
    [(200, False, "INFO"), (404, False, "INFO"), (503, False, "WARNING"), (503, True, "WARNING"), (401, True, "INFO")],
)
def test_levels(written, status, probe, level):
    log_request(LINE._replace(status=status), None, probe)
    assert [line["level"] for line in written()] == [level]


def test_probes_that_are_answered_fill_no_log(written):
    log_request(LINE, None, probe=True)
    assert written() == []
    log.setLevel(logging.DEBUG)
    log_request(LINE, None, probe=True)
    assert len(written()) == 1


@pytest.mark.parametrize("how", ["json", "text"])
def test_what_ray_serve_would_hold_back_is_written_at_once(tmp_path, how):
    logger = logging.Logger("like ray.serve")
    file = RotatingFileHandler(tmp_path / "replica.log", maxBytes=10_000_000)
    held = MemoryHandler(1000, target=file)
    logger.addHandler(held)
    logger.info("before")
    assert (tmp_path / "replica.log").read_text() == ""
    set_up_logs(how, logger)
    logger.info(LINE)
    before, line = (tmp_path / "replica.log").read_text().splitlines()
    held.close()
    file.close()
    assert before == "before"
    if how == "json":
        assert json.loads(line)["request_id"] == "r1"
    else:
        assert line == str(LINE)


def test_lines_of_requests_are_written_together_soon(written):
    async def requests():
        together = Together(log)
        for number in range(3):
            together.add(LINE._replace(request_id=f"r{number}"))
        assert written() == []
        await asyncio.sleep(3 * TOGETHER_S)
        together.add(LINE)
        together.write()

    asyncio.run(requests())
    lines = written()
    assert [line["request_id"] for line in lines] == ["r0", "r1", "r2", "r1"]
    assert set(lines[0]) == {"time", "level", *RequestLine._fields}
