"""The whole service in this process, over real sockets and without Ray: what it is made of, and an HTTP server."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import uvicorn

from serve.coordinator import Coordinator
from serve.editions import read_edition
from serve.encoder import EncoderReplica
from serve.fanout import ShardClient
from serve.gateway import Gateway
from serve.guard import Rules
from serve.routes import build_api
from serve.shard_replica import ShardReplica
from serve.swap import encoder_part, shard_part
from sscm.workspace import Workspace

SECRET = "of these tests"


class Local:
    """An object called as Serve's handles are: ``handle.method.remote(...)``."""

    def __init__(self, target: Any) -> None:
        self.target = target

    def __getattr__(self, name: str) -> Any:
        return _Method(getattr(self.target, name))


class _Method:
    def __init__(self, method: Any) -> None:
        self._method = method

    async def remote(self, *arguments: Any) -> Any:
        value = self._method(*arguments)
        return await value if inspect.isawaitable(value) else value


@dataclass
class Service:
    """Parts of a service; all of them are real."""

    coordinator: Coordinator
    shards: list[ShardReplica]
    encoders: dict[str, EncoderReplica]
    gateway: Gateway
    url: str = ""

    def stop(self) -> None:
        """Stop what runs on threads of its own."""
        for shard in self.shards:
            shard.stop()


async def compose(
    workspace: Workspace,
    *,
    shards: int = 2,
    replicas: int = 1,
    deadline_s: float = 20.0,
    watch_s: float = 0.0,
    grace_s: float = 0.2,
    max_upload_bytes: int = 4_000_000,
    rules: Rules | None = None,
) -> Service:
    """Make a service on this event loop, ready to answer."""
    edition = read_edition(workspace, shards)
    names = [modality.name for modality in edition.modalities]
    parts = [*map(shard_part, range(shards)), *map(encoder_part, names)]
    coordinator = Coordinator(first=edition, parts=parts, grace_s=grace_s, watch_s=watch_s, composed=time.time())
    handle = Local(coordinator)
    searching = [
        ShardReplica(coordinator=handle, number=number, secret=SECRET, threads=1, host="127.0.0.1")
        for number in range(shards)
        for _ in range(replicas)
    ]
    encoding = {name: EncoderReplica(coordinator=handle, modality=name, threads=1) for name in names}
    for replica in (*searching, *encoding.values()):
        await replica.reconfigure({})
    gateway = Gateway(
        coordinator=handle,
        encoders={name: Local(replica) for name, replica in encoding.items()},
        shards=[ShardClient(SECRET) for _ in range(shards)],
        deadline_s=deadline_s,
        max_upload_bytes=max_upload_bytes,
        rules=rules,
    )
    return Service(coordinator, searching, encoding, gateway)


@contextlib.contextmanager
def serving(workspace: Workspace, **options: Any) -> Iterator[Service]:
    """A service that answers HTTP at ``service.url`` for the length of a block."""
    # asyncio sets TCP_NODELAY only where a socket says that it is TCP; without it each answer takes 40 ms.
    with socket.socket(proto=socket.IPPROTO_TCP) as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(128)
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        begun, made = threading.Event(), []

        async def run() -> None:
            service = await compose(workspace, **options)
            service.url = url
            server = uvicorn.Server(uvicorn.Config(build_api(service.gateway), log_config=None, lifespan="off"))
            made.append((service, server))
            begun.set()
            await server.serve(sockets=[listening])

        thread = threading.Thread(target=lambda: asyncio.run(run()), name="service", daemon=True)
        thread.start()
        if not begun.wait(120):
            raise RuntimeError("the service did not start")
        service, server = made[0]
        end = time.monotonic() + 30
        while not server.started and time.monotonic() < end:
            time.sleep(0.01)
        httpx.get(f"{url}/readyz", timeout=30).raise_for_status()
        try:
            yield service
        finally:
            server.should_exit = True
            thread.join(30)
            service.stop()
