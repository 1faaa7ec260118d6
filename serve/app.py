"""Composition: which deployments serve an index, with how many replicas and threads, and how they are started.

``sscm serve`` calls :func:`serve_workspace`. On a cluster, ``serve run serve.app:build_app workspace=s3://… shards=4``
or a Serve config file with ``import_path: serve.app:build_app`` and ``args`` do the same.

The fast path is Ray Serve's HAProxy ingress with its throughput flags, which :mod:`sscm.runtime` sets before a Ray of
our own starts. HAProxy then listens on the host and port asked for and hands requests to the gateways' own HTTP
servers; it also opens its statistics (8404) and its metrics (9101, or free ports where another service has these) on
all interfaces, which Ray fixes. On a cluster that was started without the flags Serve's Python proxy answers instead,
more slowly, and nothing else changes.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import secrets
import signal
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import httpx
import ray
from ray import serve

from serve.coordinator import Coordinator
from serve.editions import read_edition
from serve.encoder import EncoderReplica
from serve.fanout import ShardClient
from serve.gateway import Gateway
from serve.guard import Rules
from serve.settings_file import APP, config_of
from serve.shard_replica import ShardReplica
from serve.swap import GATEWAY, encoder_part, shard_part
from sscm import placement
from sscm.config import ServeConfig
from sscm.errors import ServiceError
from sscm.runtime import ray_session
from sscm.workspace import open_workspace

READY_S = 60.0
"""Longest time from the end of the deployment, when all files are read and checked, to the first answer."""

_LOGS = "the logs of its replicas are in session_latest/logs/serve of Ray's temporary folder"
_ONGOING = 256
"""Requests that a replica has in hand; batches form from these."""
_BUSY = 16
"""Requests in hand at which one more replica is worth its start: half of an encoder's largest batch."""
_QUEUED = 512
"""Requests that wait at a caller for one deployment; more are refused with 503."""
_MESSAGE_BYTES = 256 * 2**20
"""Largest message between replicas: an uploaded image travels to its encoder whole, and gRPC's default is 4 MiB."""


def build_app(config: ServeConfig | Mapping[str, Any]) -> serve.Application:
    """The Serve application of a workspace's current index generation.

    Args:
        config: settings; ``serve run`` and Serve config files give a mapping, its values possibly text.

    Raises:
        ConfigError: a setting is unknown or cannot work, or the file of keys is none.
        WorkspaceError: there is no file of keys where one is said to be.
        GenerationError: the workspace has no index, an empty one, or one of another model than the workspace's.
        BundleError: the model of the index is not there.
        IntegrityError: the model, or what adapts it to the archive, is not what was written.
    """
    settings = config if isinstance(config, ServeConfig) else config_of(config)
    rules = Rules(
        keys=settings.keys if settings.keys is None or "://" in settings.keys else os.path.abspath(settings.keys),
        local=isinstance(config, ServeConfig) and _only_here(settings.host),
        cors_origins=settings.origins,
        max_in_flight=settings.max_in_flight,
        log_format=settings.log_format,
    )
    rules.access()  # a key file that is not there is told before anything starts
    edition = read_edition(open_workspace(settings.workspace), settings.shards)
    names = [modality.name for modality in edition.modalities]
    numbers = range(len(edition.shard_rows))
    secret = secrets.token_hex(32)
    coordinator = _deployment(Coordinator, "coordinator", 1).bind(
        first=edition,
        parts=[*map(shard_part, numbers), *map(encoder_part, names)],
        grace_s=settings.deadline_s,
        watch_s=settings.watch_s,
        composed=time.time(),
    )
    encoders = {
        name: _scaled(EncoderReplica, encoder_part(name), settings.threads, settings.encoders, settings.max_encoders)
        .options(user_config={})
        .bind(coordinator=coordinator, modality=name, threads=settings.threads)
        for name in names
    }
    shards = [
        _deployment(ShardReplica, shard_part(number), settings.threads, settings.replicas)
        .options(user_config={}, max_replicas_per_node=placement.most_on_a_node(settings.replicas))
        .bind(coordinator=coordinator, number=number, secret=secret, threads=settings.threads)
        for number in numbers
    ]
    gateway = _scaled(serve.ingress()(Gateway), GATEWAY, 1, settings.gateways, settings.max_gateways).options(
        max_ongoing_requests=settings.max_in_flight + _ONGOING,  # the gateway refuses more by itself, with a problem
        logging_config={"enable_access_log": False},  # it writes its own lines
    )
    application: serve.Application = gateway.bind(
        coordinator=coordinator,
        encoders=encoders,
        shards=[ShardClient(secret) for _ in numbers],
        tiles=(settings.tiles, settings.tiles_by),
        parts=shards,
        deadline_s=settings.deadline_s,
        max_upload_bytes=settings.max_upload_mb * 1_000_000,
        rules=rules,
    )
    return application


