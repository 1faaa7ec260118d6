"""A replica of an index shard: its rows of the generations that are served, and the server that gateways call."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import ray

from serve.channel import ChannelServer
from serve.editions import Edition, Plan
from serve.follow import Follower, Held, replica_name
from serve.messages import (
    ShardAnswer,
    ShardQuery,
    pack_answers,
    pack_found,
    unpack_filter,
    unpack_queries,
)
from serve.shard import IndexShard
from serve.swap import Member, shard_part
from sscm.errors import QueryError, ServiceError


class ShardReplica:
    """Answers gateways for one index shard.

    Args:
        coordinator: handle of the coordinator.
        number: which shard.
        secret: what gateways must know.
        threads: CPU threads of a search.
        host: address to listen on for gateways; by default that of its Ray node.
    """

    def __init__(self, *, coordinator: Any, number: int, secret: str, threads: int, host: str | None = None) -> None:
        self._number, self._threads = number, threads
        self._name = replica_name()
        self._held: Held[IndexShard] = Held(self._load, self._changed)
        self._follower = Follower(coordinator, self._describe, self._follow)
        self._server = ChannelServer(host or ray.util.get_node_ip_address(), secret, self.answer)

    async def reconfigure(self, _: Mapping[str, Any]) -> None:
        """Load what is served, before gateways hear of this replica, and follow the coordinator from then on.

        Raises:
            GenerationError: it cannot be loaded.
        """
        plan = await self._follower.once()
        await self._held.settled(plan.current.generation)
        self._follower.start()

    def stop(self) -> None:
        """Stop listening, and drop all generations."""
        self._server.stop()
        self._follower.stop()
        self._held.clear()

    def __del__(self) -> None:
        """Serve calls this when it stops a replica."""
        if server := getattr(self, "_server", None):
            server.stop()

    async def answer(self, method: str, arguments: Sequence[Any], seconds: float) -> Any:
        """Answer a call of a gateway; it runs on the server's thread.

        Args:
            method: ``search``, ``find``, ``browse``, ``sample`` or ``ready``.
            arguments: the generation, and what the method takes.
            seconds: longest time.

        Raises:
            GenerationError: the generation is not loaded.
            QueryError: what is asked for cannot be had.
            Busy: too many queries wait.
        """
        generation, *rest = arguments
        shard = self._held.get(generation)
        if method == "search":
            return pack_answers(await self._search(shard, unpack_queries(rest[0])))
        if method == "ready":
            return shard.ready()
        if method == "find":
            return pack_found(await asyncio.to_thread(shard.find, *rest))
        if method in ("browse", "sample"):
            listed = await asyncio.to_thread(getattr(shard, method), unpack_filter(rest[0]), *rest[1:])
            return [listed.matched, listed.items, listed.rows, listed.following]
        raise ServiceError(f"no method {method!r}; gateway and shard are of different versions")

    async def _search(self, shard: IndexShard, queries: Sequence[ShardQuery]) -> list[ShardAnswer | Exception]:
        outcomes = await asyncio.gather(*(shard.search(query) for query in queries), return_exceptions=True)
        answers: list[ShardAnswer | Exception] = []
        for outcome in outcomes:
            if isinstance(outcome, QueryError):
                answers.append(outcome)
            elif isinstance(outcome, BaseException):
                raise outcome
            else:
                answers.append(outcome[0])
        return answers

    def check_health(self) -> None:
        """Raise if a batch is stuck; Serve then starts another replica."""
        for generation in self._held.loaded:
            self._held.get(generation).check()

    def _describe(self) -> Member:
        return Member(
            name=self._name,
            part=shard_part(self._number),
            address=self._server.address,
            loaded=self._held.loaded,
            failed=self._held.failed,
        )

    async def _follow(self, plan: Plan) -> None:
        await self._held.follow(plan)

    def _load(self, edition: Edition) -> IndexShard:
        titles = {modality.name: modality.title for modality in edition.modalities}
        slices = edition.slices[self._number]
        return IndexShard(edition.workspace, edition.generation, slices, titles, self._threads)

    def _changed(self) -> None:
        self._follower.report()
