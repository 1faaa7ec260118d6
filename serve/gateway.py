"""The gateway: takes requests in, has images embedded, and answers from one edition of the index at a time."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from starlette.types import ASGIApp

from serve.api import HttpProblem
from serve.calls import Lost, call, within
from serve.editions import Plan
from serve.fanout import ShardClient
from serve.follow import Follower, replica_name
from serve.guard import Rules
from serve.logs import set_up_logs
from serve.metrics import GatewayMetrics
from serve.preview import read_preview
from serve.retrieval import Retrieval, Turn
from serve.routes import build_api
from serve.swap import GATEWAY, Member
from serve.upload import Upload, decode_uploads
from sscm.errors import WorkspaceError

Vector = npt.NDArray[np.float32]

DECODERS = 2
"""Uploads decoded at a time, off the event loop."""
READY_S = 2.0
"""Longest time that a readiness probe waits for one replica, seconds."""


class Gateway:
    """Answers requests with the help of encoders and index shards.

    Args:
        coordinator: handle of the coordinator.
        encoders: modality name → handle of its encoder.
        shards: calls of each index shard.
        deadline_s: longest time of a request, seconds.
        max_upload_bytes: largest request body.
        rules: what else holds for every request.
        tiles: URL template of a tile server for the page's map, and whom that wants named there.
        parts: deployments that belong to the service though no handle of them is called.
    """

    def __init__(
        self,
        *,
        coordinator: Any,
        encoders: Mapping[str, Any],
        shards: Sequence[ShardClient],
        deadline_s: float,
        max_upload_bytes: int,
        rules: Rules | None = None,
        tiles: tuple[str | None, str | None] = (None, None),
        parts: Sequence[Any] = (),
    ) -> None:
        self.rules = rules or Rules()
        self.tiles = tiles
        self.access = self.rules.access()
        self.replica = replica_name()
        self.deadline_s = deadline_s
        self.max_upload_bytes = max_upload_bytes
        self.metrics = GatewayMetrics(self.replica)
        self.retrieval = Retrieval(shards, self.metrics)
        self._coordinator = coordinator
        self._encoders = dict(encoders)
        self._shards = tuple(shards)
        self._threads = ThreadPoolExecutor(DECODERS, thread_name_prefix="decode")
        self._plan: Plan | None = None
        self._planned = asyncio.Event()
        self._follower = Follower(coordinator, self._describe, self._follow)
        self._begun = False
        self.metrics.generation.show(lambda: self.generation)
        self.metrics.waiting.show(lambda: sum(shard.waiting for shard in self._shards))
        self._begin()

    def __serve_build_asgi_app__(self) -> ASGIApp:
        """The HTTP application of this replica; Ray Serve asks for it when the replica starts."""
        set_up_logs(self.rules.log_format)
        return build_api(self)

    @property
    def generation(self) -> int:
        """Number of the generation that it answers from; 0 before it knows."""
        return 0 if self._plan is None else self._plan.current.generation

    async def turn(self) -> Turn:
        """The edition that answers a request that begins now, and the time there is.

        Raises:
            HttpProblem: 503, it is not known yet what is served.
        """
        end = time.monotonic() + self.deadline_s
        if self._plan is None:
            self._begin()
            try:
                async with asyncio.timeout(self.deadline_s / 2):
                    await self._planned.wait()
            except TimeoutError as error:
                raise HttpProblem(503, "the service is starting; try again", {"Retry-After": "1"}) from error
        return Turn(cast(Plan, self._plan).current, end)

    async def embed(self, turn: Turn, files: Sequence[Upload], modality: str) -> Vector:
        """Embed an uploaded image: float32 [dimension], unit norm.

        Raises:
            QueryError: the modality is unknown, or the files are no image of it.
            BandMismatchError: bands are missing or unknown.
        """
        declared = turn.edition.modality(modality, "modality")
        with self.metrics.stage("decode"):
            decode = functools.partial(decode_uploads, files, declared)
            groups = await asyncio.get_running_loop().run_in_executor(self._threads, decode)
        with self.metrics.stage("encode"):
            try:
                asked = call(self._encoders[modality], "encode", turn.edition.generation, groups)
                vector, batch = await within(turn.seconds, asked)
            except Lost as lost:
                raise lost.problem(f"encoder of {modality}") from lost
        self.metrics.batches.observe(batch, "encode")
        return cast(Vector, vector)

    async def preview(self, turn: Turn, pair_id: str, modality: str) -> bytes:
        """A small JPEG of an image, from the archive.

        Raises:
            HttpProblem: 404, there is no such pair, image or picture.
        """
        turn.edition.modality(modality, "modality")
        found = await self.retrieval.find(turn, pair_id)
        read = functools.partial(read_preview, turn.edition.workspace, found.archive_file, found.archive_row, modality)
        try:
            picture = await asyncio.get_running_loop().run_in_executor(self._threads, read)
        except WorkspaceError as error:
            raise HttpProblem(404, f"the archive has no picture of {pair_id!r} any more: {error}") from error
        if picture is None:
            raise HttpProblem(404, f"item {pair_id!r} has no picture of {modality}")
        return picture

    async def readiness(self) -> dict[str, Any]:
        """Whether every encoder and every shard answers, with what each said, and what becomes of the index's news."""
        turn = await self.turn()
        number = turn.edition.generation
        probes: dict[str, Any] = {
            f"encoder {name}": within(READY_S, call(handle, "ready")) for name, handle in self._encoders.items()
        }
        probes |= {f"shard {n}": shard.call("ready", [number], READY_S) for n, shard in enumerate(self._shards)}
        outcomes = await asyncio.gather(*probes.values(), return_exceptions=True)
        failed = [isinstance(outcome, BaseException) for outcome in outcomes]
        plan = cast(Plan, self._plan)
        return {
            "ready": not any(failed),
            "generation": number,
            "loading": plan.following and plan.following.generation,
            "refused": plan.refused,
            "parts": {name: "does not answer" if bad else "ready" for name, bad in zip(probes, failed, strict=True)},
        }

    async def reload(self) -> dict[str, Any]:
        """Move the service to the index's current generation.

        Raises:
            HttpProblem: 409, that one cannot be served; 503, the coordinator does not answer.
        """
        seconds = 0.8 * self.deadline_s
        try:
            found = await within(self.deadline_s, call(self._coordinator, "reload", seconds))
        except Lost as lost:
            raise lost.problem("coordinator") from lost
        if found["refused"] is not None:
            raise HttpProblem(409, f"{found['refused']}; generation {found['generation']} is served on")
        return cast(dict[str, Any], found)

    def _begin(self) -> None:
        """Follow the coordinator, from when there is an event loop on."""
        if not self._begun:
            try:
                self._follower.start()
            except RuntimeError:  # made before the loop runs: the first request begins
                return
            self._begun = True

    def _describe(self) -> Member:
        self.metrics.push()  # asked every few seconds
        return Member(name=self.replica, part=GATEWAY, loaded=() if self._plan is None else (self.generation,))

    async def _follow(self, plan: Plan) -> None:
        for shard, replicas in zip(self._shards, plan.replicas, strict=True):
            shard.follow(replicas)
        switched = self._plan is not None and plan.current.generation != self.generation
        self._plan = plan
        self._planned.set()
        if switched:
            self._follower.report()