def serve_workspace(config: ServeConfig, block: bool = True) -> None:
    """Serve a workspace's index over HTTP.

    Args:
        config: settings.
        block: serve until Ctrl-C or SIGTERM, then stop the service; without it return as soon as it answers, which
            needs a Ray that the caller keeps (:func:`sscm.runtime.ray_session`).

    Raises:
        ServiceError: the port is in use, or the service did not answer in time.
        GenerationError: there is no index to serve; nothing has been started then.
    """
    build_app(config)  # raises where there is nothing to serve, before anything starts
    port = free_port(config.host, config.port)
    with ExitStack() as at_last, ray_session():
        placement.require_node("serve")
        application = build_app(config)  # the cluster's nodes count
        ours = not serve.status().proxies  # Serve is not running yet: who starts it stops it
        if ours and block:
            at_last.callback(stop_orphans, ray.get_runtime_context().get_node_id())
        started = time.monotonic()
        logging.getLogger("ray.serve").setLevel(logging.WARNING)  # what we print says it
        serve.start(http_options={"host": config.host, "port": port})
        answering = False
        try:
            _deploy(application)
            url = url_of(config.host, port)
            wait_ready(url, READY_S)
            seconds = time.monotonic() - started
            print(_greeting(url, seconds) if config.keys is None else _keyed_greeting(url, seconds), flush=True)
            answering = True
            if block:
                with _stop_signal() as stop:
                    stop.wait()
                print("stopping", flush=True)
        finally:
            if block or not answering:
                if ours:
                    serve.shutdown()
                else:
                    serve.delete(APP)


def _deploy(application: serve.Application) -> None:
    try:
        serve.run(application, name=APP, route_prefix="/")
    except (RuntimeError, TimeoutError) as error:
        told = [f"{name}: {about.message}" for name, about in _deployments().items() if about.message]
        raise ServiceError(f"the service did not start: {error} {' '.join(told)}; {_LOGS}") from error


def _deployments() -> Mapping[str, Any]:
    application = serve.status().applications.get(APP)
    return application.deployments if application else {}


def _only_here(host: str) -> bool:
    """Whether a service on a host is for this machine alone: a loopback address, and no cluster that we joined."""
    return host in ("127.0.0.1", "::1", "localhost") and "RAY_ADDRESS" not in os.environ


def url_of(host: str, port: int) -> str:
    """Where a service that listens on a host and port is asked from the same machine."""
    name = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, host)
    return f"http://{name}:{port}"


