"""One modality's encoder, answering single images in batches."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from serve.batcher import Batcher
from sscm.index.encoders import load_encoders
from sscm.index.generation import read_generation
from sscm.workspace import Workspace

Groups = Mapping[str, npt.NDArray[Any]]
Vector = npt.NDArray[np.float32]

MAX_BATCH = 32
"""Images encoded at a time; more gain nothing on a CPU and make the others wait."""


class Encoder:
    """Embeds images of one modality as those of an index generation were; holds no other modality's weights.

    Args:
        workspace: where models and index are.
        generation: number of the generation; its model, adapted to its archive, embeds the queries.
        modality: the modality.
        threads: CPU threads; ``OMP_NUM_THREADS`` must say the same when the process starts, since thread counts set
            later do not reach the batch thread.

    Raises:
        GenerationError: there is no such generation, or its model is another one now.
        BundleError: the model is not there, or has no encoder for the modality.
        IntegrityError: a file is not what the manifests say.
    """

    def __init__(self, workspace: Workspace, generation: int, modality: str, threads: int) -> None:
        torch.set_num_threads(threads)
        bundle = load_encoders(workspace, read_generation(workspace, generation))
        encoders = nn.ModuleDict({modality: bundle.encoder(modality)})
        self._bundle = dataclasses.replace(bundle, encoders=encoders)
        self._modality = bundle.modality(modality)
        self._batcher: Batcher[Groups, Vector] = Batcher(self.encode_batch, MAX_BATCH)
        blank = {group.name: np.zeros(group.shape, group.dtype) for group in self._modality.groups}
        self.encode_batch([blank])  # the first pass allocates; no user should wait for it

    async def encode(self, groups: Groups) -> tuple[Vector, int]:
        """Embed one image.

        Args:
            groups: band-group name → pixels [bands, height, width], native dtype and unit.

        Returns:
            float32 [dimension], unit norm, and the size of the batch that the image was part of.
        """
        return await self._batcher(groups)

    def encode_batch(self, images: Sequence[Groups]) -> list[Vector]:
        """Embed images at once: one float32 [dimension] each."""
        stacked = {name: np.stack([groups[name] for groups in images]) for name in self._modality.group_names}
        return list(self._bundle.encode(self._modality.name, stacked))

    def ready(self) -> str:
        """Say that this encoder answers."""
        return f"{self._bundle.name}/{self._modality.name}"

    def check_health(self) -> None:
        """Raise if a batch is stuck; Serve then starts another replica."""
        self._batcher.check()
