"""Searching and browsing an edition: every index shard is asked once, and what they answer is merged."""

from __future__ import annotations

import asyncio
import itertools
import math
import time
from collections.abc import Awaitable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from serve.api import Example, Filters, HttpProblem
from serve.calls import Lost
from serve.collection import collection
from serve.editions import Edition
from serve.merge import merge
from serve.messages import Found, Listed, ShardAnswer, ShardHit, ShardQuery, pack_filter, unpack_found
from serve.metrics import GatewayMetrics
from serve.paging import ItemsPage, Wanted, digest
from sscm.errors import QueryError
from sscm.index.examples import combine_examples
from sscm.index.filters import Filter

Vector = npt.NDArray[np.float32]
T = TypeVar("T")

SHARE_OF_SHARDS = 0.8
"""Share of what is left of a request's time that shards have to answer in; with the rest an answer is made."""


class Shard(Protocol):
    """Calls of one index shard, as :class:`serve.fanout.ShardClient` makes them."""

    async def search(self, generation: int, query: ShardQuery, seconds: float) -> tuple[ShardAnswer, int]:
        """Answer a query; also tells how many were in its batch."""
        ...

    async def call(self, method: str, arguments: list[Any], seconds: float) -> Any:
        """Call a method."""
        ...


@dataclass(frozen=True)
class Turn:
    """One request's time, and the edition that answers all of it.

    Args:
        edition: the edition, whatever is served meanwhile.
        end: when the answer is to be there, on the monotonic clock.
    """

    edition: Edition
    end: float

    @property
    def seconds(self) -> float:
        """Time that shards have."""
        return max(0.001, SHARE_OF_SHARDS * (self.end - time.monotonic()))


