"""``ray start`` and ``ray job submit`` as the pages have them, on a Ray of its own beside the tests' one."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from sscm.index.generation import read_generation

ROOT = Path(__file__).resolve().parents[2]
RAY = Path(sys.executable).with_name("ray")

pytestmark = pytest.mark.ray


def ports(count):
    """TCP ports of this machine that nothing listens on."""
    sockets = [socket.socket() for _ in range(count)]
    for listener in sockets:
        listener.bind(("127.0.0.1", 0))
    found = [listener.getsockname()[1] for listener in sockets]
    for listener in sockets:
        listener.close()
    return found


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    """Address of a Ray head that ``ray start`` runs in the foreground; ended by its own process group."""
    port, dashboard, client, agent, stats, metrics = ports(6)
    folder = Path("/tmp") / f"sscm-ray-{os.getpid()}"  # Ray's sockets want a short path
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "PYTEST"))}
    environment["PATH"] = f"{RAY.parent}:{environment['PATH']}"
    environment["HOME"] = str(tmp_path_factory.mktemp("home"))  # where the token of this cluster alone goes
    environment["RAY_AUTH_MODE"] = "token"
    environment |= {"RAY_SERVE_ENABLE_HA_PROXY": "1", "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1"}
    environment |= {"RAY_SERVE_HAPROXY_STATS_PORT": str(stats), "RAY_SERVE_HAPROXY_METRICS_PORT": str(metrics)}
    subprocess.run(
        [str(RAY), "get-auth-token", "--generate"], env=environment, check=True, capture_output=True, timeout=60
    )
    command = [
        *(RAY, "start", "--head", "--block", "--num-cpus", "6", "--object-store-memory", "300000000"),
        *("--port", port, "--dashboard-port", dashboard, "--ray-client-server-port", client),
        *("--dashboard-agent-listen-port", agent, "--temp-dir", folder, "--disable-usage-stats"),
    ]
    log = tmp_path_factory.mktemp("head") / "log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [str(word) for word in command], env=environment, stdout=output, stderr=output, start_new_session=True
        )
        try:
            address = f"http://127.0.0.1:{dashboard}"
            wait_for(address, process, log)
            yield address, environment
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(30)
            shutil.rmtree(folder, ignore_errors=True)


def wait_for(address, process, log):
    """Until the head takes jobs."""
    end = time.monotonic() + 120
    while time.monotonic() < end:
        if process.poll() is not None:
            pytest.fail(f"ray start ended with {process.returncode}: {log.read_text()[-2000:]}")
        try:
            if httpx.get(f"{address}/api/version", timeout=5).status_code in (200, 401):
                return
        except httpx.TransportError:
            pass
        time.sleep(0.5)
    pytest.fail(f"no head at {address} after 120 s: {log.read_text()[-2000:]}")


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
