"""What a gateway does when parts fail, are slow or refuse; deployments here are objects that misbehave as told."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import io
import itertools
import json
import time

import httpx
import numpy as np
import orjson
import pytest
from ray.exceptions import ActorDiedError, RayTaskError
from ray.serve.exceptions import BackPressureError

from serve.api import Filters, HttpProblem
from serve.calls import Lost
from serve.channel import Busy
from serve.editions import Edition, Plan
from serve.gateway import Gateway
from serve.guard import Rules
from serve.items import scored
from serve.messages import Found, ShardAnswer, ShardHit, pack_found, unpack_filter
from serve.routes import build_api
from sscm.errors import QueryError
from sscm.sensors import sentinel1, sentinel2
from sscm.workspace import open_workspace
from tests.plugins.service import Local

SILENT = 30.0
"""Seconds that are longer than anybody waits here."""


class Shard:
    """An index shard whose methods give these outcomes in turn: a value, an exception, or seconds to sleep.

    One that sleeps for longer than there is time is lost, as :class:`serve.fanout.ShardClient` has it.
    """

    def __init__(self, **outcomes):
        self._outcomes = {name: itertools.cycle(given) for name, given in outcomes.items()}
        self.queries, self.calls, self.replicas, self.waiting = [], [], None, 0

    async def search(self, generation, query, seconds):
        self.queries.append(query)
        self.calls.append(("search", generation))
        return await outcome(next(self._outcomes["search"]), seconds)

    async def call(self, method, arguments, seconds):
        self.calls.append((method, *arguments))
        return await outcome(next(self._outcomes[method]), seconds)

    def follow(self, replicas):
        self.replicas = dict(replicas)


async def outcome(given, seconds):
    if isinstance(given, float):
        await asyncio.sleep(min(given, seconds))
        if given > seconds:
            raise Lost(504, f"no answer within {seconds:.3g} s")
        return None
    if isinstance(given, Exception):
        raise given
    return given


class Encoder:
    """An encoder's replica whose outcomes are like those of a shard; Ray's errors come as a handle raises them."""

    def __init__(self, *outcomes):
        self._outcomes = itertools.cycle(outcomes)
        self.calls = []

    async def encode(self, generation, groups):
        self.calls.append((generation, groups))
        return await outcome(next(self._outcomes), SILENT + 1)

    async def ready(self):
        return await outcome(next(self._outcomes), SILENT + 1)


class Coordinator:
    """Hands out plans."""

    def __init__(self, edition, reload=None):
        self.members, self._reload = [], reload
        self.plan = Plan(version=("c", 0), current=edition, replicas=tuple({} for _ in edition.shard_rows))

    async def follow(self, member, known):
        self.members.append(member)
        while self.plan.version == known:
            await asyncio.sleep(0.005)
        return self.plan

    async def report(self, member):
        self.members.append(member)

    async def reload(self, seconds):
        return await outcome(self._reload, seconds)

    def switch(self, **changes):
        """Hand out a plan whose edition is another."""
        edition = dataclasses.replace(self.plan.current, **changes)
        self.plan = dataclasses.replace(self.plan, version=("c", self.plan.version[1] + 1), current=edition)


def item(pair_id):
    return orjson.dumps(
        {"type": "Feature", "id": pair_id, "geometry": None, "assets": {}, "links": [], "properties": {"split": "test"}}
    )


def answer(*hits, matched=10, batch=1, target="s2"):
    return (
        ShardAnswer([ShardHit(name, score, scored(item(name), score, target)) for name, score in hits], matched),
        batch,
    )


def listed(*names, matched=None, following=None):
    """What a shard answers to browse and sample."""
    return [len(names) if matched is None else matched, [item(name) for name in names], [*range(len(names))], following]


def died():
    return Lost(503, "its replica died")


def edition_of(tmp_path, shards, generation=7, properties=("country",)):
    return Edition(
        workspace=open_workspace(str(tmp_path)),
        generation=generation,
        created="2026-01-01T00:00:00+00:00",
        modalities=(sentinel1(24), sentinel2(24)),
        dimension=4,
        model={"name": "small", "fingerprint": "ab"},
        simulated=False,
        shard_rows=tuple(10 for _ in shards),
        properties=properties,
    )


def gateway_of(tmp_path, shards, encoder=None, deadline_s=5.0, max_upload_bytes=100_000, coordinator=None, **edition):
    return Gateway(
        coordinator=Local(coordinator or Coordinator(edition_of(tmp_path, shards, **edition))),
        encoders={"s1": Local(encoder or Encoder((np.float32([1, 0, 0, 0]), 3)))},
        shards=shards,
        deadline_s=deadline_s,
        max_upload_bytes=max_upload_bytes,
        rules=Rules(local=True),
    )


async def asked(gateway, method, path, raises=True, **how):
    transport = httpx.ASGITransport(build_api(gateway), raise_app_exceptions=raises)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as http:
        return await http.request(method, path, **how)


def ask(gateway, method, path, raises=True, **how):
    return asyncio.run(asked(gateway, method, path, raises, **how))


QUERY = {"vector": [1, 2, 3, 4], "modality": "s1", "target": "s2", "limit": 3}


def search(gateway, **changes):
    return ask(gateway, "POST", "/v1/search", json={**QUERY, **changes})


def refused(response, status, *words):
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert problem["status"] == status
    for word in words:
        assert word in problem["detail"]


def metric(gateway, name, **labels):
    return gateway.metrics.registry.get_sample_value(name, labels)


def test_answers_of_all_shards_are_merged_and_counted(tmp_path):
    shards = [Shard(search=[answer(("b", 0.9), ("d", 0.1))]), Shard(search=[answer(("a", 0.9), ("c", 0.5), batch=4)])]
    gateway = gateway_of(tmp_path, shards)
    response = search(gateway)
    assert response.headers["content-type"] == "application/geo+json"
    found = response.json()
    assert [feature["id"] for feature in found["features"]] == ["a", "b", "c"]
    assert [feature["properties"]["score"] for feature in found["features"]] == [0.9, 0.9, 0.5]
    assert {feature["properties"]["target"] for feature in found["features"]} == {"s2"}
    assert found["numberMatched"] == 20
    assert found["sscm"] == {
        "generation": 7,
        "model": {"name": "small", "fingerprint": "ab"},
        "target": "s2",
        "simulated": False,
        "complete": True,
    }
    [query] = shards[0].queries
    assert (query.k, shards[0].calls) == (3, [("search", 7)])
    np.testing.assert_allclose(query.vector, np.array([1, 2, 3, 4]) / np.sqrt(30), rtol=1e-6)
    assert metric(gateway, "sscm_requests_total", route="/v1/search", status="200") == 1
    assert metric(gateway, "sscm_batch_size_sum", stage="search") == 5
    counted = {
        stage: metric(gateway, "sscm_stage_seconds_count", stage=stage) for stage in ("fan-out", "scan", "merge")
    }
    assert counted == {"fan-out": 1, "scan": 2, "merge": 1}
    assert metric(gateway, "sscm_generation") == 7


def test_a_limit_above_the_largest_is_cut(tmp_path):
    shard = Shard(search=[answer()])
    assert search(gateway_of(tmp_path, [shard]), limit=10**6).status_code == 200
    assert shard.queries[0].k == 1000


class Ranked(Shard):
    """A shard of answers 0 to before ``count``, of which it has every so many; a pair has its number as vector."""

    def __init__(self, count, first=0, step=1):
        super().__init__()
        self.numbers = range(first, count, step)

    async def search(self, generation, query, seconds):
        self.queries.append(query)
        self.calls.append(("search", generation))
        hits = [(n, 1 - n / 10_000) for n in self.numbers if query.least is None or 1 - n / 10_000 >= query.least]
        named = ((f"p{n:04d}", score) for n, score in hits[: query.k])
        return answer(*named, matched=len(self.numbers), target=query.target)

    async def call(self, method, arguments, seconds):
        self.calls.append((method, *arguments))
        assert method == "find"
        _, pair_id, _ = arguments
        if pair_id == "imageless":
            return pack_found(Found(item(pair_id), "x", 0, None))
        vectors = {"a": [1, 0, 0, 0], "b": [0, 1, 0, 0], "c": [0, 0, 1, 0]}
        return pack_found(Found(item(pair_id), "x", 0, np.float32(vectors[pair_id])) if pair_id in vectors else None)


def following(response):
    """The body that asks for the next page, as STAC API says; None where there is none."""
    links = [link for link in response.json()["links"] if link["rel"] == "next"]
    if not links:
        return None
    assert links == [
        {
            "rel": "next",
            "href": "/v1/search",
            "method": "POST",
            "type": "application/geo+json",
            "merge": True,
            "body": links[0]["body"],
        }
    ]
    return links[0]["body"]


def ids(response):
    assert response.status_code == 200, response.text
    return [feature["id"] for feature in response.json()["features"]]


def test_pages_together_are_all_answers_in_order(tmp_path):
    shards = [Ranked(25, 0, 2), Ranked(25, 1, 2)]
    gateway = gateway_of(tmp_path, shards)
    seen, change, limits = [], {}, []
    while change is not None:
        response = search(gateway, **{"limit": 10, **change})
        seen += ids(response)
        assert response.json()["numberMatched"] == 25
        change = following(response)
        limits.append(shards[0].queries[-1].k)
    assert seen == [f"p{n:04d}" for n in range(25)]
    assert limits == [10, 20, 30]
    first = following(search(gateway, limit=5))
    assert ids(search(gateway, **{**first, "limit": 3})) == ["p0005", "p0006", "p0007"]


def test_pages_end_where_the_window_does(tmp_path):
    gateway = gateway_of(tmp_path, [Ranked(30_000)])
    change, pages = {"limit": 900}, []
    while change is not None:
        response = search(gateway, **{"limit": 900, **change})
        pages.append(ids(response))
        change, last = following(response), change
    assert [len(page) for page in pages] == [900] * 11 + [100]
    assert pages[-1][-1] == "p9999"
    detail = "answers 9901 to 10801 are asked for; pages reach to 10000: ask with limit 100 or less"
    refused(search(gateway, **{**last, "limit": 901}), 400, detail)


def test_a_token_holds_for_its_query_and_generation(tmp_path):
    shard = Ranked(25)
    gateway = gateway_of(tmp_path, [shard])
    asked = {"filter": "country = 'x'", "min_score": 0.1}
    body = following(search(gateway, **asked))
    assert ids(search(gateway, **asked, **body)) == ["p0003", "p0004", "p0005"]
    tree = {"op": "=", "args": [{"property": "country"}, "x"]}
    assert ids(search(gateway, **{**asked, "filter": tree}, **body)) == ["p0003", "p0004", "p0005"]
    count = len(shard.queries)
    for change in (
        {"vector": [1, 2, 3, 5]},
        {"target": "s1"},
        {"filter": "country = 'y'"},
        {"min_score": None},
        {"split": "test"},
        {"filter": None},
    ):
        refused(search(gateway, **{**asked, **body, **change}), 400, "token was made for another query")
    later = gateway_of(tmp_path, [shard], generation=8)
    refused(search(later, **asked, **body), 400, "token is of generation 7 of the index, and 8 is served now")
    made = [json.dumps({"generation": 7, "offset": offset, "query": "x"}).encode() for offset in (0, -1, 1.5, 10_000)]
    for token in (*(base64.urlsafe_b64encode(value).decode() for value in made), "é", "", "e30", body["token"][:-9]):
        refused(search(gateway, **asked, token=token), 400, "is none of this service")
    assert len(shard.queries) == count


def test_a_score_threshold_goes_to_the_shards(tmp_path):
    shard = Ranked(100)
    gateway = gateway_of(tmp_path, [shard])
    response = search(gateway, limit=50, min_score=0.999)
    assert ids(response) == [f"p{n:04d}" for n in range(11)]
    assert shard.queries[-1].least == 0.999
    assert response.json()["numberMatched"] == 100 and following(response) is None
    similar = ask(gateway, "GET", "/v1/items/a/similar", params={"modality": "s1", "min_score": 0.9999})
    assert ids(similar) == ["p0000", "p0001"]
    form = {"modality": "s1", "target": "s2", "min_score": "0.9999"}
    uploaded = ask(gateway, "POST", "/v1/search/image", files=upload(np.full((2, 24, 24), -12, np.float32)), data=form)
    assert ids(uploaded) == ["p0000", "p0001"] and uploaded.json()["links"] == []


def test_examples_are_one_query_and_do_not_answer_themselves(tmp_path):
    shard = Ranked(5)
    gateway = gateway_of(tmp_path, [shard])

    def asked(**changes):
        response = search(gateway, **{"vector": None, **changes})
        assert response.status_code == 200, response.text
        return shard.queries[-1]

    query = asked(positives=[{"id": "a"}, {"id": "b", "modality": "s2"}, {"vector": [0, 0, 0, 9]}])
    np.testing.assert_allclose(query.vector, np.float32([1, 1, 0, 1]) / np.sqrt(3), atol=1e-6)
    assert query.exclude == {"b"}  # of target s2; a is an example by its image of s1
    query = asked(positives=[{"id": "a"}], negatives=[{"id": "b"}, {"id": "c", "modality": "s2"}], modality="s1")
    wanted = np.array([1, -0.1, -0.1, 0])
    np.testing.assert_allclose(query.vector, wanted / np.linalg.norm(wanted), atol=1e-6)
    assert query.exclude == {"c"}
    assert asked(positives=[{"id": "a", "modality": "s2"}], modality=None).exclude == {"a"}
    body = {"vector": None, "positives": [{"id": "a"}], "limit": 2}
    following_page = search(gateway, **{**body, **following(search(gateway, **body))})
    assert ids(following_page) == ["p0002", "p0003"]
    missing = search(gateway, vector=None, positives=[{"id": "a"}], negatives=[{"id": "nobody"}])
    refused(missing, 404, "item 'nobody' is not in generation 7")
    imageless = search(gateway, vector=None, positives=[{"id": "imageless"}])
    refused(imageless, 404, "item 'imageless' has no image of s1")


def test_a_filter_goes_to_the_shards_and_an_old_index_leaves_its_names_to_them(tmp_path):
    shard = Ranked(5)
    gateway = gateway_of(tmp_path, [shard])
    assert search(gateway, filter="country = 'x' AND s1_datetime IS NOT NULL").status_code == 200
    assert shard.queries[-1].filter.properties() == ("country", "s1_datetime")
    old = gateway_of(tmp_path, [shard], properties=None)
    assert search(old, filter="cloud < 3").status_code == 200
    assert shard.queries[-1].filter.properties() == ("cloud",)


def test_a_body_nested_without_end_is_refused(tmp_path):
    headers = {"content-type": "application/json"}
    gateway = gateway_of(tmp_path, [Ranked(5)], max_upload_bytes=10_000_000)
    for body in ("[" * 100_000, '{"filter": ' * 100_000):
        response = ask(gateway, "POST", "/v1/search", raises=False, content=body, headers=headers)
        refused(response, 400)
    deep = '{"op": "not", "args": [' * 500 + "true" + "]}" * 500
    body = f'{{"vector": [1, 2, 3, 4], "modality": "s1", "target": "s2", "filter": {deep}}}'
    refused(ask(gateway, "POST", "/v1/search", raises=False, content=body, headers=headers), 400)


def test_a_dead_encoder_costs_a_retry(tmp_path):
    encoder = Encoder(ActorDiedError(), (np.float32([1, 0, 0, 0]), 1))
    gateway = gateway_of(tmp_path, [Shard(search=[answer(("a", 0.9))])], encoder)
    form = {"modality": "s1", "target": "s2"}
    found = ask(gateway, "POST", "/v1/search/image", files=upload(PIXELS), data=form)
    assert ids(found) == ["a"]
    assert found.json()["sscm"]["complete"] is True
    assert [generation for generation, _ in encoder.calls] == [7, 7]


@pytest.mark.parametrize(("bad", "status"), [(died(), "503"), (SILENT, "504")], ids=["dead", "silent"])
def test_a_lost_shard_makes_a_marked_partial_answer(tmp_path, bad, status):
    shards = [
        Shard(search=[bad], browse=[bad], sample=[bad]),
        Shard(search=[answer(("a", 0.9))], browse=[listed("a", "b")], sample=[listed("b", "a")]),
    ]
    gateway = gateway_of(tmp_path, shards, deadline_s=0.3)
    response = search(gateway)
    assert ids(response) == ["a"]
    assert response.json()["numberMatched"] == 10
    browsed, sampled = (ask(gateway, "GET", f"/v1/items?{what}") for what in ("limit=5", "sample=5"))
    assert ids(browsed) == sorted(ids(sampled)) == ["a", "b"]
    for about in (found.json()["sscm"] for found in (response, browsed, sampled)):
        assert (about["complete"], about["shards_lost"]) == (False, [0])
    assert metric(gateway, "sscm_shard_errors_total", shard="0", status=status) == 3


def test_a_partial_answer_of_several_targets_names_each_lost_shard_once(tmp_path):
    shards = [Shard(search=[died()]), Shard(search=[answer(("a", 0.9))]), Shard(search=[died(), answer(("b", 0.8))])]
    found = search(gateway_of(tmp_path, shards), target=["s1", "s2"]).json()
    assert [feature["id"] for feature in found["features"]] == ["a", "a", "b"]
    assert found["sscm"]["shards_lost"] == [0, 2]


def test_without_any_shard_there_is_no_answer(tmp_path):
    lost = Shard(search=[died()], browse=[died()], sample=[died()], find=[died()])
    gateway = gateway_of(tmp_path, [lost] * 2)
    for path in ("/v1/items", "/v1/items?sample=3"):
        refused(ask(gateway, "GET", path), 503, "no index shard answers", "try again")
    response = search(gateway)
    refused(response, 503, "no index shard answers", "try again")
    assert response.headers["retry-after"] == "1"
    refused(search(gateway_of(tmp_path, [Shard(search=[SILENT])], deadline_s=0.2)), 504, "no answer within 0.1")


def test_an_overloaded_part_is_told_with_when_to_come_back(tmp_path):
    busy = HttpProblem(503, "too many requests are waiting; try again", {"Retry-After": "1"})
    response = search(gateway_of(tmp_path, [Shard(search=[answer()]), Shard(search=[busy])]))
    refused(response, 503, "too many requests are waiting")
    assert response.headers["retry-after"] == "1"
    refusing = BackPressureError(num_queued_requests=9, max_queued_requests=9)
    full = RayTaskError("encode", "Traceback: secret paths", Busy("256 queries wait")).as_instanceof_cause()
    for error in (refusing, full):
        gateway = gateway_of(tmp_path, [], encoder=Encoder(error))
        response = ask(gateway, "POST", "/v1/embed", files=upload(PIXELS), data={"modality": "s1"})
        refused(response, 503, "too many requests are waiting")
        assert response.headers["retry-after"] == "1"


def test_what_a_part_refuses_is_told_in_its_own_words_without_a_traceback(tmp_path):
    response = search(gateway_of(tmp_path, [Shard(search=[QueryError("bbox is odd")])]))
    refused(response, 400, "bbox is odd")
    wrapped = RayTaskError("encode", "Traceback: secret paths", QueryError("bands are odd")).as_instanceof_cause()
    gateway = gateway_of(tmp_path, [], encoder=Encoder(wrapped))
    response = ask(gateway, "POST", "/v1/embed", files=upload(PIXELS), data={"modality": "s1"})
    refused(response, 400, "bands are odd")
    assert "Traceback" not in response.text


def test_an_unforeseen_error_is_500_without_its_words(tmp_path):
    gateway = gateway_of(tmp_path, [Shard(search=[ZeroDivisionError("secret")], find=[ZeroDivisionError("secret")])])
    for method, path, how, route in (
        ("POST", "/v1/search", {"json": QUERY}, "/v1/search"),
        ("GET", "/v1/items/a", {}, "/v1/items/{pair_id:path}"),
    ):
        response = ask(gateway, method, path, raises=False, **how)
        refused(response, 500, f"ZeroDivisionError in {path}")
        assert "secret" not in response.text
        assert metric(gateway, "sscm_requests_total", route=route, status="500") == 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"vector": [1, 2, 3]}, ["vector: 3 numbers; expected 4"]),
        ({"vector": [0, 0, 0, 0]}, ["vector: norm 0.0"]),
        ({"vector": ["a", 0, 0, 0]}, ["vector.0", "seen 'a'"]),
        ({"modality": "s9"}, ["modality: 's9' is unknown; this index has ['s1', 's2']"]),
        ({"target": "s9"}, ["target: 's9' is unknown"]),
        ({"target": ["s1", "s9"]}, ["target: 's9' is unknown"]),
        ({"target": []}, ["target", "at least 1 item"]),
        ({"target": ["s1"] * 9}, ["target", "at most 8 items"]),
        ({"limit": 0}, ["limit", "seen 0"]),
        ({"bbox": [1, 2, 3]}, ["bbox = [1.0, 2.0, 3.0]", "expected [west, south, east, north]"]),
        ({"datetime": "yesterday"}, ["datetime = 'yesterday'"]),
        ({"split": "all"}, ["split = 'all'; expected one of train"]),
        ({"intersects": {"type": "Blob"}}, ["intersects"]),
        ({"filter": "country = 'x"}, ["filter: column 11", "this ' is never closed"]),
        ({"filter": "country = 1 1"}, ["filter: column 13", "expected an operator"]),
        ({"filter": "buffer(geometry)"}, ["'buffer' is not supported"]),
        ({"filter": "cloud < 3"}, ["property 'cloud' is unknown; known are country, datetime, geometry, id, labels"]),
        ({"filter": {"op": "isNull", "args": [{"property": "s9_datetime"}]}}, ["'s9_datetime' is unknown"]),
        ({"filter": "country = 'x'", "filter-lang": "cql"}, ["filter-lang = 'cql'"]),
        ({"token": "xx"}, ["token 'xx' is none of this service"]),
        ({"min_score": 1.5}, ["min_score", "seen 1.5"]),
        ({"vector": None, "positives": []}, ["no positive example"]),
        ({"vector": None, "positives": [{"vector": [1, 2, 3]}]}, ["positives.0: float64 [3]; expected 4 numbers"]),
        ({"vector": None, "positives": [{"vector": [0, 0, 0, 0]}]}, ["positives.0 has norm zero"]),
        ({"vector": None, "positives": [{"id": "a", "modality": "s9"}]}, ["modality: 's9' is unknown"]),
    ],
)
def test_wrong_requests_are_refused_before_any_shard_is_asked(tmp_path, changes, words):
    shard = Shard(search=[answer()])
    refused(search(gateway_of(tmp_path, [shard]), **changes), 400, *words)
    assert shard.calls == []


def test_a_vector_that_is_not_finite_is_refused(tmp_path):
    body = '{"vector": [NaN, 1, 2, 3], "modality": "s1", "target": "s2"}'
    headers = {"content-type": "application/json"}
    gateway = gateway_of(tmp_path, [Shard(search=[answer()])])
    refused(ask(gateway, "POST", "/v1/search", content=body, headers=headers), 400, "vector")
    refused(
        ask(gateway, "POST", "/v1/search", content=b"{", headers=headers), 400, "request: Invalid JSON", "seen b'{'"
    )


PIXELS = np.full((2, 24, 24), -12, np.float32)


def upload(pixels):
    buffer = io.BytesIO()
    np.save(buffer, pixels)
    return {"files": ("x.npy", buffer.getvalue())}


def test_an_image_is_decoded_encoded_and_searched(tmp_path):
    shard, encoder = Shard(search=[answer(("a", 0.9))]), Encoder((np.float32([1, 0, 0, 0]), 3))
    gateway = gateway_of(tmp_path, [shard], encoder)
    pixels = PIXELS.copy()
    form = {"modality": "s1", "target": "s2", "limit": "2", "filters": '{"split": "test"}'}
    response = ask(gateway, "POST", "/v1/search/image", files=upload(pixels), data=form)
    assert response.status_code == 200, response.text
    [(generation, groups)] = encoder.calls
    assert (generation, shard.calls) == (7, [("search", 7)])
    np.testing.assert_array_equal(groups["s1"], pixels)
    [query] = shard.queries
    assert (query.k, query.target, query.filter.split) == (2, "s2", "test")
    np.testing.assert_array_equal(query.vector, [1, 0, 0, 0])
    for stage in ("decode", "encode", "fan-out", "scan", "merge"):
        assert metric(gateway, "sscm_stage_seconds_count", stage=stage) == 1
    assert metric(gateway, "sscm_batch_size_sum", stage="encode") == 3
    pixels[0, 0, 0] = np.nan
    refused(ask(gateway, "POST", "/v1/search/image", files=upload(pixels), data=form), 400, "1 of 1152 pixels are NaN")
    for changes, word in (({"filters": "{"}, "is not JSON"), ({"target": "x"}, "'x'"), ({"modality": "x"}, "'x'")):
        answered = ask(gateway, "POST", "/v1/search/image", files=upload(pixels), data={**form, **changes})
        refused(answered, 400, word)
    refused(ask(gateway, "POST", "/v1/search/image", data=form), 400, "files: Field required")


def test_a_dead_encoder_is_503(tmp_path):
    encoder = Encoder(ActorDiedError())
    gateway = gateway_of(tmp_path, [], encoder)
    response = ask(gateway, "POST", "/v1/embed", files=upload(PIXELS), data={"modality": "s1"})
    refused(response, 503, "no encoder of s1 answers: its replica died")
    assert response.headers["retry-after"] == "1"
    assert len(encoder.calls) == 2


def test_a_body_that_is_too_large_is_413_whether_its_length_is_told_or_not(tmp_path):
    gateway = gateway_of(tmp_path, [Shard(search=[answer()])], max_upload_bytes=1000)
    headers = {"content-type": "application/json"}
    told = ask(gateway, "POST", "/v1/search", content=b"x" * 1001, headers=headers)
    refused(told, 413, "expected at most 1000", "--max-upload-mb")

    async def stream():
        for _ in range(50):
            yield b"[" * 100

    streamed = ask(gateway, "POST", "/v1/search", content=stream(), headers=headers)
    refused(streamed, 413, "expected at most 1000")


def test_a_request_that_takes_too_long_is_504(tmp_path):
    gateway = gateway_of(tmp_path, [], Encoder(SILENT), deadline_s=0.2)
    response = ask(gateway, "POST", "/v1/embed", files=upload(PIXELS), data={"modality": "s1"})
    refused(response, 504, "no encoder of s1 answers: no answer within 0.1")
    assert metric(gateway, "sscm_requests_total", route="/v1/embed", status="504") == 1


def test_an_item_is_looked_for_in_all_shards(tmp_path):
    found = pack_found(Found(item("a"), "shards/x.parquet", 3, np.float32([0, 1, 0, 0])))
    shards = [Shard(find=[None], search=[answer()]), Shard(find=[found], search=[answer(("a", 1.0))])]
    gateway = gateway_of(tmp_path, shards)
    assert ask(gateway, "GET", "/v1/items/a%2Fb").json()["id"] == "a"
    assert shards[0].calls == [("find", 7, "a/b", None)]
    same = ask(gateway, "GET", "/v1/items/a/similar", params={"modality": "s1"})
    assert same.status_code == 200
    assert shards[0].queries[-1].exclude == {"a"}
    ask(gateway, "GET", "/v1/items/a/similar", params={"modality": "s1", "target": "s2"})
    assert shards[0].queries[-1].exclude == frozenset()
    refused(ask(gateway_of(tmp_path, shards[:1]), "GET", "/v1/items/a"), 404, "item 'a' is not in generation 7")
    lost = [Shard(find=[None]), Shard(find=[died()])]
    refused(ask(gateway_of(tmp_path, lost), "GET", "/v1/items/a"), 503, "shard that may hold item 'a'")
    one_lost = [Shard(find=[died()]), Shard(find=[found])]
    assert ask(gateway_of(tmp_path, one_lost), "GET", "/v1/items/a").json()["id"] == "a"
    without = [Shard(find=[pack_found(Found(item("a"), "x", 3, None))])]
    refused(search(gateway_of(tmp_path, without), vector=None, id="a"), 404, "item 'a' has no image of s1")


class Rows(Shard):
    """A shard of so many rows, of which it draws some; a row's name is its number among those of all shards."""

    def __init__(self, first, count):
        super().__init__()
        self.first, self.count, self.random = first, count, np.random.default_rng(first)

    async def call(self, method, arguments, seconds):
        self.calls.append((method, *arguments))
        drawn = self.random.permutation(self.count)[: arguments[2]]
        return listed(*(str(self.first + n) for n in drawn), matched=self.count)


