"""What the report shows beside figures: recall by answers, maps of embeddings, confusion of classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sscm.evaluation.collection import Collection
from sscm.evaluation.confusion import confusion, confusion_panel
from sscm.evaluation.drawing import Panel
from sscm.evaluation.embedding_map import JOINED, map_panels
from sscm.evaluation.figures import TRAINED, UNTRAINED
from sscm.evaluation.protocols import Protocol, directions
from sscm.evaluation.recall_curves import recall_panel

MAP_TITLES = {UNTRAINED: "Before training", TRAINED: "After training"}
"""Encoders on the maps, in this order."""


@dataclass(frozen=True, kw_only=True)
class Exhibit:
    """One section of the report.

    Args:
        heading: its title.
        text: how to read it.
        panels: its pictures.
        columns: panels beside each other where there is room.
    """

    heading: str
    text: str
    panels: tuple[Panel, ...]
    columns: int = 2


def make_exhibits(
    shown: Mapping[str, tuple[Collection, Collection]], titles: Mapping[str, str], protocol: Protocol, seed: int
) -> list[Exhibit]:
    """The sections that these images have something for.

    Args:
        shown: encoder → queries and archive with its embeddings; the trained one among them.
        titles: modality → what people read.
        protocol: which pairs may answer, and how many answers are looked at.
        seed: draws the pairs of the maps.
    """
    across = {d: f"{titles[d.query]} → {titles[d.target]}" for d in directions(list(titles)) if d.crosses}
    recalls = [recall_panel(shown, direction, title) for direction, title in across.items()]
    archives = {title: shown[name][1] for name, title in MAP_TITLES.items() if name in shown}
    k = protocol.ks[0]
    confusions = [
        confusion_panel(found, title, k)
        for direction, title in across.items()
        if (found := confusion(*shown[TRAINED], direction, protocol)) is not None
    ]
    own = " The query's own pair is left out." if protocol.same_split and protocol.exclude_self else ""
    exhibits = [
        Exhibit(
            heading="Partner recall by number of answers",
            text="Share of queries whose own partner is among the first k answers; the axis of k is logarithmic. The "
            "sooner a curve rises above chance, the fewer answers one must look at.",
            panels=tuple(panel for panel in recalls if panel is not None),
        ),
        Exhibit(
            heading="Maps of the embeddings",
            text=f"Images of split {protocol.archive_split} of all modalities, placed so that neighbours among their "
            "embeddings are neighbours on the map (t-SNE); the same pairs in every map. Modalities that mix are good, "
            f"and short lines between partners, of which {JOINED} are joined. Distances between groups mean nothing. "
            "An image's class is the one that covers most of it, or its rarest label where areas are "
            "unknown.",
            panels=tuple(map_panels(archives, titles, seed)) if len(titles) > 1 else (),
            columns=max(1, len(archives)),
        ),
        Exhibit(
            heading="Confusion of classes",
            text=f"What the first {k} answers of the trained encoder have for each label of their query, in % of the "
            "row: the label itself on the diagonal, or what the answer has instead of it, shared evenly where that is "
            f"several labels. Answers with exactly their query's labels give 100 on the diagonal.{own}",
            panels=tuple(confusions),
            columns=1,
        ),
    ]
    return [exhibit for exhibit in exhibits if exhibit.panels]
