"""Calls between gateways and index shards over one TCP connection each, many at a time.

A call through a Serve handle costs milliseconds: it is routed anew each time, by two processes' event loops. A search
of an index of 200,000 takes one. So gateways hold connections to the shards' replicas, which Serve starts, watches and
replaces all the same. Whoever connects proves first that it knows the secret of the application.
"""

from __future__ import annotations

import asyncio
import hmac
import itertools
import socket
import threading
from collections.abc import Awaitable
from contextlib import suppress
from typing import Any, Protocol

from serve.wire import MOST_BYTES, Unpacker, pack
from sscm.errors import GenerationError, QueryError, ServiceError, SscmError

Address = tuple[str, int]
"""Host and port."""

HELLO_BYTES = 1024
"""Largest first message: what comes before the secret is not worth memory."""
HELLO_S = 10.0
"""Longest time until a caller has told the secret; who says nothing would hold a socket for ever."""
SILENT_S = 3.0
"""A server whose host acknowledges nothing for so long is gone; Ray takes some 20 s to find out."""
START_S = 10.0
"""Longest time that a server takes to listen, and its thread to end."""
END_S = 1.0
"""Longest time that calls take to end when their server does."""

_TOLD: dict[str, type[SscmError]] = {cls.__name__: cls for cls in (QueryError, GenerationError)}


class Disconnected(Exception):
    """The connection ended before the answer came."""


class Busy(Exception):
    """The other side has too much to do."""


class Answering(Protocol):
    """Answers calls."""

    def __call__(self, method: str, arguments: list[Any], seconds: float) -> Awaitable[Any]:
        """Answer a call within so many seconds."""


class ChannelServer:
    """Answers calls on an event loop and a thread of its own, so that nothing else that a process does delays them.

    Args:
        host: address to listen on; the port is any that is free.
        secret: what callers must know.
        answer: answers a call; it runs on the thread.

    Raises:
        ServiceError: the address cannot be listened on.
    """

    def __init__(self, host: str, secret: str, answer: Answering) -> None:
        self._secret = secret.encode()
        self._answer = answer
        self._loop = asyncio.new_event_loop()
        self._peers: set[_Peer] = set()
        self._thread = threading.Thread(target=self._run, name="channel", daemon=True)
        self._thread.start()
        listening = asyncio.run_coroutine_threadsafe(self._listen(host), self._loop)
        try:
            self.address: Address = listening.result(START_S)
        except (OSError, TimeoutError) as error:
            self._loop.call_soon_threadsafe(self._loop.stop)
            raise ServiceError(f"cannot listen on {host} for calls of gateways: {error}") from error

    def stop(self) -> None:
        """End all connections and the thread; nothing happens the second time."""
        if self._thread.is_alive():
            asyncio.run_coroutine_threadsafe(self._end(), self._loop)
            self._thread.join(START_S)

    def _run(self) -> None:
        self._loop.run_forever()
        if tasks := asyncio.all_tasks(self._loop):  # what was cancelled ends; what others began here, too
            for task in tasks:
                task.cancel()
            self._loop.run_until_complete(asyncio.wait(tasks, timeout=END_S))
        self._loop.close()

    async def _listen(self, host: str) -> Address:
        self._server = await self._loop.create_server(self._peer, host, 0)
        name = self._server.sockets[0].getsockname()
        return str(name[0]), int(name[1])

    async def _end(self) -> None:
        self._server.close()
        for peer in list(self._peers):
            peer.end()
        await asyncio.sleep(0)  # sockets are closed
        self._loop.stop()

    def _peer(self) -> _Peer:
        return _Peer(self._secret, self._answer, self._peers)


