"""Batches form while the worker is busy; callers that left and queries that fail do not harm the others."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from serve import batcher
from serve.batcher import Batcher
from serve.channel import Busy


def test_what_waits_while_the_worker_is_busy_becomes_one_batch():
    sizes = []

    def work(queries):
        sizes.append(len(queries))
        time.sleep(0.05)
        return [query * 2 for query in queries]

    async def run():
        batched = Batcher(work, limit=8, room=99)
        first = asyncio.create_task(batched(0))
        await asyncio.sleep(0.02)  # the first is being worked on
        rest = [asyncio.create_task(batched(i)) for i in range(1, 12)]
        return await asyncio.gather(first, *rest)

    answers = asyncio.run(run())
    assert [answer for answer, _ in answers] == [2 * i for i in range(12)]
    assert sizes == [1, 8, 3]
    assert [size for _, size in answers] == [1] + [8] * 8 + [3] * 3


def test_a_caller_that_left_is_skipped_and_harms_nobody():
    seen = []

    def work(queries):
        seen.extend(queries)
        time.sleep(0.05)
        return list(queries)

    async def run():
        batched = Batcher(work, limit=8, room=99)
        first = asyncio.create_task(batched("first"))
        await asyncio.sleep(0.02)
        left = asyncio.create_task(batched("left"))
        stays = asyncio.create_task(batched("stays"))
        await asyncio.sleep(0)
        left.cancel()
        first.cancel()  # this one leaves while it is worked on
        return await stays

    assert asyncio.run(run()) == ("stays", 1)
    assert seen == ["first", "stays"]


def test_one_more_than_may_wait_is_sent_away_and_harms_nobody():
    def work(queries):
        time.sleep(0.05)
        return list(queries)

    async def run():
        batched = Batcher(work, limit=8, room=3)
        first = asyncio.create_task(batched(0))
        await asyncio.sleep(0.02)  # it is being worked on, and does not wait any more
        rest = [asyncio.create_task(batched(i)) for i in range(1, 5)]
        outcomes = await asyncio.gather(first, *rest, return_exceptions=True)
        return outcomes, await batched(9)

    outcomes, after = asyncio.run(run())
    assert outcomes[:4] == [(0, 1), (1, 3), (2, 3), (3, 3)]
    assert isinstance(outcomes[4], Busy) and str(outcomes[4]) == "3 queries wait"
    assert after == (9, 1)


def test_an_error_for_one_query_is_raised_to_its_caller_alone():
    def work(queries):
        return [ValueError(str(query)) if query % 2 else query for query in queries]

    async def run():
        batched = Batcher(work, limit=8, room=99)
        return await asyncio.gather(*(batched(i) for i in range(4)), return_exceptions=True)

    outcomes = asyncio.run(run())
    assert [outcomes[0][0], outcomes[2][0]] == [0, 2]
    assert [str(outcomes[1]), str(outcomes[3])] == ["1", "3"]


def test_a_failed_batch_is_told_to_all_and_the_next_one_works():
    calls = []

    def work(queries):
        calls.append(len(queries))
        if len(calls) == 1:
            raise OSError("disk gone")
        return list(queries)

    async def run():
        batched = Batcher(work, limit=8, room=99)
        failed = await asyncio.gather(*(batched(i) for i in range(3)), return_exceptions=True)
        return failed, await batched(7)

    failed, after = asyncio.run(run())
    assert [str(error) for error in failed] == ["disk gone"] * 3
    assert after == (7, 1)


def test_all_batches_run_on_one_thread():
    async def run():
        batched = Batcher(lambda queries: [threading.get_ident() for _ in queries], limit=2, room=99)
        return {(await batched(i))[0] for i in range(6)}

    threads = asyncio.run(run())
    assert len(threads) == 1
    assert threads != {threading.get_ident()}


def test_a_stuck_batch_is_unhealthy(monkeypatch):
    release = threading.Event()

    def work(queries):
        release.wait(10)
        return list(queries)

    async def run():
        batched = Batcher(work, limit=2, room=99)
        batched.check()
        waiting = asyncio.create_task(batched(1))
        await asyncio.sleep(0.02)
        batched.check()
        monkeypatch.setattr(batcher, "STUCK_S", 0.01)
        with pytest.raises(RuntimeError, match="a batch has been worked on for"):
            batched.check()
        release.set()
        await waiting
        batched.check()

    asyncio.run(run())
