"""What answers are worth by what is known of them: labels, and class fractions.

Labels are bitmaps: bool [images, classes]. Answers are archive rows, int64 [queries, k], best first. Intermediate
arrays are chunked over queries, so that a thousand answers to each of 100,000 queries fit memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from sscm.errors import EvaluationError
from sscm.evaluation.metrics import Bitmap, Rows, chunks

Counts = npt.NDArray[np.int64]


def label_bitmap(labels: Sequence[Sequence[str] | None], classes: Sequence[str]) -> Bitmap:
    """Label lists as a bitmap.

    Args:
        labels: class names of each image; None or an empty list where it has none.
        classes: all class names, in the order of the columns.

    Returns:
        bool [images, classes].
    """
    column = {name: i for i, name in enumerate(classes)}
    bitmap = np.zeros((len(labels), len(classes)), bool)
    for row, names in enumerate(labels):
        for name in names or ():
            bitmap[row, column[name]] = True
    return bitmap


def f1_of_means(query_labels: Bitmap, archive_labels: Bitmap, answers: Rows) -> float:
    """Harmonic mean of mean precision and mean recall, both over all answers of all queries (CSMAE ``retrieval.py``).

    For query labels q and an answer's labels r, precision is |q∧r|/|r| and recall |q∧r|/|q|.

    Args:
        query_labels: bool [q, c], at least one label a query.
        archive_labels: bool [n, c], at least one label an answer.
        answers: int64 [q, k], archive rows.

    Raises:
        EvaluationError: no queries, or an image without labels among them or their answers.
    """
    precisions = recalls = 0.0
    for shared, of_query, of_answer in _label_counts(query_labels, archive_labels, answers):
        precisions += float((shared / of_answer).sum())
        recalls += float((shared / of_query).sum())
    precision, recall = precisions / answers.size, recalls / answers.size
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def mean_pair_f1(query_labels: Bitmap, archive_labels: Bitmap, answers: Rows) -> float:
    """Mean over all answers of all queries of each pair's own F1, 2·|q∧r|/(|q| + |r|) (X-JEPA, CR-JEPA).

    Arguments and errors as of :func:`f1_of_means`.
    """
    counted = _label_counts(query_labels, archive_labels, answers)
    return sum(float((2 * s / (q + r)).sum()) for s, q, r in counted) / answers.size


def f1_at_rank(query_labels: Bitmap, archive_labels: Bitmap, answers: Rows) -> float:
    """Mean over queries of the F1 between a query's labels and those of its k-th answer, and of no other (Müller).

    2·|q∧r|/(|q| + |r|) for the labels r of the last of the k answers: what lies at rank k exactly. A ranking that is
    good at its top and bad beyond so falls with k, where a mean over all first k would smooth it.

    Arguments and errors as of :func:`f1_of_means`.

    Source: ``retrieval.py`` of github.com/MarkusMartinMueller/Self-Supervised-Contrastive-Learning.
    """
    return mean_pair_f1(query_labels, archive_labels, answers[:, -1:])


def precision_at_k(query_labels: Bitmap, archive_labels: Bitmap, answers: Rows) -> float:
    """Mean share of the k answers that share at least one label with their query.

    Arguments and errors as of :func:`f1_of_means`.
    """
    counted = _label_counts(query_labels, archive_labels, answers)
    return sum(int((shared > 0).sum()) for shared, _, _ in counted) / answers.size


def average_precision_at_k(query_labels: Bitmap, archive_labels: Bitmap, answers: Rows) -> float:
    """mAP@k: the mean over queries of the mean precision at the ranks of the relevant among the first k answers.

    Relevant is what shares at least one label. The sum of precisions is divided by the number of relevant images
    *found among the first k*, as Müller's ``retrieval.py`` and torchmetrics' ``RetrievalMAP(top_k=k)`` do, not by
    min(k, all relevant in the archive): it tells how well the first k are ordered, not how many they are, which
    :func:`precision_at_k` does. A query none of whose k answers is relevant counts as 0; over the full ranking,
    :func:`~sscm.evaluation.metrics.mean_average_precision` leaves out queries that have nothing relevant to find.

    Arguments and errors as of :func:`f1_of_means`.
    """
    ranks = np.arange(1, answers.shape[1] + 1)
    total = 0.0
    for shared, _, _ in _label_counts(query_labels, archive_labels, answers):
        hits = shared > 0
        found = hits.cumsum(axis=1)
        total += float(((hits * found / ranks).sum(axis=1) / np.maximum(found[:, -1], 1)).sum())
    return total / len(answers)


def cover_distance(
    query_cover: npt.NDArray[np.floating[Any]], archive_cover: npt.NDArray[np.floating[Any]], answers: Rows
) -> float:
    """Cover distance@k: mean over answers and queries of half the L1 distance between class fractions.

    Args:
        query_cover: float [q, c], share of each class in each query's area.
        archive_cover: float [n, c], the same of the archive images.
        answers: int64 [q, k], archive rows.

    Returns:
        0 where all answers have their query's cover, 1 where they have no class in common.

    Raises:
        EvaluationError: there are no queries.
    """
    total = 0.0
    for part in _parts(answers, query_cover.shape[1]):
        difference = np.abs(query_cover[part, None, :] - archive_cover[answers[part]])  # [chunk, k, c]
        total += float(difference.sum(dtype=np.float64))
    return total / answers.size / 2


def _label_counts(
    query_labels: Bitmap, archive_labels: Bitmap, answers: Rows
) -> Iterator[tuple[Counts, Counts, Counts]]:
    """Chunk by chunk of queries: labels shared [chunk, k], of each query [chunk, 1], of each answer [chunk, k]."""
    per_image = archive_labels.sum(axis=1)
    for part in _parts(answers, query_labels.shape[1]):
        asked, found = query_labels[part], answers[part]
        of_query, of_answer = asked.sum(axis=1)[:, None], per_image[found]
        if not of_query.all() or not of_answer.all():
            raise EvaluationError("an image without labels among queries or answers; leave such images out first")
        shared = np.stack([(asked & archive_labels[column]).sum(axis=1) for column in found.T], axis=1)
        yield shared, of_query, of_answer


def _parts(answers: Rows, classes: int) -> Iterator[slice]:
    """Parts of the queries of which all answers' classes are held at a time."""
    if not answers.size:
        raise EvaluationError("no answers; expected at least one")
    return chunks(len(answers), answers.shape[1] * max(classes, 1))
