"""Neighbours without labels: which other image of the same modality is most similar."""

from __future__ import annotations

import torch
from torch import Tensor


@torch.no_grad()
def nearest_other(queries: Tensor, batch: Tensor, first: int) -> Tensor:
    """The most similar other image of the global batch, by cosine.

    Args:
        queries: float [n, d], unit norm: rows ``first … first + n − 1`` of the batch.
        batch: float [N, d], unit norm.
        first: place of the first query in the batch.

    Returns:
        int64 [n], rows of the batch; never the query itself. N must be at least 2.
    """
    similarity = queries @ batch.T
    rows = torch.arange(len(queries), device=queries.device)
    similarity[rows, rows + first] = -torch.inf
    return similarity.argmax(dim=1)
