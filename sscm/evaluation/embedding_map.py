"""Maps of embeddings of several modalities, before and after training: the same images in the same colours.

t-SNE rather than principal components: what retrieval uses is who is near whom, and that is what it keeps. Two
principal components of a hundred dimensions show the gap between modalities, and little else. The price is that
distances between groups mean nothing, which the report says.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes

from sscm.evaluation.collection import Collection
from sscm.evaluation.drawing import COLOURS, GREY, Panel, draw, shorten
from sscm.evaluation.tsne import Floats, tsne

PAIRS = 300
"""Pairs on a map: two modalities of them are 600 points, which take seconds."""
JOINED = 25
"""Pairs whose partners are joined by a line."""
FEWEST = 8
"""Pairs below which a map shows nothing."""
CLASSES = 6
"""Classes with a colour of their own."""
SHAPES = "o^sD"
"""Markers of the modalities."""

Paint = Callable[[Axes, Floats], None]


def map_panels(collections: Mapping[str, Collection], titles: Mapping[str, str], seed: int) -> list[Panel]:
    """Maps coloured by modality, then, where classes are known, the same maps coloured by class.

    Args:
        collections: title of the map → the same images with one encoder's embeddings.
        titles: modality → what people read; all of them are on the map.
        seed: draws the pairs.

    Returns:
        Panels, those of one colouring beside each other; none where too few pairs have all modalities.
    """
    first = next(iter(collections.values()))
    chosen = sample_pairs(first, list(titles), seed)
    if len(chosen) < FEWEST:
        return []
    places = {
        name: tsne(np.concatenate([images.vectors[modality][chosen] for modality in titles]))
        for name, images in collections.items()
    }
    colourings: list[tuple[str, Paint]] = [("by modality", _by_modality(list(titles.values())))]
    classes = main_classes(first, chosen)
    if classes is not None:
        colourings.append(("by class", _by_class(list(titles.values()), classes)))
    return [
        Panel(title=f"{name}, {what}", svg=_draw(found, paint, _words(found, len(titles), name)))
        for what, paint in colourings
        for name, found in places.items()
    ]


def sample_pairs(images: Collection, modalities: Sequence[str], seed: int) -> npt.NDArray[np.int64]:
    """Rows of at most :data:`PAIRS` images that have all modalities, ascending; the same for the same seed."""
    complete = np.flatnonzero(np.all([images.present[name] for name in modalities], axis=0))
    return np.sort(np.random.default_rng(seed).choice(complete, min(PAIRS, len(complete)), replace=False))


def main_classes(images: Collection, rows: npt.NDArray[np.int64]) -> list[str] | None:
    """One class of each image: what covers most of it, or where areas are unknown its rarest label, which tells most.

    Args:
        images: the collection.
        rows: int64 [n], which images.

    Returns:
        Class names, empty where nothing is known; None where that is so for all.
    """
    if images.cover is not None and images.cover_classes:
        known = images.cover[rows]
        return [
            "" if np.isnan(shares).any() or not shares.any() else images.cover_classes[int(shares.argmax())]
            for shares in known
        ]
    if images.labels is not None and images.classes:
        labels = images.labels[rows]
        often = np.where(labels, labels.sum(axis=0), len(rows) + 1)
        return [images.classes[int(few.argmin())] if own.any() else "" for few, own in zip(often, labels, strict=True)]
    return None


def _by_modality(titles: Sequence[str]) -> Paint:
    def paint(axes: Axes, places: Floats) -> None:
        by_modality = places.reshape(len(titles), -1, 2)
        step = max(1, by_modality.shape[1] // JOINED)
        for pair in by_modality.transpose(1, 0, 2)[::step][:JOINED]:
            axes.plot(*pair.T, color="#1c1f23", linewidth=0.7, alpha=0.55, zorder=1)
        for number, (title, points) in enumerate(zip(titles, by_modality, strict=True)):
            _points(axes, points, number, COLOURS[number % len(COLOURS)], title)
        axes.plot([], [], color="#1c1f23", linewidth=0.7, label="partners")

    return paint


def _by_class(titles: Sequence[str], classes: Sequence[str]) -> Paint:
    names, counts = np.unique([name for name in classes if name], return_counts=True)
    first = [str(name) for name in names[np.argsort(-counts, kind="stable")][:CLASSES]]

    def paint(axes: Axes, places: Floats) -> None:
        for number, points in enumerate(places.reshape(len(titles), -1, 2)):
            rest = np.array([name not in first for name in classes])
            _points(axes, points[rest], number, "#c9ced4", None)
            for place, name in enumerate(first):
                mine = np.array([one == name for one in classes])
                _points(axes, points[mine], number, COLOURS[place], shorten(name) if number == 0 else None)
        if set(classes) - set(first):
            axes.plot([], [], SHAPES[0], color="#c9ced4", markersize=5.5, label="other or unknown")
        for number, title in enumerate(titles):
            axes.plot([], [], SHAPES[number % len(SHAPES)], color=GREY, markersize=5.5, label=title)

    return paint


def _points(axes: Axes, points: Floats, number: int, colour: str, label: str | None) -> None:
    axes.plot(
        *points.T,
        SHAPES[number % len(SHAPES)],
        color=colour,
        markersize=5.5,
        markeredgecolor="white",
        markeredgewidth=0.4,
        label=label,
        zorder=2,
    )


def _draw(places: Floats, paint: Paint, alt: str) -> str:
    def painted(axes: Axes) -> None:
        paint(axes, places)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_color("#dfe3e8")
        axes.legend(
            frameon=False,
            loc="upper center",
            bbox_to_anchor=(0.5, -0.01),
            ncols=2,
            handletextpad=0.4,
            columnspacing=1.2,
        )

    return draw(6.4, 5.8, alt, painted)


def _words(places: Floats, modalities: int, name: str) -> str:
    """What a map shows, in words: how far partners lie apart, as a share of how far any two points do."""
    by_modality = places.reshape(modalities, -1, 2)
    partners = np.linalg.norm(by_modality[0] - by_modality[1:], axis=2).mean() if modalities > 1 else 0.0
    anything = np.linalg.norm(by_modality[0][:, None] - by_modality[-1][None], axis=2).mean()
    return (
        f"Map of {by_modality.shape[1]} pairs, {name}: on it partners lie on average "
        f"{partners / max(float(anything), 1e-12):.0%} as far apart as any two images of the modalities"
    )