def free_port(host: str, port: int) -> int:
    """Check that a port can be listened on.

    HAProxy would not complain: it shares a port with whoever listens there already, and each gets some of the requests.

    Args:
        host: address to listen on.
        port: the port, or 0 for any that is free.

    Returns:
        The port.

    Raises:
        ServiceError: another program listens there, or the address is not this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port just left is free, though in TIME_WAIT
        try:
            probe.bind((host, port))
            probe.listen(1)  # two may bind with SO_REUSEADDR, but only one may listen
            return int(probe.getsockname()[1])
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise ServiceError(
                    f"{host}:{port} is in use by another program; stop it, or choose another port with --port"
                ) from error
            raise ServiceError(f"cannot listen on {host}:{port}: {error.strerror}; choose another --host") from error


def wait_ready(url: str, seconds: float) -> None:
    """Wait until ``/readyz`` says yes.

    Raises:
        ServiceError: it did not in time; what it said last is told.
    """
    end = time.monotonic() + seconds
    last = "nothing"
    while time.monotonic() < end:
        try:
            answer = httpx.get(f"{url}/readyz", timeout=5.0)
            if answer.status_code == httpx.codes.OK:
                return
            last = f"{answer.status_code} {answer.text[:200]}"
        except httpx.TransportError as error:
            last = str(error)
        time.sleep(0.1)
    raise ServiceError(
        f"{url} was not ready after {seconds:g} s; last answer: {last}; {_LOGS}. If Serve ran "
        "on this cluster before, it listens on the port that it was started with: pass that one as --port"
    )


def _deployment(of: type, name: str, threads: int, replicas: int = 1) -> serve.Deployment:
    selector = placement.selector("serve")
    environment = {
        # Read by a process's thread pools when it starts; later settings do not reach other threads.
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH": str(_MESSAGE_BYTES),
    }
    return serve.deployment(
        name=name,
        num_replicas=replicas,
        max_ongoing_requests=_ONGOING,
        max_queued_requests=_QUEUED,
        health_check_period_s=5,
        health_check_timeout_s=30,
        graceful_shutdown_timeout_s=5,
        # Threads share the processors of a small machine; claiming a whole one each would not fit on it.
        ray_actor_options={
            "num_cpus": 0.1,
            "runtime_env": {"env_vars": environment},
            **({} if selector is None else {"label_selector": selector}),
        },
    )(of)


def _scaled(of: type, name: str, threads: int, least: int, most: int) -> serve.Deployment:
    """A deployment of so many replicas, more while each has much to do."""
    deployment = _deployment(of, name, threads, least)
    if most <= least:
        return deployment
    return deployment.options(
        num_replicas=None,
        autoscaling_config={
            "min_replicas": least,
            "max_replicas": most,
            "target_ongoing_requests": _BUSY,
            "upscale_delay_s": 5,
            "downscale_delay_s": 120,
        },
    )


def _greeting(url: str, seconds: float) -> str:
    index = httpx.get(f"{url}/v1/index", timeout=30).json()
    example = httpx.get(f"{url}/v1/items?sample=1", timeout=30).json()["features"][0]
    first, *others = [name.removeprefix("preview_") for name in example["assets"]]
    body = json.dumps({"id": example["id"], "modality": first, "target": others[0] if others else first, "limit": 5})
    return (
        f"serving {index['items']:,} items at {url} (ready after {seconds:.0f} s; API at {url}/docs). Try:\n"
        f"  curl -s {url}/v1/search -H 'content-type: application/json' -d '{body}'\n"
        "Ctrl-C stops it."
    )


def _keyed_greeting(url: str, seconds: float) -> str:
    """What is told where we have no key to ask with ourselves."""
    return (
        f"serving at {url} (ready after {seconds:.0f} s; API at {url}/docs). It wants a key:\n"
        f"  curl -s {url}/v1/index -H 'Authorization: Bearer KEY'\n"
        "Ctrl-C stops it."
    )


def stop_orphans(node: str) -> None:
    """Stop the HAProxy processes of a Ray node that is gone.

    Where Ray's own processes are told to stop together with this one (a service manager signals all of a group), nobody
    is left to stop HAProxy, and it would hold the port.

    Args:
        node: the node's id, hexadecimal; HAProxy's settings lie in a folder of that name.
    """
    settings = f"/{node}/haproxy.cfg".encode()
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it may have ended since it was listed
            if any(word.endswith(settings) for word in entry.read_bytes().split(b"\0")):
                os.kill(int(entry.parent.name), signal.SIGTERM)


@contextmanager
def _stop_signal() -> Iterator[threading.Event]:
    """An event that Ctrl-C and SIGTERM set; what they did before is put back at the end."""
    event = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        event.set()

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield event
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
