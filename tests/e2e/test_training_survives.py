"""A training comes to its end through a killed worker, a node that is taken away, one that comes, and a killed driver.

On a cluster of its own, three raylets on this machine.
"""

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sscm.training.checkpoint import RECORD, whole_checkpoints
from tests.plugins.raylets import command, raylets, until, workers_of

pytestmark = pytest.mark.ray

EPOCHS, BATCH = 8, 32  # so long that a node has time to come, wherever that takes a quarter of a minute
STEPS = 1536 // BATCH


@pytest.fixture(scope="module")
def cluster():
    with raylets(1, 3, 3) as (found, nodes):
        yield found, nodes


def epochs_of(workspace):
    return workspace.read_json("runs", "run", "metrics.json") if workspace.exists("runs", "run", "metrics.json") else []


def notify(cluster, node):
    """Tell a cluster that a node will be taken away within two minutes, as a cloud's notice does."""
    ray = Path(sys.executable).with_name("ray")
    words = ["--address", cluster.address, "--node-id", node.node_id, "--deadline-remaining-seconds", "120"]
    reason = ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot"]
    subprocess.run([ray, "drain-node", *words, *reason], check=True, timeout=60, capture_output=True)


@pytest.mark.timeout(400)
def test_worker_node_and_driver(cluster, workspace, archive_factory, tmp_path):
    ray_cluster, (_, *nodes) = cluster
    archive_factory(workspace, train=STEPS * BATCH, validation=32, test=32)
    log = tmp_path / "log"
    words = [
        *("train", "--workspace", workspace.uri, "--name", "run", "--epochs", EPOCHS, "--batch-size", BATCH),
        *("--cpus-per-worker", 2, "--resize-minutes", 0.02, "--stream", "ray-data"),
        *("--backbone", "resnet10t", "--image-size", 32, "--dimension", 16),
    ]

    def reached(holds, what):
        def alive():
            assert process.poll() is None, log.read_text()
            return holds()

        try:
            return until(alive, 150, what)
        except AssertionError as error:
            raise AssertionError(f"{error}: {log.read_text()[-3000:]}") from error

    def whole(step):
        record = workspace.read_bytes("runs", "run", RECORD).decode()
        return re.search(rf'"step":\s*{step}\b', record)

    def said(pattern):
        return lambda: re.findall(pattern, log.read_text())

    with command(ray_cluster, log, *words, "--workers", 2, "--min-workers", 1) as process:
        reached(lambda: whole_checkpoints(workspace, "run"), "an epoch's checkpoint")
        [worker] = workers_of(nodes[1])
        worker.send_signal(signal.SIGKILL)
        reached(said(rf"2 workers at step {STEPS + 1}\b"), "a new start from the end of that epoch")
        notify(ray_cluster, nodes[1])
        [step] = map(int, reached(said(r"a node is to be taken away: checkpoint after step (\d+)"), "a checkpoint"))
        assert step % STEPS, "no checkpoint of the notice's own"
        reached(lambda: whole(step % STEPS), "the end of that checkpoint's upload")
        ray_cluster.remove_node(nodes[1], allow_graceful=False)
        reached(said(rf"1 worker at step {step + 1}\b"), "one worker from that checkpoint")
        ray_cluster.add_node(num_cpus=3, object_store_memory=200_000_000)
        reached(lambda: len(said("2 workers at step")()) > 2, "two workers again")
        process.send_signal(signal.SIGKILL)
    # One worker from the start: where fewer are allowed, Ray keeps what the dead driver had claimed for three minutes.
    with command(ray_cluster, log, *words, "--resume", "--workers", 1) as process:
        assert process.wait(150) == 0, log.read_text()
    told = epochs_of(workspace)
    assert [metrics["epoch"] for metrics in told] == list(range(1, EPOCHS + 1))
    assert told[0]["workers"] == 2 and told[-1]["workers"] == 1
    assert told[-1]["mim"] < told[0]["mim"]
    assert workspace.exists("models", "run", "config.json")
