"""The whole service, live: one application on a real port over a real index, against the same index in this process."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest
import ray
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families
from ray import serve

from serve.app import APP, build_app, free_port, serve_workspace, stop_orphans, url_of
from sscm.client import Client
from sscm.config import ServeConfig
from sscm.errors import ConfigError, GenerationError, ServiceError
from sscm.index.filters import Filter
from tests.plugins.queries import asked


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


def search_id(pair_id, modality, target, url, limit=10, filters=None):
    body = {"id": pair_id, "modality": modality, "target": target, "limit": limit, **(filters or {})}
    response = httpx.post(f"{url}/v1/search", json=body, timeout=60)
    assert response.status_code == 200, response.text
    return response.json()


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
    stage = (("stage", "search"),)  # three shards, each asked in batches
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
    assert http.get("/").headers["content-type"].startswith("text/html")
    assert http.get("/docs").status_code == 200
    assert len(http.get("/v1/items?sample=5").json()["features"]) == 5


def test_what_is_counted_under_load_is_what_was_sent(http, pair_factory):
    buffer = io.BytesIO()
    np.save(buffer, pair_factory(3).images["s1"])
    search = {"id": "pair_0042", "modality": "s1", "target": "s2", "limit": 3}
    form = {"modality": "s1", "target": "s2"}
    item = "/v1/items/{pair_id:path}"
    kinds = (
        ("POST", "/v1/search", {"json": search}, "/v1/search", 200),
        ("POST", "/v1/search", {"json": {**search, "target": "s9"}}, "/v1/search", 400),
        ("GET", "/v1/items/pair_0001", {}, item, 200),
        ("GET", "/v1/items/nobody", {}, item, 404),
        ("POST", "/v1/search/batch", {"json": {"searches": [search] * 2}}, "/v1/search/batch", 200),
        ("POST", "/v1/search/image", {"files": {"files": ("x.npy", buffer.getvalue())}, "data": form}, None, 200),
    )
    times, shards = 20, 3
    requests = counts(http, "sscm_requests_total")
    batches = counts(http, "sscm_batch_size_count")
    scraped, ended = [], threading.Event()

    def scrape():
        while not ended.is_set():
            scraped.append(sum(counts(http, "sscm_requests_total").values()))

    def ask(kind):
        method, path, how, _, status = kind
        assert http.request(method, path, **how).status_code == status

    with ThreadPoolExecutor(9) as pool:
        scraping = pool.submit(scrape)
        try:
            list(pool.map(ask, kinds * times))
        finally:
            ended.set()
        scraping.result(30)
    assert len(scraped) > 1 and scraped == sorted(scraped)
    after = counts(http, "sscm_requests_total")
    for _, path, _, route, status in kinds:
        labels = (("route", route or path), ("status", str(status)))
        assert after[labels] - requests.get(labels, 0) == times, labels
    seconds = counts(http, "sscm_request_seconds_count")
    for route in ("/v1/search", item):
        assert seconds[(("route", route),)] == sum(n for labels, n in after.items() if dict(labels)["route"] == route)
    answered_by = counts(http, "sscm_batch_size_count")
    grown = {stage: n - batches.get(stage, 0) for stage, n in answered_by.items()}
    assert grown[(("stage", "search"),)] == times * shards * (1 + 2 + 1)  # a search, a batch of two, an image
    assert grown[(("stage", "encode"),)] == times
    stages = {dict(labels)["stage"] for labels in counts(http, "sscm_stage_seconds_count")}
    assert stages == {"decode", "encode", "fan-out", "scan", "merge"}
    assert counts(http, "sscm_generation") == {(): 1}


def test_ray_is_told_what_a_gateway_counted(indexed, http):
    for number in range(5):
        search_id(f"pair_{number:04d}", "s1", "s2", str(http.base_url).rstrip("/"))
    node = ray.nodes()[0]
    agent = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    asked_for = {"route": "/v1/search", "status": "200"}
    counted = counts(http, "sscm_requests_total")[tuple(sorted(asked_for.items()))]
    made = counts(http, "sscm_items_total")[()]
    wanted, seen = {("ray_sscm_requests_total", counted), ("ray_sscm_items_total", made)}, set()
    end = time.monotonic() + 60
    while not wanted <= seen and time.monotonic() < end:
        time.sleep(1)
        seen = {
            (sample.name, sample.value)
            for family in text_string_to_metric_families(httpx.get(agent, timeout=10).text)
            for sample in family.samples
            if sample.name.startswith("ray_sscm_")
            and ("route" not in sample.labels or asked_for.items() <= sample.labels.items())
        }
    assert wanted <= seen


def test_dashboards_and_alerts_ask_for_what_a_gateway_counts(http):
    """A node's agent tells the same with ``ray_`` before the names, once there is something to tell."""
    suffixes = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_count", "_sum")}
    told: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(http.get("/metrics").text):
        told |= {f"ray_{family.name}{suffix}": set() for suffix in suffixes[family.type]}
        for sample in family.samples:
            told.setdefault(f"ray_{sample.name}", set()).update(sample.labels)
    wanted = [(where, series) for where, series in asked("ray_sscm_") if "_training_" not in series.metric]
    assert len(wanted) > 20
    for where, series in wanted:
        assert series.metric in told, f"{where}: {series.metric}"
        labels = told[series.metric]
        assert series.labels <= labels | {"instance", "WorkerId"} or not labels, f"{where}: {series} of {labels}"