def test_a_sample_is_drawn_evenly_from_all_rows_however_they_are_dealt(tmp_path):
    gateway = gateway_of(tmp_path, [Rows(0, 1), Rows(1, 20), Rows(21, 9), Rows(30, 0)])
    gateway.retrieval._random = np.random.default_rng(11)
    counts, places = np.zeros(30), np.zeros(30)

    async def draw():
        turn = await gateway.turn()
        for _ in range(500):
            found = orjson.loads(await gateway.retrieval.sample(turn, Filters(), 6))
            drawn = [int(feature["id"]) for feature in found["features"]]
            assert len(set(drawn)) == found["numberReturned"] == 6 and found["numberMatched"] == 30
            counts[drawn] += 1
            places[drawn[0]] += 1

    asyncio.run(draw())
    assert (
        chi_square(counts * 29 / 24) < 58.3
    )  # drawn without repetition: it varies less; 58.3 is exceeded in 1 of 1000
    assert chi_square(places) < 58.3  # and they come in any order
    everything = ask(gateway, "GET", "/v1/items?sample=1000").json()
    assert sorted(int(f["id"]) for f in everything["features"]) == list(range(30))


def chi_square(counts):
    """Statistic of 30 counts that are to be equal; it has 29 degrees of freedom."""
    expected = counts.mean()
    return ((counts - expected) ** 2 / expected).sum()


