"""What the README promises, from GeoTIFF folders to HTTP answers, by the commands themselves."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest
from ray import serve

from serve.app import serve_workspace
from sscm.archive.manifest import read_manifest
from sscm.archive.sources import SyntheticSource
from sscm.cli import main
from sscm.config import ServeConfig, SyntheticConfig
from sscm.workspace import open_workspace

PAIRS = 600
EPOCHS = 8


@pytest.fixture(scope="module")
def workspace(tmp_path_factory, bigearthnet_v1, ray_session):
    """A workspace after ingest, train, index and evaluate, from BigEarthNet folders of simulated pairs."""
    folder = tmp_path_factory.mktemp("e2e")
    source = SyntheticSource(SyntheticConfig(pairs=PAIRS, validation=0.1, test=0.3))
    with ThreadPoolExecutor(2) as pool:
        pairs = list(pool.map(lambda ref: next(iter(source.read(ref))), source.plan()))
    bigearthnet_v1(folder / "BigEarthNet", pairs)
    place = str(folder / "workspace")
    split_file = next((folder / "BigEarthNet").glob("*.csv"))
    run("ingest", "bigearthnet", "--root", folder / "BigEarthNet", "--split-file", split_file, "--workspace", place)
    run(
        *("train", "--workspace", place, "--epochs", EPOCHS, "--batch-size", 64, "--lr", 0.002, "--name", "first"),
        *("--backbone", "resnet10t", "--image-size", 64),
    )
    run("index", "--workspace", place)
    run("evaluate", "--workspace", place, "--json", folder / "figures.json")
    return open_workspace(place)


def run(*words):
    """Run a command of ``sscm`` as the terminal would."""
    assert main([str(word) for word in words]) == 0


@pytest.fixture(scope="module")
def url(workspace):
    """A service of that workspace."""
    port = 18_473
    serve_workspace(ServeConfig(workspace=workspace.uri, port=port), block=False)
    yield f"http://127.0.0.1:{port}"
    serve.shutdown()


@pytest.mark.timeout(900)
def test_trained_encoders_beat_untrained_ones_by_far(workspace):
    from pathlib import Path

    figures = json.loads((Path(workspace.path_of()).parent / "figures.json").read_text())["figures"]
    recall = {
        (f["encoder"], f["direction"]): f["value"] for f in figures if f["metric"] == "partner_recall" and f["k"] == 10
    }
    for direction in ("s1->s2", "s2->s1"):
        assert recall["trained", direction] > 3 * recall["untrained", direction]
        assert recall["trained", direction] > 3 * recall["chance", direction]
    report = Path(workspace.path_of("report.html")).read_text()
    assert "<img" in report and "http://" not in report.replace("http://www.w3.org", "")


@pytest.mark.timeout(900)
def test_a_radar_file_finds_its_place_over_http(workspace, url, tmp_path, capsys):
    manifest = read_manifest(workspace)
    shard = manifest.of_split("train")[0]
    with workspace.parquet("archive", *shard.file.split("/")) as file:
        table = file.read_row_group(0, columns=["pair_id", "s1"])
    ids = table["pair_id"].to_pylist()
    group = manifest.group("s1")
    found = 0
    for row in range(32):
        pixels = np.frombuffer(table["s1"][row].as_py(), group.numpy_dtype).reshape(group.shape)
        np.save(tmp_path / "query.npy", pixels)
        capsys.readouterr()
        run(
            *("search", tmp_path / "query.npy", "--modality", "s1", "--target", "s2"),
            *("--limit", 20, "--url", url, "--format", "json"),
        )
        answers = json.loads(capsys.readouterr().out)
        assert answers["type"] == "FeatureCollection" and answers["numberMatched"] == manifest.rows
        scores = [feature["properties"]["score"] for feature in answers["features"]]
        assert scores == sorted(scores, reverse=True) and len(scores) == 20
        found += ids[row] in [feature["id"] for feature in answers["features"]]
    assert found >= 6  # by chance 20 of 600 answers would hold one of 32

    first = answers["features"][0]
    picture = httpx.get(f"{url}/v1/items/{first['id']}/preview/s2", timeout=30)
    assert picture.headers["content-type"] == "image/jpeg" and picture.content[:2] == b"\xff\xd8"
    assert first["geometry"]["type"] == "Polygon"


@pytest.mark.timeout(900)
def test_many_clients_at_once_get_the_same_answer_as_one(workspace, url):
    manifest = read_manifest(workspace)
    shard = manifest.of_split("test")[0]
    with workspace.parquet("archive", *shard.file.split("/")) as file:
        ids = file.read_row_group(0, columns=["pair_id"])["pair_id"].to_pylist()[:16]

    def ask(pair_id):
        body = {"id": pair_id, "modality": "s1", "target": "s2", "limit": 5}
        answer = httpx.post(f"{url}/v1/search", json=body, timeout=60)
        assert answer.status_code == 200, answer.text
        return [feature["id"] for feature in answer.json()["features"]]

    alone = [ask(pair_id) for pair_id in ids]
    barrier = threading.Barrier(len(ids))

    def together(pair_id):
        barrier.wait(timeout=30)
        return ask(pair_id)

    with ThreadPoolExecutor(len(ids)) as pool:
        assert list(pool.map(together, ids)) == alone


def test_errors_end_with_a_message_and_exit_code_1(tmp_path, capsys):
    assert main(["index", "--workspace", str(tmp_path)]) == 1
    assert "`sscm ingest` makes one" in capsys.readouterr().err
    assert main(["search", "x.npy", "--modality", "s1", "--target", "s2", "--url", "http://127.0.0.1:9"]) == 1
    assert "sscm: Service error" in capsys.readouterr().err
