"""What an evaluation found: every figure with all that one must know to compare it, and the table for a terminal."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from sscm.evaluation.protocols import METRICS, Direction, Protocol
from sscm.evaluation.protocols import metric as metric_named

FORMAT = 1
TRAINED, UNTRAINED, CHANCE = "trained", "untrained", "chance"
"""What ``sscm evaluate`` calls the encoders it sets side by side; others may have any other name."""
TABLE_COLUMNS = (
    ("partner_recall", 1),
    ("partner_recall", 5),
    ("partner_recall", 10),
    ("median_rank", None),
    ("f1_of_means", 5),
    ("f1_of_means", 10),
    ("mean_pair_f1", 5),
    ("mean_pair_f1", 10),
    ("mean_average_precision", None),
    ("cover_distance", 5),
    ("modality_gap", None),
)
"""What fits a terminal of 80 columns; the JSON file and the report have the rest."""
TABLE_WIDTH = 11
"""Columns that fit a terminal, where a published protocol says which come first."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One measured value with all that one must know to compare it.

    Args:
        encoder: ``trained``, ``untrained``, ``chance``, or any other name of an encoder.
        query_modality: modality of the queries.
        target_modality: modality of the answers.
        metric: name of a :class:`~sscm.evaluation.protocols.Metric`; it tells the variant.
        k: answers looked at, or None.
        value: the figure.
        query_split: split of the queries; for uniformity that of the archive, whose images it is about.
        archive_split: split of the images searched; for alignment that of the queries, whose pairs it is about.
        queries: queries that the figure is a mean of.
        archive: images searched.
        own_pair_excluded: whether a query's own pair could not be an answer.
    """

    encoder: str
    query_modality: str
    target_modality: str
    metric: str
    k: int | None
    value: float
    query_split: str
    archive_split: str
    queries: int
    archive: int
    own_pair_excluded: bool

    @property
    def direction(self) -> Direction:
        """Which modality asks and which answers."""
        return Direction(self.query_modality, self.target_modality)

    def to_json(self) -> dict[str, Any]:
        """A JSON object of all fields, and the direction as text."""
        return {"direction": f"{self.query_modality}->{self.target_modality}", **dataclasses.asdict(self)}


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """All figures of one evaluation.

    Args:
        protocol: which images asked, and which could answer.
        figures: all figures, of all encoders.
        notes: what was left out, and why.
        model: name of the model bundle.
        fingerprint: hexadecimal fingerprint of the model bundle.
        generation: number of the index generation.
        dimension: length of an embedding.
        simulated: whether the images were computed, not observed.
        seed: of the untrained encoder and of chance.
        created: ISO 8601 time.
        code_version: version of sscm.
        report: where the report page lies.
    """

    protocol: Protocol
    figures: tuple[Figure, ...]
    notes: tuple[str, ...] = field(default=())
    model: str
    fingerprint: str
    generation: int
    dimension: int
    simulated: bool
    seed: int
    created: str
    code_version: str
    report: Path | None = None

    @property
    def directions(self) -> tuple[Direction, ...]:
        """Directions measured, in order."""
        return tuple(dict.fromkeys(f.direction for f in self.figures))

    @property
    def encoders(self) -> tuple[str, ...]:
        """Encoders measured: the trained one, others in the order of their figures, the untrained one, chance."""
        place = {TRAINED: 0, UNTRAINED: 2, CHANCE: 3}
        present = dict.fromkeys(f.encoder for f in self.figures)
        return tuple(sorted(present, key=lambda name: place.get(name, 1)))  # stable: others stay in their order

    @property
    def columns(self) -> tuple[tuple[str, int | None], ...]:
        """``(metric, k)`` of all figures, in the order of :data:`~sscm.evaluation.protocols.METRICS`."""
        present = {(f.metric, f.k) for f in self.figures}
        return tuple((m.name, k) for m in METRICS for k in self.protocol.places(m.name) if (m.name, k) in present)

    @property
    def table_columns(self) -> tuple[tuple[str, int | None], ...]:
        """``(metric, k)`` of the table for a terminal: a published protocol's headline at all its k comes first."""
        if self.protocol.name is None:
            return tuple(c for c in TABLE_COLUMNS if c in self.columns)
        first = [c for c in self.columns if c[0] == self.protocol.headline]
        rest = []
        for name in dict.fromkeys(name for name, _ in self.columns if name != self.protocol.headline):
            found = [c for c in self.columns if c[0] == name]
            rest += found if len(found) <= 3 else [found[0], found[1], found[-1]]  # of many k, least and greatest
        return tuple((first + rest)[: max(len(first), TABLE_WIDTH)])

    def figure(self, encoder: str, direction: Direction, metric: str, k: int | None = None) -> Figure | None:
        """One figure, or None where it was not measured."""
        return self._lookup.get((encoder, direction, metric, k))

    def best(self, direction: Direction, metric: str, k: int | None = None) -> float | None:
        """The best value that any encoder, or chance, reached; None where there is none, or the metric is no goal.

        Chance is no rival for the smallest modality gap: embeddings drawn at random know no modality to lie apart by.
        """
        if not metric_named(metric).goal:
            return None
        rivals = [name for name in self.encoders if metric != "modality_gap" or name != CHANCE]
        found = [self.figure(name, direction, metric, k) for name in rivals]
        values = [f.value for f in found if f is not None]
        if not values:
            return None
        return max(values) if metric_named(metric).higher_is_better else min(values)

    @property
    def sizes_text(self) -> str:
        """How many images asked and were searched, direction by direction where that differs."""
        # Alignment and uniformity are about one split's images, whichever ask.
        asked = [f for f in self.figures if metric_named(f.metric).goal]
        sizes = {d: max((f.queries, f.archive) for f in asked if f.direction == d) for d in self.directions}
        if len(set(sizes.values())) == 1:
            queries, archive = next(iter(sizes.values()))
            return f"{queries:,} queries, {archive:,} images searched in every direction"
        return "; ".join(f"{d} {queries:,} queries, {archive:,} searched" for d, (queries, archive) in sizes.items())

    def to_json(self) -> dict[str, Any]:
        """A JSON object with every figure and what it was measured on."""
        return {
            "format": FORMAT,
            "created": self.created,
            "code_version": self.code_version,
            "simulated": self.simulated,
            "model": {"name": self.model, "fingerprint": self.fingerprint, "dimension": self.dimension},
            "generation": self.generation,
            "seed": self.seed,
            "protocol": self.protocol.to_json(),
            "metrics": {m.name: {"text": m.text, "higher_is_better": m.higher_is_better} for m in METRICS},
            "notes": list(self.notes),
            "figures": [f.to_json() for f in self.figures],
        }

    def table(self) -> Table:
        """The main figures for a terminal: directions and encoders down, metrics across, best in bold."""
        columns = self.table_columns
        title = (
            f"{self.protocol.text}\nmodel {self.model}, {self.dimension} dimensions, index generation {self.generation}"
        )
        table = Table(
            title=title + (", simulated images" if self.simulated else ""),
            caption=self._legend(columns),
            box=box.SIMPLE_HEAD,
            padding=0,
            collapse_padding=True,
            pad_edge=False,
            title_justify="left",
            caption_justify="left",
        )
        table.add_column("")
        table.add_column("")
        for name, k in columns:
            table.add_column(metric_named(name).short + (f"\n@{k}" if k else ""), justify="right", no_wrap=True)
        for direction in self.directions:
            for row, encoder in enumerate(self.encoders):
                cells = [self._cell(encoder, direction, name, k) for name, k in columns]
                table.add_row("" if row else str(direction), encoder, *cells)
        return table

    def _cell(self, encoder: str, direction: Direction, metric: str, k: int | None) -> str:
        figure = self.figure(encoder, direction, metric, k)
        if figure is None:
            return ""
        text = short_number(figure.value, metric)
        return f"[bold]{text}[/bold]" if figure.value == self.best(direction, metric, k) else text

    def _legend(self, columns: Sequence[tuple[str, int | None]]) -> str:
        names = dict.fromkeys(name for name, _ in columns)
        meant = "; ".join(f"{metric_named(name).short} {name}" for name in names)
        return "\n".join([meant, self.sizes_text, *self.notes])

    @functools.cached_property
    def _lookup(self) -> Mapping[tuple[str, Direction, str, int | None], Figure]:
        return {(f.encoder, f.direction, f.metric, f.k): f for f in self.figures}


def short_number(value: float, metric: str) -> str:
    """A figure in four or five characters: ranks with one decimal, shares without the zero before the point."""
    if metric == "median_rank":
        return f"{value:.1f}" if value < 1000 else f"{value:.0f}"
    return f"{value:.3f}"[1:] if 0 <= value < 0.9995 else f"{value:.2f}"