def test_every_shard_is_a_deployment_of_its_own(service):
    deployments = serve.status().applications[APP].deployments
    encoders, shards = {"encoder-s1", "encoder-s2"}, {"shard-0", "shard-1", "shard-2"}
    assert set(deployments) == {"coordinator", "gateway"} | encoders | shards


@pytest.fixture(scope="module")
def doubled(indexed, copy_factory, service, tmp_path_factory):
    """A service of a workspace of its own, of which each part but the coordinator is there twice; in the other's place.

    Its URL and workspace.
    """
    workspace = copy_factory(indexed, tmp_path_factory.mktemp("doubled") / "workspace")
    serve.shutdown()
    port = free_port("127.0.0.1", 0)
    config = ServeConfig(
        workspace=workspace.uri, port=port, replicas=2, gateways=2, encoders=2, threads=1, deadline_s=30, watch_s=0
    )
    serve_workspace(config, block=False)
    yield url_of("127.0.0.1", port), workspace


class Load:
    """Clients that ask without a pause, one kind of request after the other, and what came of it."""

    def __init__(self, url, kinds, clients=6):
        self.outcomes, self.failures = Counter(), []
        self._url, self._kinds, self._clients = url, kinds, clients
        self._ended = threading.Event()

    def _ask(self):
        with httpx.Client(base_url=self._url, timeout=60) as http:
            for path, how in itertools.cycle(self._kinds):
                if self._ended.is_set():
                    return
                try:
                    response = http.post(path, **how)
                    self.outcomes[response.status_code] += 1
                    if response.status_code != 200:
                        self.failures.append((time.monotonic(), path, response.status_code, response.text[:300]))
                except httpx.TransportError as error:
                    self.outcomes[type(error).__name__] += 1
                    self.failures.append((time.monotonic(), path, 0, repr(error)))

    def until(self, holds, seconds, what):
        """Go on until something holds."""
        end = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < end, f"{what} within {seconds} s; {self.outcomes}"
            time.sleep(0.1)

    def more(self, requests):
        """Go on for so many more answers."""
        wanted = self.outcomes[200] + requests
        self.until(lambda: self.outcomes[200] >= wanted, 60, f"{requests} more answers")

    @contextlib.contextmanager
    def running(self):
        with ThreadPoolExecutor(self._clients) as pool:
            asking = [pool.submit(self._ask) for _ in range(self._clients)]
            try:
                self.more(20)
                yield
                self.more(20)
            finally:
                self._ended.set()
            for client in asking:
                client.result(60)