class _Peer(asyncio.Protocol):
    """One caller, as its server sees it."""

    def __init__(self, secret: bytes, answer: Answering, peers: set[_Peer]) -> None:
        self._secret, self._answer, self._peers = secret, answer, peers
        self._unpacker = Unpacker(HELLO_BYTES)
        self._known = False
        self._tasks: set[asyncio.Task[None]] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport
        self._peers.add(self)
        self._patience = asyncio.get_running_loop().call_later(HELLO_S, self.end)

    def connection_lost(self, error: Exception | None) -> None:
        self._patience.cancel()
        self._peers.discard(self)
        for task in self._tasks:  # nobody waits for these any more
            task.cancel()

    def end(self) -> None:
        for task in self._tasks:
            task.cancel()
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        try:
            for value in self._unpacker.feed(data):
                if self._known:
                    task = asyncio.get_running_loop().create_task(self._call(*value))
                    self._tasks.add(task)
                    task.add_done_callback(self._tasks.discard)
                elif isinstance(value, bytes) and hmac.compare_digest(value, self._secret):
                    self._patience.cancel()
                    self._known, self._unpacker.most = True, MOST_BYTES
                else:
                    raise ServiceError("a caller that does not know the secret")
        except (ServiceError, TypeError):
            self._transport.abort()

    async def _call(self, number: int, method: str, arguments: list[Any], seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds) as timer:
                value = await self._answer(method, arguments, seconds)
            reply = pack([number, "", value])
        except Busy:
            reply = pack([number, "Busy", "too many calls are waiting"])
        except Exception as error:
            if isinstance(error, TimeoutError) and timer.expired():
                return  # the caller gave up at the same moment
            reply = pack([number, type(error).__name__, str(error)])
        if not self._transport.is_closing():
            self._transport.write(reply)


class Connection(asyncio.Protocol):
    """A connection to a server, for calls from one event loop; :func:`connect` makes it."""

    def __init__(self) -> None:
        self._unpacker = Unpacker()
        self._numbers = itertools.count()
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._transport: Any = None

    @property
    def open(self) -> bool:
        """Whether calls can be made."""
        return self._transport is not None and not self._transport.is_closing()

    async def call(self, method: str, arguments: list[Any], seconds: float) -> Any:
        """Call a method.

        Raises:
            TimeoutError: no answer within so many seconds.
            Disconnected: the connection is, or was, lost.
            Busy: too many calls are waiting there.
            SscmError: what the method raised.
        """
        if not self.open:
            raise Disconnected
        number = next(self._numbers)
        future = self._waiting[number] = asyncio.get_running_loop().create_future()
        try:
            self._transport.write(pack([number, method, arguments, seconds]))
            async with asyncio.timeout(seconds):
                return await future
        finally:
            self._waiting.pop(number, None)

    def close(self) -> None:
        """End the connection; calls that wait are told."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        """Tell all who wait."""
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(Disconnected())

    def data_received(self, data: bytes) -> None:
        """Hand answers to those who wait for them."""
        try:
            for number, failed, value in self._unpacker.feed(data):
                future = self._waiting.get(number)
                if future is None or future.done():
                    continue
                if not failed:
                    future.set_result(value)
                elif failed == "Busy":
                    future.set_exception(Busy(value))
                elif failed in _TOLD:
                    future.set_exception(_TOLD[failed](value))
                else:
                    future.set_exception(ServiceError(f"{failed}: {value}"))
        except (ServiceError, TypeError, ValueError):  # not what a shard of ours says
            self._transport.abort()


async def connect(address: Address, secret: str, seconds: float) -> Connection:
    """Connect to a server.

    Raises:
        Disconnected: nobody listens there, or not within so many seconds.
    """
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(seconds):
            transport, connection = await loop.create_connection(Connection, *address)
    except (OSError, TimeoutError) as error:
        raise Disconnected(str(error)) from error
    _notice_silence(transport.get_extra_info("socket").fileno())
    with suppress(RuntimeError):
        transport.write(pack(secret.encode()))
    return connection


def _notice_silence(descriptor: int) -> None:
    """Have the system end a connection whose other end acknowledges nothing any more: a host that lost its power.

    One that is only busy does acknowledge: its system does.
    """
    if not hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux has it
        return
    with socket.fromfd(descriptor, socket.AF_INET, socket.SOCK_STREAM) as connected:
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(SILENT_S * 1000))
        # Where all that was sent is acknowledged and an answer is waited for, the system asks whether anybody is there.
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 1)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1)
