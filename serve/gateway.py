"""The gateway: takes requests in, has images embedded, asks every index shard once, merges."""

from __future__ import annotations

import asyncio
import functools
import itertools
from collections.abc import Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from ray.serve import get_replica_context
from ray.serve.exceptions import RayServeException
from starlette.types import ASGIApp

from serve.api import Example, HttpProblem
from serve.calls import Lost, call, within
from serve.guard import Rules
from serve.items import with_score
from serve.logs import set_up_logs
from serve.merge import merge
from serve.messages import Found, ShardAnswer, ShardQuery
from serve.metrics import GatewayMetrics
from serve.paging import Wanted, digest
from serve.preview import read_preview
from serve.routes import build_api
from serve.upload import Upload, decode_uploads
from sscm.errors import QueryError, WorkspaceError
from sscm.index.examples import combine_examples
from sscm.sensors import Modality
from sscm.workspace import Workspace

Vector = npt.NDArray[np.float32]

DECODERS = 2
"""Uploads decoded at a time, off the event loop."""
SHARE_OF_SHARDS = 0.8
"""Share of a request's deadline that a shard has to answer in; with the rest an answer of the others is made."""
READY_S = 2.0
"""Longest time that a readiness probe waits for one replica, seconds."""


@dataclass(frozen=True, kw_only=True)
class Served:
    """What is served: one index generation and its model.

    Args:
        workspace: where they are.
        generation: number of the generation.
        created: ISO 8601 time of the generation.
        modalities: modalities that can be asked by and searched.
        dimension: length of an embedding.
        model: name, fingerprint and origin of the model, JSON values.
        simulated: whether the images were computed, not observed.
        shard_rows: rows of each shard.
        properties: names of the properties that any item has; None where the index does not say.
    """

    workspace: Workspace
    generation: int
    created: str
    modalities: tuple[Modality, ...]
    dimension: int
    model: Mapping[str, Any]
    simulated: bool
    shard_rows: tuple[int, ...]
    properties: tuple[str, ...] | None = None

    def modality(self, name: str, what: str) -> Modality:
        """A modality by name; raises QueryError where there is none."""
        for modality in self.modalities:
            if modality.name == name:
                return modality
        raise QueryError(f"{what}: {name!r} is unknown; this index has {[m.name for m in self.modalities]}")