def replicas(deployment):
    """Names of the actors of a deployment's replicas."""
    actors = ray.util.list_named_actors(all_namespaces=True)
    prefix = f"SERVE_REPLICA::{APP}#{deployment}#"
    return sorted(actor["name"] for actor in actors if actor["name"].startswith(prefix))


def running(deployment):
    """How many replicas of a deployment take requests."""
    return serve.status().applications[APP].deployments[deployment].replica_states.get("RUNNING", 0)


def kill_one(deployment):
    """Kill a replica; returns what tells whether another took its place."""
    before = replicas(deployment)
    assert len(before) == 2
    ray.kill(ray.get_actor(before[0], namespace="serve"))
    return lambda: bool(set(replicas(deployment)) - set(before)) and running(deployment) == 2


def image(pair):
    buffer = io.BytesIO()
    np.save(buffer, pair.images["s1"])
    return {"files": {"files": ("x.npy", buffer.getvalue())}, "data": {"modality": "s1", "target": "s2", "limit": 3}}


BY_ID = ("/v1/search", {"json": {"id": "pair_0042", "modality": "s1", "target": "s2", "limit": 3}})


@pytest.mark.parametrize("part", ["shard-0", "encoder-s1"])
def test_a_replica_that_is_killed_under_load_is_not_missed(doubled, pair_factory, part):
    url, _ = doubled
    load = Load(url, [BY_ID, ("/v1/search/image", image(pair_factory(3)))])
    with load.running():
        load.until(lambda: running(part) == 2, 60, f"two replicas of {part}")
        replaced = kill_one(part)
        load.more(60)
        load.until(replaced, 60, f"another replica of {part}")
    assert load.failures == []


def test_a_gateway_that_is_killed_under_load_takes_what_it_has_in_hand_and_no_more(doubled):
    url, _ = doubled
    load = Load(url, [BY_ID], clients=6)
    with load.running():
        load.until(lambda: running("gateway") == 2, 60, "two gateways")
        replaced, killed = kill_one("gateway"), time.monotonic()
        load.more(100)
        load.until(replaced, 60, "another gateway")
    assert len(load.failures) <= 6, load.failures
    assert all(when - killed < 5 for when, *_ in load.failures), load.failures


def test_appended_rows_are_found_after_a_reload_and_no_request_fails_for_it(
    doubled, indexed, pair_factory, append_factory
):
    url, workspace = doubled
    pairs = [pair_factory(number) for number in range(3000, 3040)]
    image_of_new = image(pairs[0])
    load = Load(url, [BY_ID, ("/v1/search/image", image_of_new)])
    with load.running(), httpx.Client(base_url=url, timeout=60) as http:
        assert http.get("/v1/items/pair_3000").status_code == 404
        generation = append_factory(workspace, indexed.bundle, pairs)
        assert http.get("/v1/index").json()["generation"] == 1  # nobody looks by himself here
        moved = http.post("/v1/admin/reload")
        assert moved.status_code == 200, moved.text
        assert moved.json() == {"generation": 2, "previous": 1, "loading": None, "refused": None}
        load.until(lambda: all(http.get("/v1/index").json()["generation"] == 2 for _ in range(8)), 30, "the switch")
        assert generation.number == 2
        assert http.get("/v1/index").json()["items"] == 176 + 40
        assert http.get("/v1/items/pair_3000").json()["id"] == "pair_3000"
        found = http.post("/v1/search/image", **{**image_of_new, "data": {"modality": "s1", "target": "s1"}}).json()
        assert found["features"][0]["id"] == "pair_3000"
        assert (found["numberMatched"], found["sscm"]["generation"]) == (216, 2)
        page = http.get("/v1/items", params={"ids": ",".join(pair.pair_id for pair in pairs), "limit": 100}).json()
        assert [feature["id"] for feature in page["features"]] == [pair.pair_id for pair in pairs]
        assert http.post("/v1/admin/reload").json()["generation"] == 2  # nothing new: it stays
    assert load.failures == []


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
