"""Backbone weights from a local file, their first convolution adapted to an encoder's bands."""

from __future__ import annotations

from pathlib import Path

import safetensors
import safetensors.torch
import torch
from timm.models import adapt_input_conv
from torch import nn

from sscm.errors import BundleError


def load_backbone_weights(encoders: nn.ModuleDict, path: Path) -> None:
    """Start every encoder's backbone from the same file.

    The first convolution's kernels are repeated over the bands and rescaled, as timm does it for other than three
    channels. A classifier in the file is left out; nothing else may be missing.

    Args:
        encoders: modality → encoder.
        path: safetensors file of the backbone's weights under timm's names.

    Raises:
        BundleError: the file cannot be read, or is of another architecture; missing and unknown names are given.
    """
    try:
        given = safetensors.torch.load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise BundleError(f"{path}: {error}; expected a safetensors file of backbone weights") from error
    for name, encoder in encoders.items():
        backbone = encoder.backbone
        if not isinstance(backbone, nn.Module):
            raise BundleError(f"encoder of {name} has no backbone to load weights into")
        state = backbone.state_dict()
        adapted = {}
        for key, value in given.items():
            if key in state and value.ndim == 4 and value.shape[1] == 3 and state[key].shape[1] != 3:
                value = adapt_input_conv(state[key].shape[1], value)
            adapted[key] = value
        missing = [key for key in state if key not in adapted]
        wrong = [key for key in state if key in adapted and adapted[key].shape != state[key].shape]
        if missing or wrong:
            raise BundleError(
                f"{path}: not weights of this backbone: missing {missing[:5]}, of another shape {wrong[:5]} "
                f"({len(missing)} and {len(wrong)} of {len(state)} in all)"
            )
        with torch.no_grad():
            backbone.load_state_dict({key: adapted[key] for key in state})
