"""The HTTP API over a whole service in this process: several targets, batches, browsing, samples, and what it tells.

The index is a copy of the small one with pairs deleted, most of them at its beginning, so that shards differ in size.
"""

from __future__ import annotations

import contextlib
import io
import itertools
from collections import Counter
from urllib.parse import parse_qsl, urlsplit

import httpx
import numpy as np
import pytest

from serve.editions import deal
from sscm.index.delete import delete_pairs
from sscm.index.filters import Filter
from sscm.index.generation import open_segments
from sscm.index.search import IndexReader
from sscm.sensors import sentinel1, sentinel2
from sscm.version import code_version
from tests.plugins.service import serving

PAIRS = 176
GONE = {*range(0, 60, 2), 100, 170, 171, 175}
LEFT = [number for number in range(PAIRS) if number not in GONE]
SHARDS = (1, 2, 3)
LABELS = ("Arable land", "Pastures", "Mixed forest", "Inland waters")  # of a pair, by its number
TARGETS = ("s1", "s2")


def name(number):
    return f"pair_{number:04d}"


NAMES = [name(number) for number in LEFT]


@pytest.fixture(scope="module")
def thinned(indexed, copy_factory, tmp_path_factory):
    """A workspace whose index has generation 2, without some pairs; and a reader of that."""
    workspace = copy_factory(indexed, tmp_path_factory.mktemp("thinned") / "workspace")
    deletion = delete_pairs(workspace, Filter(ids=[name(number) for number in GONE]))
    assert (deletion.rows, deletion.generation.number) == (len(GONE), 2)
    return workspace, IndexReader(open_segments(workspace, deletion.generation))


@pytest.fixture(scope="module")
def services(thinned):
    """Services of that workspace, by the number of their shards."""
    with contextlib.ExitStack() as stack:
        yield {count: stack.enter_context(serving(thinned[0], shards=count)) for count in SHARDS}


@pytest.fixture(params=SHARDS, scope="module")
def service(services, request):
    return services[request.param]


@pytest.fixture
def http(service):
    with httpx.Client(base_url=service.url, timeout=30) as client:
        yield client


def found(response):
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/geo+json"
    collection = response.json()
    assert collection["numberReturned"] == len(collection["features"])
    assert collection["sscm"]["complete"] is True
    return collection


def refused(response, status, *words):
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert (problem["status"], problem["request_id"]) == (status, response.headers["x-request-id"])
    for word in words:
        assert word in problem["detail"]


def hits(collection):
    return [(f["id"], f["properties"]["score"], f["properties"]["target"]) for f in collection["features"]]


def ids(collection):
    return [feature["id"] for feature in collection["features"]]


def search(http, **changes):
    body = {"id": "pair_0043", "modality": "s1", "target": ["s1", "s2"], "limit": 7, **changes}
    return http.post("/v1/search", json={key: value for key, value in body.items() if value is not None})


def expected(thinned, vector, target, k, restriction=None, exclude=()):
    """By the index itself."""
    reader = thinned[1]
    answers = reader.search(vector[None], target=target, k=k, filter=restriction, exclude=[set(exclude)])[0]
    return [(hit.pair_id, hit.score, target) for hit in answers]


def vector_of(thinned, pair_id, modality):
    segment, row = thinned[1].find(pair_id)
    return np.array(segment.vectors(modality)[row])


def in_turn(*lists):
    return [hit for rank in itertools.zip_longest(*lists) for hit in rank if hit is not None]


def test_several_targets_answer_in_turn_each_with_as_many_as_wanted(thinned, http):
    vector = vector_of(thinned, "pair_0043", "s1")
    within = expected(thinned, vector, "s1", 7, exclude={"pair_0043"})
    across = expected(thinned, vector, "s2", 7)  # the pair's other image may answer
    collection = found(search(http))
    assert hits(collection) == in_turn(within, across)
    assert (collection["numberMatched"], collection["numberReturned"]) == (2 * len(LEFT) - 1, 14)
    assert collection["sscm"]["target"] == ["s1", "s2"]
    assert hits(found(search(http, target=["s2", "s1", "s2"]))) == in_turn(across, within)
    assert found(search(http, target=["s2"]))["sscm"]["target"] == "s2"
    assert hits(found(search(http, target=["s2"]))) == across


