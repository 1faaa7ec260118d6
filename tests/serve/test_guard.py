"""What holds for every request, over a small application of our own and, for bytes on the wire, a real server."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import socket
import threading
import time

import httpx
import pytest
import uvicorn
from fastapi import FastAPI, Request
from starlette.responses import PlainTextResponse, StreamingResponse

from serve import guard
from serve.api import problem
from serve.guard import Guard, Rules
from serve.metrics import GatewayMetrics

LIMIT = 10_000


class Service:
    """An application behind a guard, with what a test wants to see of it."""

    def __init__(self, deadline_s=5.0, max_body_bytes=LIMIT, **rules):
        self.metrics = GatewayMetrics("local")
        self.release = asyncio.Event()
        self.waiting = 0
        self.api = FastAPI()
        self._add_routes()
        settings = Rules(**rules)
        self.api.add_middleware(
            Guard,
            metrics=self.metrics,
            deadline_s=deadline_s,
            max_body_bytes=max_body_bytes,
            rules=settings,
            access=settings.access(),
            replica="local",
            generation=lambda: 7,
        )

    def _add_routes(self):
        @self.api.post("/v1/echo")
        async def echo(request: Request):
            return PlainTextResponse(await request.body())

        @self.api.post("/v1/form")
        async def form(request: Request):
            parts = await request.form()
            return {"parts": len(parts.multi_items())}

        @self.api.get("/v1/wait")
        async def wait():
            self.waiting += 1
            await self.release.wait()
            return "done"

        @self.api.get("/v1/broken")
        async def broken():
            raise RuntimeError("secret detail")

        @self.api.get("/v1/half")
        async def half():
            async def parts():
                yield b"half"
                raise RuntimeError("cut")

            return StreamingResponse(parts())

        @self.api.get("/v1/items/{name}")
        async def item(name: str):
            return problem(404, f"no {name}")

        @self.api.get("/livez")
        async def livez():
            return PlainTextResponse("alive")

    def counted(self, route, status):
        return self.metrics.registry.get_sample_value("sscm_requests_total", {"route": route, "status": str(status)})

    def ask(self, method, path, **how):
        async def run():
            async with self.client() as http:
                return await http.request(method, path, **how)

        return asyncio.run(run())

    def client(self, raises=True):
        transport = httpx.ASGITransport(self.api, raise_app_exceptions=raises)
        return httpx.AsyncClient(transport=transport, base_url="http://service")


def refused(response, status, *words):
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    told = response.json()
    assert told["status"] == status
    assert told["request_id"] == response.headers["x-request-id"]
    for word in words:
        assert word in told["detail"]


@pytest.mark.parametrize("given", ["a", "x" * 128, "0af7651916cd43dd:8448eb211c80319c", "!~"])
def test_a_client_s_request_id_is_taken(given):
    response = Service().ask("GET", "/v1/items/a", headers={"X-Request-ID": given})
    assert response.headers.get_list("x-request-id") == [given]
    assert response.json()["request_id"] == given


@pytest.mark.parametrize("given", [None, b"", b"x" * 129, b"two words", b"caf\xe9", b"tab\tbed"])
def test_another_is_made_where_there_is_no_sane_one(given):
    headers = {} if given is None else {"X-Request-ID": given}
    first, second = (Service().ask("GET", "/v1/items/a", headers=headers) for _ in range(2))
    made = first.headers["x-request-id"]
    assert re.fullmatch("[0-9a-f]{32}", made)
    assert first.json()["request_id"] == made != second.headers["x-request-id"]


def test_inside_ray_serve_which_tells_it_the_id_is_not_told_twice(monkeypatch):
    monkeypatch.setattr(guard, "inside_serve", lambda: True)
    service = Service()
    taken = service.ask("GET", "/v1/items/a", headers={"X-Request-ID": "mine"})
    assert "x-request-id" not in taken.headers
    assert taken.json()["request_id"] == "mine"
    assert "x-request-id" in service.ask("GET", "/v1/items/a", headers={"X-Request-ID": "two words"}).headers


def test_every_kind_of_answer_tells_its_id_and_has_security_headers():
    service = Service(deadline_s=0.2, max_in_flight=1)
    answers = [
        service.ask("GET", "/livez"),
        service.ask("GET", "/nowhere"),
        service.ask("GET", "/v1/echo"),
        service.ask("GET", "/v1/broken"),
        service.ask("GET", "/v1/wait"),
        service.ask("POST", "/v1/echo", content=b"x" * (LIMIT + 1)),
    ]
    assert [answer.status_code for answer in answers] == [200, 404, 405, 500, 504, 413]
    for answer in answers:
        assert answer.headers["x-request-id"]
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in answer.headers["content-security-policy"]


def test_a_failure_is_told_without_its_message_and_counted(caplog):
    service = Service()
    response = service.ask("GET", "/v1/broken")
    refused(response, 500, "RuntimeError in /v1/broken")
    assert "secret detail" not in response.text
    assert service.counted("/v1/broken", 500) == 1
    [record] = [record for record in caplog.records if record.exc_info]
    assert record.levelno == logging.ERROR
    assert "secret detail" in str(record.exc_info[1])


def test_an_answer_that_fails_half_way_is_not_ended_as_if_it_were_whole():
    service = Service()
    with pytest.raises(RuntimeError, match="cut"):
        service.ask("GET", "/v1/half")
    assert service.counted("/v1/half", 200) == 1


def test_a_client_that_leaves_is_counted():
    async def run():
        service = Service()
        async with service.client() as http:
            task = asyncio.create_task(http.get("/v1/wait"))
            while not service.waiting:
                await asyncio.sleep(0.001)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        return service

    assert asyncio.run(run()).counted("/v1/wait", 499) == 1


def test_more_than_the_bound_in_flight_are_429_but_probes_are_answered():
    async def run():
        service = Service(max_in_flight=3)
        async with service.client() as http:
            slow = [asyncio.create_task(http.get("/v1/wait")) for _ in range(3)]
            while service.waiting < 3:
                await asyncio.sleep(0.001)
            more = await http.get("/v1/wait")
            probe = await http.get("/livez")
            service.release.set()
            answers = await asyncio.gather(*slow)
            after = await http.get("/v1/wait")
        return more, probe, answers, after

    more, probe, answers, after = asyncio.run(run())
    refused(more, 429, "3 requests are being answered here")
    assert more.headers["retry-after"] == "1"
    assert probe.status_code == 200
    assert [answer.status_code for answer in answers] == [200] * 3
    assert after.status_code == 200


def test_what_fails_or_leaves_gives_its_place_back():
    async def run():
        service = Service(deadline_s=0.05, max_in_flight=1)
        async with service.client() as http:
            for path in ("/v1/broken", "/v1/wait", "/v1/items/a", "/v1/wait"):
                assert (await http.get(path)).status_code != 429
            task = asyncio.create_task(http.get("/v1/wait"))
            await asyncio.sleep(0.01)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            return (await http.post("/v1/echo", content=b"x")).status_code

    assert asyncio.run(run()) == 200


def test_a_body_up_to_the_limit_is_taken():
    assert Service().ask("POST", "/v1/echo", content=b"x" * LIMIT).content == b"x" * LIMIT
    refused(Service().ask("POST", "/v1/echo", content=b"x" * (LIMIT + 1)), 413, f"expected at most {LIMIT}")


def multipart(parts):
    """A body of parts, each some header lines."""
    body = b"".join(b"--B\r\n" + b"\r\n".join(headers) + b"\r\n\r\nx\r\n" for headers in parts) + b"--B--\r\n"
    return {"content": body, "headers": {"content-type": "multipart/form-data; boundary=B"}}


FIELD = b'Content-Disposition: form-data; name="a"'


def test_parts_of_a_form_are_bounded_in_number_and_headers():
    service = Service(max_body_bytes=1_000_000)
    assert service.ask("POST", "/v1/form", **multipart([[FIELD]] * 1000)).json() == {"parts": 1000}
    for parts in (
        [[FIELD]] * 1001,
        [[FIELD + b'; filename="f"']] * 1001,
        [[FIELD, *(b"X-%d: y" % i for i in range(8))]],
        [[FIELD, b"X: " + b"y" * 5000]],
    ):
        assert service.ask("POST", "/v1/form", **multipart(parts)).status_code == 400


@pytest.fixture
def live():
    """Starts services on real ports: service → port."""
    servers = []

    def start(service):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        server = uvicorn.Server(uvicorn.Config(service.api, port=port, log_config=None, lifespan="off"))
        thread = threading.Thread(target=server.run)
        thread.start()
        servers.append((server, thread))
        while not server.started:
            time.sleep(0.01)
        return port

    yield start
    for server, thread in servers:
        server.should_exit = True
        thread.join(10)


def answer_of(connection):
    """Head and body of the answer on a connection that the server closes at its end."""
    received = b""
    while more := connection.recv(65536):
        received += more
    head, _, body = received.partition(b"\r\n\r\n")
    return int(head.split()[1]), body


def test_a_body_that_drips_is_given_up_at_the_deadline_and_the_connection_closed(live):
    service = Service(deadline_s=0.5)
    with socket.create_connection(("127.0.0.1", live(service)), timeout=10) as connection:
        connection.sendall(b"POST /v1/echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n")
        start = time.monotonic()
        connection.settimeout(0.05)
        while time.monotonic() - start < 5:
            try:
                connection.sendall(b"x")
                if connection.recv(1, socket.MSG_PEEK):
                    break
            except TimeoutError:
                continue
        elapsed = time.monotonic() - start
        connection.settimeout(10)
        status, body = answer_of(connection)
    assert status == 408
    assert re.search(r"\d+ bytes of the body came within 0.5 s", json.loads(body)["detail"])
    assert 0.4 < elapsed < 3
    assert service.counted("/v1/echo", 408) == 1


def test_a_body_without_end_is_cut_off_at_the_limit(live):
    service = Service()
    with socket.create_connection(("127.0.0.1", live(service)), timeout=10) as connection:
        connection.sendall(b"POST /v1/echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        sent = 0
        try:
            while sent < 50_000_000:
                connection.sendall(b"3e8\r\n" + b"x" * 1000 + b"\r\n")
                sent += 1000
        except OSError:
            pass  # the server closed
    assert sent < 50_000_000
    assert service.counted("/v1/echo", 413) == 1


def test_a_client_that_hangs_up_in_the_middle_of_its_body_harms_nobody(live):
    service = Service(max_in_flight=1)
    port = live(service)
    for count in range(1, 4):
        with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
            connection.sendall(b"POST /v1/echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nx")
        end = time.monotonic() + 10
        while service.counted("/v1/echo", 499) != count and time.monotonic() < end:
            time.sleep(0.01)
        assert service.counted("/v1/echo", 499) == count
    assert httpx.post(f"http://127.0.0.1:{port}/v1/echo", content=b"whole").content == b"whole"
