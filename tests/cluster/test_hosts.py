"""Two hosts with networks of their own: an object passes between them; one that is cut off comes back as a new node.

What ran there when it fell silent runs again, long before Ray's own patience with a silent connection ends.
"""

import pytest

from tests.plugins.hosts import hosts, why_not
from tests.plugins.raylets import until

pytestmark = pytest.mark.ray

WATCH = """
import socket
import time
import numpy as np
import ray

@ray.remote(num_cpus=1, label_selector={"sscm/role": "data"})
def fields(seconds):
    time.sleep(seconds)
    return socket.gethostname(), np.arange(1_000_000)

def nodes():
    return [node["NodeID"] for node in ray.nodes() if node["Alive"]]

def wait(count):
    end = time.monotonic() + 90
    while len(nodes()) != count and time.monotonic() < end:
        time.sleep(0.2)
    print(":", len(nodes()), "nodes", flush=True)

ray.init(log_to_driver=False, logging_level="ERROR")
seen = []
for count in (2, 1, 2):
    wait(count)
    seen.append(set(nodes()))
    if count == 2:
        name, values = ray.get(fields.remote(0) if len(seen) == 1 else slow, timeout=60)
        if len(seen) == 1:
            slow = fields.remote(8)
            time.sleep(1)
        print(f": {int(values.sum())} from {name}", flush=True)
print(": the same" if seen[0] == seen[2] else ": a new one", flush=True)
"""
SOON = {
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
}


@pytest.mark.timeout(240)
def test_an_object_passes_and_a_host_that_was_cut_off_comes_back(tmp_path):
    if why := why_not():
        pytest.skip(why)
    log = tmp_path / "log"

    def said(*expected):
        def found():
            return tuple(line[2:] for line in log.read_text().splitlines() if line.startswith(": "))

        until(lambda: found() == expected or process.poll(), 100, f"{expected}")
        assert found() == expected, log.read_text()

    passed = ["2 nodes", f"{sum(range(1_000_000))} from data"]
    with hosts("head", "data", folder=tmp_path, **SOON) as cluster:
        head, data = cluster["head"], cluster["data"]
        cluster.boot_head("head", "--num-cpus=0", "--include-dashboard=false")
        until(lambda: head.up, 90, "the head is up")
        cluster.boot_node("data", "head", "--num-cpus=1", "--labels=sscm/role=data")
        process = head.start("python", "-c", WATCH, log=log)
        said(*passed)
        data.cut()
        said(*passed, "1 nodes")
        data.heal()
        # Ray takes no node back that it has given up: its raylet ends, and is started again.
        said(*passed, "1 nodes", *passed, "a new one")
        assert data.starts == 2
    assert not data.running and not data.processes("")
