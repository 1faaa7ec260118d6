"""``ray start`` and ``ray job submit`` as the pages have them, on a Ray of its own beside the tests' one."""

import subprocess
import time
from pathlib import Path

import httpx
import pytest

from sscm.index.generation import read_generation
from tests.plugins.job_head import RAY, job_head, ports

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    """Address of a Ray head, and the environment of those who submit jobs to it."""
    stats, metrics = ports(2)
    haproxy = {"RAY_SERVE_HAPROXY_STATS_PORT": str(stats), "RAY_SERVE_HAPROXY_METRICS_PORT": str(metrics)}
    fast = {"RAY_SERVE_ENABLE_HA_PROXY": "1", "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1"}
    with job_head(6, tmp_path_factory.mktemp("head"), token=True, **fast, **haproxy) as (address, environment, _):
        yield address, environment


def submit(head, *words):
    """Submit a command of ``sscm``: its exit code and all that was printed."""
    address, environment = head
    done = subprocess.run(
        [str(RAY), "job", "submit", "--address", address, "--working-dir", str(ROOT), "--", "sscm", *map(str, words)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.timeout(600)
def test_train_index_and_serve_on_a_cluster(head, archive, tmp_path):
    code, said = submit(
        head,
        *("train", "--workspace", archive.uri, "--name", "job", "--epochs", 1, "--batch-size", 32),
        *("--cpus-per-worker", 1, "--backbone", "resnet10t", "--image-size", 32, "--dimension", 16),
    )
    assert code == 0, said
    assert "epoch   1/1" in said
    code, said = submit(head, "index", "--workspace", archive.uri, "--cpus-per-actor", 1)
    assert code == 0, said
    assert read_generation(archive).bundle == "job"
    assert read_generation(archive).rows == 176

    code, said = submit(head, "train", "--workspace", archive.uri, "--name", "job", "--batch-size", 32)
    assert code != 0
    assert "run 'job' exists" in said

    # The same cluster serves what the jobs made, by Ray's own command.
    address, environment = head
    [port] = ports(1)
    settings = tmp_path / "serve.yaml"
    written = [RAY.with_name("sscm"), "serve", "--workspace", archive.uri, "--port", port, "--write", settings]
    serve = [RAY.with_name("serve"), "deploy", settings, "--address", address]
    for command in (written, serve):
        subprocess.run([str(word) for word in command], env=environment, check=True, capture_output=True, timeout=120)
    url = f"http://127.0.0.1:{port}"
    end = time.monotonic() + 120
    while time.monotonic() < end:
        try:
            if httpx.get(f"{url}/readyz", timeout=5).status_code == 200:
                break
        except httpx.TransportError:
            pass
        time.sleep(0.5)
    query = {"id": "pair_0003", "modality": "s1", "target": "s2", "limit": 5}
    found = httpx.post(f"{url}/v1/search", json=query, timeout=30)
    assert found.status_code == 200, found.text
    assert len(found.json()["features"]) == 5