def test_a_sample_of_what_passes_a_filter_asks_for_that(tmp_path):
    shards = [Rows(0, 3), Rows(3, 2)]
    found = ask(gateway_of(tmp_path, shards), "GET", "/v1/items?sample=4&split=test&labels=a,b&filter=country='x'")
    assert (found.json()["numberMatched"], found.json()["numberReturned"], found.json()["links"]) == (5, 4, [])
    for shard in shards:
        [(method, generation, text, count)] = shard.calls
        assert (method, generation, count) == ("sample", 7, 4)
        restriction = unpack_filter(text)
        assert (restriction.split, restriction.labels) == ("test", ("a", "b"))
        assert restriction.properties() == ("country",)


def test_readiness_says_what_is_missing(tmp_path):
    gateway = gateway_of(tmp_path, [Shard(ready=[10]), Shard(ready=[died()])])
    response = ask(gateway, "GET", "/readyz")
    assert response.status_code == 503
    assert response.json() == {
        "ready": False,
        "generation": 7,
        "loading": None,
        "refused": None,
        "parts": {"encoder s1": "ready", "shard 0": "ready", "shard 1": "does not answer"},
    }
    assert ask(gateway, "GET", "/livez").text == "alive"
    gateway = gateway_of(tmp_path, [Shard(ready=[10])], Encoder(ActorDiedError()))
    response = ask(gateway, "GET", "/readyz")
    assert (response.status_code, response.json()["parts"]["encoder s1"]) == (503, "does not answer")
    assert ask(gateway_of(tmp_path, [Shard(ready=[10])]), "GET", "/readyz").status_code == 200


