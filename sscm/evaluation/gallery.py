"""Pictures of retrieval: rows of a query and its first answers in the other modality, relevance marked."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from sscm.evaluation import metrics
from sscm.evaluation.collection import Collection
from sscm.evaluation.protocols import Direction, directions
from sscm.workspace import ARCHIVE, Workspace, open_workspace

QUERIES = 8
"""Queries shown in each direction."""
ANSWERS = 10
"""Answers shown to each query."""

PARTNER = "#d4a017"
RELEVANT = "#1a9641"
OTHER = "#d9d9d9"
"""Frames of the query's own partner, of an answer that shares a label, and of the rest."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a pair lies in the archive.

    Args:
        file: shard, relative to ``archive/``.
        row: row in it.
        labels: class names, empty where unknown.
    """

    file: str
    row: int
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One picture of the gallery.

    Args:
        pair_id: the pair.
        picture: JPEG bytes, or None where the archive has none.
        labels: class names, empty where unknown.
        score: cosine to the query; None for a query.
        partner: whether it is the query's own pair.
        relevant: whether it shares a label with the query; False where labels are unknown.
    """

    pair_id: str
    picture: bytes | None
    labels: tuple[str, ...] = ()
    score: float | None = None
    partner: bool = False
    relevant: bool = False

    @property
    def colour(self) -> str:
        """Colour of its frame."""
        return PARTNER if self.partner else RELEVANT if self.relevant else OTHER


@dataclass(frozen=True, kw_only=True)
class GalleryRow:
    """A query and its answers, best first.

    Args:
        direction: modality of the query, modality of the answers.
        query: the query.
        answers: the answers.
    """

    direction: Direction
    query: Shown
    answers: tuple[Shown, ...]


def gallery_rows(
    workspace: Workspace,
    queries: Collection,
    archive: Collection,
    places: Mapping[str, Place],
    modalities: Sequence[str],
    seed: int,
    count: int = QUERIES,
) -> list[GalleryRow]:
    """Rows of some queries in each direction across modalities; the same queries for the same seed.

    Nothing is excluded: a query's own partner is among the answers where it was found.

    Args:
        workspace: where the archive with the previews is.
        queries: the images that ask.
        archive: the images searched.
        places: pair id → where its previews lie, for all pairs of both collections.
        modalities: names of the modalities.
        seed: draws the queries.
        count: queries in each direction.
    """
    drafts: list[tuple[Direction, str, list[tuple[str, float]]]] = []
    for direction in directions(modalities):
        if not direction.crosses:
            continue
        asking = np.flatnonzero(queries.present[direction.query])
        # A query whose partner is there to be found shows most; direction by direction the same pairs.
        asking = asking[queries.present[direction.target][asking]] if len(asking) else asking
        searched = np.flatnonzero(archive.present[direction.target])
        if not len(asking) or not len(searched):
            continue
        chosen = np.sort(np.random.default_rng(seed).choice(asking, min(count, len(asking)), replace=False))
        scores, rows = metrics.top_k(
            queries.vectors[direction.query][chosen],
            archive.vectors[direction.target][searched],
            min(ANSWERS, len(searched)),
        )
        for query, query_scores, query_rows in zip(chosen, scores, searched[rows], strict=True):
            found = [(archive.ids[row], float(score)) for row, score in zip(query_rows, query_scores, strict=True)]
            drafts.append((direction, queries.ids[query], found))
    wanted = {(d.query, pair_id) for d, pair_id, _ in drafts}
    wanted |= {(d.target, answer) for d, _, found in drafts for answer, _ in found}
    pictures = read_previews(workspace, wanted, places)
    return [
        GalleryRow(
            direction=direction,
            query=Shown(
                pair_id=pair_id, picture=pictures.get((direction.query, pair_id)), labels=places[pair_id].labels
            ),
            answers=tuple(
                Shown(
                    pair_id=answer,
                    picture=pictures.get((direction.target, answer)),
                    labels=places[answer].labels,
                    score=score,
                    partner=answer == pair_id,
                    relevant=not set(places[answer].labels).isdisjoint(places[pair_id].labels),
                )
                for answer, score in found
            ),
        )
        for direction, pair_id, found in drafts
    ]


