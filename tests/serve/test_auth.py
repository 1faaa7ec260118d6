"""Who is let through to what, over the application that a gateway serves; and that no key gets out anywhere."""

from __future__ import annotations

import asyncio
import base64
import logging
import os
import re
from dataclasses import dataclass, field

import httpx
import pytest

from serve import auth
from serve.auth import Access, KeyRing
from serve.guard import Rules
from serve.logs import JsonLines
from serve.metrics import GatewayMetrics
from serve.routes import build_api
from sscm.errors import WorkspaceError
from sscm.keys import PREFIX, add_key, remove_key

FREE = {"/", "/livez", "/readyz", "/docs", "/openapi.json"}
FREE_FILES = ("/docs/", "/page/")
"""Routes that want no key; any other that is added must be decided on here."""


@pytest.fixture
def uri(tmp_path):
    return str(tmp_path / "keys.json")


@pytest.fixture
def keys(uri):
    return {role: add_key(uri, f"a-{role}", role) for role in ("read", "admin")}


@dataclass(kw_only=True)
class Behind:
    """What an application asks of a gateway before it answers anything; what answers is not there, and fails."""

    rules: Rules
    metrics: GatewayMetrics = field(default_factory=lambda: GatewayMetrics("local"))
    deadline_s: float = 5.0
    max_upload_bytes: int = 1000
    tiles: tuple[None, None] = (None, None)
    replica: str = "local"
    generation: int = 7

    def __post_init__(self):
        self.access = self.rules.access()
        self.api = build_api(self)


def gateway_of(**rules):
    return Behind(rules=Rules(**rules))


def ask(gateway, method, path, **how):
    async def run():
        transport = httpx.ASGITransport(gateway.api)
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as http:
            return await http.request(method, path, **how)

    return asyncio.run(run())


def bearer(key):
    return {"Authorization": f"Bearer {key}"}


def refused(response, status, *words):
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    for word in words:
        assert word in response.json()["detail"]


def test_a_key_lets_through_by_either_header(uri, keys):
    gateway = gateway_of(keys=uri)
    for headers in (
        bearer(keys["read"]),
        {"X-API-Key": keys["read"]},
        {"Authorization": f"bearer   {keys['admin']}"},
        {"X-API-Key": keys["read"], "Authorization": "Basic eDp5"},  # a proxy's own
    ):
        refused(ask(gateway, "GET", "/v1/nothing", headers=headers), 404, "no route")  # let through
        assert ask(gateway, "GET", "/metrics", headers=headers).status_code == 200


def test_without_a_key_or_with_a_wrong_one_it_is_401(uri, keys):
    gateway = gateway_of(keys=uri)
    secret = keys["read"]
    basic = base64.b64encode(f"a:{secret}".encode()).decode()
    for headers, word in (
        ({}, "no API key"),
        (bearer(""), "no API key"),
        ({"Authorization": secret}, "no API key"),
        ({"Authorization": f"Basic {basic}"}, "no API key"),
        (bearer(secret[:-1]), "not known"),
        (bearer(secret + "x"), "not known"),
        ({"X-API-Key": ""}, "not known"),
        ({"X-API-Key": "wrong", "Authorization": f"Bearer {secret}"}, "not known"),
    ):
        for path in ("/v1/model", "/v1/items/a%2Fb", "/metrics", "/v1/nothing"):
            response = ask(gateway, "GET", path, headers=headers)
            refused(response, 401, word)
            assert response.headers["www-authenticate"] == 'Bearer realm="sscm"'
    refused(ask(gateway, "GET", f"/v1/model?key={secret}&api_key={secret}"), 401, "no API key")


def routes_of(router):
    """Method and path of each route, those of routers that are part of it, too."""
    for route in router.routes:
        if hasattr(route, "original_router"):
            yield from routes_of(route.original_router)
        else:
            for method in route.methods:
                yield (
                    method,
                    route.path.replace("{pair_id:path}", "a")
                    .replace("{modality}", "s1")
                    .replace("{name:path}", "a.js"),
                )


def test_every_route_but_the_free_ones_wants_a_key(uri, keys):
    gateway = gateway_of(keys=uri)
    seen = set()
    for method, path in routes_of(gateway.api):
        status = ask(gateway, method, path).status_code
        free = path in FREE or path.startswith(FREE_FILES)
        assert (status != 401) == free, (method, path, status)
        seen.add(path)
    assert seen >= FREE | {"/v1/search", "/metrics"}


@pytest.mark.parametrize("path", ["/v1/admin/reload", "/v1/admin", "/v1/admin/x/y"])
def test_administration_wants_the_role(uri, keys, path):
    gateway = gateway_of(keys=uri)
    refused(ask(gateway, "POST", path), 401)
    refused(ask(gateway, "POST", path, headers=bearer(keys["read"])), 403, "'a-read' has role 'read'", "'admin'")
    assert ask(gateway, "PUT", path, headers=bearer(keys["admin"])).status_code in (404, 405)  # let through


def test_without_keys_everybody_may_search_and_nobody_administer_over_the_network():
    refused(ask(gateway_of(), "GET", "/v1/nothing"), 404, "no route")  # let through
    for host in ("gateway", "127.0.0.1:8000"):
        refused(ask(gateway_of(), "POST", "/v1/admin/x", headers={"Host": host}), 403, "no keys are configured")