class Gateway:
    """Answers requests with the help of encoders and index shards.

    Args:
        served: what is served.
        encoders: modality name → handle of its encoder.
        shards: handle of each index shard.
        deadline_s: longest time of a request, seconds.
        max_upload_bytes: largest request body.
        rules: what else holds for every request.
    """

    def __init__(
        self,
        *,
        served: Served,
        encoders: Mapping[str, Any],
        shards: Sequence[Any],
        deadline_s: float,
        max_upload_bytes: int,
        rules: Rules | None = None,
    ) -> None:
        self.served = served
        self.rules = rules or Rules()
        self.access = self.rules.access()
        self.replica = _replica()
        self.deadline_s = deadline_s
        self.max_upload_bytes = max_upload_bytes
        self.metrics = GatewayMetrics(self.replica, served.generation)
        self._encoders = dict(encoders)
        self._shards = list(shards)
        self._threads = ThreadPoolExecutor(DECODERS, thread_name_prefix="decode")
        self._random = np.random.default_rng()

    def __serve_build_asgi_app__(self) -> ASGIApp:
        """The HTTP application of this replica; Ray Serve asks for it when the replica starts."""
        set_up_logs(self.rules.log_format)
        return build_api(self)

    async def embed(self, files: Sequence[Upload], modality: str) -> Vector:
        """Embed an uploaded image: float32 [dimension], unit norm.

        Raises:
            QueryError: the modality is unknown, or the files are no image of it.
            BandMismatchError: bands are missing or unknown.
        """
        declared = self.served.modality(modality, "modality")
        with self.metrics.stage("decode"):
            decode = functools.partial(decode_uploads, files, declared)
            groups = await asyncio.get_running_loop().run_in_executor(self._threads, decode)
        with self.metrics.stage("encode"):
            try:
                vector, batch = await call(self._encoders[modality], "encode", groups)
            except Lost as lost:
                raise lost.problem(f"encoder of {modality}") from lost
        self.metrics.batches.observe(batch, "encode")
        return cast(Vector, vector)

    def given_vector(self, values: Sequence[float]) -> Vector:
        """A vector of a request as float32 [dimension] of unit norm.

        Raises:
            QueryError: another length, not finite, or of norm zero.
        """
        vector = np.asarray(values, np.float64)
        if vector.shape != (self.served.dimension,):
            raise QueryError(f"vector: {len(values)} numbers; expected {self.served.dimension}")
        norm = float(np.linalg.norm(vector))
        if not np.isfinite(norm) or norm == 0:
            raise QueryError(f"vector: norm {norm}; expected finite numbers that are not all 0")
        return np.asarray(vector / norm, np.float32)

    async def search(self, vector: Vector, wanted: Wanted, exclude: frozenset[str] = frozenset()) -> dict[str, Any]:
        """The images of one modality that are most similar to a vector.

        Args:
            vector: float32 [dimension], unit norm.
            wanted: what is asked for.
            exclude: pairs that may not answer.

        Returns:
            A FeatureCollection. Where a shard has no living replica, ``sscm.complete`` is false and the answers are
            those of the others.

        Raises:
            QueryError: target or filters cannot be, or the page is one of another query.
            HttpProblem: no shard answers.
        """
        target, page = wanted.target, wanted.page
        self.served.modality(target, "target")
        restriction = wanted.filters.restriction()
        if restriction is not None and self.served.properties is not None:
            restriction.require_known(self.served.properties, [modality.name for modality in self.served.modalities])
        query = ShardQuery(
            vector=vector, target=target, k=page.end, filter=restriction, exclude=exclude, least=wanted.least
        )
        page.require(digest(query))
        with self.metrics.stage("search"):
            outcomes = await self._ask_all("search", query)
        with self.metrics.stage("merge"):
            answers: list[ShardAnswer] = []
            for outcome in outcomes:
                if not isinstance(outcome, Lost):
                    answers.append(outcome[0])
                    self.metrics.batches.observe(outcome[1], "search")
                    self.metrics.scans.inc(amount=outcome[0].scans)
                    self.metrics.widened.inc(amount=outcome[0].widened)
            hits = merge((answer.hits for answer in answers), page.end)
            items = [with_score(hit.item, hit.score) for hit in hits[page.offset :]]
        matched = sum(answer.matched for answer in answers)
        more = len(hits) == page.end and matched > page.end
        links = page.links(digest(query), self.served.generation) if more else []
        complete = len(answers) == len(self._shards)
        return self.collection(items, matched, target=target, complete=complete, links=links)

    async def search_by_id(self, pair_id: str, modality: str, wanted: Wanted) -> dict[str, Any]:
        """Search with an indexed image as example.

        The pair itself is left out where both modalities are the same, since an image is always most similar to
        itself; across modalities it may answer: finding it is what cross-modal search is for.

        Raises:
            HttpProblem: 404, there is no such pair, or it has no image of that modality.
        """
        vector = await self._embedding_of(pair_id, modality)
        return await self.search(vector, wanted, frozenset({pair_id} if modality == wanted.target else ()))

    async def search_by_examples(
        self, positives: Sequence[Example], negatives: Sequence[Example], modality: str | None, wanted: Wanted
    ) -> dict[str, Any]:
        """Search by several examples; those that are images of the modality searched are left out.

        Args:
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
        found = await asyncio.gather(*(self._embedding_of(*image) for image in images))
        embeddings = dict(zip(images, found, strict=True))
        vectors = [
            np.asarray(vector, np.float64) if pair_id is None else embeddings[pair_id, of]
            for pair_id, of, vector in examples
        ]
        vector = combine_examples(vectors[: len(positives)], vectors[len(positives) :], dimension=self.served.dimension)
        return await self.search(vector, wanted, frozenset(pair_id for pair_id, of in images if of == wanted.target))

    async def _embedding_of(self, pair_id: str, modality: str) -> Vector:
        self.served.modality(modality, "modality")
        found = await self.find(pair_id, modality)
        if found.vector is None:
            raise HttpProblem(404, f"item {pair_id!r} has no image of {modality}")
        return found.vector

    def collection(
        self,
        items: list[dict[str, Any]],
        matched: int,
        *,
        target: str | None,
        complete: bool,
        links: Sequence[Mapping[str, Any]] = (),
    ) -> dict[str, Any]:
        """A FeatureCollection that says which generation and model it comes from."""
        return {
            "type": "FeatureCollection",
            "features": items,
            "numberMatched": matched,
            "numberReturned": len(items),
            "links": list(links),
            "sscm": {
                "generation": self.served.generation,
                "model": {name: self.served.model[name] for name in ("name", "fingerprint")},
                "target": target,
                "simulated": self.served.simulated,
                "complete": complete,
            },
        }

    async def find(self, pair_id: str, modality: str | None = None) -> Found:
        """A pair by its id.

        Raises:
            HttpProblem: 404, there is no such pair; 503, it may be in a shard that does not answer.
        """
        outcomes = await self._ask_all("find", pair_id, modality)
        for found in outcomes:
            if isinstance(found, Found):
                return found
        for lost in outcomes:
            if isinstance(lost, Lost):
                raise lost.problem(f"shard that may hold item {pair_id!r}")
        raise HttpProblem(404, f"item {pair_id!r} is not in generation {self.served.generation} of this index")

    async def sample(self, count: int) -> dict[str, Any]:
        """Pairs drawn at random, each as likely as any other."""
        total = sum(self.served.shard_rows)
        drawn = self._random.choice(total, min(count, total), replace=False)
        starts = np.cumsum((0, *self.served.shard_rows))
        calls = []
        for shard, (low, high) in zip(self._shards, itertools.pairwise(starts), strict=True):
            numbers = [int(n - low) for n in drawn if low <= n < high]
            if numbers:
                calls.append(call(shard, "rows", numbers))
        answers = [pairs for pairs in await self._gather(calls) if not isinstance(pairs, Lost)]
        found = [pair for pairs in answers for pair in pairs]
        items = [found[i].item for i in self._random.permutation(len(found))]
        return self.collection(items, total, target=None, complete=len(answers) == len(calls))

    async def preview(self, pair_id: str, modality: str) -> bytes:
        """A small JPEG of an image, from the archive.

        Raises:
            HttpProblem: 404, there is no such pair, image or picture.
        """
        self.served.modality(modality, "modality")
        found = await self.find(pair_id)
        read = functools.partial(read_preview, self.served.workspace, found.archive_file, found.archive_row, modality)
        try:
            picture = await asyncio.get_running_loop().run_in_executor(self._threads, read)
        except WorkspaceError as error:
            raise HttpProblem(404, f"the archive has no picture of {pair_id!r} any more: {error}") from error
        if picture is None:
            raise HttpProblem(404, f"item {pair_id!r} has no picture of {modality}")
        return picture

    async def readiness(self) -> dict[str, Any]:
        """Whether every encoder and every shard answers, with what each said."""
        names = [*(f"encoder {name}" for name in self._encoders), *(f"shard {i}" for i in range(len(self._shards)))]
        handles = [*self._encoders.values(), *self._shards]
        probes = [asyncio.wait_for(call(handle, "ready"), READY_S) for handle in handles]
        outcomes = await asyncio.gather(*probes, return_exceptions=True)
        failed = [isinstance(outcome, BaseException) for outcome in outcomes]
        told = {name: "does not answer" if bad else "ready" for name, bad in zip(names, failed, strict=True)}
        return {"ready": not any(failed), "generation": self.served.generation, "parts": told}

    async def _ask_all(self, method: str, *args: Any) -> list[Any]:
        """Ask every shard once; what a shard that does not answer gives is a :class:`Lost`.

        Raises:
            HttpProblem: 503 or 504, none of them answers.
        """
        outcomes = await self._gather([call(shard, method, *args) for shard in self._shards])
        lost = [outcome for outcome in outcomes if isinstance(outcome, Lost)]
        if len(lost) == len(outcomes):
            raise lost[0].problem("index shard")
        return outcomes

    async def _gather(self, calls: Sequence[Coroutine[Any, Any, Any]]) -> list[Any]:
        """Outcomes of calls of shards, with :class:`Lost` for those that fail; any other exception is raised."""
        limit = self.deadline_s * SHARE_OF_SHARDS
        outcomes = await asyncio.gather(*(within(limit, waiting) for waiting in calls), return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException) and not isinstance(outcome, Lost):
                raise outcome
        return outcomes


def _replica() -> str:
    """Name of this replica among its like; ``local`` outside Ray Serve."""
    try:
        return str(get_replica_context().replica_id.unique_id)
    except RayServeException:
        return "local"
