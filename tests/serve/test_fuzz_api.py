"""Thousands of requests that nobody wrote, to a real gateway over real shards and encoders: it never fails.

The parts run in one process and on one event loop, without Ray; requests travel over HTTP. Whatever is asked, the
answer is one that the API's description has, and a refusal is a problem that tells the request's id.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field

import httpx
import pytest
import schemathesis
import uvicorn
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS

from serve.app import free_port
from serve.coordinator import Coordinator
from serve.editions import read_edition
from serve.encoder import EncoderReplica
from serve.fanout import ShardClient
from serve.gateway import Gateway
from serve.guard import Rules
from serve.routes import build_api
from serve.shard_replica import ShardReplica
from serve.swap import encoder_part, shard_part

QUIET = settings(
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
SHARDS = 2
LIMIT = 200_000


class Local:
    """A deployment's handle where the deployment is an object of this event loop."""

    def __init__(self, replica):
        self._replica = replica

    def __getattr__(self, name):
        return LocalMethod(getattr(self._replica, name))


class LocalMethod:
    def __init__(self, method):
        self._method = method

    async def remote(self, *args):
        answer = self._method(*args)
        return await answer if asyncio.iscoroutine(answer) else answer


@dataclass
class Live:
    """A service of this process, and what it answered."""

    url: str
    description: dict
    http: httpx.Client
    statuses: Counter = field(default_factory=Counter)

    def ask(self, method, path, **how):
        """Send a request to a path of the description."""
        response = self.http.request(method, path, **how)
        operation = self.description["paths"][path][method.lower()]
        self.check(response.status_code, response.headers, response.content, operation, f"{method} {path} {how}")
        return response

    def check(self, status, headers, body, operation, told):
        """What holds for every answer to an operation of the description."""
        self.statuses[status] += 1
        assert status < 500 or status == 503, (told, body)
        assert str(status) in operation["responses"], (status, told)
        assert headers["x-request-id"], told
        if status >= 400 and operation["operationId"] != "readyz_readyz_get":
            assert headers["content-type"] == "application/problem+json", (told, body)
            problem = json.loads(body)
            assert (problem["status"], problem["request_id"]) == (status, headers["x-request-id"]), told
            assert problem["detail"], told


async def run(indexed, port, ready, ended):
    edition = read_edition(indexed.workspace, SHARDS)
    names = [modality.name for modality in edition.modalities]
    parts = [*map(shard_part, range(SHARDS)), *map(encoder_part, names)]
    coordinator = Local(Coordinator(first=edition, parts=parts, grace_s=5, watch_s=0, composed=time.time()))
    encoders = {name: EncoderReplica(coordinator=coordinator, modality=name, threads=1) for name in names}
    shards = [
        ShardReplica(coordinator=coordinator, number=n, secret="s", threads=1, host="127.0.0.1") for n in range(SHARDS)
    ]
    for part in (*encoders.values(), *shards):
        await part.reconfigure({})
    gateway = Gateway(
        coordinator=coordinator,
        encoders={name: Local(encoder) for name, encoder in encoders.items()},
        shards=[ShardClient("s") for _ in shards],
        deadline_s=20,
        max_upload_bytes=LIMIT,
        rules=Rules(local=True),
    )
    server = uvicorn.Server(uvicorn.Config(build_api(gateway), port=port, log_config=None, lifespan="off"))
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    ready.set()
    while not ended.is_set():
        await asyncio.sleep(0.05)
    server.should_exit = True
    await serving
    for shard in shards:
        shard.stop()
    while rest := asyncio.all_tasks() - {
        asyncio.current_task()
    }:  # a wait that ends just then swallows its cancellation
        for task in rest:
            task.cancel()
        await asyncio.wait(rest, timeout=0.2)


@pytest.fixture(scope="module")
def live(indexed):
    port = free_port("127.0.0.1", 0)
    ready, ended = threading.Event(), threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(run(indexed, port, ready, ended)))
    thread.start()
    try:
        assert ready.wait(60)
        url = f"http://127.0.0.1:{port}"
        with httpx.Client(base_url=url, timeout=30) as http:
            yield Live(url, http.get("/openapi.json").json(), http)
    finally:
        ended.set()
        thread.join(20)


def test_what_the_description_allows_and_what_it_does_not(live):
    schema = schemathesis.openapi.from_dict(live.description)
    schema.config.update(base_url=live.url)
    asked = Counter()
    for found in schema.get_all_operations():
        operation = found.ok()
        for mode in GenerationMode:
            ask_often(live, operation, mode, asked)
    assert asked.total() > 1000, asked
    assert live.statuses[200] > 50
    assert live.statuses[400] > 500


