"""t-SNE: a plane map of vectors in which neighbours stay neighbours."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

PERPLEXITY = 30.0
"""Neighbours that a point tries to stay near, about."""
STEPS = 500
EXAGGERATED = 120
"""First steps, in which attraction is multiplied so that groups can pass through one another."""
EXAGGERATION = 12.0


def tsne(vectors: Floats, perplexity: float = PERPLEXITY, steps: int = STEPS) -> Floats:
    """Places of vectors in the plane; nothing is drawn at random, the same vectors have the same map.

    Exact: time and memory are quadratic, so it is for a sample. Starts from the two principal components, which keeps
    the large arrangement. Near and far within a map mean something where points are near; distances between groups,
    and the axes, do not.

    Args:
        vectors: float32 [n, d].
        perplexity: effective number of neighbours; at most a third of the points.
        steps: of gradient descent.

    Returns:
        float32 [n, 2], centred.

    Source: van der Maaten & Hinton 2008, Visualizing Data using t-SNE (JMLR 9).
    """
    images = len(vectors)
    places = principal_components(vectors)
    if images < 4:
        return places
    attraction = neighbour_probabilities(vectors, min(perplexity, (images - 1) / 3))
    places = places * np.float32(1e-4 / max(float(places[:, 0].std()), 1e-12))
    rate = max(images / EXAGGERATION / 4, 12.5)
    speed, gains = np.zeros_like(places), np.ones_like(places)
    for step in range(steps):
        early = step < EXAGGERATED
        gradient = _gradient(places, attraction * np.float32(EXAGGERATION) if early else attraction)
        # Faster along a coordinate while it keeps its direction, slower when it turns.
        gains = np.where(np.sign(gradient) != np.sign(speed), gains + 0.2, np.maximum(gains * 0.8, 0.01))
        speed = (0.5 if early else 0.8) * speed - rate * gains * gradient
        places = np.asarray(places + speed, np.float32)
        places -= places.mean(axis=0)
    return places


def principal_components(vectors: Floats) -> Floats:
    """The two directions of greatest variance: float32 [n, 2], centred; signs are those of the largest weights."""
    centred = vectors - vectors.mean(axis=0)
    _, _, directions = np.linalg.svd(centred, full_matrices=False)
    axes = np.zeros((2, vectors.shape[1]), np.float32)
    axes[: min(2, len(directions))] = directions[:2]
    largest = np.abs(axes).argmax(axis=1)
    axes *= np.where(axes[np.arange(2), largest] < 0, np.float32(-1), np.float32(1))[:, None]
    return np.asarray(centred @ axes.T, np.float32)


def neighbour_probabilities(vectors: Floats, perplexity: float) -> Floats:
    """Joint probabilities of being neighbours: float32 [n, n], symmetric, sum 1, diagonal 0.

    Each row is a normal kernel around a point as wide as gives it the perplexity, before rows are made symmetric.
    """
    squares = np.square(vectors).sum(axis=1)
    distances = np.maximum(squares[:, None] + squares - 2 * vectors @ vectors.T, 0)
    np.fill_diagonal(distances, np.inf)
    distances -= distances.min(axis=1, keepdims=True)  # the same rows, and no row whose kernel is all zero
    low, high = np.zeros(len(vectors)), np.full(len(vectors), np.inf)
    precision = np.ones(len(vectors))
    rows = np.zeros_like(distances)
    for _ in range(50):
        kernel = np.exp(-distances * precision[:, None].astype(np.float32))
        rows = kernel / kernel.sum(axis=1, keepdims=True)
        entropy = -(rows * np.log(np.maximum(rows, 1e-30))).sum(axis=1)
        wide = entropy > np.log(perplexity)
        low, high = np.where(wide, precision, low), np.where(wide, high, precision)
        # At most a billion: points that all coincide have no width that gives them the perplexity.
        precision = np.minimum(np.where(np.isinf(high), precision * 2, (low + high) / 2), 1e9)
    return np.asarray((rows + rows.T) / (2 * len(vectors)), np.float32)


def _gradient(places: Floats, attraction: Floats) -> Floats:
    squares = np.square(places).sum(axis=1)
    nearness = 1 / (1 + np.maximum(squares[:, None] + squares - 2 * places @ places.T, 0))  # Student's t, one degree
    np.fill_diagonal(nearness, 0)
    forces = (attraction - nearness / nearness.sum()) * nearness
    return np.asarray(4 * (forces.sum(axis=1)[:, None] * places - forces @ places), np.float32)
