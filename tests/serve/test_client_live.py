"""The clients and `sscm search` against a real service, over HTTP, beside the same index in this process."""

from __future__ import annotations

import asyncio
import dataclasses
import io
import json

import httpx
import numpy as np
import pytest
from PIL import Image

from serve.guard import Rules
from sscm.cli import main
from sscm.client import AsyncClient, Client, Problem
from sscm.errors import ServiceError
from sscm.index.filters import Filter
from sscm.index.generation import commit
from sscm.keys import add_key
from sscm.model.bundle import save_bundle
from tests.plugins.service import serving


@pytest.fixture(scope="module")
def url(indexed):
    with serving(indexed.workspace, rules=Rules(local=True)) as service:
        yield service.url


@pytest.fixture(scope="module")
def client(url):
    with Client(url) as client:
        yield client


def expected(indexed, vector, target, k, exclude=(), **filters):
    unit = np.asarray(vector, np.float32) / np.linalg.norm(vector)
    restriction = Filter(**filters) if filters else None
    hits = indexed.reader.search(unit[None], target=target, k=k, filter=restriction, exclude=[set(exclude)])[0]
    return [hit.pair_id for hit in hits]


def ids(answers):
    return [item.id for item in answers]


def vector_of(indexed, pair_id, modality):
    segment, row = indexed.reader.find(pair_id)
    return np.array(segment.vectors(modality)[row])


def test_an_item_a_vector_and_examples_are_searched_by(indexed, client):
    vector = vector_of(indexed, "pair_0042", "s1")
    found = client.search(id="pair_0042", modality="s1", target="s2", limit=20)
    assert ids(found) == expected(indexed, vector, "s2", 20)
    assert (found.matched, found.generation, found.model, found.complete) == (176, 1, "small", True)
    assert found.fingerprint == indexed.bundle.fingerprint
    scores = [hit.score for hit in found]
    assert scores == sorted(scores, reverse=True) and {hit.target for hit in found} == {"s2"}
    first = found.items[0]
    assert first.datetime.tzinfo and len(first.bbox) == 4 and first.geometry["type"] == "Polygon" and first.labels
    assert ids(client.search(vector=vector, modality="s1", target="s2", limit=20)) == ids(found)
    alike = client.search(positives=["pair_0042", {"vector": vector}], modality="s1", target="s1", limit=5)
    assert ids(alike) == expected(indexed, vector, "s1", 5, exclude=["pair_0042"])
    unlike = client.search(positives=["pair_0042"], negatives=["pair_0007"], modality="s1", target="s2", limit=5)
    assert len(unlike) == 5
    assert ids(client.similar("pair_0042", modality="s1", limit=5)) == ids(alike)


def test_several_targets_take_turns(indexed, client):
    vector = vector_of(indexed, "pair_0042", "s1")
    found = client.search(vector=vector, modality="s1", target=["s1", "s2"], limit=5)
    assert [hit.target for hit in found] == ["s1", "s2"] * 5
    for target in ("s1", "s2"):
        assert [hit.id for hit in found if hit.target == target] == expected(indexed, vector, target, 5)


def test_filters_and_least_scores_restrict(indexed, client):
    vector = vector_of(indexed, "pair_0042", "s1")
    filters = {"bbox": [20.0, 43.0, 21.5, 45.0], "labels": ["Pastures"], "datetime": "2018-06-10T00:00:00Z/.."}
    found = client.search(vector=vector, modality="s1", target="s2", limit=100, **filters)
    assert ids(found) == expected(indexed, vector, "s2", 100, **filters)
    assert found.matched == len(found) > 0
    condition = "country = 'Serbia' AND split = 'test'"
    found = client.search(vector=vector, modality="s1", target="s2", limit=100, filter=condition)
    assert ids(found) == expected(indexed, vector, "s2", 100, filter=condition)
    assert {(hit.properties["country"], hit.properties["split"]) for hit in found} == {("Serbia", "test")}
    least = found.items[3].score
    found = client.search(vector=vector, modality="s1", target="s2", limit=100, filter=condition, min_score=least)
    assert len(found) == 4 and found.matched > 4


def test_an_image_is_searched_by_and_embedded(indexed, client, pair_factory, tmp_path):
    groups = {group.name: pair_factory(1000).images[group.name] for group in indexed.bundle.modality("s2").groups}
    np.savez(tmp_path / "query.npz", **groups)
    vector = indexed.bundle.encode("s2", {name: pixels[None] for name, pixels in groups.items()})[0]
    found = client.search_image(tmp_path / "query.npz", modality="s2", target=["s1", "s2"], limit=5, split="test")
    for target in ("s1", "s2"):
        of = [hit.id for hit in found if hit.target == target]
        assert of == expected(indexed, vector, target, 5, split="test")
    embedding = client.embed(tmp_path / "query.npz", modality="s2")
    np.testing.assert_allclose(embedding.vector, vector, atol=1e-5)
    assert embedding.model.fingerprint == indexed.bundle.fingerprint
    again = client.search(vector=embedding.vector, modality="s2", target="s1", limit=5, split="test")
    assert ids(again) == expected(indexed, vector, "s1", 5, split="test")