def test_a_request_keeps_the_generation_that_it_began_with(tmp_path):
    found = pack_found(Found(item("a"), "x", 3, np.float32([0, 1, 0, 0])))
    shard = Shard(find=[found], search=[answer(("a", 0.9))])
    coordinator = Coordinator(edition_of(tmp_path, [shard]))
    gateway = gateway_of(tmp_path, [shard], coordinator=coordinator)
    begun, go_on = asyncio.Event(), asyncio.Event()
    plain = shard.call

    async def held_up(method, arguments, seconds):
        begun.set()
        await go_on.wait()
        return await plain(method, arguments, seconds)

    async def run():
        shard.call = held_up
        body = {**QUERY, "vector": None, "id": "a"}
        before = asyncio.create_task(asked(gateway, "POST", "/v1/search", json=body))
        await asyncio.wait_for(begun.wait(), 5)
        coordinator.switch(generation=8, model={"name": "other", "fingerprint": "cd"})
        await eventually(lambda: gateway.generation == 8)
        after = await asked(gateway, "POST", "/v1/search", json=QUERY)
        go_on.set()
        return await before, after

    before, after = asyncio.run(run())
    assert [r.json()["sscm"]["generation"] for r in (before, after)] == [7, 8]
    assert [r.json()["sscm"]["model"]["name"] for r in (before, after)] == ["small", "other"]
    assert shard.calls == [("search", 8), ("find", 7, "a", "s1"), ("search", 7)]
    assert metric(gateway, "sscm_generation") == 8
    assert coordinator.members[-1].loaded == (8,)


