"""Random embeddings and labels."""

import numpy as np


def unit(rng, *shape):
    """Random unit vectors: float32 of that shape, the last axis of norm 1."""
    vectors = rng.normal(size=shape).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def some_labels(rng, images, classes=5):
    """Random labels, bool [images, classes], at least one an image."""
    bitmap = rng.random((images, classes)) < 0.3
    bitmap[np.arange(images), rng.integers(classes, size=images)] = True
    return bitmap
