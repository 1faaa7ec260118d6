"""What an experiment found: rows of figures, each with its values by seed, and what of them is missing."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sscm.evaluation.protocols import Direction, directions
from sscm.evaluation.protocols import metric as metric_named
from sscm.experiment.spec import Adapt
from sscm.experiment.trials import Trial

CROSS = (
    ("partner_recall", 10),
    ("mean_pair_f1", 5),
    ("mean_average_precision", None),
    ("cover_distance", 5),
    ("modality_gap", None),
)
"""Metrics of the table for directions across modalities."""
WITHIN = (("mean_pair_f1", 5), ("mean_average_precision", None), ("cover_distance", 5))
"""The same for directions within one."""


ADDED: Mapping[Adapt, str] = {"none": "", "centre": ", centred", "statistics": ", statistics adapted"}
"""What the name of a row has added to the run's or baseline's, by how its encoders are adapted."""


@dataclass(frozen=True, order=True)
class Column:
    """One column of the table.

    Args:
        direction: ``query->target``; empty where it is the same for both.
        metric: name of the metric.
        k: answers looked at, or None.
    """

    direction: str
    metric: str
    k: int | None

    @property
    def title(self) -> str:
        """Head of the column, with an arrow where less is better."""
        known = {"partner_recall": "recall", "mean_average_precision": "mAP", "mean_pair_f1": "F1"}
        name = known.get(self.metric, self.metric.replace("_", " "))
        at = f"@{self.k}" if self.k else ""
        better = "" if metric_named(self.metric).higher_is_better else " ↓"
        return f"{self.direction.replace('->', '→')} {name}{at}{better}".strip()


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of the table.

    Args:
        name: run or baseline, and how adapted.
        kind: kind of its trials.
        seeds: seeds that are there.
        missing: what is not: ``seed 2: why``.
        values: column → one value a seed.
        train_seconds: seconds of training of each seed.
    """

    name: str
    kind: str
    seeds: tuple[int, ...]
    missing: tuple[str, ...] = ()
    values: Mapping[Column, tuple[float, ...]] = field(default_factory=dict)
    train_seconds: tuple[float, ...] = ()

    def mean(self, column: Column) -> float | None:
        """Mean over seeds; None where there is no value."""
        found = self.values.get(column)
        return statistics.fmean(found) if found else None

    def spread(self, column: Column) -> float | None:
        """Sample standard deviation over seeds; None for fewer than two."""
        found = self.values.get(column, ())
        return statistics.stdev(found) if len(found) > 1 else None


@dataclass(frozen=True, kw_only=True)
class Results:
    """All rows of an experiment.

    Args:
        name: of the experiment.
        header: what the figures were made of: label → text.
        columns: of the table.
        rows: of the table.
        notes: what was left out of the figures, and why.
    """

    name: str
    header: Mapping[str, str]
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()

    @property
    def missing(self) -> list[str]:
        """Row by row, what is not there."""
        return [f"{row.name}, {each}" for row in self.rows for each in row.missing]

    def best(self, column: Column) -> Row | None:
        """The row of the best mean.

        Chance is no rival for the smallest modality gap: embeddings drawn at random know no modality to lie apart by.
        """
        rivals = [row for row in self.rows if column.metric != "modality_gap" or row.kind != "chance"]
        found = [(mean, place) for place, row in enumerate(rivals) if (mean := row.mean(column)) is not None]
        if not found:
            return None
        sign = 1 if metric_named(column.metric).higher_is_better else -1
        return rivals[max(found, key=lambda each: (sign * each[0], -each[1]))[1]]

    def to_json(self) -> dict[str, Any]:
        """A JSON object of everything."""
        return {
            "format": 1,
            "name": self.name,
            "header": dict(self.header),
            "notes": list(self.notes),
            "missing": self.missing,
            "rows": [
                {
                    "name": row.name,
                    "kind": row.kind,
                    "seeds": list(row.seeds),
                    "missing": list(row.missing),
                    "train_seconds": list(row.train_seconds),
                    "figures": [
                        {
                            "direction": column.direction,
                            "metric": column.metric,
                            "k": column.k,
                            "higher_is_better": metric_named(column.metric).higher_is_better,
                            "mean": row.mean(column),
                            "std": row.spread(column),
                            "values": list(values),
                        }
                        for column, values in row.values.items()
                    ],
                }
                for row in self.rows
            ],
        }


def table_columns(modalities: Sequence[str]) -> tuple[Column, ...]:
    """Columns of the table: metrics across modalities, each in all directions, then those within."""
    known = directions(modalities)
    columns: dict[Column, None] = {}
    for chosen, crosses in ((CROSS, True), (WITHIN, False)):
        for name, k in chosen:
            for direction in known:
                if direction.crosses == crosses:
                    columns[column_of(direction, name, k)] = None
    return tuple(columns)


def column_of(direction: Direction, metric: str, k: int | None) -> Column:
    """The column of a figure; a modality gap is the same both ways, and stands once."""
    names = sorted((direction.query, direction.target)) if metric == "modality_gap" else None
    return Column("–".join(names) if names else f"{direction.query}->{direction.target}", metric, k)


def make_rows(
    trials: Sequence[Trial], results: Mapping[str, Mapping[str, Any]], failed: Mapping[str, str]
) -> tuple[Row, ...]:
    """Rows of trials, runs first, baselines last, adapted ones after those that are not.

    Args:
        trials: all that the table should have.
        results: key → result of those that are there.
        failed: key → why a trial failed.
    """
    order = {"train": 0, "untrained": 1, "spectrum": 2, "chance": 3}
    grouped: dict[tuple[str, Adapt], list[Trial]] = {}
    for trial in sorted(trials, key=lambda each: order[each.kind]):
        for adapt in trial.adapt:
            grouped.setdefault((trial.row, adapt), []).append(trial)
    return tuple(_row(name, adapt, group, results, failed) for (name, adapt), group in grouped.items())


def _row(
    name: str,
    adapt: Adapt,
    trials: Sequence[Trial],
    results: Mapping[str, Mapping[str, Any]],
    failed: Mapping[str, str],
) -> Row:
    there = [trial for trial in trials if trial.key in results]
    values: dict[Column, list[float]] = {}
    for trial in there:
        evaluation = next(each for each in results[trial.key]["evaluations"] if each["adapt"] == adapt)
        seen = set()
        for figure in evaluation["figures"]:
            direction = Direction(figure["query_modality"], figure["target_modality"])
            column = column_of(direction, figure["metric"], figure["k"])
            if column not in seen:
                seen.add(column)
                values.setdefault(column, []).append(float(figure["value"]))
    return Row(
        name=name + ADDED[adapt],
        kind=trials[0].kind,
        seeds=tuple(trial.seed for trial in there),
        missing=tuple(
            f"seed {trial.seed}: {failed.get(trial.key, 'not run yet')}" for trial in trials if trial not in there
        ),
        values={column: tuple(found) for column, found in values.items()},
        train_seconds=tuple(float(results[trial.key]["train_seconds"]) for trial in there if trial.kind == "train"),
    )
