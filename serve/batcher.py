"""Batches of whatever waits: each time the worker is free it takes all that has come in since.

``ray.serve.batch`` forms a batch before it waits for its turn, so batches stay small under load; here a batch forms
while the one before it is worked on, and a lone request never waits for company.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

from serve.channel import Busy

Q = TypeVar("Q")
A = TypeVar("A")

STUCK_S = 120.0
"""A batch that takes longer than this is taken for stuck: every caller has long given up."""


class Batcher(Generic[Q, A]):
    """Hands single queries of many callers to a function of batches, one batch at a time, on one thread of its own.

    The thread is always the same one, so the thread pools that OpenMP keeps for it stay warm.

    Args:
        work: batch of queries → as many answers. An answer that is an exception is raised to its caller alone; an
            exception raised is raised to all callers of the batch.
        limit: largest batch.
        room: queries that may wait; one more is refused.
    """

    def __init__(self, work: Callable[[Sequence[Q]], Sequence[A | Exception]], limit: int, room: int) -> None:
        self._work = work
        self._limit = limit
        self._room = room
        self._waiting: deque[tuple[Q, asyncio.Future[tuple[A, int]]]] = deque()
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="batch")
        self._drainer: asyncio.Task[None] | None = None
        self._since: float | None = None

    async def __call__(self, query: Q) -> tuple[A, int]:
        """Answer one query.

        Returns:
            The answer, and the size of the batch that it was part of.

        Raises:
            Busy: too many queries wait.
        """
        if len(self._waiting) >= self._room:
            raise Busy(f"{len(self._waiting)} queries wait")
        future: asyncio.Future[tuple[A, int]] = asyncio.get_running_loop().create_future()
        self._waiting.append((query, future))
        if self._drainer is None or self._drainer.done():
            self._drainer = asyncio.create_task(self._drain())
        return await future

    def check(self) -> None:
        """Raise RuntimeError if a batch has been worked on for longer than :data:`STUCK_S`."""
        since = self._since
        if since is not None and time.monotonic() - since > STUCK_S:
            raise RuntimeError(f"a batch has been worked on for {time.monotonic() - since:.0f} s")

    async def _drain(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            batch: list[tuple[Q, asyncio.Future[tuple[A, int]]]] = []
            while self._waiting and len(batch) < self._limit:
                query, future = self._waiting.popleft()
                if not future.done():  # its caller may have left while it waited
                    batch.append((query, future))
            if not batch:
                continue
            answers: Sequence[A | Exception]
            self._since = time.monotonic()
            try:
                answers = await loop.run_in_executor(self._executor, self._work, [query for query, _ in batch])
            except Exception as error:
                answers = [error] * len(batch)
            finally:
                self._since = None
            for (_, future), answer in zip(batch, answers, strict=True):
                if future.done():  # or while it was worked on
                    continue
                if isinstance(answer, Exception):
                    future.set_exception(answer)
                else:
                    future.set_result((answer, len(batch)))
