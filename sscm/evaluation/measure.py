"""Measure retrieval of one set of images from another: arrays in, figures out; nothing here reads a file."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from sscm.errors import EvaluationError
from sscm.evaluation import geometry, metrics, relevance
from sscm.evaluation.collection import Collection, own_rows, partner_ranks_of
from sscm.evaluation.figures import Figure
from sscm.evaluation.protocols import METRICS, Direction, Metric, Protocol, directions
from sscm.evaluation.protocols import metric as metric_named

__all__ = ["Collection", "measure", "measure_chance"]


def measure(
    queries: Collection, archive: Collection, modalities: Sequence[str], protocol: Protocol, encoder: str
) -> tuple[list[Figure], list[str]]:
    """All figures of all directions between some modalities.

    What cannot be measured (labels unknown, more answers asked for than there are) is left out, never zero.

    Args:
        queries: the images that ask.
        archive: the images searched; labels and fractions in the same columns as the queries'.
        modalities: names of the modalities.
        protocol: which pairs may answer.
        encoder: what to call the encoder in the figures; any name.

    Returns:
        Figures in the order of directions and metrics, and notes on what was left out and why.

    Raises:
        EvaluationError: a direction has no query or nothing to search.
    """
    found: list[Figure] = []
    notes: dict[str, None] = {}  # ordered, each once
    own = own_rows(queries, archive)
    for direction in directions(modalities):
        trial = _Trial(queries, archive, own, direction, protocol, encoder)
        found += trial.partners(notes)
        found += trial.labels(notes)
        found += trial.covers(notes)
        found += trial.geometry(notes)
    order = {m.name: place for place, m in enumerate(METRICS)}
    placed = {direction: place for place, direction in enumerate(directions(modalities))}
    found.sort(key=lambda f: (placed[f.direction], order[f.metric], f.k or 0))
    return found, list(notes)


def measure_chance(
    queries: Collection, archive: Collection, modalities: Sequence[str], protocol: Protocol, seed: int
) -> list[Figure]:
    """The same figures for a random order: closed forms for partner ranks, random embeddings for the rest.

    Args:
        queries: as of :func:`measure`.
        archive: as of :func:`measure`.
        modalities: names of the modalities.
        protocol: which pairs may answer.
        seed: of the random embeddings.
    """
    rng = np.random.default_rng(seed)
    drawn: dict[str, dict[str, npt.NDArray[np.float32]]] = {}  # pair id → modality → vector, one for both splits

    def random(collection: Collection) -> Collection:
        vectors = {}
        for name in modalities:
            width = collection.vectors[name].shape[1]
            for pair_id in collection.ids:
                mine = drawn.setdefault(pair_id, {})
                if name not in mine:
                    mine[name] = rng.standard_normal((width,), np.float32)
            stacked = np.stack([drawn[pair_id][name] for pair_id in collection.ids])
            vectors[name] = np.asarray(stacked / np.linalg.norm(stacked, axis=1, keepdims=True), np.float32)
        return dataclasses.replace(collection, vectors=vectors)

    figures, _ = measure(random(queries), random(archive), modalities, protocol, "chance")
    closed: dict[str, Callable[[Figure], float]] = {
        "partner_recall": lambda f: metrics.chance_recall(f.archive, f.k or 1),
        "median_rank": lambda f: metrics.chance_median_rank(f.archive),
    }
    return [dataclasses.replace(f, value=closed[f.metric](f)) if f.metric in closed else f for f in figures]


class _Trial:
    """One direction: the rows that take part in it, and its figures."""

    def __init__(
        self,
        queries: Collection,
        archive: Collection,
        own: npt.NDArray[np.int64],
        direction: Direction,
        protocol: Protocol,
        encoder: str,
    ) -> None:
        self.queries, self.archive, self.own = queries, archive, own
        self.direction, self.protocol, self.encoder = direction, protocol, encoder
        self.asking = queries.present[direction.query]
        self.searched = archive.present[direction.target]
        for what, rows, split, name in (
            ("queries", self.asking, protocol.query_split, direction.query),
            ("archive images", self.searched, protocol.archive_split, direction.target),
        ):
            if not rows.any():
                raise EvaluationError(
                    f"{direction}: no {what}: split {split!r} has no image of modality {name}; choose another split"
                )

    def partners(self, notes: dict[str, None]) -> list[Figure]:
        """Partner recall and median rank, across modalities, where queries have their partner in the archive."""
        if not self.direction.crosses:
            return []
        found = partner_ranks_of(self.queries, self.archive, self.direction, self.own)
        if found is None:
            notes["partner recall left out: the queries' partners are not in the archive split"] = None
            return []
        ranks, searched = found
        figures = [
            self._figure(metric_named("partner_recall"), k, metrics.recall_at(ranks, k), len(ranks), searched, False)
            for k in self.protocol.places("partner_recall")
            if k is not None
        ]
        value = metrics.median_rank(ranks)
        return [*figures, self._figure(metric_named("median_rank"), None, value, len(ranks), searched, False)]

    def labels(self, notes: dict[str, None]) -> list[Figure]:
        """F1s, precision and mean average precisions among the images that have labels."""
        if self.queries.labels is None or self.archive.labels is None:
            notes["label metrics left out: the images have no labels"] = None
            return []
        here = self.asking & self.queries.labels.any(axis=1)
        there = self.searched & self.archive.labels.any(axis=1)
        if not here.any() or not there.any():
            notes["label metrics left out: no query, or no archive image, has labels"] = None
            return []
        bare = int((self.asking & ~here).sum()), int((self.searched & ~there).sum())
        if any(bare):
            notes[
                f"{self.direction}: {bare[0]} queries and {bare[1]} archive images without labels take no part in "
                "label metrics"
            ] = None
        asking, searched, own = self._select(here, there)
        of_queries, of_archive = self.queries.labels[here], self.archive.labels[there]
        judges = {
            "f1_of_means": relevance.f1_of_means,
            "mean_pair_f1": relevance.mean_pair_f1,
            "f1_at_rank": relevance.f1_at_rank,
            "precision": relevance.precision_at_k,
            "mean_average_precision": relevance.average_precision_at_k,
        }
        figures = self._at_each_k(asking, searched, own, judges, of_queries, of_archive, notes)
        excluded, barred = self._excluded(own)
        value = metrics.mean_average_precision(asking, searched, of_queries, of_archive, excluded)
        if value is None:
            notes[f"{self.direction}: mean average precision left out: no query has a relevant image"] = None
            return figures
        figures.append(
            self._figure(metric_named("mean_average_precision"), None, value, len(asking), len(searched), barred)
        )
        return figures

    def covers(self, notes: dict[str, None]) -> list[Figure]:
        """Cover distance among the images whose class fractions are known."""
        if self.queries.cover is None or self.archive.cover is None:
            return []
        here = self.asking & ~np.isnan(self.queries.cover).any(axis=1)
        there = self.searched & ~np.isnan(self.archive.cover).any(axis=1)
        if not here.any() or not there.any():
            notes["cover distance left out: no query, or no archive image, has known class fractions"] = None
            return []
        asking, searched, own = self._select(here, there)
        judges = {"cover_distance": relevance.cover_distance}
        return self._at_each_k(
            asking, searched, own, judges, self.queries.cover[here], self.archive.cover[there], notes
        )

    def geometry(self, notes: dict[str, None]) -> list[Figure]:
        """Modality gap and alignment across modalities, uniformity within one."""
        if not self.direction.crosses:
            images = self.archive.vectors[self.direction.target][self.searched]
            if len(images) < 2:
                notes[f"{self.direction}: uniformity left out: the archive has one image"] = None
                return []
            value = geometry.uniformity(images)
            figure = self._figure(metric_named("uniformity"), None, value, len(images), len(images), False)
            return [dataclasses.replace(figure, query_split=self.protocol.archive_split)]
        asking, searched, _ = self._select(self.asking, self.searched)
        value = geometry.modality_gap(asking, searched)
        figures = [self._figure(metric_named("modality_gap"), None, value, len(asking), len(searched), False)]
        pairs = self.asking & self.queries.present[self.direction.target]
        if not pairs.any():
            notes[f"{self.direction}: alignment left out: no query has its partner"] = None
            return figures
        first, second = (self.queries.vectors[name][pairs] for name in (self.direction.query, self.direction.target))
        value = geometry.alignment(first, second)
        figure = self._figure(metric_named("alignment"), None, value, len(first), len(second), False)
        return [*figures, dataclasses.replace(figure, archive_split=self.protocol.query_split)]

    def _select(
        self, here: npt.NDArray[np.bool_], there: npt.NDArray[np.bool_]
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        """Vectors of the chosen queries and archive rows, and each query's own row among the latter (−1: none)."""
        renumbered = np.where(there, np.cumsum(there) - 1, -1)
        own = self.own[here]
        own = np.where(own >= 0, renumbered[own], -1)
        return self.queries.vectors[self.direction.query][here], self.archive.vectors[self.direction.target][there], own

    def _excluded(self, own: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64] | None, bool]:
        """The rows that queries may not find, and whether the protocol bars them."""
        barred = self.protocol.excludes_own_pair(self.direction)
        return (own if barred and (own >= 0).any() else None), barred

    def _at_each_k(
        self,
        asking: npt.NDArray[np.float32],
        searched: npt.NDArray[np.float32],
        own: npt.NDArray[np.int64],
        judges: Mapping[str, Callable[[Any, Any, npt.NDArray[np.int64]], float]],
        of_queries: npt.NDArray[Any],
        of_archive: npt.NDArray[Any],
        notes: dict[str, None],
    ) -> list[Figure]:
        """Figures of metrics that judge the first k answers by what is known of query and answer."""
        excluded, barred = self._excluded(own)
        findable = len(searched) - (excluded is not None)
        wanted = [name for name in judges if name in self.protocol.at_ks]
        ks = self.protocol.ks if wanted else ()
        possible = [k for k in ks if k <= findable]
        if len(possible) < len(ks):
            missing = ", ".join(map(str, ks[len(possible) :]))
            notes[f"{self.direction}: {findable} images to find, too few for k = {missing}"] = None
        if not possible:
            return []
        _, answers = metrics.top_k(asking, searched, possible[-1], excluded)
        return [
            self._figure(
                metric_named(name),
                k,
                judges[name](of_queries, of_archive, answers[:, :k]),
                len(asking),
                len(searched),
                barred,
            )
            for name in wanted
            for k in possible
        ]

    def _figure(
        self, metric: Metric, k: int | None, value: float, queries: int, archive: int, own_pair_excluded: bool
    ) -> Figure:
        return Figure(
            encoder=self.encoder,
            query_modality=self.direction.query,
            target_modality=self.direction.target,
            metric=metric.name,
            k=k,
            value=value,
            query_split=self.protocol.query_split,
            archive_split=self.protocol.archive_split,
            queries=queries,
            archive=archive,
            own_pair_excluded=own_pair_excluded,
        )
