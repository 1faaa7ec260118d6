"""When a call is sent again: by a clock that only moves when told."""

from __future__ import annotations

from email.utils import formatdate

import httpx
import pytest

from sscm.client import requests
from sscm.client.attempts import FIRST_WAIT_S, PATIENCE_S, Attempts
from sscm.client.connection import Connection
from sscm.errors import ServiceError

URL = "http://127.0.0.1:8000"


class Clock:
    def __init__(self):
        self.time = 1000.0

    def __call__(self):
        return self.time


def attempts_of(attempts=4, draw=0.0, call=None, clock=None, wall=0.0):
    connection = Connection(URL, None, 30.0, attempts)
    call = call or requests.item("a")
    return Attempts(connection, call, now=clock or Clock(), wall=lambda: wall, draw=lambda: draw)


def busy(retry_after=None, status=503):
    return httpx.Response(status, headers={} if retry_after is None else {"Retry-After": retry_after})


@pytest.mark.parametrize("status", [429, 503])
def test_waits_double_and_end(status):
    attempts = attempts_of(attempts=4, draw=1.0)
    waits = [attempts.after(busy(status=status)) for _ in range(4)]
    assert waits == [FIRST_WAIT_S, 2 * FIRST_WAIT_S, 4 * FIRST_WAIT_S, None]
    assert attempts.named == f"[request {attempts.request_id}, asked 4 times]"


def test_waits_are_spread_over_half_of_themselves():
    assert attempts_of(draw=0.0).after(busy()) == FIRST_WAIT_S / 2
    assert attempts_of(draw=1.0).after(busy()) == FIRST_WAIT_S


@pytest.mark.parametrize("status", [200, 204, 301, 400, 401, 403, 404, 413, 500, 502, 504])
def test_no_other_status_is_asked_again(status):
    assert attempts_of().after(busy("1", status)) is None


def test_503_is_an_answer_where_the_call_says_so():
    assert attempts_of(call=requests.ready()).after(busy()) is None
    assert attempts_of(call=requests.ready()).after(busy(status=429)) is not None


@pytest.mark.parametrize("draw", [0.0, 1.0])
def test_the_service_s_wish_is_kept_to_in_both_forms(draw):
    late = FIRST_WAIT_S * draw
    assert attempts_of(draw=draw).after(busy("7")) == 7 + late
    wall = 1_700_000_000.0
    in_nine_seconds = formatdate(wall + 9, usegmt=True)
    assert attempts_of(draw=draw, wall=wall).after(busy(in_nine_seconds)) == 9 + late
    assert attempts_of(draw=draw, wall=wall).after(busy(formatdate(wall + 9))) == 9 + late  # "-0000" names no zone
    assert attempts_of(draw=draw, wall=wall).after(busy(formatdate(wall - 9, usegmt=True))) == late


@pytest.mark.parametrize("nonsense", ["", "soon", "-3", "1.5", "²", "Mon, 99 Foo 2026", "9" * 400 + "x"])
def test_a_wish_that_is_none_is_passed_over(nonsense):
    response = httpx.Response(503, headers=[(b"Retry-After", nonsense.encode())])
    assert attempts_of(draw=1.0).after(response) == FIRST_WAIT_S


def test_a_wish_beyond_patience_is_not_waited_for():
    assert attempts_of().after(busy(str(int(PATIENCE_S)))) == PATIENCE_S
    assert attempts_of().after(busy(str(int(PATIENCE_S) + 1))) is None
    assert attempts_of().after(busy("9" * 400)) is None


def test_all_attempts_together_are_bounded():
    clock = Clock()
    attempts = attempts_of(attempts=1000, draw=0.5, clock=clock)
    start, made = clock.time, 1
    while (wait := attempts.after(busy("5"))) is not None:
        clock.time += wait + 0.5  # the attempt itself takes time, too
        made += 1
    assert made == 11 and clock.time - start <= PATIENCE_S + 0.5


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (httpx.ConnectError("refused"), "no server answers at .* \\(refused\\); start one with `sscm serve`"),
        (httpx.ConnectTimeout(""), "no server answers at .* \\(ConnectTimeout\\)"),
        (httpx.ReadError("reset"), "broke the connection off \\(reset\\); ask again in a moment"),
        (httpx.RemoteProtocolError("incomplete"), "broke the connection off \\(incomplete\\)"),
    ],
)
def test_a_connection_that_fails_is_tried_again(error, message):
    attempts = attempts_of(attempts=3, draw=1.0)
    assert [attempts.after_failure(error), attempts.after(busy())] == [FIRST_WAIT_S, 2 * FIRST_WAIT_S]
    with pytest.raises(ServiceError, match=f"{message}.* \\[request {attempts.request_id}, asked 3 times\\]$"):
        attempts.after_failure(error)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (httpx.ReadTimeout("slow"), "did not answer within 30 s; ask again, or for less"),
        (httpx.WriteTimeout("slow"), "did not answer within 30 s"),
        (httpx.DecodingError("no gzip"), "no gzip; expected an sscm service"),
        (httpx.LocalProtocolError("bad header"), "bad header; expected an sscm service"),
    ],
)
def test_what_would_fail_again_is_told_at_once(error, message):
    attempts = attempts_of()
    with pytest.raises(ServiceError, match=f"{message}.* \\[request {attempts.request_id}\\]$"):
        attempts.after_failure(error)


def test_each_call_has_a_request_id_of_its_own():
    assert len({attempts_of().request_id for _ in range(100)}) == 100
