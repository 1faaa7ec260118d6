"""Paired geometric augmentation: both images of a pair are flipped, turned and cropped alike, batched on the device."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

SYMMETRIES = 8
"""Of the square: four turns, each with and without a flip."""
ASPECT = 0.2
"""Crops are up to e^0.2 = 1.22 times as long one way as the other, about."""


def augment(images: Mapping[str, Tensor], crop: float, generator: torch.Generator) -> dict[str, Tensor]:
    """Flip, turn and crop the images of each pair alike.

    Args:
        images: modality → prepared pixels float32 [n, bands, size, size], square, rows of the same pairs.
        crop: least share of the area that a crop keeps; 1 leaves images whole.
        generator: on the CPU.

    Returns:
        Modality → pixels of the same shape.
    """
    pairs = len(next(iter(images.values())))
    turned = apply_symmetries(images, random_symmetries(pairs, generator))
    return apply_crops(turned, random_crops(pairs, crop, generator)) if crop < 1 else turned


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


def random_crops(pairs: int, least: float, generator: torch.Generator) -> Tensor:
    """One rectangle inside the image for each pair.

    Args:
        pairs: how many.
        least: least share of the area, above 0; shares are uniform from there to 1, and up to a fifth less where the
            longer side of a crop would leave the image and is cut.
        generator: on the CPU.

    Returns:
        float32 [pairs, 2, 3]: the affine maps from a crop's coordinates to the image's, both from −1 to 1.
    """
    side = torch.empty(pairs).uniform_(least, 1, generator=generator).sqrt()
    aspect = torch.empty(pairs).uniform_(-ASPECT, ASPECT, generator=generator).exp()
    spans = torch.stack([side * aspect, side / aspect], dim=1).clamp(max=1)  # [pairs, 2], width and height
    maps = torch.zeros(pairs, 2, 3)
    maps[:, 0, 0], maps[:, 1, 1] = spans.unbind(dim=1)
    maps[:, :, 2] = (torch.rand(pairs, 2, generator=generator) * 2 - 1) * (1 - spans)
    return maps


def apply_crops(images: Mapping[str, Tensor], maps: Tensor) -> dict[str, Tensor]:
    """Cut the same rectangle from both images of each pair and bring it to the whole size, bilinearly.

    Args:
        images: modality → pixels float32 [N, bands, height, width].
        maps: float32 [N, 2, 3] from :func:`random_crops`.

    Returns:
        Modality → pixels of the same shape.
    """
    return {name: _sampled(pixels, maps.to(pixels.device)) for name, pixels in images.items()}


def _sampled(pixels: Tensor, maps: Tensor) -> Tensor:
    grid = F.affine_grid(maps, list(pixels.shape), align_corners=False)
    return F.grid_sample(pixels, grid, mode="bilinear", padding_mode="border", align_corners=False)