def test_a_batch_has_answers_and_problems_in_their_places(indexed, client):
    queries = [
        {"id": "pair_0042", "modality": "s1", "target": "s2", "limit": 3},
        {"id": "nobody", "modality": "s1", "target": "s2"},
        {"vector": [1.0], "modality": "s1", "target": "s2"},
        {"id": "pair_0007", "modality": "s2", "target": ["s1", "s2"], "limit": 2},
    ]
    first, missing, wrong, last = client.batch(queries)
    assert ids(first) == ids(client.search(**queries[0]))
    assert ids(last) == ids(client.search(**queries[3]))
    assert isinstance(missing, Problem) and (missing.status, missing.title) == (404, "Not Found")
    assert "nobody" in missing.detail
    assert isinstance(wrong, Problem) and wrong.status == 400 and "1 numbers; expected 16" in wrong.detail
    second = next(page for number, page in enumerate(client.pages(first)) if number == 1)
    assert ids(first) + ids(second) == ids(client.search(**{**queries[0], "limit": 6}))


def test_pages_together_are_all_answers(indexed, client):
    whole = client.search(id="pair_0042", modality="s1", target="s2", limit=1000)
    pages = list(client.pages(client.search(id="pair_0042", modality="s1", target="s2", limit=50)))
    assert [len(page) for page in pages] == [50, 50, 50, 26]
    assert [hit for page in pages for hit in ids(page)] == ids(whole) and len(set(ids(whole))) == 176


def test_items_are_browsed_page_by_page_and_drawn(indexed, client):
    pages = list(client.pages(client.browse(limit=70)))
    everything = [item for page in pages for item in page]
    assert [len(page) for page in pages] == [70, 70, 36] and pages[0].matched == 176
    assert sorted(item.id for item in everything) == [f"pair_{n:04d}" for n in range(176)]
    filters = {"labels": ["Pastures", "no, never"], "split": "test", "bbox": (20, 44, 23.5, 45), "ids": None}
    filters |= {"filter": "country = 'Serbia'", "datetime": "2018-01-01T00:00:00Z/.."}
    some = [item for page in client.pages(client.browse(limit=3, **filters)) for item in page]
    assert len(some) > 3
    wanted = [
        item.id
        for item in everything
        if item.labels == ("Pastures",)
        and item.properties["split"] == "test"
        and item.bbox[0] <= 23.5
        and item.properties["country"] == "Serbia"
    ]
    assert [item.id for item in some] == wanted
    tree = {"op": "=", "args": [{"property": "country"}, "Serbia"]}
    assert client.browse(filter=tree, split="test", ids=wanted).matched == len(wanted)
    shape = {"type": "Point", "coordinates": [20.001, 44.001]}
    assert ids(client.browse(intersects=shape)) == ["pair_0000"]
    drawn = client.browse(sample=20, split="test")
    assert len(set(ids(drawn))) == 20 and {item.properties["split"] for item in drawn} == {"test"}


def test_an_item_and_its_picture_are_had(client):
    item = client.item("pair_0100")
    assert (item.id, item.stac["stac_version"], item.properties["country"]) == ("pair_0100", "1.1.0", "Austria")
    assert Image.open(io.BytesIO(client.preview("pair_0100", "s1"))).size == (24, 24)
    with pytest.raises(
        ServiceError, match=r"answered 404: item 'a/b ü' is not in generation 1 .*\[request [0-9a-f]+\]"
    ):
        client.item("a/b ü")
    with pytest.raises(ServiceError, match=r"answered 400: .*'s9' is unknown"):
        client.preview("pair_0100", "s9")


def test_the_service_describes_itself(indexed, client):
    index = client.index()
    assert (index.items, index.generation, index.dimension, index.simulated) == (176, 1, 16, True)
    assert [modality.name for modality in index.modalities] == ["s1", "s2"]
    model = client.model()
    assert model.modalities == indexed.manifest.modalities
    assert index.model.fingerprint == model.fingerprint == indexed.bundle.fingerprint
    ready = client.ready()
    assert ready.ready and ready.generation == 1 and set(ready.parts.values()) == {"ready"}


def test_the_request_id_is_the_service_s_too(url):
    with Client(url) as client, pytest.raises(ServiceError) as told:
        seen = []
        client._http.event_hooks["response"].append(lambda response: seen.append(response.headers["X-Request-ID"]))
        client.item("nobody")
    assert seen and f"[request {seen[0]}]" in str(told.value)


