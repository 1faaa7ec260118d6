"""Panels of the report: inline SVG that asks nothing of any server, with words for those who do not see it."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from html import escape

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

COLOURS = ("#1f5fa8", "#c8501e", "#2b7a3d", "#7a4a9e", "#8a6d00", "#0f7f86")
"""Of what shares a panel; told apart by people with colour-blindness, and by their markers."""
MARKERS = "osD^vP"
GREY = "#8b929a"
"""Of what is only there to compare with."""
NAME_LENGTH = 28
"""Characters of a class name that a panel has room for."""

# Text stays text and takes the page's font; the salt makes the same panel the same bytes.
_STYLE = {"svg.fonttype": "none", "svg.hashsalt": "sscm", "font.family": "sans-serif", "font.size": 11}


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One picture with its title.

    Args:
        title: what it shows.
        svg: the ``<svg>`` element, without any reference to another file.
    """

    title: str
    svg: str


def draw(width: float, height: float, alt: str, paint: Callable[[Axes], None]) -> str:
    """An ``<svg>`` element.

    Args:
        width: inches at 72 pixels each.
        height: likewise.
        alt: what the picture says, in words.
        paint: draws on the only axes.
    """
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        paint(figure.add_subplot())
        buffer = io.StringIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        FigureCanvasSVG(figure).print_svg(buffer, metadata=nothing)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]  # without the prologue, which names a DTD elsewhere
    return text.replace("<svg ", f'<svg role="img" aria-label="{escape(alt)}" ', 1)


def shorten(name: str) -> str:
    """A class name of at most :data:`NAME_LENGTH` characters."""
    return name if len(name) <= NAME_LENGTH else name[: NAME_LENGTH - 1].rstrip(" ,") + "…"
