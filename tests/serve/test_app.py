"""The whole service, live: one application on a real port over a real index, against the same index in this process."""

from __future__ import annotations

import io
import json
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families
from ray import serve

from serve.app import APP, build_app, free_port, serve_workspace, stop_orphans, url_of
from sscm.client import Client
from sscm.config import ServeConfig
from sscm.errors import ConfigError, GenerationError, ServiceError
from sscm.index.filters import Filter


@pytest.fixture(scope="module")
def service(indexed, ray_session):
    """URL of the service: two segments over three shards."""
    port = free_port("127.0.0.1", 0)
    config = ServeConfig(
        workspace=indexed.workspace.uri, port=port, shards=3, threads=1, deadline_s=60, max_upload_mb=1
    )
    serve_workspace(config, block=False)
    yield url_of("127.0.0.1", port)
    serve.shutdown()


@pytest.fixture(scope="module")
def client(service):
    with Client(service) as client:
        yield client


@pytest.fixture(scope="module")
def http(service):
    with httpx.Client(base_url=service, timeout=60) as client:
        yield client


def expected(indexed, vector, target, k, restriction=None, exclude=()):
    hits = indexed.reader.search(vector[None], target=target, k=k, filter=restriction, exclude=[set(exclude)])[0]
    return [hit.pair_id for hit in hits], [hit.score for hit in hits]


def answered(collection):
    features = collection["features"]
    return [f["id"] for f in features], [f["properties"]["score"] for f in features]


def vector_of(indexed, pair_id, modality):
    segment, row = indexed.reader.find(pair_id)
    return np.array(segment.vectors(modality)[row])


