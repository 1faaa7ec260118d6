"""Paired geometric augmentation: both images of a pair are flipped and turned alike, batched on the device."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

SYMMETRIES = 8
"""Of the square: four turns, each with and without a flip."""


def random_symmetries(pairs: int, generator: torch.Generator) -> Tensor:
    """One symmetry of the square for each pair, int64 [pairs], uniform in 0 … 7."""
    return torch.randint(SYMMETRIES, (pairs,), generator=generator)


def apply_symmetries(images: Mapping[str, Tensor], symmetries: Tensor) -> dict[str, Tensor]:
    """Flip and turn the images of each pair alike.

    Args:
        images: modality → pixels [N, bands, size, size], square, rows of the same pairs.
        symmetries: int64 [N] from :func:`random_symmetries`.

    Returns:
        Modality → pixels of the same shape and dtype.
    """
    result = {name: torch.empty_like(pixels) for name, pixels in images.items()}
    for symmetry in range(SYMMETRIES):
        rows = torch.nonzero(symmetries == symmetry).flatten()
        if not len(rows):
            continue
        for name, pixels in images.items():
            chosen = rows.to(pixels.device)
            turned = torch.rot90(pixels[chosen], symmetry % 4, dims=(2, 3))
            result[name][chosen] = turned.flip(3) if symmetry >= 4 else turned
    return result
