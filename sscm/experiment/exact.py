"""Embeddings in full precision, on any device: differences between runs are smaller than bfloat16's rounding may be."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from sscm.model.bundle import Bundle
from sscm.model.encoders import as_tensor


class ExactBundle(Bundle):
    """A bundle whose embeddings are computed in float32 on a GPU too."""

    @torch.inference_mode()
    def encode(self, modality: str, groups: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[np.float32]:
        """Embed images of one modality; see :meth:`~sscm.model.bundle.Bundle.encode`."""
        encoder = self.encoder(modality)
        encoder.eval()
        pixels = encoder.prepare({name: as_tensor(values) for name, values in groups.items()})
        return np.asarray(encoder(pixels).float().cpu().numpy(), np.float32)


def exact(bundle: Bundle) -> ExactBundle:
    """The same encoders, their embeddings in full precision."""
    return ExactBundle(**{field.name: getattr(bundle, field.name) for field in dataclasses.fields(bundle)})
