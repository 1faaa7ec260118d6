"""How embeddings lie on the unit sphere, whatever the images show: modality gap, alignment, uniformity.

Embeddings are unit-norm float32, so d² = 2 − 2·cos.
"""

from __future__ import annotations

import math

import numpy as np

from sscm.errors import EvaluationError
from sscm.evaluation.metrics import Vectors, chunks

UNIFORMITY_T = 2.0
"""t of exp(−t·d²) as published."""


def modality_gap(first: Vectors, second: Vectors) -> float:
    """Euclidean distance between the mean embeddings of two modalities, 0 to 2.

    Args:
        first: float32 [n, d], unit-norm.
        second: float32 [m, d], unit-norm.

    Raises:
        EvaluationError: a modality has no images.

    Source: Liang et al. 2022, Mind the Gap (arXiv 2203.02053).
    """
    means = [_some(vectors).mean(axis=0, dtype=np.float64) for vectors in (first, second)]
    return float(np.linalg.norm(means[0] - means[1]))


def alignment(first: Vectors, second: Vectors) -> float:
    """Mean squared distance between the two embeddings of a pair.

    A constant encoder has 0 too: alignment says something only beside :func:`uniformity`.

    Args:
        first: float32 [n, d], unit-norm, one modality.
        second: float32 [n, d], unit-norm, the other; row i is the partner of row i.

    Returns:
        0 where partners coincide, 2 where they are unrelated, 4 where they are opposite.

    Raises:
        EvaluationError: no pairs, or not as many of the one as of the other.

    Source: Wang & Isola 2020, Understanding Contrastive Representation Learning through Alignment and Uniformity on the
    Hypersphere (arXiv 2005.10242), α = 2.
    """
    if first.shape != second.shape:
        raise EvaluationError(f"embeddings {first.shape} and {second.shape}; expected as many, row i partner of row i")
    return float(np.square(_some(first) - second).sum(axis=1, dtype=np.float64).mean())


def uniformity(vectors: Vectors) -> float:
    """Logarithm of the mean of exp(−2·d²) over all pairs of different images.

    Chunked: the memory is that of :data:`~sscm.evaluation.metrics.SCORES_PER_CHUNK` scores, the time quadratic.

    Args:
        vectors: float32 [n, d], unit-norm.

    Returns:
        0 where all embeddings coincide, the lower the more evenly they fill the sphere; for random directions in many
        dimensions about −4.

    Raises:
        EvaluationError: fewer than two images.

    Source: Wang & Isola 2020 (arXiv 2005.10242), t = 2.
    """
    images = len(vectors)
    if images < 2:
        raise EvaluationError(f"uniformity of {images} embeddings; expected at least two")
    total = 0.0
    for part in chunks(images, images):
        kernel = vectors[part] @ vectors.T  # cosines [chunk, n]
        kernel -= 1
        kernel *= 2 * UNIFORMITY_T  # −t·d² = 2t·(cos − 1)
        np.exp(kernel, out=kernel)
        rows = np.arange(len(kernel))
        kernel[rows, part.start + rows] = 0  # no image is a pair with itself
        total += float(kernel.sum(dtype=np.float64))
    return math.log(total / (images * (images - 1)))


def _some(vectors: Vectors) -> Vectors:
    if len(vectors) == 0:
        raise EvaluationError("no embeddings; expected at least one")
    return vectors
