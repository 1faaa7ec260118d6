"""Partner recall by the number of answers looked at, all encoders beside chance."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, PercentFormatter

from sscm.evaluation.collection import Collection, partner_ranks_of
from sscm.evaluation.drawing import COLOURS, GREY, Panel, draw
from sscm.evaluation.metrics import chance_recall
from sscm.evaluation.protocols import Direction

STEPS = 120
"""Numbers of answers that a curve is drawn at, at most: equal steps of a logarithmic axis."""


def recall_panel(shown: Mapping[str, tuple[Collection, Collection]], direction: Direction, title: str) -> Panel | None:
    """Partner recall@k of all encoders for k from 1 to all images, and of a random order.

    Args:
        shown: encoder → queries and archive with its embeddings.
        direction: across modalities.
        title: the direction as people read it.

    Returns:
        The panel; None where the queries' partners are not in the archive.
    """
    curves: dict[str, npt.NDArray[np.float64]] = {}
    ks: npt.NDArray[np.int64] = np.ones(1, np.int64)
    for name, (queries, archive) in shown.items():
        found = partner_ranks_of(queries, archive, direction)
        if found is None:
            return None
        ranks, searched = found
        ks = curve_ks(searched)
        curves[name] = recall_curve(ranks, ks)
    curves["chance"] = np.array([chance_recall(int(ks[-1]), int(k)) for k in ks])

    def paint(axes: Axes) -> None:
        for number, (name, values) in enumerate(curves.items()):
            chance = name == "chance"
            colour = GREY if chance else COLOURS[number % len(COLOURS)]
            axes.step(
                ks, values, where="post", color=colour, linewidth=1.8, linestyle="--" if chance else "-", label=name
            )
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda k, _: f"{k:,.0f}"))
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        axes.set_xlim(1, max(2, int(ks[-1])))
        axes.set_ylim(0, 1.02)
        axes.set_xlabel("answers looked at, k")
        axes.set_ylabel("queries with their partner")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#e3e3e3", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.legend(frameon=False, loc="upper left")

    at = [k for k in (1, 10, 100) if k <= ks[-1]]
    last = np.searchsorted(ks, at, side="right") - 1  # the curve is drawn at few k: the greatest up to each
    words = "; ".join(
        f"{name} " + ", ".join(f"{value:.1%} at {k}" for k, value in zip(at, values[last], strict=True))
        for name, values in curves.items()
    )
    return Panel(title=title, svg=draw(5.2, 3.6, f"Partner recall by number of answers, {title}: {words}", paint))


def curve_ks(images: int) -> npt.NDArray[np.int64]:
    """Numbers of answers from 1 to all, ascending, in about equal steps of their logarithm."""
    return np.unique(np.geomspace(1, images, STEPS).round().astype(np.int64))


def recall_curve(ranks: npt.NDArray[np.int64], ks: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Partner recall at each k.

    Args:
        ranks: int64 [q], 1 = first.
        ks: int64 [n].

    Returns:
        float64 [n], ascending where k is.
    """
    return np.searchsorted(np.sort(ranks), ks, side="right") / len(ranks)