@pytest.mark.parametrize("host", ["127.0.0.1:8000", "127.0.0.1", "localhost:8000", "[::1]:8000", "[::1]"])
def test_without_keys_a_service_of_this_machine_alone_is_administered_from_it(host):
    gateway = gateway_of(local=True)
    for more in ({}, {"Sec-Fetch-Site": "same-origin"}):
        refused(ask(gateway, "POST", "/v1/admin/x", headers={"Host": host, **more}), 404, "no route")  # let through
    for more in (
        {"X-Forwarded-For": "127.0.0.1"},
        {"Forwarded": "for=127.0.0.1"},
        {"Via": "1.1 proxy"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ):
        refused(ask(gateway, "POST", "/v1/admin/x", headers={"Host": host, **more}), 403, "own machine")
    assert ask(gateway, "GET", "/v1/nothing", headers={"Host": host, "Sec-Fetch-Site": "cross-site"}).status_code == 404


@pytest.mark.parametrize("host", ["evil.org", "127.0.0.1.evil.org:80", "", "0.0.0.0:8000", "localhost.evil.org"])
def test_a_name_that_leads_here_does_not_administer(host):
    refused(ask(gateway_of(local=True), "POST", "/v1/admin/x", headers={"Host": host}), 403, "own machine")


def test_a_root_path_does_not_get_round_the_key(uri, keys):
    gateway = gateway_of(keys=uri)

    async def run(root, path):
        transport = httpx.ASGITransport(gateway.api, root_path=root)
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as http:
            return (await http.get(path)).status_code

    for root, path in (("/a", "/a/v1/model"), ("/v", "/v1/model"), ("/v1", "/v1/v1/model"), ("/a/", "/v1/model")):
        assert asyncio.run(run(root, path)) in (401, 404), (root, path)
    assert asyncio.run(run("/a", "/a/v1/model")) == 401
    assert asyncio.run(run("/v", "/v1/model")) == 401


def test_keys_come_and_go_while_it_runs(uri, keys, monkeypatch):
    monkeypatch.setattr(auth, "REFRESH_S", 0.0)

    async def run():
        ring = KeyRing(uri)
        secret = keys["read"].encode()
        assert ring.find(secret).name == "a-read"
        remove_key(uri, "a-read")
        later = add_key(uri, "later", "read").encode()
        ring.find(b"")  # has it read again
        for _ in range(200):
            if ring.find(secret) is None and ring.find(later):
                break
            await asyncio.sleep(0.01)
        assert ring.find(secret) is None
        assert ring.find(later).name == "later"

    asyncio.run(run())


def test_the_file_is_not_read_for_every_request(uri, keys, monkeypatch):
    reads = []
    monkeypatch.setattr(auth, "read_keys", lambda uri, read=auth.read_keys: reads.append(uri) or read(uri))

    async def run():
        ring = KeyRing(uri)
        for _ in range(100):
            ring.find(b"x")

    asyncio.run(run())
    assert len(reads) == 1


def test_a_file_that_cannot_be_read_any_more_leaves_the_keys_known(uri, keys, caplog):
    ring = KeyRing(uri)
    os.unlink(uri)
    ring.refresh()
    assert asyncio.run(found(ring, keys["read"])).name == "a-read"
    assert "keys are those read before" in caplog.text
    with pytest.raises(WorkspaceError, match="there is no such file"):
        KeyRing(uri)


async def found(ring, secret):
    return ring.find(secret.encode())


def test_no_key_is_in_a_log_an_answer_or_an_error(uri, keys, caplog):
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.DEBUG, "ray.serve")
    gateway = gateway_of(keys=uri)
    guesses = [*keys.values(), PREFIX + "guessed"]
    answers = []
    for secret in guesses:
        for headers in (bearer(secret), {"X-API-Key": secret}, {"Authorization": f"Basic {secret}"}):
            for method, path in (
                ("GET", "/v1/model"),
                ("GET", "/v1/nothing"),
                ("POST", "/v1/admin/x"),
                ("GET", "/metrics"),
                ("POST", "/v1/search"),
                ("GET", "/v1/items/x"),  # without shards this fails, with a traceback
                ("GET", "/docs"),
            ):
                answers.append(ask(gateway, method, path, headers=headers))
    assert {answer.status_code for answer in answers} >= {200, 401, 403, 404, 500}
    lines = [JsonLines().format(record) + logging.Formatter().format(record) for record in caplog.records]
    assert len(lines) >= len(answers)
    told = "\n".join([*lines, *(f"{answer.headers} {answer.text}" for answer in answers)])
    for secret in guesses:
        assert secret not in told
        assert secret.removeprefix(PREFIX) not in told
    assert '"client": "a-read"' in told
    assert re.search('"route": "unknown", "status": 403,.*"client": "a-read"', told)  # who tried is told


def test_access_without_keys_needs_none():
    assert Access().admit("/v1/search", {}) == (None, None)


def test_pages_of_an_origin_named_ask_with_keys_and_read_refusals(uri, keys):
    page = "https://map.example.org"
    gateway = gateway_of(keys=uri, cors_origins=(page,))
    asking = {"Origin": page, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "x-api-key"}
    preflight = ask(gateway, "OPTIONS", "/v1/search", headers=asking)
    assert preflight.status_code == 204
    assert preflight.headers["access-control-allow-origin"] == page
    assert "X-API-Key" in preflight.headers["access-control-allow-headers"]
    assert preflight.headers["x-request-id"]
    for headers, status in (({}, 401), (bearer(keys["read"]), 404)):
        response = ask(gateway, "GET", "/v1/nothing", headers={"Origin": page, **headers})
        refused(response, status)
        assert response.headers["access-control-allow-origin"] == page
    elsewhere = ask(gateway, "OPTIONS", "/v1/search", headers={**asking, "Origin": "https://evil.org"})
    assert "access-control-allow-origin" not in elsewhere.headers
    refused(ask(gateway_of(keys=uri), "OPTIONS", "/v1/search", headers=asking), 401)
