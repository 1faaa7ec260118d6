"""Windows of the training stream, read ahead by Ray Data on whatever nodes have room.

Windows are dealt to a few *lanes*. A lane is one Ray Data execution whose one task at a time reads its windows, dozens
of them, one after the other; its results wait in the object store of the node that trains. An actor on that node runs
the executions, and lets a task begin a window only when few enough are waiting.

Both are against what Ray Data's scheduler does (``process_completed_tasks`` of Ray 2.60): it waits until *all* running
tasks have something for it, or a tenth of a second, so an execution of several tasks moves ten times a second; and
tasks whose results nobody takes have it run in circles, so that one long execution without the gate kept 70 % of a core
busy.
"""

from __future__ import annotations

import contextlib
import itertools
import pickle
import threading
from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import ray
from ray.data._internal.execution.interfaces import RefBundle
from ray.exceptions import GetTimeoutError, OwnerDiedError, RayActorError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from sscm import placement, runtime
from sscm.archive.windows import Batch, WindowPlan, pack, read_window, unpack
from sscm.sensors import BandGroup
from sscm.workspace import Workspace

AHEAD_BYTES = 1_500_000_000
"""Windows of one worker that wait to be used, or are being read, at most."""
STORE_SHARE = 0.3
"""Share of a node's object store for all of that; from four fifths on Ray writes objects to disk."""
LANES = 2, 8
"""Fewest and most; two feed 15,000 Sentinel pairs/s from a local disk's cache on two cores."""
WINDOWS_A_LANE = 2
"""Windows that wait, for each lane, at most; one more is being read."""
WINDOWS_A_TASK = 64
"""A task's start costs 20 ms: as much as reading a window."""
FIRST_DEAL, LARGEST_DEAL = 16, 256
"""Windows of a lane in its first execution, and in its later ones, each twice as long as the one before."""
ATTEMPTS = 3
"""How often in a row the actor may be lost, or be silent, before a window comes."""
SILENCE_S = 300
"""Seconds that a window may be waited for: longer than reads are tried again while the storage is away."""


@dataclass(frozen=True)
class Depth:
    """How much is read at a time.

    Args:
        lanes: tasks that read at a time.
        ahead: windows that may be read or wait, beside those that are in use.
    """

    lanes: int
    ahead: int