def test_each_target_has_its_own_exclusions_filters_and_least_score(thinned, http):
    restriction = Filter(labels=["Pastures", "Inland waters"], split="train")
    positives = [{"id": "pair_0043"}, {"id": "pair_0047", "modality": "s2"}]
    vectors = [vector_of(thinned, "pair_0043", "s1"), vector_of(thinned, "pair_0047", "s2")]
    middle = np.mean(vectors, axis=0, dtype=np.float64)
    middle = (middle / np.linalg.norm(middle)).astype(np.float32)
    collection = found(
        search(http, id=None, positives=positives, limit=100, labels=["Pastures", "Inland waters"], split="train")
    )
    lists = {
        target: [(pair, target) for pair, _, _ in expected(thinned, middle, target, 100, restriction, without)]
        for target, without in (("s1", {"pair_0043"}), ("s2", {"pair_0047"}))
    }
    assert [(pair, target) for pair, _, target in hits(collection)] == in_turn(*lists.values())
    assert collection["numberMatched"] == sum(map(len, lists.values()))
    scores = [score for _, score, _ in hits(collection)]
    least = float(np.median(scores))
    above = found(search(http, id=None, positives=positives, limit=100, split="train", min_score=least))
    assert 0 < above["numberReturned"] and min(score for _, score, _ in hits(above)) >= least


def test_pages_of_several_targets_together_are_all_answers_of_each(thinned, http):
    vector = vector_of(thinned, "pair_0043", "s1")
    change, seen = {}, []
    while change is not None:
        collection = found(search(http, limit=40, split="train", **change))
        assert collection["numberMatched"] == 2 * 66 - 1
        seen.append(hits(collection))
        nexts = [link for link in collection["links"] if link["rel"] == "next"]
        change = {"token": nexts[0]["body"]["token"]} if nexts else None
    everything = [answer for page in seen for answer in page]
    train = Filter(split="train")
    for target, without in (("s1", {"pair_0043"}), ("s2", ())):
        wanted = expected(thinned, vector, target, 1000, train, without)
        assert [answer for answer in everything if answer[2] == target] == wanted
    assert [len(page) for page in seen] == [80, 51]


def test_a_token_of_several_targets_is_of_these_in_this_order(http):
    token = found(search(http))["links"][0]["body"]["token"]
    assert hits(found(search(http, token=token)))
    for target in ("s1", "s2", ["s2", "s1"]):
        refused(search(http, token=token, target=target), 400, "token was made for another query")


def test_an_image_is_searched_for_in_several_targets(thinned, indexed, http, pair_factory):
    pixels = pair_factory(1000).images["s1"]
    data = {"modality": "s1", "target": ["s1", "s2"], "limit": "4", "filters": '{"split": "train"}'}
    collection = found(http.post("/v1/search/image", files=npy(pixels), data=data))
    vector = indexed.bundle.encode("s1", {"s1": pixels[None]})[0]
    lists = [expected(thinned, vector, target, 4, Filter(split="train")) for target in TARGETS]
    assert [(pair, of) for pair, _, of in hits(collection)] == [(pair, of) for pair, _, of in in_turn(*lists)]
    assert collection["numberMatched"] == 2 * 66
    refused(http.post("/v1/search/image", files=npy(pixels), data={**data, "target": ["s1", "s9"]}), 400, "'s9'")
    nine = {**data, "target": ["s1"] * 9}
    refused(http.post("/v1/search/image", files=npy(pixels), data=nine), 400, "target", "at most 8")


def npy(pixels):
    buffer = io.BytesIO()
    np.save(buffer, pixels)
    return {"files": ("query.npy", buffer.getvalue())}


def batch(http, *searches):
    return http.post("/v1/search/batch", json={"searches": list(searches)})


