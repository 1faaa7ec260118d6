"""The coordinator: knows which replicas there are and what they have loaded, and leads them to new generations.

It is on the path of no request: while it is being started anew, everything goes on with the plan that it knows.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from serve.editions import Edition, Plan, read_edition
from serve.follow import POLL_S
from serve.swap import GATEWAY, SILENT_S, Member, Swap
from sscm.errors import GenerationError, SscmError
from sscm.index.generation import current_number

TICK_S = 0.5
"""Seconds between two looks at who is still there."""
RECOVER_S = 3.0
"""A coordinator that takes another's place listens for so long which generation gateways answer from; for longer, up to
:data:`serve.swap.SILENT_S`, where it has not heard of every part: who is not in its first plan is not asked."""
FRESH_S = 120.0
"""One that starts within so many seconds after the service was composed takes nobody's place."""


class Coordinator:
    """Leads the replicas of a service from generation to generation.

    Args:
        first: what is served at first.
        parts: encoders and shards.
        grace_s: longest time of a request.
        watch_s: seconds between two looks whether the index has a newer generation; 0 to look when told only.
        composed: when the service was composed, seconds since 1970.
    """

    def __init__(
        self, *, first: Edition, parts: Sequence[str], grace_s: float, watch_s: float, composed: float
    ) -> None:
        self._workspace = first.workspace
        self._shards = len(first.shard_rows)
        self._swap = Swap(first, parts, grace_s, secrets.token_hex(4))
        self._watch_s = watch_s
        self._looked = 0.0
        self._seen: int | None = first.generation
        self._news = asyncio.Condition()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="editions")
        self._ticker: asyncio.Task[None] | None = None
        self._recovered = asyncio.Event()
        if time.time() - composed < FRESH_S:
            self._recovered.set()

    async def follow(self, member: Member, known: tuple[str, int] | None) -> Plan:
        """The plan; where the member knows it already, as soon as there is another, or after :data:`POLL_S`."""
        await self.report(member)
        end = time.monotonic() + POLL_S
        async with self._news:
            while self._swap.plan.version == known and (left := end - time.monotonic()) > 0:
                try:
                    async with asyncio.timeout(left):
                        await self._news.wait()
                except TimeoutError:
                    break
        return self._swap.plan

    async def report(self, member: Member) -> None:
        """Take note of what a member has now."""
        self._swap.heard(member, time.monotonic())
        await self._tell()
        await self._start()

    async def leave(self, name: str) -> None:
        """Take note that a member stops."""
        self._swap.left(name, time.monotonic())
        await self._tell()

    async def reload(self, seconds: float) -> dict[str, Any]:
        """Move to the index's current generation.

        Args:
            seconds: longest wait until it is served.

        Returns:
            ``generation`` that is served now, ``previous``, ``loading``: one that is not ready everywhere yet, or None;
            and ``refused``: why the current generation of the index is not served, or None.
        """
        await self._start()
        previous = self._swap.plan.current.generation
        await self._look(again=True)
        end = time.monotonic() + seconds
        async with self._news:
            while self._swap.plan.following is not None and (left := end - time.monotonic()) > 0:
                try:
                    async with asyncio.timeout(left):
                        await self._news.wait()
                except TimeoutError:
                    break
        plan = self._swap.plan
        return {
            "generation": plan.current.generation,
            "previous": previous,
            "loading": plan.following and plan.following.generation,
            "refused": plan.refused,
        }

    def members(self) -> list[Member]:
        """Who was heard of lately."""
        return self._swap.members

    async def _start(self) -> None:
        """Begin to tick; where another was here before, find out first what gateways answer from."""
        if self._ticker is None:
            self._ticker = asyncio.get_running_loop().create_task(self._tick())
        await self._recovered.wait()

    async def _tick(self) -> None:
        if not self._recovered.is_set():
            await self._recover()
        while True:
            await asyncio.sleep(TICK_S)
            if self._watch_s and time.monotonic() - self._looked > self._watch_s:
                await self._look()
            self._swap.tick(time.monotonic())
            await self._tell()

    async def _recover(self) -> None:
        end = time.monotonic() + SILENT_S
        await asyncio.sleep(RECOVER_S)
        while not self._swap.complete and time.monotonic() < end:
            await asyncio.sleep(TICK_S)
        served = [m.loaded for m in self._swap.members if m.part == GATEWAY and m.loaded]
        number = max(map(max, served)) if served else None
        edition = await self._edition(number)
        self._swap.adopt(edition)
        self._seen = edition.generation
        self._recovered.set()

    async def _look(self, again: bool = False) -> None:
        """Begin to move to the current generation of the index, once each time that there is another.

        One that could not be read is looked at again: storage fails for a moment now and then.
        """
        self._looked = time.monotonic()
        try:
            number = await asyncio.get_running_loop().run_in_executor(self._thread, current_number, self._workspace)
            plan = self._swap.plan
            underway = plan.following is not None and plan.following.generation == number
            if number is None or underway or (number == self._seen and not again):
                return
            self._seen = number
            if number != plan.current.generation or plan.following is not None or plan.refused is not None:
                self._swap.begin(await self._edition(number), time.monotonic())
        except SscmError as error:
            self._seen = None
            self._swap.refuse(f"the current generation is not served: {error}")
        await self._tell()

    async def _edition(self, number: int | None) -> Edition:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, read_edition, self._workspace, self._shards, number)

    async def _tell(self) -> None:
        async with self._news:
            self._news.notify_all()

    def check_health(self) -> None:
        """Raise where the ticker ended; Serve then starts another coordinator."""
        if self._ticker is not None and self._ticker.done():
            raise GenerationError(f"the coordinator stopped: {self._ticker}")