def depth_of(window_bytes: int, workers: int, neighbours: int) -> Depth:
    """What the cluster and this node's object store have room for.

    Args:
        window_bytes: of the largest window.
        workers: that share the cluster.
        neighbours: workers on this node, this one counted.
    """
    room = min(AHEAD_BYTES, runtime.object_store_bytes() * STORE_SHARE / neighbours)
    fit = max(1, int(room // max(window_bytes, 1)))
    cores = ray.cluster_resources().get("CPU", 1.0) / runtime.core_share()
    lanes = min(max(LANES[0], min(LANES[1], int(cores / workers / 2))), fit)
    return Depth(lanes, min(fit, lanes * (WINDOWS_A_LANE + 1)))


def read_ahead(
    workspace: Workspace, groups: Sequence[BandGroup], plans: Iterator[WindowPlan], depth: Depth
) -> Generator[Batch, None, None]:
    """Windows in order, read by this process until the actor is up, which takes a second, and ahead from then on.

    Args:
        workspace: where the archive is.
        groups: band groups to read.
        plans: the windows.
        depth: how much is read at a time.

    Yields:
        As :func:`sscm.archive.windows.read_window`; pixels are views of the object store.

    Raises:
        WorkspaceError: a shard cannot be read.
        IntegrityError: a shard is not what the manifest says.
        RayActorError: the actor was lost again and again.
        GetTimeoutError: nothing came from it, again and again.
    """
    unseen: deque[WindowPlan] = deque()
    lost = 0
    while True:
        with contextlib.closing(_Feed(workspace, groups, itertools.chain(list(unseen), plans), depth)) as feed:
            unseen.clear()
            try:
                # No name for a window here or below: it would hold the object store's memory until the next one comes.
                yield from feed.windows(unseen)
                return
            except (RayActorError, OwnerDiedError, GetTimeoutError):
                lost = 1 if feed.given else lost + 1
                if lost == ATTEMPTS:
                    raise
                plans = feed.plans


class _Feed:
    """One actor, and what it is asked for."""

    def __init__(
        self, workspace: Workspace, groups: Sequence[BandGroup], plans: Iterator[WindowPlan], depth: Depth
    ) -> None:
        self.plans = plans
        self.given = 0
        """Windows that came through the actor."""
        self._workspace, self._groups, self._depth = workspace, groups, depth
        # On this node: what it owns is lost with it, and with this node all is lost anyway.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self._actor: Any = _Lanes.options(scheduling_strategy=here).remote(  # type: ignore[attr-defined]
            workspace, groups, depth
        )
        self._dealt = 0
        self._deals = itertools.chain(
            itertools.takewhile(lambda size: size < LARGEST_DEAL, (FIRST_DEAL << shift for shift in itertools.count())),
            itertools.repeat(LARGEST_DEAL),
        )

    def windows(self, unseen: deque[WindowPlan]) -> Iterator[Batch]:
        """All windows; those that were asked for and not given yet are kept in ``unseen``, for whoever asks again."""
        ready = self._actor.ready.remote()
        while not self._is_up(ready) and (plan := next(self.plans, None)) is not None:
            yield read_window(self._workspace, plan, self._groups)
        waiting: deque[Any] = deque()
        while True:
            if len(waiting) <= self._depth.ahead:
                self._deal(waiting, unseen)
            if not waiting:
                return
            yield self._taken(waiting.popleft(), unseen)

    def close(self) -> None:
        """End the actor, and with it what it runs."""
        if ray.is_initialized():  # or it would be started, to end what ended with it
            ray.kill(self._actor)

    def _taken(self, lane: Any, unseen: deque[WindowPlan]) -> Batch:
        """The next window of a lane."""
        if not ray.wait([lane], timeout=SILENCE_S, fetch_local=False)[0]:
            raise GetTimeoutError(
                f"Ray Data read nothing for {SILENCE_S} s: are there nodes left that have room for its tasks? "
                "With --stream workers a training needs none"
            )
        (reference,) = ray.get(next(lane), timeout=SILENCE_S)
        table = ray.get(reference, timeout=SILENCE_S)
        unseen.popleft()
        self.given += 1
        return unpack(table, self._groups)

    def _is_up(self, ready: ray.ObjectRef) -> bool:
        return bool(ray.wait([ready], timeout=0)[0])

    def _deal(self, waiting: deque[Any], unseen: deque[WindowPlan]) -> None:
        """Have the lanes read some more windows; ``waiting`` has, window by window, the lane that it comes from."""
        lanes = self._depth.lanes
        plans = list(itertools.islice(self.plans, lanes * next(self._deals)))
        unseen.extend(plans)
        numbered = [(self._dealt + place, pickle.dumps(plan)) for place, plan in enumerate(plans)]
        # A lane goes on when what it gave has been taken: that tells the actor how far the use is.
        stream = self._actor.stream.options(num_returns="streaming", _generator_backpressure_num_objects=1)
        sources = [stream.remote(numbered[lane::lanes]) for lane in range(min(lanes, len(plans)))]
        waiting.extend(sources[place % lanes] for place in range(len(plans)))
        self._dealt += len(plans)


@ray.remote(num_cpus=0, concurrency_groups={"lanes": 2 * LANES[1], "gate": 6 * LANES[1]})
class _Lanes:
    """Runs the Ray Data executions of one worker, outside the process that trains, whose steps they would hold up."""

    def __init__(self, workspace: Workspace, groups: Sequence[BandGroup], depth: Depth) -> None:
        self._workspace, self._groups, self._lanes = workspace, groups, depth.lanes
        self._room = depth.ahead
        self._changed = threading.Condition()
        runtime.quiet_ray_data()
        context = ray.data.DataContext.get_current()
        context.target_max_block_size = 1  # a block is one row, a window, however large
        context.execution_options.preserve_order = True
        context.override_object_store_memory_limit_fraction = 1.0  # what is held there is the gate's to bound

    def ready(self) -> None:
        """Return once the actor and a process for each lane are up, on nodes that may have to be started first."""
        for _ in self._read([(0, b"")] * self._lanes, self._lanes):
            pass

    @ray.method(concurrency_group="gate")  # type: ignore[untyped-decorator]
    def admit(self, number: int) -> None:
        """Return as soon as a window may be read.

        Args:
            number: of the window, in the order in which they are used.
        """
        with self._changed:
            self._changed.wait_for(lambda: number < self._room)

    @ray.method(concurrency_group="lanes")  # type: ignore[untyped-decorator]
    def stream(self, numbered: Sequence[tuple[int, bytes]]) -> Iterator[list[ray.ObjectRef]]:
        """Read windows by one Ray Data execution.

        Args:
            numbered: number and pickled plan of each.

        Yields:
            For each a list of one reference to its packed table, which is on this node.
        """
        for bundle in self._read(numbered, 1):
            references = list(bundle.block_refs)
            del bundle
            while references:
                ray.wait(references[:1], fetch_local=True)
                yield [references.pop(0)]
                with self._changed:
                    self._room += 1
                    self._changed.notify_all()

    def _read(self, numbered: Sequence[tuple[int, bytes]], tasks: int) -> Iterator[RefBundle]:
        """Blocks of windows, read by so many tasks at a time."""
        blocks = max(tasks, -(-len(numbered) // WINDOWS_A_TASK))
        dataset = ray.data.from_items(
            [{"number": number, "plan": plan} for number, plan in numbered], override_num_blocks=blocks
        ).map_batches(
            _Reading(self._workspace, self._groups, ray.get_runtime_context().current_actor),
            batch_size=None,
            batch_format="numpy",
            concurrency=tasks,
            num_cpus=1,
            label_selector=placement.selector("data"),
        )
        yield from dataset.iter_internal_ref_bundles()


class _Reading:
    """What a task does.

    Args:
        workspace: where the archive is.
        groups: band groups to read.
        gate: the actor that admits windows.
    """

    def __init__(self, workspace: Workspace, groups: Sequence[BandGroup], gate: Any) -> None:
        self._workspace, self._groups, self._gate = workspace, groups, gate

    def __call__(self, batch: Mapping[str, Any]) -> Iterator[pa.Table]:
        """Read the windows of one block; nothing of an empty plan."""
        for number, plan in zip(batch["number"], batch["plan"], strict=True):
            if not plan:
                continue
            ray.get(self._gate.admit.remote(int(number)))
            yield pack(read_window(self._workspace, pickle.loads(plan), self._groups))