def test_a_batch_answers_each_search_as_it_would_be_alone(http):
    base = {"modality": "s1", "target": "s2", "limit": 5}
    token = found(http.post("/v1/search", json={"id": "pair_0043", **base}))["links"][0]["body"]["token"]
    searches = [
        {"id": "pair_0043", **base},
        {"id": "pair_0043", **base, "target": ["s1", "s2"]},
        {"id": "pair_0043", **base, "token": token},
        {"vector": [1.0] * 16, **base, "labels": ["Pastures"], "limit": 100},
        {"positives": [{"id": "pair_0043"}], "negatives": [{"id": "pair_0001"}], **base},
        {"id": "pair_0043", **base},
    ]
    response = batch(http, *searches)
    assert (response.status_code, response.headers["content-type"]) == (200, "application/json")
    alone = [found(http.post("/v1/search", json=body)) for body in searches]
    assert response.json() == {"results": alone}
    assert {collection["sscm"]["generation"] for collection in alone} == {2}


def test_a_search_of_a_batch_that_is_wrong_leaves_the_others_alone(http):
    good = {"id": "pair_0043", "modality": "s1", "target": "s2", "limit": 3}
    wrong = [
        ({**good, "target": "s9"}, 400, "target: 's9' is unknown"),
        ({**good, "id": "pair_0000"}, 404, "item 'pair_0000' is not in generation 2"),  # deleted
        ({**good, "limit": 0}, 400, "limit"),
        ({**good, "searches": []}, 400, "searches: Extra inputs are not permitted"),
        ({}, 400, "target: Field required"),
        ({**good, "token": "x"}, 400, "is none of this service"),
        ({**good, "filter": "cloud < 3"}, 400, "property 'cloud' is unknown"),
    ]
    response = batch(http, *(body for case, _, _ in wrong for body in (good, case)), good)
    results = response.json()["results"]
    alone = found(http.post("/v1/search", json=good))
    assert [results[place] for place in range(0, len(results), 2)] == [alone] * (len(wrong) + 1)
    for problem, (body, status, words) in zip(results[1::2], wrong, strict=True):
        assert (problem["status"], problem["type"]) == (status, "about:blank"), body
        assert words in problem["detail"]
        assert problem["request_id"] == response.headers["x-request-id"]
        same = http.post("/v1/search", json=body).json()
        assert (same["detail"], same["title"]) == (problem["detail"], problem["title"])


def test_a_batch_has_a_bound_and_a_shape(http):
    good = {"id": "pair_0043", "modality": "s1", "target": "s2", "limit": 1}
    results = batch(http, *[good] * 64).json()["results"]
    assert len(results) == 64 and all(result == results[0] for result in results)
    refused(batch(http, *[good] * 65), 400, "searches", "at most 64 items")
    refused(batch(http), 400, "searches", "at least 1 item")
    refused(batch(http, good, 3), 400, "searches.1", "seen 3")
    refused(http.post("/v1/search/batch", json=[good]), 400, "Input should be an object")
    refused(http.post("/v1/search/batch", json={"searches": [good], "limit": 3}), 400, "limit: Extra inputs")
    refused(http.post("/v1/search/batch", content=b"{"), 400, "Invalid JSON")


FILTERS = [
    ({}, lambda n: True),
    ({"split": "validation"}, lambda n: 96 <= n < 128),
    ({"labels": "Pastures"}, lambda n: n % 4 == 1),
    ({"labels": "Pastures,Inland waters"}, lambda n: n % 2 == 1),
    ({"ids": "pair_0003,pair_0000,pair_0120,nobody"}, lambda n: n in (3, 120)),
    ({"bbox": "20.4,43,21,45"}, lambda n: 20.4 <= 20 + 0.02 * n + 0.015 and 20 + 0.02 * n <= 21),
    ({"datetime": "2018-07-01T00:00:00Z/2018-07-31T23:59:59Z"}, lambda n: 30 <= n <= 60),
    ({"datetime": "../2018-06-03T10:00:00Z"}, lambda n: n <= 2),
    ({"filter": "country = 'Serbia' AND split = 'test'"}, lambda n: n % 2 == 1 and n >= 128),
    ({"filter": "a_overlaps(labels, ('Pastures'))", "filter-lang": "cql2-text"}, lambda n: n % 4 == 1),
    ({"filter": '{"op": "<", "args": [{"property": "id"}, "pair_0007"]}'}, lambda n: n < 7),
    (
        {"intersects": '{"type": "Point", "coordinates": [20.067, 44.005]}'},
        lambda n: 20 + 0.02 * n <= 20.067 <= 20.015 + 0.02 * n,
    ),
    ({"split": "train", "labels": "Pastures", "bbox": "20,44,20.9,45"}, lambda n: n % 4 == 1 and n <= 45),
    ({"ids": "nobody"}, lambda n: False),
]


