"""Answers as a table for people."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sscm.client.answers import Answers, Hit


def print_answers(answers: Answers[Hit], console: Console) -> None:
    """Print answers: rank, id, score, which modality's image matched if there are several, labels, time, place.

    Args:
        answers: what a search returned.
        console: where to.
    """
    targets = list(dict.fromkeys(hit.target for hit in answers))
    several = len(targets) > 1
    of = f"{' and '.join(targets)} images" if targets else "images"
    table = Table(title=f"{len(answers)} of {answers.matched:,} {of}", title_justify="left")
    table.add_column("", justify="right")
    table.add_column("id")
    table.add_column("score", justify="right")
    for name in (*(["image"] if several else []), "labels", "time", "place"):
        table.add_column(name)
    for rank, hit in enumerate(answers, start=1):
        time = "" if hit.datetime is None else hit.datetime.isoformat().replace("+00:00", "Z")
        row = [str(rank), escape(hit.id), f"{hit.score:.4f}", *([hit.target] if several else [])]
        table.add_row(*row, escape(", ".join(hit.labels)), time, _place(hit.bbox))
    console.print(table)
    if answers.simulated:
        console.print("The images are simulated: nothing here was observed.")
    if not answers.complete:
        console.print("Some index shards did not answer: there may be better answers. Ask again in a moment.")


def _place(bbox: Sequence[float] | None) -> str:
    """The middle of a footprint, degrees."""
    if not bbox:
        return ""
    west, south, east, north = bbox
    if west > east:  # across the antimeridian
        east += 360
    latitude, longitude = (south + north) / 2, ((west + east) / 2 + 180) % 360 - 180
    return (
        f"{abs(latitude):.3f}° {'N' if latitude >= 0 else 'S'}, {abs(longitude):.3f}° {'E' if longitude >= 0 else 'W'}"
    )
