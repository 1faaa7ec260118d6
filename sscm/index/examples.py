"""One query of several examples: images that are wanted, and images that are not.

Source: J. J. Rocchio, Relevance feedback in information retrieval, in: The SMART Retrieval System, 1971, chapter 14.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from sscm.errors import QueryError

NEGATIVE_WEIGHT = 0.2
"""Weight of the negative examples' mean, that of the positive ones being 1: of the 0.75 and 0.15 that are called
reasonable in Manning, Raghavan and Schütze, Introduction to Information Retrieval, 2008, section 9.1.1."""

_LEAST_NORM = 1e-6
"""Norm under which a combination of unit vectors is what their rounding left, and no direction."""

Vector = npt.NDArray[np.floating]


def combine_examples(
    positives: Sequence[Vector] | npt.NDArray[np.floating],
    negatives: Sequence[Vector] | npt.NDArray[np.floating] = (),
    *,
    dimension: int,
    weight: float = NEGATIVE_WEIGHT,
) -> npt.NDArray[np.float32]:
    """Make one query of examples: the mean of the positive ones less that of the negative ones, weighted.

    Args:
        positives: embeddings of what is wanted, float [dimension] each, of any norm but zero: each counts as much.
        negatives: embeddings of what is not.
        dimension: length of an embedding.
        weight: how much the negatives' mean counts, 0 or more.

    Returns:
        float32 [dimension], unit norm.

    Raises:
        QueryError: no positive example, one of another length or not finite or of norm zero, a weight that is no number
            of 0 or more, or examples that cancel each other out.
    """
    if not len(positives):
        raise QueryError("no positive example; expected at least one image that is wanted")
    if not (np.isfinite(weight) and weight >= 0):
        raise QueryError(f"weight of the negative examples = {weight}; expected 0 or more")
    query = np.mean([_unit(vector, f"positives.{i}", dimension) for i, vector in enumerate(positives)], axis=0)
    if len(negatives):
        query -= weight * np.mean([_unit(v, f"negatives.{i}", dimension) for i, v in enumerate(negatives)], axis=0)
    norm = float(np.linalg.norm(query))
    if norm < _LEAST_NORM * (1 + weight):
        raise QueryError(
            "the examples cancel each other out: no direction is left; give others, or fewer negative ones"
        )
    return np.asarray(query / norm, np.float32)


def _unit(vector: Vector, name: str, dimension: int) -> npt.NDArray[np.float64]:
    """An embedding scaled to unit norm: float64 [dimension]."""
    values = np.asarray(vector)
    if values.shape != (dimension,) or values.dtype.kind not in "fiu":
        raise QueryError(f"{name}: {values.dtype} {list(values.shape)}; expected {dimension} numbers")
    values = values.astype(np.float64)
    largest = np.abs(values).max(initial=0.0)
    if not np.isfinite(largest):
        raise QueryError(f"{name} has a value that is NaN or infinite; expected finite numbers")
    if largest == 0:
        raise QueryError(f"{name} has norm zero; expected numbers that are not all 0")
    values = values / largest  # whose squares neither overflow nor vanish
    return np.asarray(values / np.linalg.norm(values))
