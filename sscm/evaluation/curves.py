"""Curves of a training as inline SVG: its losses and the partner recall on the validation split, epoch by epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from sscm.evaluation.drawing import COLOURS, MARKERS, Panel, draw

__all__ = ["COLOURS", "LOSSES", "MARKERS", "training_curves"]

LOSSES = {
    "mim": "L_MIM, mutual information maximisation",
    "mde": "L_MDE, modality discrepancy elimination",
    "isp": "L_ISP, intra-modal similarity preservation",
}
"""The three losses of the objective, by their keys in a training record."""


def training_curves(epochs: Sequence[Mapping[str, Any]]) -> list[Panel]:
    """Panels of a training record.

    Args:
        epochs: ``record["epochs"]`` of a model bundle: ``epoch``, ``loss``, ``mim``, ``mde``, ``isp`` and, where there
            was a validation split, ``validation``: ``<query>-><target>`` → ``recall@10``.

    Returns:
        The joint loss, the three losses one by one, and recall@10; a panel without values is left out.
    """
    panels = [("Joint loss", {"loss": _series(epochs, "loss")})]
    panels += [(title, {name: _series(epochs, name)}) for name, title in LOSSES.items()]
    recall: dict[str, list[tuple[float, float]]] = {}
    for epoch in epochs:
        for direction, values in (epoch.get("validation") or {}).items():
            label = direction.replace("->", "→")
            recall.setdefault(label, []).append((epoch["epoch"], values["recall@10"]))
    panels.append(("Partner recall@10 on the validation split", recall))
    return [_panel(title, lines, shares=lines is recall) for title, lines in panels if any(lines.values())]


def _series(epochs: Sequence[Mapping[str, Any]], name: str) -> list[tuple[float, float]]:
    return [(epoch["epoch"], epoch[name]) for epoch in epochs if epoch.get(name) is not None]


def _panel(title: str, lines: Mapping[str, Sequence[tuple[float, float]]], shares: bool) -> Panel:
    """One panel; ``shares`` starts its axis at 0 and names its lines."""

    def paint(axes: Axes) -> None:
        for number, (name, points) in enumerate(lines.items()):
            colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
            x, y = zip(*points, strict=True)
            axes.plot(x, y, color=colour, marker=marker, markersize=3.5, linewidth=1.6, label=name)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#e3e3e3", linewidth=0.8)
        axes.set_axisbelow(True)
        if shares:
            axes.set_ylim(bottom=0)
            axes.legend(frameon=False)

    ends = "; ".join(f"{name} from {points[0][1]:.3g} to {points[-1][1]:.3g}" for name, points in lines.items())
    return Panel(title=title, svg=draw(5.2, 2.9, f"{title} by epoch: {ends}", paint))
