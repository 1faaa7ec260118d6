"""What a gateway does when parts fail, are slow or refuse; deployments here are objects that misbehave as told."""

from __future__ import annotations

import io

import numpy as np
import pytest
from ray.exceptions import ActorDiedError, RayTaskError
from ray.serve.exceptions import BackPressureError

from serve.api import HttpProblem
from serve.channel import Busy
from sscm.errors import QueryError
from sscm.sensors import sentinel1
from tests.plugins.stand_ins import (
    QUERY,
    SILENT,
    Encoder,
    Ranked,
    Shard,
    answer,
    ask,
    died,
    following,
    gateway_of,
    ids,
    listed,
    metric,
    refused,
    search,
)


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