class Retrieval:
    """Asks shards and merges what they answer.

    Args:
        shards: all index shards, in their order.
        metrics: where it is counted.
    """

    def __init__(self, shards: Sequence[Shard], metrics: GatewayMetrics) -> None:
        self._shards = tuple(shards)
        self._metrics = metrics
        self._random = np.random.default_rng()

    async def search(
        self, turn: Turn, vector: Vector, wanted: Wanted, exclude: Mapping[str, frozenset[str]] | None = None
    ) -> bytes:
        """The images that are most similar to a vector.

        Args:
            turn: the request's.
            vector: float32 [dimension], unit norm.
            wanted: what is asked for. Of several targets each has as many answers, and they take turns.
            exclude: modality searched → pairs that may not answer.

        Returns:
            A FeatureCollection. Where a shard has no living replica, ``sscm.complete`` is false and the answers are
            those of the others.

        Raises:
            QueryError: target or filters cannot be, or the page is one of another query.
            HttpProblem: no shard answers.
        """
        edition, page = turn.edition, wanted.page
        for target in wanted.targets:
            edition.modality(target, "target")
        restriction = self._restriction(edition, wanted.filters)
        queries = [
            ShardQuery(
                vector=vector,
                target=target,
                k=page.end,
                filter=restriction,
                exclude=(exclude or {}).get(target, frozenset()),
                least=wanted.least,
            )
            for target in wanted.targets
        ]
        page.require(queries)
        with self._metrics.stage("fan-out"):
            lists = await _all([self._search_all(turn, query) for query in queries])
        with self._metrics.stage("merge"):
            lost = sorted({number for found in lists for number, answer in enumerate(found) if answer is None})
            ranked = [
                merge((answer.hits for answer in found if answer is not None), page.end)[page.offset :]
                for found in lists
            ]
            matched = [sum(answer.matched for answer in found if answer is not None) for found in lists]
            more = any(
                len(hits) == page.limit and count > page.end for hits, count in zip(ranked, matched, strict=True)
            )
            links = page.links(digest(queries), edition.generation) if more else []
            targets = wanted.targets[0] if len(wanted.targets) == 1 else list(wanted.targets)
            features = [hit.feature for hit in _taking_turns(ranked)]
            return collection(edition, features, sum(matched), target=targets, lost=lost, links=links)

    async def search_by_examples(
        self,
        turn: Turn,
        positives: Sequence[Example],
        negatives: Sequence[Example],
        modality: str | None,
        wanted: Wanted,
    ) -> bytes:
        """Search by one or several examples; those that are images of a modality searched are left out of its answers.

        An image is always most similar to itself. Across modalities it may answer: finding its pair is what
        cross-modal search is for.

        Args:
            turn: the request's.
            positives: images like which others are wanted.
            negatives: images like which others are not wanted.
            modality: that of examples which do not say theirs.
            wanted: what is asked for.

        Raises:
            QueryError: the examples make no query.
            HttpProblem: 404, an example is no pair of the index, or has no image of its modality.
        """
        examples = [(example.id, example.modality or modality or "", example.vector) for example in positives]
        examples += [(example.id, example.modality or modality or "", example.vector) for example in negatives]
        images = sorted({(pair_id, of) for pair_id, of, _ in examples if pair_id is not None})
        found = await asyncio.gather(*(self.embedding_of(turn, *image) for image in images))
        embeddings = dict(zip(images, found, strict=True))
        vectors = [
            np.asarray(vector, np.float64) if pair_id is None else embeddings[pair_id, of]
            for pair_id, of, vector in examples
        ]
        count = len(positives)
        vector = combine_examples(vectors[:count], vectors[count:], dimension=turn.edition.dimension)
        exclude = {target: frozenset(pair_id for pair_id, of in images if of == target) for target in wanted.targets}
        return await self.search(turn, vector, wanted, exclude)

    async def search_by_id(self, turn: Turn, pair_id: str, modality: str, wanted: Wanted) -> bytes:
        """Search with an indexed image as example; as :meth:`search_by_examples` with one.

        Raises:
            HttpProblem: 404, there is no such pair, or it has no image of that modality.
        """
        vector = await self.embedding_of(turn, pair_id, modality)
        return await self.search(turn, vector, wanted, {modality: frozenset({pair_id})})

    async def embedding_of(self, turn: Turn, pair_id: str, modality: str) -> Vector:
        """The embedding of an indexed image: float32 [dimension].

        Raises:
            QueryError: the modality is unknown.
            HttpProblem: 404, there is no such pair, or it has no image of that modality.
        """
        turn.edition.modality(modality, "modality")
        found = await self.find(turn, pair_id, modality)
        if found.vector is None:
            raise HttpProblem(404, f"item {pair_id!r} has no image of {modality}")
        return found.vector

    async def find(self, turn: Turn, pair_id: str, modality: str | None = None) -> Found:
        """A pair by its id, with the embedding of its image of one modality if asked for.

        Raises:
            HttpProblem: 404, there is no such pair; 503, it may be in a shard that does not answer.
        """
        outcomes = await self._ask_all(turn, "find", [pair_id, modality])
        for outcome in outcomes:
            if not isinstance(outcome, Lost) and (found := unpack_found(outcome)) is not None:
                return found
        for outcome in outcomes:
            if isinstance(outcome, Lost):
                raise outcome.problem(f"shard that may hold item {pair_id!r}")
        raise HttpProblem(404, f"item {pair_id!r} is not in generation {turn.edition.generation} of this index")

    async def browse(self, turn: Turn, filters: Filters, page: ItemsPage, asked: Mapping[str, str]) -> bytes:
        """Pairs that pass filters, in the order of the index.

        Args:
            turn: the request's.
            filters: which pairs.
            page: which of these.
            asked: the filters as the query string had them, for the link to the next page.

        Raises:
            QueryError: the filters cannot be, or the page is one of others.
            HttpProblem: no shard answers.
        """
        restriction = self._restriction(turn.edition, filters)
        text = pack_filter(restriction)
        page.require(text)
        calls = [
            self._within(shard.call, "browse", turn, [text, page.first_of(number), page.room_of(number)])
            for number, shard in enumerate(self._shards)
        ]
        listed = self._listed(await self._outcomes(calls))
        items, following = page.taken([found for _, found in listed], [number for number, _ in listed])
        links = page.links(following, text, turn.edition.generation, asked) if following is not None else []
        matched = sum(found.matched for _, found in listed)
        return collection(turn.edition, items, matched, lost=self._lost(listed), links=links)

    async def sample(self, turn: Turn, filters: Filters, count: int) -> bytes:
        """Pairs that pass filters, drawn at random, each as likely as any other.

        Raises:
            QueryError: the filters cannot be.
            HttpProblem: no shard answers.
        """
        text = pack_filter(self._restriction(turn.edition, filters))
        listed = self._listed(await self._ask_all(turn, "sample", [text, count]))
        sizes = [found.matched for _, found in listed]
        # How many come from each shard is drawn first; which of its rows they are, it has drawn already.
        shares = self._random.multivariate_hypergeometric(sizes, min(count, sum(sizes)))
        drawn = [item for (_, found), share in zip(listed, shares, strict=True) for item in found.items[:share]]
        items = [drawn[place] for place in self._random.permutation(len(drawn))]
        return collection(turn.edition, items, sum(sizes), lost=self._lost(listed))

    def _restriction(self, edition: Edition, filters: Filters) -> Filter | None:
        restriction = filters.restriction()
        if restriction is not None and edition.properties is not None:
            restriction.require_known(edition.properties, [modality.name for modality in edition.modalities])
        return restriction

    async def _search_all(self, turn: Turn, query: ShardQuery) -> list[ShardAnswer | None]:
        """The answer of each shard; None of those that do not answer.

        Raises:
            HttpProblem: none of them does.
        """
        generation, seconds = turn.edition.generation, turn.seconds
        outcomes = await self._outcomes([shard.search(generation, query, seconds) for shard in self._shards])
        answers: list[ShardAnswer | None] = []
        for outcome in outcomes:
            if isinstance(outcome, Lost):
                answers.append(None)
                continue
            answer, batch = outcome
            self._metrics.answered(answer, batch)
            answers.append(answer)
        return answers

    async def _ask_all(self, turn: Turn, method: str, arguments: list[Any]) -> list[Any]:
        """Call a method of every shard; what one that does not answer gives is a :class:`Lost`.

        Raises:
            HttpProblem: 503 or 504, none of them answers.
        """
        return await self._outcomes([self._within(shard.call, method, turn, arguments) for shard in self._shards])

    def _within(self, call: Any, method: str, turn: Turn, arguments: list[Any]) -> Awaitable[Any]:
        result: Awaitable[Any] = call(method, [turn.edition.generation, *arguments], turn.seconds)
        return result

    async def _outcomes(self, calls: Sequence[Awaitable[Any]]) -> list[Any]:
        """Outcomes, with :class:`Lost` for calls that fail so; any other exception is raised."""
        outcomes = await _settled(calls)
        lost = []
        for number, outcome in enumerate(outcomes):
            if isinstance(outcome, Lost):
                lost.append(outcome)
                self._metrics.shard_errors.inc(str(number), str(outcome.status))
            elif isinstance(outcome, BaseException):
                raise outcome
        if lost and len(lost) == len(outcomes):
            raise lost[0].problem("index shard")
        return outcomes

    @staticmethod
    def _listed(outcomes: Sequence[Any]) -> list[tuple[int, Listed]]:
        return [(n, Listed(*outcome)) for n, outcome in enumerate(outcomes) if not isinstance(outcome, Lost)]

    def _lost(self, listed: Sequence[tuple[int, Listed]]) -> list[int]:
        return sorted(set(range(len(self._shards))) - {number for number, _ in listed})


