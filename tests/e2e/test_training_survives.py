"""A training whose worker is killed, whose node is lost and whose driver dies comes to the same end.

On a cluster of its own, three raylets on this machine.
"""

import re
import signal

import pytest

from tests.plugins.raylets import command, raylets, until, workers_of

pytestmark = pytest.mark.ray

EPOCHS, BATCH = 7, 32


@pytest.fixture(scope="module")
def cluster():
    with raylets(1, 3, 3) as (found, nodes):
        yield found, nodes


def epochs_of(workspace):
    return workspace.read_json("runs", "run", "metrics.json") if workspace.exists("runs", "run", "metrics.json") else []


@pytest.mark.timeout(400)
def test_worker_node_and_driver(cluster, workspace, archive_factory, tmp_path):
    ray_cluster, (_, *nodes) = cluster
    archive_factory(workspace, train=512, validation=32, test=32)
    log = tmp_path / "log"
    words = [
        *("train", "--workspace", workspace.uri, "--name", "run", "--epochs", EPOCHS, "--batch-size", BATCH),
        *("--cpus-per-worker", 2, "--checkpoint-minutes", 0.02),
        *("--backbone", "resnet10t", "--image-size", 32, "--dimension", 16),
    ]

    def reached(epoch, process):
        def holds():
            assert process.poll() is None, log.read_text()
            return len(epochs_of(workspace)) >= epoch

        try:
            until(holds, 150, f"epoch {epoch}")
        except AssertionError as error:
            raise AssertionError(f"{error}: {log.read_text()[-3000:]}") from error

    with command(ray_cluster, log, *words, "--workers", 2, "--min-workers", 1) as process:
        reached(1, process)
        [worker] = workers_of(nodes[1])
        worker.send_signal(signal.SIGKILL)
        reached(3, process)
        ray_cluster.remove_node(nodes[1], allow_graceful=False)
        reached(5, process)
        process.send_signal(signal.SIGKILL)
    # One worker from the start: where fewer are allowed, Ray keeps what the dead driver had claimed for three minutes.
    with command(ray_cluster, log, *words, "--resume", "--workers", 1) as process:
        assert process.wait(150) == 0, log.read_text()
    told = epochs_of(workspace)
    assert [metrics["epoch"] for metrics in told] == list(range(1, EPOCHS + 1))
    assert [metrics["workers"] for metrics in told] in ([2] * n + [1] * (EPOCHS - n) for n in (1, 2, 3, 4))
    assert told[-1]["mim"] < told[0]["mim"]
    said = log.read_text()
    assert "2 workers at step 1\n" in said
    assert re.search(r"2 workers at step \d+(: \d+ of what the ones before had done again)?\n", said)
    assert "1 worker at step" in said
    assert workspace.exists("models", "run", "config.json")