def counts(http, name):
    families = text_string_to_metric_families(http.get("/metrics").text)
    return {
        tuple(sorted(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
        if sample.name == name
    }


@pytest.mark.parametrize("target", ["s1", "s2"])
def test_an_image_finds_what_the_index_finds_in_process(indexed, client, pair_factory, tmp_path, target):
    pair = pair_factory(1000)  # of no archive
    groups = {group.name: pair.images[group.name] for group in indexed.bundle.modality("s2").groups}
    np.savez(tmp_path / "query.npz", **groups)
    found = client.search_image(tmp_path / "query.npz", modality="s2", target=target, limit=7).collection
    vector = indexed.bundle.encode("s2", {name: pixels[None] for name, pixels in groups.items()})[0]
    ids, scores = expected(indexed, vector, target, 7)
    assert answered(found)[0] == ids
    np.testing.assert_allclose(answered(found)[1], scores, atol=1e-5)
    assert found["numberMatched"] == 176
    assert found["numberReturned"] == 7
    assert found["sscm"] == {
        "generation": 1,
        "model": {"name": "small", "fingerprint": indexed.bundle.fingerprint},
        "target": target,
        "simulated": True,
        "complete": True,
    }


def test_an_id_finds_what_the_index_finds_and_only_leaves_itself_out_in_its_own_modality(indexed, client, service):
    vector = vector_of(indexed, "pair_0042", "s1")
    across = client.search(id="pair_0042", modality="s1", target="s2", limit=176).collection
    assert answered(across) == expected(indexed, vector, "s2", 176)
    within = client.search(id="pair_0042", modality="s1", target="s1", limit=176).collection
    assert answered(within) == expected(indexed, vector, "s1", 176, exclude={"pair_0042"})
    assert (within["numberMatched"], across["numberMatched"]) == (175, 176)
    similar = httpx.get(f"{service}/v1/items/pair_0042/similar?modality=s1&limit=176", timeout=60).json()
    assert answered(similar) == answered(within)


def test_filters_restrict_and_are_counted(indexed, client):
    filters = {"bbox": [20.0, 43.0, 21.5, 45.0], "labels": ["Pastures"], "datetime": "2018-06-10T00:00:00Z/.."}
    found = client.search(id="pair_0042", modality="s1", target="s2", limit=100, **filters).collection
    restriction = Filter(**filters)
    vector = vector_of(indexed, "pair_0042", "s1")
    assert answered(found) == expected(indexed, vector, "s2", 100, restriction)
    assert found["numberMatched"] == found["numberReturned"] == indexed.reader.count(restriction, "s2") > 0
    nothing = client.search(id="pair_0042", modality="s1", target="s2", labels=["Glaciers"]).collection
    assert (nothing["features"], nothing["numberMatched"]) == ([], 0)


def test_32_concurrent_requests_are_each_answered_right_and_in_batches(indexed, http):
    rng = np.random.default_rng(5)
    vectors = rng.normal(size=(96, indexed.bundle.dimension))

    def ask(vector):
        body = {"vector": vector.tolist(), "modality": "s2", "target": "s1", "limit": 5}
        response = http.post("/v1/search", json=body)
        assert response.status_code == 200, response.text
        return answered(response.json())

    before = counts(http, "sscm_batch_size_count"), counts(http, "sscm_batch_size_sum")
    with ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(ask, vectors))
    for vector, (ids, scores) in zip(vectors, answers, strict=True):
        unit = (vector / np.linalg.norm(vector)).astype(np.float32)
        wanted = expected(indexed, unit, "s1", 5)
        assert ids == wanted[0]
        np.testing.assert_allclose(scores, wanted[1], atol=1e-6)
    stage = (("stage", "search"),)
    queries = counts(http, "sscm_batch_size_count")[stage] - before[0][stage]
    assert queries == 96 * 3  # three shards
    assert (counts(http, "sscm_batch_size_sum")[stage] - before[1][stage]) / queries > 1


def test_an_embedding_is_the_bundle_s(indexed, http, pair_factory):
    pixels = pair_factory(3).images["s1"]
    buffer = io.BytesIO()
    np.save(buffer, pixels)
    told = http.post("/v1/embed", files={"files": ("x.npy", buffer.getvalue())}, data={"modality": "s1"}).json()
    np.testing.assert_allclose(told["vector"], vector_of(indexed, "pair_0003", "s1"), atol=1e-5)
    found = http.post("/v1/search", json={"vector": told["vector"], "modality": "s1", "target": "s1", "limit": 1})
    assert answered(found.json())[0] == ["pair_0003"]


def test_an_item_is_stac_and_its_previews_are_the_archive_s(indexed, http):
    response = http.get("/v1/items/pair_0100")
    assert response.headers["content-type"] == "application/geo+json"
    item = response.json()
    assert (item["id"], item["stac_version"], item["properties"]["country"]) == ("pair_0100", "1.1.0", "Austria")
    segment, row = indexed.reader.find("pair_0100")
    shard = indexed.workspace.parquet("archive", segment.rows["archive_file"][row].as_py()).read()
    archive_row = segment.rows["archive_row"][row].as_py()
    for modality in ("s1", "s2"):
        picture = http.get(item["assets"][f"preview_{modality}"]["href"])
        assert picture.headers["content-type"] == "image/jpeg"
        assert "max-age" in picture.headers["cache-control"]
        assert Image.open(io.BytesIO(picture.content)).size == (24, 24)
        assert picture.content == shard[f"preview_{modality}"][archive_row].as_py()


def test_refusals_are_problem_details(http):
    for response, status, words in (
        (http.get("/v1/items/nobody"), 404, "item 'nobody' is not in generation 1"),
        (http.get("/v1/items/pair_0001/preview/s9"), 400, "'s9' is unknown"),
        (http.get("/nowhere"), 404, "no route '/nowhere'"),
        (http.post("/v1/search", json={"modality": "s1", "target": "s2"}), 400, "neither of vector and id"),
        (http.post("/v1/search", json={"id": "nobody", "modality": "s1", "target": "s2"}), 404, "nobody"),
        (http.post("/v1/search", content=b"x" * 1_000_001), 413, "at most 1000000"),
    ):
        assert response.status_code == status, response.text
        assert response.headers["content-type"] == "application/problem+json"
        assert words in response.json()["detail"]


def test_it_is_alive_ready_and_describes_itself(indexed, http):
    assert http.get("/livez").status_code == 200
    ready = http.get("/readyz")
    assert ready.status_code == 200
    assert set(ready.json()["parts"]) == {"encoder s1", "encoder s2", "shard 0", "shard 1", "shard 2"}
    index = http.get("/v1/index").json()
    assert (index["items"], sum(index["shards"]), index["dimension"]) == (176, 176, indexed.bundle.dimension)
    assert http.get("/v1/model").json()["fingerprint"] == indexed.bundle.fingerprint
    assert "Find images across sensors" in http.get("/").text
    assert http.get("/docs").status_code == 200
    assert len(http.get("/v1/items?sample=5").json()["features"]) == 5


def test_requests_are_counted_by_route_and_status(http):
    def seen():
        labels = counts(http, "sscm_requests_total")
        route = "/v1/items/{pair_id:path}"
        return [labels.get((("route", route), ("status", status)), 0) for status in ("200", "404")]

    before = seen()
    for pair_id in ("pair_0001", "pair_0002", "nobody"):
        http.get(f"/v1/items/{pair_id}")
    assert [after - first for after, first in zip(seen(), before, strict=True)] == [2, 1]


def test_every_shard_is_a_deployment_of_its_own(service):
    deployments = serve.status().applications[APP].deployments
    assert set(deployments) == {"gateway", "encoder-s1", "encoder-s2", "shard-0", "shard-1", "shard-2"}


def test_a_port_in_use_is_told_before_anything_starts(indexed):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ServiceError, match=rf"127\.0\.0\.1:{port} is in use by another program.*--port"):
            serve_workspace(ServeConfig(workspace=indexed.workspace.uri, port=port))
    assert free_port("127.0.0.1", port) == port
    with pytest.raises(ServiceError, match=r"cannot listen on 192\.0\.2\.77"):
        free_port("192.0.2.77", port)


