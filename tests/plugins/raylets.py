"""Several Ray nodes on one machine, and what a test does to them."""

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
from ray.cluster_utils import Cluster
from ray.experimental import internal_kv

SOON = {
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "3",
    "RAY_worker_niceness": "0",
}
"""Environment of the nodes: that one is lost is noticed within seconds."""
SSCM = Path(sys.executable).with_name("sscm")


@contextlib.contextmanager
def raylets(*cpus):
    """A cluster of one node for each number of logical CPUs, the first its head; all are gone at the end.

    Yields:
        The cluster, and its nodes in order.
    """
    before, client = dict(os.environ), internal_kv.global_gcs_client
    os.environ.update(SOON)
    sizes = [{"num_cpus": count, "object_store_memory": 200_000_000} for count in cpus]
    cluster = Cluster(initialize_head=True, head_node_args={**sizes[0], "include_dashboard": False})
    try:
        yield cluster, [cluster.head_node, *(cluster.add_node(**size) for size in sizes[1:])]
    finally:
        for node in [*cluster.worker_nodes]:
            cluster.remove_node(node, allow_graceful=False)
        if cluster.head_node is not None:
            cluster.remove_node(cluster.head_node, allow_graceful=False)
        # A node's start makes its head that of this process, which ends a minute after it asks a head that is gone.
        internal_kv._internal_kv_reset()
        if client is not None:
            internal_kv._initialize_internal_kv(client)
        os.environ.clear()
        os.environ.update(before)


@contextlib.contextmanager
def command(cluster, log, *words, **environment):
    """An ``sscm`` command that runs on a cluster; killed at the end if it still runs."""
    told = {**os.environ, "RAY_ADDRESS": cluster.address, **environment}
    with Path(log).open("a") as output:
        process = subprocess.Popen(
            [str(SSCM), *map(str, words)], env=told, stdout=output, stderr=output, start_new_session=True
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
            process.wait(30)


def workers_of(node, title="RayTrainWorker"):
    """Processes of a node whose title names an actor."""
    found = []
    for started in node.all_processes["raylet"]:
        with contextlib.suppress(psutil.NoSuchProcess):
            for child in psutil.Process(started.process.pid).children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    if title in " ".join(child.cmdline()):
                        found.append(child)
    return found


def until(holds, seconds, what):
    """Wait until something holds; what it gave.

    Raises:
        AssertionError: it did not in time.
    """
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := holds():
            return found
        time.sleep(0.1)
    raise AssertionError(f"not within {seconds} s: {what}")
