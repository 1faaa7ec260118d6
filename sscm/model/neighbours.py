"""Neighbours without labels: which other image of the same modality is most similar.

The published abstract of the method (Sumbul et al. 2022, arXiv 2202.11429) says that the most similar images of a
modality are found without labels, not how; here the nearest in the global batch is taken.
"""

from __future__ import annotations

import torch
from torch import Tensor

SEARCH_ELEMENTS = 2**24
"""Similarities held at a time: 64 MB in float32."""


@torch.no_grad()
def nearest_other(own: Tensor, batch: Tensor, first: int, elements: int = SEARCH_ELEMENTS) -> Tensor:
    """The most similar other image of the global batch, by inner product.

    Args:
        own: float [n, d], unit norm: rows ``first … first + n − 1`` of the batch.
        batch: float [N, d], unit norm.
        first: place of the first own image in the batch.
        elements: similarities held at a time.

    Returns:
        int64 [n], rows of the batch; never the image itself where N is at least 2.
    """
    result = []
    for part in torch.split(own, max(1, elements // max(1, len(batch)))):
        similarity = part @ batch.T
        rows = torch.arange(len(part), device=part.device)
        similarity[rows, rows + first] = -torch.inf
        first += len(part)
        result.append(similarity.argmax(dim=1))
    return torch.cat(result)
