"""Encoders: one generation's encoder of one modality, and the replica that has those of several generations."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from serve.batcher import Batcher
from serve.editions import Edition, Plan
from serve.follow import Follower, Held, replica_name
from serve.swap import Member, encoder_part
from sscm.index.encoders import load_encoders
from sscm.index.generation import read_generation
from sscm.workspace import Workspace

Groups = Mapping[str, npt.NDArray[Any]]
Vector = npt.NDArray[np.float32]

MAX_BATCH = 32
"""Images encoded at a time; more gain nothing on a CPU and make the others wait."""
MAX_WAITING = 256
"""Images that wait for their batch; more are sent away."""


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
        self._batcher: Batcher[Groups, Vector] = Batcher(self.encode_batch, MAX_BATCH, MAX_WAITING)
        blank = {group.name: np.zeros(group.shape, group.dtype) for group in self._modality.groups}
        self.encode_batch([blank])  # the first pass allocates; no user should wait for it

    async def encode(self, groups: Groups) -> tuple[Vector, int]:
        """Embed one image.

        Args:
            groups: band-group name → pixels [bands, height, width], native dtype and unit.

        Returns:
            float32 [dimension], unit norm, and the size of the batch that the image was part of.

        Raises:
            Busy: too many images wait.
        """
        return await self._batcher(groups)

    def encode_batch(self, images: Sequence[Groups]) -> list[Vector]:
        """Embed images at once: one float32 [dimension] each."""
        stacked = {name: np.stack([groups[name] for groups in images]) for name in self._modality.group_names}
        return list(self._bundle.encode(self._modality.name, stacked))

    def check(self) -> None:
        """Raise RuntimeError if a batch is stuck."""
        self._batcher.check()


class EncoderReplica:
    """One modality's encoders of the generations that are served.

    Args:
        coordinator: handle of the coordinator.
        modality: the modality.
        threads: CPU threads.
    """

    def __init__(self, *, coordinator: Any, modality: str, threads: int) -> None:
        self._modality, self._threads = modality, threads
        self._name = replica_name()
        self._held: Held[Encoder] = Held(self._load, self._changed)
        self._follower = Follower(coordinator, self._describe, self._follow)

    async def reconfigure(self, _: Mapping[str, Any]) -> None:
        """Load what is served, before Serve sends the first request, and follow the coordinator from then on.

        Raises:
            GenerationError: it cannot be loaded.
        """
        plan = await self._follower.once()
        await self._held.settled(plan.current.generation)
        self._follower.start()

    async def encode(self, generation: int, groups: Groups) -> tuple[Vector, int]:
        """Embed one image as the images of a generation were; see :meth:`Encoder.encode`.

        Raises:
            GenerationError: the generation is not loaded.
        """
        return await self._held.get(generation).encode(groups)

    def ready(self) -> tuple[int, ...]:
        """Generations that are loaded, which says that this replica answers."""
        return self._held.loaded

    def check_health(self) -> None:
        """Raise if a batch is stuck; Serve then starts another replica."""
        for generation in self._held.loaded:
            self._held.get(generation).check()

    def _describe(self) -> Member:
        held = self._held
        return Member(name=self._name, part=encoder_part(self._modality), loaded=held.loaded, failed=held.failed)

    async def _follow(self, plan: Plan) -> None:
        await self._held.follow(plan)

    def _load(self, edition: Edition) -> Encoder:
        return Encoder(edition.workspace, edition.generation, self._modality, self._threads)

    def _changed(self) -> None:
        self._follower.report()
