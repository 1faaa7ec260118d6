"""Which classes are taken for which: labels of queries against labels of their first answers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes

from sscm.evaluation.collection import Collection, own_rows
from sscm.evaluation.drawing import Panel, draw, shorten
from sscm.evaluation.metrics import Bitmap, Rows, top_k
from sscm.evaluation.protocols import Direction, Protocol

MOST_CLASSES = 20
"""Classes that a panel has room for; rarer ones share a row and a column."""
OTHER, NOTHING = "rarer classes", "nothing instead"


@dataclass(frozen=True, kw_only=True, eq=False)
class Confusion:
    """A confusion matrix.

    Args:
        rows: class names of the queries.
        columns: the same of the answers, and :data:`NOTHING`.
        shares: float64 [rows, columns], each row of sum 1.
    """

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    shares: npt.NDArray[np.float64]


def confusion_counts(query_labels: Bitmap, archive_labels: Bitmap, answers: Rows) -> npt.NDArray[np.float64]:
    """What answers have for each label of their queries.

    A query's label that the answer has too counts on the diagonal. One that the answer lacks is shared out evenly
    among the labels which the answer has and the query has not; where there are none, it counts in the last column. So
    answers with exactly their queries' labels give a diagonal, however many labels an image has, which counting all
    combinations of labels would not.

    Args:
        query_labels: bool [q, c].
        archive_labels: bool [n, c].
        answers: int64 [q, k], archive rows.

    Returns:
        float64 [c, c + 1]; the sum of a row is k times the queries with its label.

    Source: after Heydarian, Doyle & Samavi 2022, MLCM: Multi-Label Confusion Matrix (IEEE Access 10).
    """
    classes = query_labels.shape[1]
    counts = np.zeros((classes, classes + 1))
    for column in answers.T:
        found = archive_labels[column]
        counts[np.arange(classes), np.arange(classes)] += (query_labels & found).sum(axis=0)
        missed, instead = query_labels & ~found, (found & ~query_labels).astype(np.float64)
        others = instead.sum(axis=1)
        counts[:, :classes] += missed.T.astype(np.float64) @ (instead / np.maximum(others, 1)[:, None])
        counts[:, classes] += missed[others == 0].sum(axis=0)
    return counts


def confusion(queries: Collection, archive: Collection, direction: Direction, protocol: Protocol) -> Confusion | None:
    """Confusion between queries and their first answers; images without labels take no part.

    Args:
        queries: the images that ask.
        archive: the images searched.
        direction: which modality asks and which answers.
        protocol: tells whether the own pair may answer, and k: the least that it looks at.

    Returns:
        The matrix, its classes by the number of queries that have them; None where there are no labels, no class
        names, or fewer than k images to find.
    """
    if queries.labels is None or archive.labels is None or not queries.classes:
        return None
    here = queries.present[direction.query] & queries.labels.any(axis=1)
    there = archive.present[direction.target] & archive.labels.any(axis=1)
    own = own_rows(queries, archive)[here]
    own = np.where((own >= 0) & there[own], np.cumsum(there)[own] - 1, -1)
    excluded = own if protocol.excludes_own_pair(direction) and (own >= 0).any() else None
    k = protocol.ks[0]
    if not here.any() or there.sum() - (excluded is not None) < k:
        return None
    _, answers = top_k(queries.vectors[direction.query][here], archive.vectors[direction.target][there], k, excluded)
    counts = confusion_counts(queries.labels[here], archive.labels[there], answers)
    asked = queries.labels[here].sum(axis=0)
    order = np.argsort(-asked, kind="stable")
    rows = order[asked[order] > 0]
    columns = order[(asked[order] > 0) | (counts[:, order].sum(axis=0) > 0)]  # those that only answers have come last
    names = [queries.classes[i] for i in columns]
    matrix = np.column_stack([counts[rows][:, columns], counts[rows, -1]])
    rows_of = [queries.classes[i] for i in rows]
    if len(columns) > MOST_CLASSES:
        kept = MOST_CLASSES - 1
        matrix = np.column_stack([matrix[:, :kept], matrix[:, kept:-1].sum(axis=1), matrix[:, -1]])
        names = [*names[:kept], OTHER]
        if len(rows) > kept:
            matrix = np.vstack([matrix[:kept], matrix[kept:].sum(axis=0)])
            rows_of = [*rows_of[:kept], OTHER]
    return Confusion(rows=tuple(rows_of), columns=(*names, NOTHING), shares=matrix / matrix.sum(axis=1, keepdims=True))


def confusion_panel(found: Confusion, title: str, k: int) -> Panel:
    """A heat map of a confusion matrix.

    Args:
        found: the matrix.
        title: the direction as people read it.
        k: answers looked at.
    """
    high, wide = found.shares.shape

    def paint(axes: Axes) -> None:
        axes.pcolormesh(found.shares, cmap="Blues", vmin=0, vmax=1, edgecolors="white", linewidth=0.7)
        for row, column in zip(*np.nonzero(found.shares >= 0.01), strict=True):
            share = found.shares[row, column]
            axes.text(
                column + 0.5,
                row + 0.5,
                f"{share * 100:.0f}",
                ha="center",
                va="center",
                fontsize=9,
                color="white" if share > 0.55 else "#1c1f23",
            )
        axes.set_xticks(np.arange(wide) + 0.5, map(shorten, found.columns), rotation=40, ha="right", fontsize=9.5)
        axes.set_yticks(np.arange(high) + 0.5, map(shorten, found.rows), fontsize=9.5)
        axes.invert_yaxis()
        axes.set_aspect("equal")
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set_xlabel(f"labels of the first {k} answers, % of the row")
        axes.set_ylabel("labels of the query")

    kept = []
    for row, name in enumerate(found.rows):
        worst = np.where(np.array(found.columns) == name, -1, found.shares[row]).argmax()
        right = found.shares[row, found.columns.index(name)]
        kept.append(f"{name} {right:.0%}, then {found.columns[worst]} {found.shares[row, worst]:.0%}")
    alt = f"Confusion of classes, {title}, first {k} answers: {'; '.join(kept)}"
    return Panel(title=title, svg=draw(3.4 + 0.34 * wide, 2.8 + 0.34 * high, alt, paint))
