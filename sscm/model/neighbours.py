"""Neighbours without labels: which other image of the same modality is most similar, by one of four rules.

The published abstract of the method (Sumbul et al. 2022, arXiv 2202.11429) says that the most similar images of a
modality are found without labels, not how; each rule here is one reading of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sscm.config import ObjectiveConfig
from sscm.model.gather import Layout, gather_constant

SEARCH_ELEMENTS = 2**24
"""Similarities held at a time: 64 MB in float32."""


class Neighbours(NamedTuple):
    """The neighbours of some images.

    Args:
        embeddings: float [n, d], unit norm, one a row.
        found: bool [n]; where it is False the row has no neighbour and must not count.
    """

    embeddings: Tensor
    found: Tensor


class NeighbourQueue:
    """Embeddings of past batches, the newest first; the same on every worker, since it is fed with global batches.

    Args:
        size: images of each modality that it holds at most.

    Source: Dwibedi et al. 2021, "With a Little Help from My Friends" (NNCLR, arXiv 2104.14548), for the support queue.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._embeddings: dict[str, Tensor] = {}
        self._keys: Tensor | None = None

    @torch.no_grad()
    def nearest(self, name: str, queries: Tensor, keys: Tensor) -> Neighbours:
        """The most similar past images that are not past views of the query itself.

        Args:
            name: modality.
            queries: float [n, d], unit norm.
            keys: int64 [n], :func:`key_of` their pairs.
        """
        if self._keys is None or not len(queries):
            return Neighbours(torch.zeros_like(queries), queries.new_zeros(len(queries), dtype=torch.bool))
        past = self._embeddings[name].to(queries.dtype)
        similarity = queries @ past.T
        similarity[keys[:, None] == self._keys[None, :]] = -torch.inf
        best, rows = similarity.max(dim=1)
        return Neighbours(past[rows], best > -torch.inf)

    @torch.no_grad()
    def push(self, batch: Mapping[str, Tensor], keys: Tensor) -> None:
        """Take in a global batch; the oldest images leave.

        Args:
            batch: modality → float [N, d], unit norm.
            keys: int64 [N], of its pairs.
        """
        old = self._keys
        for name, rows in batch.items():
            newest = rows.detach()
            joined = newest if old is None else torch.cat([newest, self._embeddings[name]])
            self._embeddings[name] = joined[: self.size].clone()
        self._keys = (keys if old is None else torch.cat([keys, old]))[: self.size].clone()

    def state_dict(self) -> dict[str, Any]:
        """Tensors only: what a checkpoint holds."""
        return {"embeddings": dict(self._embeddings), "keys": self._keys}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what :meth:`state_dict` gave."""
        self._embeddings, self._keys = dict(state["embeddings"]), state["keys"]


def key_of(pair_ids: Sequence[str]) -> list[int]:
    """A signed 64-bit number a pair, the same on every worker and in every process."""
    digests = (hashlib.blake2b(pair_id.encode(), digest_size=8).digest() for pair_id in pair_ids)
    return [int.from_bytes(digest, "little", signed=True) for digest in digests]


def neighbours_of(
    batch: Mapping[str, Tensor],
    layout: Layout,
    config: ObjectiveConfig,
    queue: NeighbourQueue | None = None,
    keys: Tensor | None = None,
) -> dict[str, Neighbours]:
    """The neighbours of this worker's images, by the rule ``config.neighbours``.

    Args:
        batch: modality → float [N, d], unit norm, the global batch, with gradient.
        layout: which of its rows are this worker's.
        config: the rule, and whether the gradient stops at neighbours.
        queue: of past embeddings; the rule ``queue`` wants it, and feeds it with the batch.
        keys: int64 [n], :func:`key_of` this worker's pairs; the rule ``queue`` wants them.

    Returns:
        Modality → neighbours of the n own rows. A batch of one pair has none.

    Raises:
        ValueError: the rule ``queue`` without queue or keys.
    """
    own = {name: layout.own(rows) for name, rows in batch.items()}
    if config.neighbours == "queue":
        if queue is None or keys is None:
            raise ValueError("neighbours = 'queue' wants a queue and the keys of the pairs")
        result = {name: queue.nearest(name, rows, keys) for name, rows in own.items()}
        queue.push(batch, gather_constant(keys, layout))
        return result
    if config.neighbours == "agreed":
        together = nearest_agreed(list(own.values()), list(batch.values()), layout.start)
        chosen = dict.fromkeys(batch, together)
    else:
        chosen = {name: nearest_other(own[name], batch[name], layout.start) for name in batch}
    result = {}
    for name, rows in chosen.items():
        found = torch.full_like(rows, layout.total > 1, dtype=torch.bool)
        if config.neighbours == "mutual":
            found &= mutual(rows, layout)
        source = batch[name].detach() if config.isp_stop_gradient else batch[name]
        result[name] = Neighbours(source[rows], found)
    return result


@torch.no_grad()
def nearest_other(queries: Tensor, batch: Tensor, first: int, elements: int = SEARCH_ELEMENTS) -> Tensor:
    """The most similar other image of the global batch, by inner product.

    Args:
        queries: float [n, d], unit norm: rows ``first … first + n − 1`` of the batch.
        batch: float [N, d], unit norm.
        first: place of the first query in the batch.
        elements: similarities held at a time.

    Returns:
        int64 [n], rows of the batch; never the query itself where N is at least 2.
    """
    result = []
    for part in torch.split(queries, max(1, elements // max(1, len(batch)))):
        similarity = part @ batch.T
        rows = torch.arange(len(part), device=part.device)
        similarity[rows, rows + first] = -torch.inf
        first += len(part)
        result.append(similarity.argmax(dim=1))
    return torch.cat(result)


def nearest_agreed(queries: Sequence[Tensor], batch: Sequence[Tensor], first: int) -> Tensor:
    """The other pair most similar by the mean cosine over all modalities; see :func:`nearest_other`."""
    # The sum of cosines is the inner product of the embeddings laid end to end.
    return nearest_other(torch.cat(list(queries), dim=1), torch.cat(list(batch), dim=1), first)


def mutual(rows: Tensor, layout: Layout) -> Tensor:
    """Whether each image is in turn the nearest of its nearest.

    Args:
        rows: int64 [n], rows of the global batch nearest to this worker's images.
        layout: rows of each worker.

    Returns:
        bool [n].
    """
    nearest = gather_constant(rows, layout)
    return nearest[rows] == torch.arange(layout.start, layout.start + len(rows), device=rows.device)
