"""The plot of an experiment: a panel a metric, a line a row, means with their spread, and every seed as a small dot."""

from __future__ import annotations

import io

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from sscm.evaluation.curves import COLOURS, MARKERS
from sscm.evaluation.protocols import metric as metric_named
from sscm.experiment.results import Column, Results
from sscm.experiment.table import shown_columns

DPI = 130
_OFFSET = 0.16
"""Distance of two directions of one row, in rows."""


def plot_png(results: Results) -> bytes:
    """A PNG picture of all columns of the table; directions of one metric share a panel."""
    panels: dict[tuple[bool, str, int | None], list[Column]] = {}
    for column in shown_columns(results):
        first, _, second = column.direction.partition("->")
        panels.setdefault((first == second, column.metric, column.k), []).append(column)
    wide = min(4, max(1, len(panels)))
    high = -(-len(panels) // wide) or 1
    names = [row.name for row in results.rows]
    figure = Figure(figsize=(3.4 * wide + 1.6, (0.34 * len(names) + 1.3) * high), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(high, wide, squeeze=False)
    for axes in grid.flat[len(panels) :]:
        axes.set_axis_off()
    for place, (axes, ((within, metric, k), columns)) in enumerate(zip(grid.flat, panels.items(), strict=False)):
        for number, column in enumerate(columns):
            _draw(axes, results, column, number, (number - (len(columns) - 1) / 2) * _OFFSET)
        known = metric_named(metric)
        at = f"@{k}" if k else ""
        where = "within a modality" if within else "across modalities"
        better = "more" if known.higher_is_better else "less"
        axes.set_title(f"{metric.replace('_', ' ').replace(' f1', ' F1')}{at}\n{where}; {better} is better", fontsize=9)
        axes.set_yticks(range(len(names)), names if place % wide == 0 else [""] * len(names), fontsize=8)
        axes.set_ylim(len(names) - 0.5, -0.5)  # the first row on top
        axes.tick_params(axis="x", labelsize=8)
        axes.grid(color="#e3e3e3", linewidth=0.7)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        if len(columns) > 1:
            axes.legend(fontsize=7, frameon=False, loc="best")
    figure.suptitle(f"{results.name}: mean and standard deviation over seeds, each seed a small dot", fontsize=10)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return buffer.getvalue()


def _draw(axes: object, results: Results, column: Column, number: int, offset: float) -> None:
    colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
    label = column.direction.replace("->", "→")
    for place, row in enumerate(results.rows):
        mean = row.mean(column)
        if mean is None:
            continue
        height = place + offset
        values = row.values[column]
        if len(values) > 1:
            axes.plot(values, [height] * len(values), ".", color=colour, alpha=0.45, markersize=4)  # type: ignore[attr-defined]
        axes.errorbar(  # type: ignore[attr-defined]
            mean, height, xerr=row.spread(column) or 0, fmt=marker, color=colour, markersize=4.5, capsize=2.5,
            linewidth=1.2, label=label,
        )  # fmt: skip
        label = "_"  # one entry of the legend a direction
