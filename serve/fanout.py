"""The gateway's side of an index shard: which replica answers, queries gathered into one call, another try."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Mapping
from typing import Any

from serve.api import HttpProblem
from serve.calls import Lost
from serve.channel import Address, Busy, Connection, Disconnected, connect
from serve.messages import ShardAnswer, ShardQuery, pack_queries, unpack_answers
from sscm.errors import GenerationError, SscmError

CONNECT_S = 2.0
"""Longest time that connecting takes."""
FLIGHTS = 2
"""Calls with queries that a replica has at a time: it searches for one while the next is on its way."""
MAX_QUERIES = 64
"""Queries in one call."""
MAX_ANSWERS = 16_000
"""Answers that are asked for in one call of several queries: kilobytes each, of which a frame holds so many."""
ATTEMPTS = 2
"""Replicas that are tried."""
SHUNNED_S = 15.0
"""A replica that was lost is asked only where there is no other, for so long; where it is dead, the coordinator has
forgotten it by then."""

_Waiting = tuple[int, ShardQuery, float, "asyncio.Future[tuple[ShardAnswer, int]]"]


class ShardClient:
    """Calls of one index shard, whichever of its replicas answers.

    Args:
        secret: what replicas want to be told.
    """

    def __init__(self, secret: str) -> None:
        self._secret = secret
        self._replicas: dict[str, _Replica] = {}
        self._waiting: deque[_Waiting] = deque()
        self._flying = 0
        self._tasks: set[asyncio.Task[None]] = set()

    def __reduce__(self) -> tuple[type[ShardClient], tuple[str]]:
        """A copy that begins anew: Serve's controller, when it was started again, has a gateway's arguments copied."""
        return ShardClient, (self._secret,)

    @property
    def waiting(self) -> int:
        """Queries that wait for their call."""
        return len(self._waiting)

    def follow(self, replicas: Mapping[str, Address]) -> None:
        """Take note of the replicas that there are now."""
        for name in [name for name in self._replicas if name not in replicas]:
            self._replicas.pop(name).close()
        for name, address in replicas.items():
            if name not in self._replicas:
                self._replicas[name] = _Replica(address, self._secret)

    async def search(self, generation: int, query: ShardQuery, seconds: float) -> tuple[ShardAnswer, int]:
        """Answer a query, together with those that wait.

        Args:
            generation: number of the generation that is to answer.
            query: the query.
            seconds: longest wait.

        Returns:
            The answer, and how many queries were in the batch.

        Raises:
            QueryError: the query cannot be answered.
            HttpProblem: 503, too many queries wait.
            Lost: no replica answers.
        """
        future: asyncio.Future[tuple[ShardAnswer, int]] = asyncio.get_running_loop().create_future()
        self._waiting.append((generation, query, time.monotonic() + seconds, future))
        self._send_waiting()
        try:
            async with asyncio.timeout(seconds):  # the call that it goes with may have longer, for the others in it
                return await future
        except TimeoutError as error:
            raise _late(seconds) from error

    async def call(self, method: str, arguments: list[Any], seconds: float) -> Any:
        """Call a method, once more where a replica is lost, since nothing here changes anything.

        Raises:
            SscmError: what the method raised.
            HttpProblem: 503, all replicas tried have too much to do.
            Lost: no replica answers.
        """
        end, busy, missing = time.monotonic() + seconds, False, False
        tried: set[str] = set()
        for _ in range(ATTEMPTS):
            left = end - time.monotonic()
            name = self._next(tried)
            if name is None or left <= 0:
                break
            tried.add(name)
            try:
                return await self._replicas[name].call(method, arguments, left)
            except TimeoutError as error:
                raise _late(seconds) from error
            except Disconnected:
                continue
            except Busy:
                busy = True
            except GenerationError:
                missing = True  # a replica that has just started may not have it yet, or not any more
        if busy:
            raise HttpProblem(503, "too many requests are waiting; try again", {"Retry-After": "1"})
        raise Lost(503, "its replicas have another generation" if missing else "its replica died")

    def close(self) -> None:
        """End all connections."""
        self.follow({})

    def _next(self, tried: set[str]) -> str | None:
        """The replica with the least to do; one that was lost only where there is no other."""
        others = [(replica.rank, name) for name, replica in self._replicas.items() if name not in tried]
        return min(others)[1] if others else None

    def _send_waiting(self) -> None:
        while self._waiting and self._flying < FLIGHTS * max(1, len(self._replicas)):
            batch: list[_Waiting] = []
            generation, room = self._waiting[0][0], MAX_ANSWERS
            while self._waiting and len(batch) < MAX_QUERIES and self._waiting[0][0] == generation:
                room -= self._waiting[0][1].k
                if batch and room < 0:
                    break
                waiting = self._waiting.popleft()
                if not waiting[3].done():  # its caller may have left while it waited
                    batch.append(waiting)
            if batch:
                self._flying += 1
                task = asyncio.get_running_loop().create_task(self._search(generation, batch))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def _search(self, generation: int, batch: list[_Waiting]) -> None:
        answers: list[ShardAnswer | SscmError] | None = None
        failure: BaseException = Lost(503, "its replica died")
        seconds = max(end for _, _, end, _ in batch) - time.monotonic()
        try:
            arguments = [generation, pack_queries([query for _, query, _, _ in batch])]
            answers = unpack_answers(await self.call("search", arguments, max(seconds, 0.001)))
        except (SscmError, HttpProblem, Lost) as error:
            failure = error
        finally:
            self._flying -= 1
            for place, (_, _, _, future) in enumerate(batch):
                if future.done():
                    continue
                answer = failure if answers is None else answers[place]
                if isinstance(answer, BaseException):
                    future.set_exception(answer)
                else:
                    future.set_result((answer, len(batch)))
            self._send_waiting()


class _Replica:
    """One replica: where it is, and the connection to it once there is one."""

    def __init__(self, address: Address, secret: str) -> None:
        self._address, self._secret = address, secret
        self._connection: Connection | None = None
        self._connecting: asyncio.Task[Connection | None] | None = None
        self._calls = 0
        self._closed = False
        self._shunned_until = 0.0

    @property
    def rank(self) -> tuple[bool, int]:
        """Whether it was lost lately, and calls that wait for it."""
        return time.monotonic() < self._shunned_until, self._calls

    async def call(self, method: str, arguments: list[Any], seconds: float) -> Any:
        connection, left = self._connection, seconds
        self._calls += 1
        try:
            if connection is None or not connection.open:
                end = time.monotonic() + seconds
                connection = await asyncio.wait_for(self._connect(), seconds)
                left = end - time.monotonic()
            value = await connection.call(method, arguments, left)
            self._shunned_until = 0.0
            return value
        except Disconnected:
            self._shunned_until = time.monotonic() + SHUNNED_S
            raise
        finally:
            self._calls -= 1

    def close(self) -> None:
        self._closed = True
        if self._connection is not None:
            self._connection.close()

    async def _connect(self) -> Connection:
        """Wait for a new connection; all who want one wait for the same."""
        if self._connecting is None or self._connecting.done():
            self._connecting = asyncio.get_running_loop().create_task(self._connected())
        connection = await asyncio.shield(self._connecting)  # one who gives up leaves it to the others
        if connection is None:
            raise Disconnected
        return connection

    async def _connected(self) -> Connection | None:
        try:
            connection = await connect(self._address, self._secret, CONNECT_S)
        except Disconnected:
            return None
        if self._closed:
            connection.close()
            return None
        self._connection = connection
        return connection


def _late(seconds: float) -> Lost:
    return Lost(504, f"no answer within {seconds:.3g} s")