async def _all(calls: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """What calls return; of a single one without the task that it does not need."""
    return [await calls[0]] if len(calls) == 1 else list(await asyncio.gather(*calls))


async def _settled(calls: Sequence[Awaitable[T]]) -> list[T | BaseException]:
    """What calls return or raise; of a single one without the task that it does not need."""
    if len(calls) > 1:
        return list(await asyncio.gather(*calls, return_exceptions=True))
    try:
        return [await calls[0]]
    except Exception as error:
        return [error]


def _taking_turns(lists: Sequence[Sequence[ShardHit]]) -> list[ShardHit]:
    """The best of each list, then the second of each, and so on."""
    if len(lists) == 1:
        return list(lists[0])
    return [hit for rank in itertools.zip_longest(*lists) for hit in rank if hit is not None]


def given_vector(edition: Edition, values: Sequence[float]) -> Vector:
    """A vector of a request as float32 [dimension] of unit norm.

    Raises:
        QueryError: another length, not finite, or of norm zero.
    """
    vector = np.asarray(values, np.float64)
    if vector.shape != (edition.dimension,):
        raise QueryError(f"vector: {len(values)} numbers; expected {edition.dimension}")
    norm = math.sqrt(vector @ vector)
    if not np.isfinite(norm) or norm == 0:
        raise QueryError(f"vector: norm {norm}; expected finite numbers that are not all 0")
    return np.asarray(vector / norm, np.float32)
