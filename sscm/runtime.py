"""The Ray that a command runs on: the cluster it was submitted to, or one of its own on this machine."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import ray
import ray.data

LOCAL_CPUS = 8
"""Logical CPUs of a Ray of our own, at least: Train, Data and Serve each claim whole ones, and a laptop has few."""
OBJECT_STORE_BYTES = 1_000_000_000
"""Object store of a Ray of our own: a few shards in flight."""

NODE_ENVIRONMENT: Mapping[str, str] = {
    # The fast path of Ray Serve; both must be set on every node before Ray starts.
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    # How long a gateway that is to stop still takes requests while its load balancer learns of it; Ray waits 30 s.
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "2",
    # A worker that never joins a collective must not hold the others for ever.
    "RAY_TRAIN_COLLECTIVE_TIMEOUT_S": "300",
    # Ray starts workers at nice 15: anything else on a small machine would starve them.
    "RAY_worker_niceness": "0",
}
"""Environment in which Ray is to start on every node."""
_ENVIRONMENT = {
    **NODE_ENVIRONMENT,
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # More processes than cores are meant; Ray warns of them otherwise.
    "RAY_worker_maximum_startup_concurrency": str(LOCAL_CPUS),
    "RAY_USAGE_STATS_ENABLED": "0",
}

CLUSTER_GROWS = "SSCM_CLUSTER_GROWS"
"""Environment variable of all nodes: 1 where the cluster starts nodes when they are asked for. Ray has a place where an
autoscaler may tell what a cluster may grow to, and neither that of Ray 2.60 nor KubeRay's does."""

TORCH_ENVIRONMENT = {
    # Threads that spin while they wait would starve the stream's tasks, and each other where cores are short.
    "OMP_WAIT_POLICY": "PASSIVE",
    # Memory of large tensors is kept, not given back and asked for again at every step: page faults were a tenth of a
    # step of resnet18 on two cores. One arena, since those of threads other than the main one cannot grow.
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(2**30),
    "MALLOC_TRIM_THRESHOLD_": str(2**32),
}
"""Environment of processes that train or embed on CPUs; it counts from their start."""

_PORTS = {"RAY_SERVE_HAPROXY_STATS_PORT": 8404, "RAY_SERVE_HAPROXY_METRICS_PORT": 9101}
"""Ports that HAProxy opens beside the service's own; two services on a machine want different ones."""


@contextlib.contextmanager
def ray_session(num_cpus: int | None = None, object_store_bytes: int = OBJECT_STORE_BYTES) -> Iterator[None]:
    """Have a Ray to work on for the length of a block.

    A Ray that this process is connected to already is used and left alone. Where ``RAY_ADDRESS`` is set (``ray job
    submit`` sets it), that cluster is joined; otherwise one is started on this machine and stopped at the end.

    Workers' logs stay in Ray's session folder: what a command has to tell, its progress and errors tell.

    Args:
        num_cpus: logical CPUs of a Ray of our own; by default the machine's, at least :data:`LOCAL_CPUS`.
        object_store_bytes: object store of a Ray of our own.
    """
    if ray.is_initialized():
        yield
        return
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    address = os.environ.get("RAY_ADDRESS")
    if not address:
        _move_ports()
    if address:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    else:
        ray.init(
            address="local",
            num_cpus=num_cpus or max(os.cpu_count() or 1, LOCAL_CPUS),
            object_store_memory=object_store_bytes,
            include_dashboard=False,
            logging_level=logging.ERROR,
            log_to_driver=False,
        )
    quiet_ray_data()
    try:
        yield
    finally:
        ray.shutdown()


def _move_ports() -> None:
    """Have another port where another service on this machine holds one that the load balancer of ours would open.

    A port that the environment asks for stays what it is.
    """
    for name, usual in _PORTS.items():
        if name in os.environ:
            continue
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("0.0.0.0", usual))
                probe.listen(1)
            except OSError:
                with socket.socket() as other:
                    other.bind(("0.0.0.0", 0))
                    os.environ[name] = str(other.getsockname()[1])