def wanted(passes):
    return [name(number) for number in LEFT if passes(number)]


@pytest.mark.parametrize(("filters", "passes"), FILTERS, ids=[str(filters)[:50] for filters, _ in FILTERS])
def test_pages_of_items_together_are_exactly_those_that_pass_in_order(http, filters, passes):
    names = wanted(passes)
    for limit in (3, 50, 1000):
        seen, pages, url = [], 0, httpx.URL("/v1/items", params={**filters, "limit": limit})
        while url is not None:
            collection = found(http.get(url))
            assert collection["numberMatched"] == len(names)
            assert all("score" not in feature["properties"] for feature in collection["features"])
            seen += ids(collection)
            pages += 1
            url = following(collection)
        assert seen == names
        assert pages == max(1, -(-len(names) // limit))  # none of them is empty


def following(collection):
    """URL of the next page."""
    links = [link for link in collection["links"] if link["rel"] == "next"]
    assert all((link["method"], link["type"]) == ("GET", "application/geo+json") for link in links)
    return links[0]["href"] if links else None


def test_a_page_of_items_may_have_another_limit_and_no_other_filters(http):
    page = found(http.get("/v1/items?limit=10&split=train&filter=country = 'Serbia'"))
    names = wanted(lambda n: n < 96 and n % 2 == 1)
    asked = dict(parse_qsl(urlsplit(following(page)).query))
    assert set(asked) == {"limit", "split", "filter", "token"} and asked["limit"] == "10"
    assert ids(found(http.get("/v1/items", params={**asked, "limit": 2}))) == names[10:12]
    refusing = ({"split": "test"}, {"filter": "country = 'Austria'"}, {"labels": "Pastures"})
    for change in refusing:
        refused(http.get("/v1/items", params={**asked, **change}), 400, "token was made for another query")
    del asked["split"]
    refused(http.get("/v1/items", params=asked), 400, "token was made for another query")
    token = found(search(http))["links"][0]["body"]["token"]
    refused(http.get("/v1/items", params={"token": token}), 400, "is none of this service")


def test_a_token_of_another_generation_is_refused(indexed, services):
    with serving(indexed.workspace, shards=2) as earlier:
        items = following(httpx.get(f"{earlier.url}/v1/items?limit=5").json())
        with httpx.Client(base_url=earlier.url) as http:
            token = found(search(http))["links"][0]["body"]["token"]
    with httpx.Client(base_url=services[2].url) as http:
        detail = "token is of generation 1 of the index, and 2 is served now; ask without it"
        refused(http.get(items), 400, detail)
        refused(search(http, token=token), 400, detail)


def test_what_items_cannot_be_browsed_by_is_refused(http):
    for query, words in (
        ("limit=0", "limit"),
        ("limit=x", "limit"),
        ("sample=0", "sample"),
        ("colour=red", "colour: Extra inputs are not permitted"),
        ("bbox=1,2,3", "expected [west, south, east, north]"),
        ("bbox=a,b,c,d", "could not convert string to float"),
        ("datetime=yesterday", "datetime = 'yesterday'"),
        ("split=all", "split = 'all'"),
        ("filter=cloud<3", "property 'cloud' is unknown"),
        ("filter=country =", "filter: column"),
        ("filter-lang=cql2-text", "is given and no filter"),
        ("intersects={}", "intersects"),
        ("token=x", "is none of this service"),
        ("sample=3&filter=cloud<3", "property 'cloud' is unknown"),
    ):
        refused(http.get(f"/v1/items?{query}"), 400, words)


def test_more_items_than_are_given_at_once_are_cut(http):
    collection = found(http.get("/v1/items?limit=1000000"))
    assert (collection["numberReturned"], following(collection)) == (len(LEFT), None)
    assert sorted(ids(found(http.get("/v1/items?sample=1000000")))) == NAMES


@pytest.mark.parametrize(
    ("filters", "passes"),
    [({}, lambda n: True), ({"split": "train", "labels": "Pastures,Inland waters"}, lambda n: n < 96 and n % 2 == 1)],
)
def test_each_item_that_passes_is_as_likely_in_a_sample(services, filters, passes):
    service, names = services[3], wanted(passes)
    sizes = [shard._held.get(2).browse(None, 0, 0).matched for shard in service.shards]
    assert max(sizes) > 1.5 * min(sizes)
    seed(service)
    counts, first = Counter(), Counter()
    draws, size = 400, 6
    with httpx.Client(base_url=service.url, timeout=30) as http:
        for _ in range(draws):
            collection = found(http.get("/v1/items", params={**filters, "sample": size}))
            assert (collection["numberMatched"], collection["links"]) == (len(names), [])
            drawn = ids(collection)
            assert len(set(drawn)) == size
            counts.update(drawn)
            first[drawn[0]] += 1
    assert set(counts) <= set(names)
    without_repetition = (len(names) - 1) / (len(names) - size)  # counts vary less by that
    assert chi_square(counts, names) * without_repetition < improbable(len(names) - 1)
    assert chi_square(first, names) < improbable(len(names) - 1)  # and they come in any order


def seed(service):
    service.gateway.retrieval._random = np.random.default_rng(1)
    for number, shard in enumerate(service.shards):
        shard._held.get(2)._random = np.random.default_rng(number)


def chi_square(counts, names):
    mean = sum(counts.values()) / len(names)
    return sum((counts[pair] - mean) ** 2 / mean for pair in names)


def improbable(freedom):
    """A chi-square that 1 in 1,000 exceeds (Wilson and Hilferty)."""
    part = 2 / (9 * freedom)
    return freedom * (1 - part + 3.09 * part**0.5) ** 3


def test_a_sample_of_few_is_all_of_them(http):
    assert sorted(ids(found(http.get("/v1/items?sample=10&ids=pair_0003,pair_0120,nobody")))) == [name(3), name(120)]
    nothing = found(http.get("/v1/items?sample=10&ids=nobody"))
    assert (nothing["features"], nothing["numberMatched"]) == ([], 0)


def test_the_index_is_told(thinned, indexed, services):
    slices = {count: deal([(s.name, s.rows) for s in indexed.generation.segments], count) for count in SHARDS}
    for count, service in services.items():
        told = httpx.get(f"{service.url}/v1/index").json()
        sizes = told.pop("shards")
        assert len(sizes) == len(slices[count]) == count
        created = told.pop("created")
        assert created.startswith("20") and created[10] == "T"
        assert sum(sizes) == len(LEFT)
        assert told == {
            "generation": 2,
            "code_version": code_version(),
            "items": len(LEFT),
            "modalities": [{"name": m.name, "title": m.title} for m in indexed.manifest.modalities],
            "dimension": 16,
            "recall": 1.0,
            "properties": None,  # the index is older than that they are noted
            "simulated": True,
            "model": {"name": "small", "fingerprint": indexed.bundle.fingerprint},
        }


def test_the_model_is_told_with_all_that_embedding_elsewhere_takes(indexed, http):
    told = http.get("/v1/model").json()
    assert told["modalities"] == [sentinel1(24).to_json(), sentinel2(24).to_json()]
    bands = [band["name"] for modality in told["modalities"] for group in modality["groups"] for band in group["bands"]]
    assert len(bands) == len(set(bands)) == 2 + 12
    normalisation = told["normalisation"]
    assert normalisation["resampling"] == "bilinear" or normalisation["resampling"]
    assert set(normalisation["bands"]) == set(indexed.manifest.statistics)
    for key, statistics in indexed.manifest.statistics.items():
        assert normalisation["bands"][key] == {
            "mean": pytest.approx(statistics.mean),
            "std": pytest.approx(statistics.std),
        }
    assert (told["name"], told["fingerprint"]) == ("small", indexed.bundle.fingerprint)
    assert (told["backbone"], told["dimension"], told["image_size"]) == (
        "resnet10t",
        16,
        indexed.bundle.config.image_size,
    )
    assert (told["trained_on_split"], told["simulated"], told["adaptation"]) == ("none", True, None)
    assert told["code_version"] == code_version()
    assert told["created"]


def test_one_item_and_its_pictures(http, indexed):
    item = http.get("/v1/items/pair_0043")
    assert item.headers["content-type"] == "application/geo+json"
    assert item.json() == found(http.get("/v1/items?ids=pair_0043"))["features"][0]
    picture = http.get(item.json()["assets"]["preview_s2"]["href"])
    assert (picture.headers["content-type"], picture.content[:2]) == ("image/jpeg", b"\xff\xd8")
    assert "private" in picture.headers["cache-control"]
    similar = found(http.get("/v1/items/pair_0043/similar?modality=s1&target=s2&limit=5"))
    assert hits(similar) == hits(found(search(http, target="s2", limit=5)))
    for path in ("", "/preview/s1", "/similar?modality=s1"):
        refused(http.get(f"/v1/items/pair_0000{path}"), 404, "item 'pair_0000' is not in generation 2")
    refused(http.get("/v1/items/pair_0043/preview/s9"), 400, "'s9' is unknown")
    refused(http.get("/v1/items/pair_0043/similar"), 400, "modality: Field required")


def test_a_shard_whose_replica_stops_is_asked_at_another_and_missed_where_there_is_none(indexed):
    with (
        serving(indexed.workspace, shards=2, replicas=2, deadline_s=5.0) as service,
        httpx.Client(base_url=service.url, timeout=30) as http,
    ):
        whole = hits(found(search(http)))
        first, second, third, fourth = service.shards  # two of each shard
        third.stop()
        for _ in range(6):
            assert hits(found(search(http))) == whole
        fourth.stop()
        partial = http.post("/v1/search", json={"vector": [1.0] * 16, "modality": "s1", "target": "s1", "limit": 200})
        assert partial.status_code == 200, partial.text
        about = partial.json()["sscm"]
        assert (about["complete"], about["shards_lost"]) == (False, [1])
        assert partial.json()["numberMatched"] == PAIRS // 2
        listed = http.get("/v1/items?limit=1000").json()
        assert listed["sscm"]["shards_lost"] == [1]
        assert ids(listed) == [name(number) for number in range(PAIRS // 2)]
        refused(http.get(f"/v1/items/{name(PAIRS - 1)}"), 503, "no shard that may hold item 'pair_0175' answers")
        assert http.get(f"/v1/items/{name(0)}").status_code == 200
        ready = http.get("/readyz")
        assert (ready.status_code, ready.json()["parts"]["shard 1"]) == (503, "does not answer")
        first.stop()
        second.stop()
        response = search(http)
        refused(response, 503, "try again")
        assert response.headers["retry-after"] == "1"


KINDS = ["application/json", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", None]


@pytest.mark.parametrize("kind", KINDS)
def test_json_is_read_whatever_it_is_said_to_be(http, kind):
    headers = {} if kind is None else {"content-type": kind}
    body = b'{"id": "pair_0043", "modality": "s1", "target": "s2"}'
    assert len(found(http.post("/v1/search", content=body, headers=headers))["features"]) == 10
    batched = http.post("/v1/search/batch", content=b'{"searches": [%b]}' % body, headers=headers)
    assert len(batched.json()["results"][0]["features"]) == 10


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("body", [b"", b"\xff\xfe", b"{", b"null", b"id=pair_0043", b"--x\r\n\r\n--x--\r\n"])
def test_what_is_no_json_or_no_form_is_refused(http, kind, body):
    headers = {} if kind is None else {"content-type": kind}
    for path in ("/v1/search", "/v1/search/batch"):
        refused(http.post(path, content=body, headers=headers), 400)
    for path in ("/v1/search/image", "/v1/embed"):
        refused(http.post(path, content=body, headers=headers), 400)
