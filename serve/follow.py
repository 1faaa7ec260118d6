"""A replica's side of a swap: it asks for the plan, loads what is new in the background, and says what it has."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Generic, TypeVar

from ray.serve import get_replica_context
from ray.serve.exceptions import RayServeException

from serve.editions import Edition, Plan
from serve.swap import Member
from sscm.errors import GenerationError, SscmError

T = TypeVar("T")

POLL_S = 5.0
"""Longest time that the coordinator keeps an answer back while there is nothing new."""
AGAIN_S = 0.5
"""Seconds before a coordinator that did not answer is asked again."""

log = logging.getLogger("ray.serve")


def replica_name() -> str:
    """Name of this replica among all; one that is made up outside Ray Serve."""
    try:
        return str(get_replica_context().replica_id.unique_id)
    except RayServeException:
        return f"local-{secrets.token_hex(4)}"


class Follower:
    """Keeps a replica to the coordinator's plan, for as long as the replica runs.

    Args:
        coordinator: handle of the coordinator.
        describe: what the replica says of itself now.
        apply: does what a new plan says; soon, since the replica is not heard of while it does.
    """

    def __init__(
        self, coordinator: Any, describe: Callable[[], Member], apply: Callable[[Plan], Awaitable[None]]
    ) -> None:
        self._coordinator, self._describe, self._apply = coordinator, describe, apply
        self._known: tuple[str, int] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Follow from now on; raises RuntimeError where no event loop runs."""
        asyncio.get_running_loop()  # before there is a coroutine that nobody would await
        self._spawn(self._follow())

    def report(self) -> None:
        """Say at once what the replica has now."""
        self._spawn(self._report())

    def stop(self) -> None:
        """Do not follow any longer."""
        for task in self._tasks:
            task.cancel()

    async def once(self) -> Plan:
        """Ask for the plan, and do what it says."""
        plan: Plan = await self._coordinator.follow.remote(self._describe(), None)
        await self._apply(plan)
        self._known = plan.version
        return plan

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _report(self) -> None:
        with suppress(Exception):  # the next poll says it, too
            await self._coordinator.report.remote(self._describe())

    async def _follow(self) -> None:
        before = ""
        while True:
            try:
                asked = self._coordinator.follow.remote(self._describe(), self._known)
                plan = await asyncio.wait_for(asked, 2 * POLL_S)
                if plan.version != self._known:
                    await self._apply(plan)
                    self._known = plan.version
            except Exception as error:  # it is being started anew; what is loaded goes on answering
                why = f"{type(error).__name__}: {error}"
                log.log(logging.DEBUG if why == before else logging.WARNING, "no plan from the coordinator: %s", why)
                before = why
                await asyncio.sleep(AGAIN_S)


class Held(Generic[T]):
    """Generations that a replica has loaded.

    Args:
        load: opens an edition; runs on a thread of its own.
        changed: called when one was loaded, or could not be.
    """

    def __init__(self, load: Callable[[Edition], T], changed: Callable[[], None]) -> None:
        self._load, self._changed = load, changed
        self._loaded: dict[int, T] = {}
        self._failed: dict[int, str] = {}
        self._loading: set[int] = set()
        self._wanted: tuple[int, ...] = ()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="load")
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def loaded(self) -> tuple[int, ...]:
        """Numbers of what is loaded."""
        return tuple(sorted(self._loaded))

    @property
    def failed(self) -> dict[int, str]:
        """Number → why it could not be loaded."""
        return dict(self._failed)

    def get(self, generation: int) -> T:
        """What is loaded of a generation; raises GenerationError where nothing is."""
        found = self._loaded.get(generation)
        if found is None:
            raise GenerationError(f"generation {generation} is not loaded here, only {list(self._loaded)}")
        return found

    def clear(self) -> None:
        """Drop all."""
        self._loaded.clear()

    async def follow(self, plan: Plan) -> None:
        """Begin to load what the plan wants, and drop what it does not."""
        self._wanted = plan.held
        for number in [number for number in self._loaded if number not in plan.held]:
            del self._loaded[number]
        for number in [number for number in self._failed if number not in plan.held]:
            del self._failed[number]  # it may be asked for again when it is mended
        for number in plan.held:
            edition = plan.edition(number)
            known = number in self._loaded or number in self._failed or number in self._loading
            if edition is not None and not known:
                self._loading.add(number)
                task = asyncio.get_running_loop().create_task(self._open(edition))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def settled(self, generation: int) -> None:
        """Wait until a generation is not being loaded any more; raises GenerationError where it could not be."""
        while generation in self._loading:
            await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        if generation in self._failed:
            raise GenerationError(f"generation {generation} cannot be served: {self._failed[generation]}")

    async def _open(self, edition: Edition) -> None:
        number, why = edition.generation, None
        try:
            opened = await asyncio.get_running_loop().run_in_executor(self._thread, self._load, edition)
            if number in self._wanted:
                self._loaded[number] = opened
        except SscmError as error:
            why = str(error)
        except Exception as error:
            log.exception("generation %s", number)
            why = f"{type(error).__name__}: {error}"
        finally:
            self._loading.discard(number)
        if why is not None and number in self._wanted:  # what was given up meanwhile may be asked for anew
            self._failed[number] = why
        self._changed()