def test_all_searches_of_a_batch_are_of_one_generation(tmp_path):
    class Switching(Shard):
        """After the first search another generation is served."""

        async def search(self, generation, query, seconds):
            if len(self.queries) == 1:
                coordinator.switch(generation=8)
                await eventually(lambda: gateway.generation == 8)
            return await super().search(generation, query, seconds)

    shard = Switching(search=[answer(("a", 0.9))])
    coordinator = Coordinator(edition_of(tmp_path, [shard]))
    gateway = gateway_of(tmp_path, [shard], coordinator=coordinator)
    response = ask(gateway, "POST", "/v1/search/batch", json={"searches": [QUERY] * 5})
    assert [result["sscm"]["generation"] for result in response.json()["results"]] == [7] * 5
    assert shard.calls == [("search", 7)] * 5
    assert gateway.generation == 8


async def eventually(holds, seconds=5.0):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        await asyncio.sleep(0.005)


def test_replicas_of_each_shard_are_told_to_it(tmp_path):
    shards = [Shard(search=[answer()]), Shard(search=[answer()])]
    coordinator = Coordinator(edition_of(tmp_path, shards))
    coordinator.plan = dataclasses.replace(coordinator.plan, replicas=({"r0": ("h", 1)}, {"r1": ("h", 2)}))
    assert search(gateway_of(tmp_path, shards, coordinator=coordinator)).status_code == 200
    assert [shard.replicas for shard in shards] == [{"r0": ("h", 1)}, {"r1": ("h", 2)}]


