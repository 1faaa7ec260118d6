"""Curves of a training as inline SVG: its losses and the partner recall on the validation split, epoch by epoch."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

LOSSES = {
    "mim": "L_MIM, mutual information maximisation",
    "mde": "L_MDE, modality discrepancy elimination",
    "isp": "L_ISP, intra-modal similarity preservation",
}
"""The three losses of the objective, by their keys in a training record."""
COLOURS = ("#1f5fa8", "#c8501e", "#2b7a3d", "#7a4a9e", "#8a6d00", "#0f7f86")
"""Of lines that share a panel; told apart by people with colour-blindness, and by their markers."""
MARKERS = "osD^vP"


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One panel.

    Args:
        title: what it shows.
        svg: the ``<svg>`` element, without any reference to another file.
    """

    title: str
    svg: str


def training_curves(epochs: Sequence[Mapping[str, Any]]) -> list[Curve]:
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
    return [
        Curve(title=title, svg=_draw(lines, shares=lines is recall)) for title, lines in panels if any(lines.values())
    ]


def _series(epochs: Sequence[Mapping[str, Any]], name: str) -> list[tuple[float, float]]:
    return [(epoch["epoch"], epoch[name]) for epoch in epochs if epoch.get(name) is not None]


def _draw(lines: Mapping[str, Sequence[tuple[float, float]]], shares: bool) -> str:
    """One panel; ``shares`` starts its axis at 0 and names its lines."""
    # Text stays text and takes the page's font; the salt makes the same curves the same bytes.
    style = {"svg.fonttype": "none", "svg.hashsalt": "sscm", "font.family": "sans-serif", "font.size": 11}
    with mpl.rc_context(style):
        figure = Figure(figsize=(5.2, 2.9), layout="constrained")
        axes = figure.add_subplot()
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
        buffer = io.StringIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        FigureCanvasSVG(figure).print_svg(buffer, metadata=nothing)
    text = buffer.getvalue()
    return text[text.index("<svg") :]  # without the prologue, which names a DTD elsewhere
