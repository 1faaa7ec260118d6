"""What a gateway does when parts fail, are slow or refuse; deployments here are objects that misbehave as told."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import io
import itertools
import json

import httpx
import numpy as np
import pytest
from ray.exceptions import ActorDiedError, RayTaskError
from ray.serve.exceptions import BackPressureError

from serve.gateway import Gateway, Served
from serve.messages import Found, ShardAnswer, ShardHit
from serve.routes import build_api
from sscm.errors import QueryError
from sscm.sensors import sentinel1, sentinel2
from sscm.workspace import open_workspace


class Method:
    def __init__(self, outcomes):
        self.outcomes, self.calls = outcomes, []

    async def remote(self, *args):
        self.calls.append(args)
        outcome = next(self.outcomes)
        if isinstance(outcome, float):
            await asyncio.sleep(outcome)
            return None
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


class Handle:
    """A deployment whose methods give these outcomes in turn: a value, an exception, or seconds to sleep."""

    def __init__(self, **methods):
        for name, outcomes in methods.items():
            setattr(self, name, Method(itertools.cycle(outcomes)))


def item(pair_id):
    return {"type": "Feature", "id": pair_id, "geometry": None, "properties": {}, "assets": {}, "links": []}


def answer(*hits, matched=10, batch=1):
    return (ShardAnswer([ShardHit(name, score, item(name)) for name, score in hits], matched), batch)


def died():
    return ActorDiedError()


def gateway_of(tmp_path, shards, encoder=None, deadline_s=5.0, max_upload_bytes=100_000, generation=7):
    served = Served(
        workspace=open_workspace(str(tmp_path)),
        generation=generation,
        created="2026-01-01T00:00:00+00:00",
        modalities=(sentinel1(24), sentinel2(24)),
        dimension=4,
        model={"name": "small", "fingerprint": "ab"},
        simulated=False,
        shard_rows=tuple(10 for _ in shards),
        properties=("country",),
    )
    encoders = {"s1": encoder or Handle(encode=[(np.float32([1, 0, 0, 0]), 3)], ready=["s1"])}
    return Gateway(
        served=served, encoders=encoders, shards=shards, deadline_s=deadline_s, max_upload_bytes=max_upload_bytes
    )


def ask(gateway, method, path, raises=True, **how):
    async def run():
        transport = httpx.ASGITransport(build_api(gateway), raise_app_exceptions=raises)
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as http:
            return await http.request(method, path, **how)

    return asyncio.run(run())


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
    shards = [Handle(search=[answer(("b", 0.9), ("d", 0.1))]), Handle(search=[answer(("a", 0.9), ("c", 0.5), batch=4)])]
    gateway = gateway_of(tmp_path, shards)
    response = search(gateway)
    assert response.headers["content-type"] == "application/geo+json"
    found = response.json()
    assert [feature["id"] for feature in found["features"]] == ["a", "b", "c"]
    assert [feature["properties"]["score"] for feature in found["features"]] == [0.9, 0.9, 0.5]
    assert found["numberMatched"] == 20
    assert found["sscm"] == {
        "generation": 7,
        "model": {"name": "small", "fingerprint": "ab"},
        "target": "s2",
        "simulated": False,
        "complete": True,
    }
    [(query,)] = shards[0].search.calls
    assert query.k == 3
    np.testing.assert_allclose(query.vector, np.array([1, 2, 3, 4]) / np.sqrt(30), rtol=1e-6)
    assert metric(gateway, "sscm_requests_total", route="/v1/search", status="200") == 1
    assert metric(gateway, "sscm_batch_size_sum", stage="search") == 5
    assert metric(gateway, "sscm_stage_seconds_count", stage="merge") == 1


def test_a_limit_above_the_largest_is_cut(tmp_path):
    shard = Handle(search=[answer()])
    assert search(gateway_of(tmp_path, [shard]), limit=10**6).status_code == 200
    assert shard.search.calls[0][0].k == 1000


class Ranked:
    """A shard of answers 0 to before ``count``, of which it has every so many; a pair has its number as vector."""

    def __init__(self, count, first=0, step=1):
        self.numbers, self.queries = range(first, count, step), []

    @property
    def search(self):
        return Remote(self._search)

    @property
    def find(self):
        return Remote(lambda pair_id, modality: self._find(pair_id))

    def _search(self, query):
        self.queries.append(query)
        hits = [(n, 1 - n / 10_000) for n in self.numbers if query.least is None or 1 - n / 10_000 >= query.least]
        return answer(*((f"p{n:04d}", score) for n, score in hits[: query.k]), matched=len(self.numbers))

    def _find(self, pair_id):
        if pair_id == "imageless":
            return Found(item(pair_id), "x", 0, None)
        vectors = {"a": [1, 0, 0, 0], "b": [0, 1, 0, 0], "c": [0, 0, 1, 0]}
        return Found(item(pair_id), "x", 0, np.float32(vectors[pair_id])) if pair_id in vectors else None


class Remote:
    def __init__(self, method):
        self.method = method

    async def remote(self, *args):
        return self.method(*args)


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
    gateway.served = dataclasses.replace(gateway.served, properties=None)
    assert search(gateway, filter="cloud < 3").status_code == 200


def test_a_body_nested_without_end_is_refused(tmp_path):
    headers = {"content-type": "application/json"}
    gateway = gateway_of(tmp_path, [Ranked(5)], max_upload_bytes=10_000_000)
    for body in ("[" * 100_000, '{"filter": ' * 100_000):
        response = ask(gateway, "POST", "/v1/search", raises=False, content=body, headers=headers)
        refused(response, 400)
    deep = '{"op": "not", "args": [' * 500 + "true" + "]}" * 500
    body = f'{{"vector": [1, 2, 3, 4], "modality": "s1", "target": "s2", "filter": {deep}}}'
    refused(ask(gateway, "POST", "/v1/search", raises=False, content=body, headers=headers), 400)


def test_a_dead_replica_costs_a_retry(tmp_path):
    shard = Handle(search=[died(), answer(("a", 0.9))])
    found = search(gateway_of(tmp_path, [shard])).json()
    assert [feature["id"] for feature in found["features"]] == ["a"]
    assert found["sscm"]["complete"] is True
    assert len(shard.search.calls) == 2


@pytest.mark.parametrize("bad", [died(), 30.0], ids=["dead", "silent"])
def test_a_lost_shard_makes_a_marked_partial_answer(tmp_path, bad):
    shards = [Handle(search=[bad]), Handle(search=[answer(("a", 0.9))])]
    found = search(gateway_of(tmp_path, shards, deadline_s=0.3)).json()
    assert [feature["id"] for feature in found["features"]] == ["a"]
    assert found["numberMatched"] == 10
    assert found["sscm"]["complete"] is False


def test_without_any_shard_there_is_no_answer(tmp_path):
    response = search(gateway_of(tmp_path, [Handle(search=[died()])] * 2))
    refused(response, 503, "no index shard answers", "try again")
    assert response.headers["retry-after"] == "1"
    refused(search(gateway_of(tmp_path, [Handle(search=[30.0])], deadline_s=0.2)), 504, "no answer within 0.16 s")


def test_an_overloaded_part_is_told_with_when_to_come_back(tmp_path):
    busy = BackPressureError(num_queued_requests=9, max_queued_requests=9)
    response = search(gateway_of(tmp_path, [Handle(search=[busy])]))
    refused(response, 503, "too many requests are waiting")
    assert response.headers["retry-after"] == "1"


def test_what_a_shard_refuses_is_told_in_its_own_words_without_a_traceback(tmp_path):
    wrapped = RayTaskError("search", "Traceback: secret paths", QueryError("bbox is odd")).as_instanceof_cause()
    response = search(gateway_of(tmp_path, [Handle(search=[wrapped])]))
    refused(response, 400, "bbox is odd")
    assert "Traceback" not in response.text


def test_an_unforeseen_error_is_500_without_its_words(tmp_path):
    gateway = gateway_of(tmp_path, [Handle(search=[ZeroDivisionError("secret")])])
    response = ask(gateway, "POST", "/v1/search", raises=False, json=QUERY)
    refused(response, 500, "ZeroDivisionError in /v1/search")
    assert "secret" not in response.text
    assert metric(gateway, "sscm_requests_total", route="/v1/search", status="500") == 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"vector": [1, 2, 3]}, ["vector: 3 numbers; expected 4"]),
        ({"vector": [0, 0, 0, 0]}, ["vector: norm 0.0"]),
        ({"vector": ["a", 0, 0, 0]}, ["vector.0", "seen 'a'"]),
        ({"modality": "s9"}, ["modality: 's9' is unknown; this index has ['s1', 's2']"]),
        ({"target": "s9"}, ["target: 's9' is unknown"]),
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
    shard = Handle(search=[answer()])
    refused(search(gateway_of(tmp_path, [shard]), **changes), 400, *words)
    assert shard.search.calls == []


def test_a_vector_that_is_not_finite_is_refused(tmp_path):
    body = '{"vector": [NaN, 1, 2, 3], "modality": "s1", "target": "s2"}'
    headers = {"content-type": "application/json"}
    gateway = gateway_of(tmp_path, [Handle(search=[answer()])])
    refused(ask(gateway, "POST", "/v1/search", content=body, headers=headers), 400, "vector")
    refused(ask(gateway, "POST", "/v1/search", content=b"{", headers=headers), 400, "JSON decode error")


def upload(pixels):
    buffer = io.BytesIO()
    np.save(buffer, pixels)
    return {"files": ("x.npy", buffer.getvalue())}


def test_an_image_is_decoded_encoded_and_searched(tmp_path):
    shard = Handle(search=[answer(("a", 0.9))])
    gateway = gateway_of(tmp_path, [shard])
    pixels = np.full((2, 24, 24), -12, np.float32)
    form = {"modality": "s1", "target": "s2", "limit": "2", "filters": '{"split": "test"}'}
    response = ask(gateway, "POST", "/v1/search/image", files=upload(pixels), data=form)
    assert response.status_code == 200, response.text
    [(groups,)] = gateway._encoders["s1"].encode.calls
    np.testing.assert_array_equal(groups["s1"], pixels)
    [(query,)] = shard.search.calls
    assert (query.k, query.target, query.filter.split) == (2, "s2", "test")
    np.testing.assert_array_equal(query.vector, [1, 0, 0, 0])
    for stage in ("decode", "encode", "search", "merge"):
        assert metric(gateway, "sscm_stage_seconds_count", stage=stage) == 1
    assert metric(gateway, "sscm_batch_size_sum", stage="encode") == 3
    pixels[0, 0, 0] = np.nan
    refused(ask(gateway, "POST", "/v1/search/image", files=upload(pixels), data=form), 400, "1 of 1152 pixels are NaN")
    for changes, word in (({"filters": "{"}, "is not JSON"), ({"target": "x"}, "'x'"), ({"modality": "x"}, "'x'")):
        answered = ask(gateway, "POST", "/v1/search/image", files=upload(pixels), data={**form, **changes})
        refused(answered, 400, word)
    refused(ask(gateway, "POST", "/v1/search/image", data=form), 400, "files: Field required")


def test_a_dead_encoder_is_503(tmp_path):
    gateway = gateway_of(tmp_path, [], encoder=Handle(encode=[died()]))
    files = upload(np.full((2, 24, 24), -12, np.float32))
    refused(ask(gateway, "POST", "/v1/embed", files=files, data={"modality": "s1"}), 503, "no encoder of s1 answers")


def test_a_body_that_is_too_large_is_413_whether_its_length_is_told_or_not(tmp_path):
    gateway = gateway_of(tmp_path, [Handle(search=[answer()])], max_upload_bytes=1000)
    headers = {"content-type": "application/json"}
    told = ask(gateway, "POST", "/v1/search", content=b"x" * 1001, headers=headers)
    refused(told, 413, "expected at most 1000", "--max-upload-mb")

    async def stream():
        for _ in range(50):
            yield b"[" * 100

    streamed = ask(gateway, "POST", "/v1/search", content=stream(), headers=headers)
    refused(streamed, 413, "expected at most 1000")


def test_a_request_that_takes_too_long_is_504(tmp_path):
    slow = Handle(encode=[30.0])
    gateway = gateway_of(tmp_path, [], encoder=slow, deadline_s=0.2)
    files = upload(np.full((2, 24, 24), -12, np.float32))
    response = ask(gateway, "POST", "/v1/embed", files=files, data={"modality": "s1"})
    refused(response, 504, "not answered within 0.2 s")
    assert metric(gateway, "sscm_requests_total", route="/v1/embed", status="504") == 1


def test_an_item_is_looked_for_in_all_shards(tmp_path):
    found = Found(item("a"), "shards/x.parquet", 3, np.float32([0, 1, 0, 0]))
    shards = [Handle(find=[None], search=[answer()]), Handle(find=[found], search=[answer(("a", 1.0))])]
    gateway = gateway_of(tmp_path, shards)
    assert ask(gateway, "GET", "/v1/items/a%2Fb").json()["id"] == "a"
    assert shards[0].find.calls == [("a/b", None)]
    same = ask(gateway, "GET", "/v1/items/a/similar", params={"modality": "s1"})
    assert same.status_code == 200
    assert shards[0].search.calls[-1][0].exclude == {"a"}
    ask(gateway, "GET", "/v1/items/a/similar", params={"modality": "s1", "target": "s2"})
    assert shards[0].search.calls[-1][0].exclude == frozenset()
    refused(ask(gateway_of(tmp_path, shards[:1]), "GET", "/v1/items/a"), 404, "item 'a' is not in generation 7")
    lost = [Handle(find=[None]), Handle(find=[died()])]
    refused(ask(gateway_of(tmp_path, lost), "GET", "/v1/items/a"), 503, "shard that may hold item 'a'")
    without = [Handle(find=[Found(item("a"), "x", 3, None)])]
    refused(search(gateway_of(tmp_path, without), vector=None, id="a"), 404, "item 'a' has no image of s1")


def test_a_sample_is_drawn_evenly_from_all_shards(tmp_path):
    class Rows:
        def __init__(self, first):
            self.first = first

        @property
        def rows(self):
            return self

        async def remote(self, numbers):
            return [Found(item(str(self.first + n)), "x", n) for n in numbers]

    gateway = gateway_of(tmp_path, [Rows(0), Rows(10), Rows(20)])
    counts = np.zeros(30)
    for _ in range(200):
        drawn = [int(feature["id"]) for feature in asyncio.run(gateway.sample(6))["features"]]
        assert len(set(drawn)) == 6
        counts[drawn] += 1
    assert counts.min() > 15  # 40 expected; 15 is more than 4 deviations away
    everything = ask(gateway, "GET", "/v1/items?sample=1000").json()
    assert sorted(int(f["id"]) for f in everything["features"]) == list(range(30))


def test_readiness_says_what_is_missing(tmp_path):
    gateway = gateway_of(tmp_path, [Handle(ready=[10]), Handle(ready=[died()])])
    response = ask(gateway, "GET", "/readyz")
    assert response.status_code == 503
    assert response.json()["parts"] == {"encoder s1": "ready", "shard 0": "ready", "shard 1": "does not answer"}
    assert ask(gateway, "GET", "/livez").text == "alive"


def test_unknown_routes_and_methods_are_problems(tmp_path):
    gateway = gateway_of(tmp_path, [])
    refused(ask(gateway, "GET", "/v2/search"), 404, "no route '/v2/search'")
    refused(ask(gateway, "GET", "/v1/search"), 405, "GET is not allowed")
    assert metric(gateway, "sscm_requests_total", route="unknown", status="404") == 1


def test_what_is_served_is_told(tmp_path):
    gateway = gateway_of(tmp_path, [Handle()])
    assert ask(gateway, "GET", "/v1/index").json()["items"] == 10
    model = ask(gateway, "GET", "/v1/model").json()
    assert model["modalities"][0] == sentinel1(24).to_json()
    page = ask(gateway, "GET", "/")
    assert "default-src 'self'" in page.headers["content-security-policy"]
    assert "://" not in page.text.replace("http://www.w3.org", "")  # nothing is fetched from elsewhere
    assert "/v1/search/image" in ask(gateway, "GET", "/openapi.json").json()["paths"]