def quiet_ray_data() -> None:
    """Leave progress to our own bars: in this process Ray Data logs nothing but errors."""
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)


def most_resources() -> dict[str, float]:
    """Resources that the cluster has, or may grow to; infinite where it grows and does not say how far."""
    have = {name: float(amount) for name, amount in ray.cluster_resources().items()}
    most = ray._private.state.state.get_max_resources_from_cluster_config() or {}
    if os.environ.get(CLUSTER_GROWS) == "1":
        most = {"CPU": math.inf, "GPU": math.inf, **most}
    return {name: max(have.get(name, 0.0), float(most.get(name, 0.0))) for name in {*have, *most}}


def grows() -> bool:
    """Whether the cluster starts nodes when they are asked for."""
    told = ray._private.state.state.get_max_resources_from_cluster_config()
    return os.environ.get(CLUSTER_GROWS) == "1" or told is not None


def node_resources() -> list[dict[str, float]]:
    """Resources of each node that is there."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [{name: float(amount) for name, amount in node.items()} for node in nodes]


@dataclass(frozen=True, kw_only=True)
class TrainingClaim:
    """What a training claims of a cluster.

    Args:
        workers: that must be there for it to begin.
        cpus_per_worker: logical CPUs of each; its stream claims one more, anywhere.
        gpu: whether each claims a GPU.
    """

    workers: int
    cpus_per_worker: int
    gpu: bool

    @property
    def cpus(self) -> int:
        """Logical CPUs in all."""
        return self.workers * (self.cpus_per_worker + 1)

    @property
    def gpus(self) -> int:
        """GPUs in all."""
        return self.workers if self.gpu else 0

    def refusal(self, nodes: Sequence[Mapping[str, float]], most: Mapping[str, float]) -> str | None:
        """Why a cluster cannot hold it, and after a colon what to do; None where it can.

        Train claims the workers' CPUs first; a stream that finds none left stalls until a time-out.

        Args:
            nodes: resources of each node that is there.
            most: resources that the cluster has, or may grow to.
        """
        if most.get("CPU", 0) < self.cpus:
            return (
                f"the cluster has {most.get('CPU', 0):g} logical CPUs; {self.workers} workers of "
                f"{self.cpus_per_worker} and one CPU each for their stream make {self.cpus}: "
                "lower --workers or --cpus-per-worker, or add nodes"
            )
        if most.get("GPU", 0) < self.gpus:
            return (
                f"the cluster has {most.get('GPU', 0):g} GPUs; {self.workers} workers want one each: lower --workers, "
                "add GPU nodes, or leave out --gpu"
            )
        if any(most.get(name, 0) > sum(node.get(name, 0) for node in nodes) for name in ("CPU", "GPU")):
            return None  # what nodes are to come is not known
        places = sum(self._places(node) for node in nodes)
        if places < self.workers:
            each = f"{self.cpus_per_worker} logical CPUs{' and a GPU' if self.gpu else ''}"
            return (
                f"the cluster's nodes have room for {places} of {self.workers} workers, each of which wants {each} on "
                "one node: lower --cpus-per-worker or --workers, or add larger nodes"
            )
        return None

    def _places(self, node: Mapping[str, float]) -> int:
        """Workers that a node has room for."""
        places = int(node.get("CPU", 0) // self.cpus_per_worker)
        return min(places, int(node.get("GPU", 0))) if self.gpu else places


def object_store_bytes() -> float:
    """Object store of the node that this process runs on."""
    here = ray.get_runtime_context().get_node_id()
    resources = next(node["Resources"] for node in ray.nodes() if node["NodeID"] == here)
    return float(resources.get("object_store_memory", 0))


def core_share() -> float:
    """Logical CPUs that a process claims which keeps one core busy.

    1 on a cluster; more on a Ray of our own with more logical CPUs than the machine has cores.
    """
    nodes = [node for node in ray.nodes() if node["Alive"]]
    cores = os.cpu_count() or 1
    if len(nodes) != 1:
        return 1.0
    return max(1.0, float(nodes[0]["Resources"].get("CPU", 1.0)) // cores)