def test_until_it_is_known_what_is_served_requests_are_told_to_come_back(tmp_path):
    class Silent(Coordinator):
        async def follow(self, member, known):
            await asyncio.sleep(SILENT)

    shard = Shard(search=[answer()])
    gateway = gateway_of(tmp_path, [shard], deadline_s=0.2, coordinator=Silent(edition_of(tmp_path, [shard])))

    async def run():
        alive = await asked(gateway, "GET", "/livez")
        asking = (("POST", "/v1/search", {"json": QUERY}), ("GET", "/v1/items", {}), ("GET", "/readyz", {}))
        return alive, [await asked(gateway, method, path, **how) for method, path, how in asking]

    alive, others = asyncio.run(run())
    assert alive.status_code == 200
    for response in others:
        refused(response, 503, "the service is starting; try again")
        assert response.headers["retry-after"] == "1"
    assert shard.calls == []


def test_moving_to_the_current_generation_tells_what_became_of_it(tmp_path):
    def reloaded(told, **options):
        coordinator = Coordinator(edition_of(tmp_path, []), reload=told)
        return ask(gateway_of(tmp_path, [], coordinator=coordinator, **options), "POST", "/v1/admin/reload")

    moved = {"generation": 8, "previous": 7, "loading": None, "refused": None}
    assert reloaded(moved).json() == moved
    assert reloaded({**moved, "generation": 7, "loading": 8}).json()["loading"] == 8
    wrong = {"generation": 7, "previous": 7, "loading": None, "refused": "generation 8 is of another model"}
    refused(reloaded(wrong), 409, "generation 8 is of another model; generation 7 is served on")
    refused(reloaded(ActorDiedError()), 503, "no coordinator answers")


def test_unknown_routes_and_methods_are_problems(tmp_path):
    gateway = gateway_of(tmp_path, [])
    refused(ask(gateway, "GET", "/v2/search"), 404, "no route '/v2/search'")
    refused(ask(gateway, "GET", "/v1/search"), 405, "GET is not allowed")
    assert metric(gateway, "sscm_requests_total", route="unknown", status="404") == 1


def test_what_is_served_is_told(tmp_path):
    gateway = gateway_of(tmp_path, [Shard()])
    assert ask(gateway, "GET", "/v1/index").json()["items"] == 10
    model = ask(gateway, "GET", "/v1/model").json()
    assert model["modalities"][0] == sentinel1(24).to_json()
    page = ask(gateway, "GET", "/")
    assert "default-src 'self'" in page.headers["content-security-policy"]
    assert "://" not in page.text.replace("http://www.w3.org", "")  # nothing is fetched from elsewhere
    assert "/v1/search/image" in ask(gateway, "GET", "/openapi.json").json()["paths"]
