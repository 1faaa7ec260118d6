"""The short way to a route answers as FastAPI's own way does, and leaves everything else to that."""

from __future__ import annotations

import asyncio
import contextlib
import json

import httpx
import pytest
from fastapi import FastAPI, Request
from starlette.responses import PlainTextResponse

from serve.api import problem
from serve.fast_path import FastPath
from serve.routes import build_api
from tests.plugins.service import compose

GOOD = {"id": "pair_0043", "modality": "s1", "target": ["s1", "s2"], "limit": 3}
BODIES = [
    json.dumps(body).encode()
    for body in (
        GOOD,
        {**GOOD, "labels": ["Pastures"], "min_score": 0.2},
        {**GOOD, "id": None, "vector": [1.0] * 16},
        {**GOOD, "id": None, "vector": [1.0] * 15},
        {**GOOD, "id": "nobody"},
        {**GOOD, "target": "s9"},
        {**GOOD, "limit": 0},
        {**GOOD, "colour": "red"},
        {**GOOD, "token": "x"},
        {**GOOD, "filter": "cloud < 3"},
        {**GOOD, "filter": "("},
        [GOOD],
        None,
    )
] + [b"", b"{", b"\xff", b"[" * 5000, b"x" * 3000]
REQUESTS = [("POST", "/v1/search", body) for body in BODIES] + [
    ("GET", "/v1/search", b""),
    ("PUT", "/v1/search", BODIES[0]),
    ("HEAD", "/v1/search", b""),
    ("POST", "/v1/search/", BODIES[0]),
    ("POST", "/v1/search?limit=1", BODIES[0]),
    ("POST", "/v1//search", BODIES[0]),
    ("POST", "/V1/search", BODIES[0]),
]


async def asked(app, requests):
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as http:
        return [await http.request(method, path, content=body) for method, path, body in requests]


def told(response):
    """All that is the same for the same request: ids are not."""
    headers = {name: value for name, value in response.headers.items() if name in ("content-type", "location", "allow")}
    body = response.content
    if response.headers.get("content-type") == "application/problem+json" and body:
        body = {name: value for name, value in response.json().items() if name != "request_id"}
    return response.status_code, headers, body


def test_the_short_way_answers_as_the_long_one(indexed):
    async def run():
        service = await compose(indexed.workspace, shards=2, max_upload_bytes=10_000)
        try:
            short = build_api(service.gateway)
            long = build_api(service.gateway)
            long.outermost = lambda app: app  # FastAPI alone: what is around it has the short way within
            return await asked(short, REQUESTS), await asked(long, REQUESTS)
        finally:
            service.stop()

    short, long = asyncio.run(run())
    for request, one, other in zip(REQUESTS, short, long, strict=True):
        assert told(one) == told(other), request
    statuses = [response.status_code for response in short]
    assert statuses[: len(BODIES)] == [200, 200, 200, 400, 404] + [400] * (len(BODIES) - 5)
    assert statuses[len(BODIES) :] == [405, 405, 405, 307, 200, 404, 404]


class Refused(Exception):
    """One of ours."""


def application(way):
    """A small application whose route is reached the short way; ``way`` notes by which ones requests come."""
    api = FastAPI()

    @api.middleware("http")
    async def long(request: Request, go_on):
        way.append("long")
        return await go_on(request)

    @api.post("/echo")
    async def echo(request: Request):
        body = await request.body()
        if body == b"refused":
            raise Refused
        if body == b"broken":
            raise ZeroDivisionError
        return PlainTextResponse(body)

    [route] = [route for route in api.routes if route.path == "/echo"]

    def answer(error):
        return problem(400, "refused") if isinstance(error, Refused) else None

    seen = []

    async def app(scope, receive, send):
        with contextlib.suppress(ZeroDivisionError):
            await FastPath(api, routes={("POST", "/echo"): route}, told=answer)(scope, receive, send)
            seen.append(getattr(scope.get("route"), "path", None))
            return
        seen.append("raised")

    return app, seen


def test_only_its_routes_go_the_short_way_and_are_known_by_it():
    way = []
    app, seen = application(way)

    async def run():
        return await asked(app, [("POST", "/echo", b"x"), ("POST", "/echo", b"refused"), ("GET", "/echo", b"")])

    answers = asyncio.run(run())
    assert [answer.status_code for answer in answers] == [200, 400, 405]
    assert answers[0].text == "x"
    assert answers[1].json()["detail"] == "refused"
    assert seen[:2] == ["/echo", "/echo"]  # requests are counted by it
    assert way == ["long"]


def test_an_error_that_is_nobody_s_is_raised_to_what_is_around_it():
    app, seen = application([])
    with pytest.raises(AssertionError):  # the transport got no answer
        asyncio.run(asked(app, [("POST", "/echo", b"broken")]))
    assert seen == ["raised"]
