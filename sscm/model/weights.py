"""Backbone weights from a local file, their first convolution adapted to an encoder's bands by name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from sscm.errors import BundleError
from sscm.model.encoders import Encoder
from sscm.sensors import Band

BANDS_KEY = "bands"
"""Key of a safetensors file's metadata under which its bands stand, in order, with commas between."""
RGB = ("red", "green", "blue")
"""What three channels are where a file does not say: weights of ordinary pictures."""


def load_backbone_weights(encoders: nn.ModuleDict, path: Path) -> None:
    """Start every encoder's backbone from the same file.

    The file says which bands its first convolution sees, by names or STAC common names in its metadata
    (``bands: "B02,B03,B04"``); three channels without a word are red, green and blue, one is any band. See
    :func:`kernels_for`. A classifier in the file is left out; nothing else may be missing.

    Args:
        encoders: modality → encoder.
        path: safetensors file of the backbone's weights under timm's names.

    Raises:
        BundleError: the file cannot be read, does not say its bands, or is of another architecture; missing and unfit
            weights are named.
    """
    try:
        with safetensors.safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
        given = safetensors.torch.load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise BundleError(f"{path}: {error}; expected a safetensors file of backbone weights") from error
    for name, module in encoders.items():
        encoder = cast(Encoder, module)
        state = encoder.backbone.state_dict()
        missing = [key for key in state if key not in given]
        if missing:
            raise _unfit(path, encoder, f"missing {missing[:5]}, {len(missing)} of {len(state)} in all")
        adapted = {key: given[key] for key in state}
        first = first_convolution(encoder.backbone)
        if adapted[first].ndim == state[first].ndim:
            bands = [band for group in encoder.modality.groups for band in group.bands]
            names = _bands_of(metadata, adapted[first].shape[1], f"{path}, {first}, for {name}")
            adapted[first] = kernels_for(bands, names, adapted[first])
        wrong = [
            f"{key} {tuple(adapted[key].shape)} there, {tuple(state[key].shape)} here"
            for key in state
            if adapted[key].shape != state[key].shape
        ]
        if wrong:
            raise _unfit(path, encoder, f"of another shape {wrong[:3]}, {len(wrong)} of {len(state)} in all")
        with torch.no_grad():
            encoder.backbone.load_state_dict(adapted)


def kernels_for(bands: Sequence[Band], names: Sequence[str | None], kernels: Tensor) -> Tensor:
    """Kernels of a first convolution for other bands, matched by name.

    A band that the weights know, by its own or its common name, takes its kernel; any other takes the mean of all
    kernels. All are scaled by (channels there / bands here), so that images whose bands look alike, as standardised
    bands of one place mostly do, excite the layer as much as before.

    Args:
        bands: bands of the encoder, in order.
        names: name of each channel of the weights, None where it has none; case does not count.
        kernels: float [out, channels, height, width].

    Returns:
        float [out, bands, height, width]; the kernels themselves where the names are those of the bands, in order.
    """
    known = {name.lower(): channel for channel, name in enumerate(names) if name is not None}
    mean = kernels.mean(dim=1)
    chosen = []
    for band in bands:
        channel = known.get(band.name.lower(), known.get((band.common_name or "").lower()))
        chosen.append(mean if channel is None else kernels[:, channel])
    return torch.stack(chosen, dim=1) * (kernels.shape[1] / len(bands))


def first_convolution(backbone: Any) -> str:
    """Name of the weight that sees the bands: what timm's own record of the backbone names, else the first kernel."""
    named = getattr(backbone, "pretrained_cfg", {}).get("first_conv")
    weights = dict(backbone.named_parameters())
    if isinstance(named, str) and f"{named}.weight" in weights:
        return f"{named}.weight"
    return next(str(name) for name, weight in weights.items() if weight.ndim == 4)


def _bands_of(metadata: dict[str, str], channels: int, where: str) -> list[str | None]:
    if BANDS_KEY in metadata:
        names: list[str | None] = [name.strip() for name in metadata[BANDS_KEY].split(",")]
        if len(names) != channels:
            raise BundleError(f"{where}: metadata names {len(names)} bands, {names}; the weights have {channels}")
        return names
    if channels == len(RGB):
        return list(RGB)
    if channels == 1:
        return [None]
    raise BundleError(
        f"{where}: {channels} channels of unknown bands; expected metadata {BANDS_KEY!r} with their names in order, "
        "with commas between"
    )


def _unfit(path: Path, encoder: Encoder, found: str) -> BundleError:
    kind = type(encoder.backbone).__name__
    return BundleError(f"{path}: not weights of the backbone of {encoder.modality.name}, a {kind}: {found}")