def ask_often(live, operation, mode, asked):
    described = live.description["paths"][operation.path][operation.method]
    shape = CHECKS.get_one("response_schema_conformance")

    @settings(QUIET, max_examples=90)
    @given(case=operation.as_strategy(generation_mode=mode))
    def ask(case):
        asked[operation.label] += 1
        answer = case.call()
        headers = {name.lower(): values[0] for name, values in answer.headers.items()}
        live.check(answer.status_code, headers, answer.content, described, case.as_curl_command()[:1000])
        case.validate_response(answer, checks=[shape])

    with suppress(Unsatisfiable):  # what takes nothing cannot be given anything wrong
        ask()


# Values of which some are right, so that what is behind the checks of types is reached, too.
HUGE = st.sampled_from([1e308, -1e-320, 2**63, 10**400])
NUMBERS = st.one_of(st.floats(), st.integers(), st.integers(-200, 200), HUGE)
TEXTS = st.one_of(st.text(max_size=20), st.sampled_from(["pair_0001", "pair_0100", "s1", "s2", "s9", "test", "", "\0"]))
JSONS = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXTS, inner, max_size=4)),
    max_leaves=10,
)
TIMES = st.sampled_from(["2018-06-10T00:00:00Z", "..", "", "2018-06-10T00:00:00Z/..", "../..", "2019-01-01/2018-01-01"])
POSITIONS = st.lists(NUMBERS, max_size=4)
RINGS = st.lists(st.lists(POSITIONS, max_size=5), max_size=3)
KINDS = st.sampled_from(["Point", "Polygon", "MultiPoint", "LineString", "GeometryCollection", "Circle"])
GEOMETRIES = st.one_of(
    st.just({"type": "Polygon", "coordinates": [[[20, 44], [22, 44], [22, 45], [20, 44]]]}),
    st.fixed_dictionaries({"type": KINDS, "coordinates": st.one_of(POSITIONS, st.lists(POSITIONS), RINGS)}),
    JSONS,
)
OPERATORS = st.sampled_from(["=", "<", "and", "not", "in", "like", "isNull", "s_intersects", "a_contains", "+"])
PROPERTIES = st.sampled_from(["id", "country", "labels", "datetime", "geometry", "x"])
ARGUMENTS = st.one_of(st.fixed_dictionaries({"property": PROPERTIES}), GEOMETRIES, JSONS)
CONDITIONS = st.one_of(
    st.sampled_from(
        [
            "country = 'Serbia'",
            "country = 'Serbia' AND NOT a_contains(labels, ('Pastures'))",
            "nothing = 1",
            "country >",
            "number BETWEEN '1' AND 5",
            "S_INTERSECTS(geometry, POLYGON((20 44, 22 44, 22 45, 20 44)))",
            "datetime > TIMESTAMP('2018-06-10T00:00:00Z')",
            "country LIKE '%" + "a%" * 50 + "'",
            "(" * 200 + "id = '1'" + ")" * 200,
            "NOT " * 500 + "id = '1'",
        ]
    ),
    st.fixed_dictionaries({"op": OPERATORS, "args": st.lists(ARGUMENTS, max_size=3)}),
    st.fixed_dictionaries({"op": OPERATORS, "args": JSONS}),
    TEXTS,
    JSONS,
)
FILTERS = {
    "bbox": st.one_of(st.just([20, 44, 21, 45]), POSITIONS, JSONS),
    "intersects": GEOMETRIES,
    "datetime": st.one_of(TIMES, TEXTS, JSONS),
    "ids": st.one_of(st.lists(TEXTS, max_size=5), JSONS),
    "labels": st.one_of(st.just(["Pastures"]), st.lists(TEXTS, max_size=5)),
    "split": TEXTS,
    "filter": CONDITIONS,
    "filter-lang": st.sampled_from(["cql2-text", "cql2-json", "sql"]),
}
VECTORS = st.one_of(st.lists(st.floats(-10, 10), min_size=16, max_size=16), st.lists(NUMBERS, max_size=20), JSONS)
MODALITIES = st.one_of(st.sampled_from(["s1", "s2"]), st.sampled_from(["s1", "s2"]), TEXTS)
LIMITS = st.one_of(st.integers(1, 2000), NUMBERS)
EXAMPLES = st.lists(
    st.fixed_dictionaries({}, optional={"id": TEXTS, "vector": VECTORS, "modality": MODALITIES}), max_size=3
)
WAYS = st.one_of(
    st.fixed_dictionaries({"vector": VECTORS}),
    st.fixed_dictionaries({"id": TEXTS}),
    st.fixed_dictionaries({"positives": EXAMPLES}, optional={"negatives": EXAMPLES}),
)
REST = st.fixed_dictionaries(
    {"modality": MODALITIES, "target": st.one_of(MODALITIES, st.lists(MODALITIES, max_size=3))},
    optional={"limit": LIMITS, "min_score": NUMBERS, "token": TEXTS, **FILTERS},
)
GOOD = st.sampled_from(
    [
        {"vector": [1, *[0] * 15], "modality": "s1", "target": "s2"},
        {"id": "pair_0001", "modality": "s1", "target": ["s2", "s1"], "limit": 3},
        {"positives": [{"id": "pair_0001"}], "negatives": [{"id": "pair_0100"}], "modality": "s2", "target": "s1"},
    ]
)
CHANGES = st.sampled_from(sorted(FILTERS)).flatmap(lambda name: st.fixed_dictionaries({name: FILTERS[name]}))
SEARCHES = st.one_of(
    st.builds(lambda way, rest: {**rest, **way}, WAYS, REST),
    st.builds(lambda good, change: {**good, **change}, GOOD, CHANGES),
)