def read_previews(
    workspace: Workspace, wanted: Iterable[tuple[str, str]], places: Mapping[str, Place]
) -> dict[tuple[str, str], bytes]:
    """Previews of some images, reading only the row groups and columns that hold them.

    Args:
        workspace: where the archive is.
        wanted: ``(modality, pair id)`` of each.
        places: pair id → where it lies.

    Returns:
        ``(modality, pair id)`` → JPEG bytes; images without a preview are left out.

    Raises:
        WorkspaceError: a shard is not there or cannot be read.
    """
    by_file: dict[str, list[tuple[str, str]]] = {}
    for modality, pair_id in sorted(wanted):
        by_file.setdefault(places[pair_id].file, []).append((modality, pair_id))
    found: dict[tuple[str, str], bytes] = {}
    for file, images in by_file.items():
        with workspace.parquet(ARCHIVE, *file.split("/")) as shard:
            sizes = [shard.metadata.row_group(i).num_rows for i in range(shard.num_row_groups)]
            ends = np.cumsum(sizes)
            groups: dict[int, list[tuple[str, str]]] = {}
            for image in images:
                groups.setdefault(int(np.searchsorted(ends, places[image[1]].row, side="right")), []).append(image)
            for group, members in groups.items():
                columns = sorted({f"preview_{modality}" for modality, _ in members})
                table = shard.read_row_group(group, columns=columns)
                start = int(ends[group]) - sizes[group]
                for modality, pair_id in members:
                    data = table[f"preview_{modality}"][places[pair_id].row - start].as_py()
                    if data is not None:
                        found[modality, pair_id] = data
    return found


def write_gallery_png(path: Path, rows: Sequence[GalleryRow], titles: Mapping[str, str], pixels: int = 96) -> None:
    """Draw gallery rows as one PNG, whole or not at all.

    Args:
        path: file to write.
        rows: what to draw, row by row; a heading is put above the first row of each direction.
        titles: modality → what people read, e.g. ``Sentinel-1``.
        pixels: side of a picture.
    """
    gap, frame, line, margin = 8, 3, 18, 16
    step = pixels + 2 * frame + gap
    answers = max((len(row.answers) for row in rows), default=0)
    headings = len({row.direction for row in rows})
    left = margin + step + gap  # the query stands apart from its answers
    width = left + answers * step - gap + margin
    height = margin + headings * 2 * line + len(rows) * (step + line) + 2 * line + margin
    canvas = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(canvas)
    font, small = ImageFont.load_default(15), ImageFont.load_default(12)
    y, heading = margin, None
    for row in rows:
        if row.direction != heading:
            heading = row.direction
            words = f"{titles[heading.query]} asks, {titles[heading.target]} answers"
            draw.text((margin, y + line // 2), words, "black", font)
            y += 2 * line
        for column, shown in enumerate((row.query, *row.answers)):
            x = margin if column == 0 else left + (column - 1) * step
            colour = "black" if shown.score is None else shown.colour
            draw.rectangle((x, y, x + pixels + 2 * frame - 1, y + pixels + 2 * frame - 1), colour)
            canvas.paste(_square(shown.picture, pixels), (x + frame, y + frame))
            words = "query" if shown.score is None else f"{shown.score:.3f}"
            draw.text((x + frame, y + pixels + 2 * frame + 2), words, "#444444", small)
        y += step + line
    x = margin
    for colour, words in (
        (PARTNER, "the query's own partner"),
        (RELEVANT, "shares a label with the query"),
        (OTHER, "shares none"),
    ):
        draw.rectangle((x, y + 3, x + 11, y + 14), None, colour, frame)
        draw.text((x + 18, y), words, "#444444", small)
        x += 18 + int(draw.textlength(words, small)) + 24
    buffer = io.BytesIO()
    # A palette of 256 colours is a third of the size, and pictures of this size do not show it.
    canvas.quantize(256).save(buffer, "PNG", optimize=True)
    target = path.expanduser().absolute()
    open_workspace(str(target.parent)).write_bytes(buffer.getvalue(), target.name)


def _square(picture: bytes | None, pixels: int) -> Image.Image:
    """A picture at the gallery's size; a grey field where there is none."""
    if picture is None:
        return Image.new("RGB", (pixels, pixels), "#eeeeee")
    image = Image.open(io.BytesIO(picture)).convert("RGB")
    image = image.resize((pixels, round(pixels * image.height / image.width)), Image.Resampling.LANCZOS)
    canvas: npt.NDArray[np.uint8] = np.full((pixels, pixels, 3), 238, np.uint8)
    rows = min(pixels, image.height)
    canvas[:rows] = np.asarray(image)[:rows]
    return Image.fromarray(canvas)