def test_many_asynchronous_calls_get_the_answers_of_one(indexed, url, client):
    alone = [ids(client.search(id=f"pair_{n:04d}", modality="s1", target="s2", limit=5)) for n in range(32)]

    async def run():
        async with AsyncClient(url) as many:
            searches = [many.search(id=f"pair_{n:04d}", modality="s1", target="s2", limit=5) for n in range(32)]
            found, index, ready, items = await asyncio.gather(
                asyncio.gather(*searches), many.index(), many.ready(), many.browse(limit=100)
            )
            pages = [page async for page in many.pages(items)]
            picture = await many.preview("pair_0001", "s2")
            image = await many.search_image(("q.npy", pixels.getvalue()), modality="s1", target="s2", limit=3)
            return found, index, ready, pages, picture, image

    pixels = io.BytesIO()
    np.save(pixels, np.full((2, 24, 24), -12, np.float32))
    found, index, ready, pages, picture, image = asyncio.run(run())
    assert [ids(answers) for answers in found] == alone
    assert index.items == 176 and ready.ready and [len(page) for page in pages] == [100, 76]
    assert picture[:2] == b"\xff\xd8" and len(image) == 3


def test_keys_are_asked_for_and_their_roles_told_apart(indexed, tmp_path, monkeypatch):
    monkeypatch.delenv("SSCM_API_KEY", raising=False)
    uri = str(tmp_path / "keys.json")
    reader, admin = add_key(uri, "ann", "read"), add_key(uri, "root", "admin")
    with serving(indexed.workspace, rules=Rules(keys=uri)) as service:
        with Client(service.url) as client:
            assert client.ready().ready  # needs none
            with pytest.raises(ServiceError, match="answered 401: no API key"):
                client.index()
        with Client(service.url, api_key="sscm_wrong") as client:
            with pytest.raises(ServiceError, match="answered 401: the API key is not known") as told:
                client.index()
            assert "sscm_wrong" not in str(told.value)
        monkeypatch.setenv("SSCM_API_KEY", reader)
        with Client(service.url) as client:
            assert client.index().items == 176
            with pytest.raises(ServiceError, match="answered 403: key 'ann' has role 'read'"):
                client.reload()
        with Client(service.url, api_key=admin) as client:
            assert client.reload().generation == 1


def test_a_reload_moves_to_the_next_generation(archive_factory, bundle_factory, index_factory, workspace):
    manifest = archive_factory(workspace, train=12, validation=4, test=4)
    bundle = bundle_factory(manifest)
    save_bundle(workspace, bundle)
    first = index_factory(workspace, manifest, bundle, per_segment=3)
    with serving(workspace, shards=1, rules=Rules(local=True)) as service, Client(service.url) as client:
        page = client.browse(limit=5)
        commit(workspace, dataclasses.replace(first, number=2))
        done = client.reload()
        assert (done.generation, done.loading) == (2, None)
        assert client.search(id="pair_0000", modality="s1", target="s2").generation == 2
        with pytest.raises(ServiceError, match="token is of generation 1 of the index, and 2 is served now"):
            list(client.pages(page))


def test_sscm_search_asks_shows_and_saves(indexed, url, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    words = ["--like", "pair_0042", "--unlike", "pair_0007", "--modality", "s1", "--target", "s1", "--target", "s2"]
    words += ["--split", "test", "--bbox", "20", "43", "30", "46", "--limit", "3", "--url", url]
    assert main(["search", *words, "--save", str(tmp_path / "found")]) == 0
    table = capsys.readouterr().out
    assert "6 of 96 s1 and s2 images" in table and "simulated" in table
    assert main(["search", *words, "--format", "ids"]) == 0
    found = capsys.readouterr().out.split()
    saved = json.loads((tmp_path / "found" / "answers.geojson").read_text())
    assert [feature["id"] for feature in saved["features"]] == found and len(found) == 6
    pictures = sorted(path.name for path in (tmp_path / "found").glob("*.jpg"))
    assert pictures == [f"{n + 1:04d}_{name}_{('s1', 's2')[n % 2]}.jpg" for n, name in enumerate(found)]
    for feature, name in zip(saved["features"], pictures, strict=True):
        target = feature["properties"]["target"]
        assert feature["assets"][f"preview_{target}"]["href"] == f"./{name}"
        other = feature["assets"][f"preview_{'s2' if target == 's1' else 's1'}"]["href"]
        assert httpx.get(other, timeout=30).headers["Content-Type"] == "image/jpeg"
        with Image.open(tmp_path / "found" / name) as picture:
            assert picture.size == (24, 24)
    np.save(tmp_path / "v.npy", vector_of(indexed, "pair_0042", "s1"))
    assert main(["search", "--vector", str(tmp_path / "v.npy"), *words[4:], "--format", "json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["type"] == "FeatureCollection" and told["sscm"]["target"] == ["s1", "s2"]