def test_a_workspace_without_an_index_is_told_before_anything_starts(workspace):
    with pytest.raises(GenerationError, match="there is no index in this workspace; `sscm index` makes one"):
        serve_workspace(ServeConfig(workspace=workspace.uri))


def test_the_builder_takes_the_text_values_of_the_command_line(indexed):
    application = build_app({"workspace": indexed.workspace.uri, "shards": "2", "deadline_s": "3.5"})
    assert isinstance(application, serve.Application)
    with pytest.raises(ConfigError, match=r"unknown settings \['shrads'\]; known are \['workspace'"):
        build_app({"workspace": indexed.workspace.uri, "shrads": "2"})
    with pytest.raises(ConfigError, match=r"shards: Input should be a valid integer.*seen 'two'"):
        build_app({"workspace": indexed.workspace.uri, "shards": "two"})


def test_an_index_of_another_model_is_refused(indexed, archive_factory, workspace):
    manifest = archive_factory(workspace, 4, 2, 2)
    from_elsewhere = json.loads(json.dumps(indexed.generation.to_json()))
    assert manifest.rows == 8
    for part in ("models/small/config.json", "models/small/weights.safetensors", "models/LATEST.json"):
        workspace.write_bytes(indexed.workspace.read_bytes(*part.split("/")), *part.split("/"))
    from_elsewhere["bundle"]["fingerprint"] = "0" * 64
    workspace.write_json(from_elsewhere, "index", "generations", "1", "manifest.json")
    workspace.write_json({"generation": 1}, "index", "CURRENT")
    with pytest.raises(GenerationError, match="was made with 000000000000; build the index anew"):
        build_app(ServeConfig(workspace=workspace.uri))


def test_an_orphaned_haproxy_of_our_node_is_stopped_and_no_other(tmp_path):
    def started(node):
        settings = tmp_path / node / "haproxy.cfg"
        return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", str(settings)])

    ours, other = started("a1b2"), started("c3d4")
    try:
        stop_orphans("a1b2")
        assert ours.wait(10) == -signal.SIGTERM
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()