def sent(value):
    """As JSON with whatever Python writes: NaN and infinities, lone surrogates."""
    return {"content": json.dumps(value).encode(), "headers": {"content-type": "application/json"}}


def test_searches_of_which_some_are_right(live):
    before = live.statuses[200]

    @settings(QUIET, max_examples=1500)
    @given(body=SEARCHES)
    def ask(body):
        found = live.ask("POST", "/v1/search", **sent(body))
        if found.status_code == 200:
            assert found.json()["numberReturned"] == len(found.json()["features"])

    ask()
    assert live.statuses[200] - before > 100


def test_batches_answer_each_search_in_its_place(live):
    @settings(QUIET, max_examples=100)
    @given(bodies=st.lists(st.one_of(SEARCHES, JSONS), max_size=5))
    def ask(bodies):
        found = live.ask("POST", "/v1/search/batch", **sent({"searches": bodies}))
        if found.status_code == 200:
            assert len(found.json()["results"]) == len(bodies)

    ask()


def said(value):
    """A value in a query string: lists with commas between, all else as JSON."""
    text = value if isinstance(value, str) else json.dumps(value).strip("[]")
    return text.encode("utf-8", "replace")


def test_items_by_whatever_a_query_string_says(live):
    @settings(QUIET, max_examples=500)
    @given(query=st.fixed_dictionaries({}, optional={**FILTERS, "limit": LIMITS, "sample": LIMITS, "token": TEXTS}))
    def ask(query):
        live.ask("GET", "/v1/items", params={name: said(value) for name, value in query.items()})

    ask()


def test_images_of_whatever_bytes(live):
    magics = st.sampled_from([b"", b"\x93NUMPY\x01\x00", b"PK\x03\x04", b"\x89PNG\r\n\x1a\n", b"II*\0", b"MM\0*"])
    named = st.fixed_dictionaries(
        {"modality": MODALITIES, "target": MODALITIES}, optional={"filters": TEXTS, "limit": TEXTS}
    )

    @settings(QUIET, max_examples=100)
    @given(contents=st.lists(st.builds(bytes.__add__, magics, st.binary(max_size=300)), max_size=3), form=named)
    def ask(contents, form):
        files = [("files", (f"x{number}", content)) for number, content in enumerate(contents)]
        data = {name: said(value) for name, value in form.items()}
        for path in ("/v1/search/image", "/v1/embed"):
            live.ask("POST", path, files=files or None, data=data)

    ask()


@pytest.mark.parametrize("path", ["/v1/search", "/v1/search/batch", "/v1/search/image", "/v1/embed"])
@pytest.mark.parametrize("kind", ["application/json", "multipart/form-data; boundary=B", "multipart/form-data", ""])
def test_bodies_of_whatever_bytes(live, path, kind):
    @settings(QUIET, max_examples=15)
    @given(body=st.one_of(st.binary(max_size=200), st.binary(max_size=50).map(lambda more: b"--B\r\n" + more)))
    def ask(body):
        assert live.ask("POST", path, content=body, headers={"content-type": kind}).status_code == 400

    ask()
    deep = b'{"target": "s1", "filter": ' + b'{"op": "not", "args": [' * 3000 + b"1" + b"]}" * 3000 + b"}"
    for body in (b"[" * 50_000, b'{"a":' * 30_000, deep, b'{"vector": [' + b"9" * 5000 + b"]}"):
        assert live.ask("POST", path, content=body, headers={"content-type": kind}).status_code == 400


@pytest.mark.parametrize("name", ["..", "%00", "a%2Fb%2F..", "%FF%FE", "x" * 5000, "pair_0001%0d%0aX-A:b", "💥", " "])
def test_items_of_whatever_name(live, name):
    for path in ("", "/similar?modality=s1", "/preview/s1", "/preview/%00"):
        response = live.http.get(f"/v1/items/{name}{path}")
        assert response.status_code in (400, 404), response.text
        assert response.headers["content-type"] == "application/problem+json"
        assert "x-a" not in response.headers
