"""Encoders: one timm backbone and projection head a modality, fed with native band groups.

Resampling and normalisation are part of the encoder, batched on its device: what travels there are the shard's own
bytes, and a query is prepared exactly as the training images were.
"""

from __future__ import annotations

import difflib
import math
import warnings
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sscm.archive.statistics import BandStatistics
from sscm.config import ModelConfig
from sscm.errors import BandMismatchError, BundleError, ConfigError
from sscm.sensors import BandGroup, Modality

CLIP = 6.0
"""Normalised pixels beyond this many deviations are clipped: glints and corner reflectors are not what a place is."""


class Encoder(nn.Module):
    """Native pixels of one modality → unit vectors.

    In eval mode the embeddings are centred on ``centre``: zeros, and no part of the weights, until
    :func:`~sscm.model.adaptation.adapt` fills it.

    Args:
        modality: bands, groups and native pixels. Images of other sizes than declared are resampled alike.
        statistics: ``<modality>/<band>`` → statistics that normalise it.
        config: backbone, dimension and image size. The backbone's weights start at random.

    Raises:
        ConfigError: timm does not know the backbone, or cannot make it with that norm.
        BundleError: a band has no statistics.
    """

    mean: Tensor
    std: Tensor
    centre: Tensor

    def __init__(self, modality: Modality, statistics: Mapping[str, BandStatistics], config: ModelConfig) -> None:
        super().__init__()
        self.modality = modality
        self.image_size = config.image_size or max(modality.height, modality.width)
        known = [f"{modality.name}/{band}" for band in modality.band_names]
        missing = [name for name in known if name not in statistics]
        if missing:
            raise BundleError(f"no statistics of {missing}; known are {list(statistics)}")
        mean = torch.tensor([statistics[name].mean for name in known], dtype=torch.float32)
        std = torch.tensor([max(statistics[name].std, 1e-6) for name in known], dtype=torch.float32)
        self.register_buffer("mean", mean.view(1, -1, 1, 1))
        self.register_buffer("std", std.view(1, -1, 1, 1))
        self.register_buffer("centre", torch.zeros(config.dimension), persistent=False)
        self.backbone = make_backbone(config.backbone, len(known), self.image_size, config.norm)
        self.head = nn.Linear(feature_count(self.backbone), config.dimension)

    def prepare(self, groups: Mapping[str, Tensor]) -> Tensor:
        """Resample, stack and normalise.

        Args:
            groups: band-group name → pixels [N, bands, height, width], native dtype and unit, on any device.

        Returns:
            float32 [N, all bands, image_size, image_size], in deviations from the mean; no-data pixels are 0, the mean.

        Raises:
            BandMismatchError: a band group is missing or has another number of bands.
        """
        return self.normalise(self.resample(groups))

    def resample(self, groups: Mapping[str, Tensor]) -> Tensor:
        """Stack the band groups on one grid, no-data pixels as NaN; see :meth:`prepare`."""
        planes = []
        start = 0
        for group in self.modality.groups:
            if group.name not in groups:
                raise BandMismatchError(groups, self.modality.group_names, f"images of {self.modality.name}")
            pixels = groups[group.name].to(self.mean.device, non_blocking=True)
            if pixels.shape[1] != len(group.bands):
                raise BandMismatchError(
                    [f"{pixels.shape[1]} bands"], group.band_names, f"images of {self.modality.name}, {group.name}"
                )
            fill = self.mean[:, start : start + len(group.bands)]
            planes.append(_resampled(pixels, group, fill, self.image_size))
            start += len(group.bands)
        return torch.cat(planes, dim=1)

    def normalise(self, pixels: Tensor) -> Tensor:
        """Pixels in native units → deviations from the mean, clipped; float32, same shape."""
        return ((pixels - self.mean) / self.std).clamp(-CLIP, CLIP)

    def project(self, pixels: Tensor) -> Tensor:
        """Prepared pixels float32 [N, bands, size, size] → raw projections float32 [N, dimension], of any norm."""
        projected: Tensor = self.head(self.backbone(pixels))
        return projected.float()

    def forward(self, pixels: Tensor) -> Tensor:
        """Prepared pixels float32 [N, bands, size, size] → embeddings float32 [N, dimension], unit norm.

        In training ``z = p/‖p‖`` of the projection p; in eval mode ``(z − centre)/‖z − centre‖``.
        """
        embeddings = F.normalize(self.project(pixels), dim=1)
        return embeddings if self.training else F.normalize(embeddings - self.centre, dim=1)


def prepared_images(encoder: Encoder, groups: Mapping[str, Tensor]) -> Tensor:
    """Images of one modality as they are trained on; those with a pixel that is not finite are NaN all over.

    Looked for in the native pixels, since normalising clips infinity to something finite.

    Args:
        encoder: of that modality.
        groups: band-group name → pixels [N, bands, height, width], native dtype, on any device; other names are not
            looked at.

    Returns:
        float32 [N, all bands, size, size], of :meth:`Encoder.prepare`.
    """
    device = encoder.mean.device
    chosen = {name: groups[name].to(device, non_blocking=True) for name in encoder.modality.group_names}
    pixels = encoder.prepare(chosen)
    finite = [torch.isfinite(values).flatten(1).all(1) for values in chosen.values() if values.is_floating_point()]
    if finite:
        bad = ~torch.stack(finite).all(0)
        if device.type != "cpu" or bool(bad.any()):  # to ask a GPU takes longer than to fill nothing
            pixels.masked_fill_(bad[:, None, None, None], torch.nan)
    return pixels


def make_backbone(name: str, bands: int, image_size: int, norm: Literal["batch", "group"] = "batch") -> nn.Module:
    """A timm backbone without classifier, random weights, for any number of bands.

    Args:
        name: any name that timm knows.
        bands: input channels.
        image_size: pixels of a side; given to models that fix it (vision transformers).
        norm: ``group`` puts group norm in the place of every batch norm.

    Raises:
        ConfigError: timm does not know the name, near ones are named; or it cannot be made with group norm.
    """
    if name not in timm.list_models():
        near = difflib.get_close_matches(name, timm.list_models(), n=5)
        raise ConfigError(f"backbone {name!r} is unknown to timm {timm.__version__}; near: {', '.join(near) or 'none'}")
    settings: dict[str, Any] = {"pretrained": False, "num_classes": 0, "in_chans": bands}
    if norm == "group":
        return _group_normed(name, settings)
    try:
        backbone: nn.Module = timm.create_model(name, img_size=image_size, **settings)
    except TypeError:  # convolutional networks take any size and know no such argument
        backbone = timm.create_model(name, **settings)
    return backbone


class _Groups(nn.GroupNorm):
    """Group norm that is made as batch norm is, of 32 groups or as many as divide the channels (Wu, He 2018)."""

    def __init__(self, channels: int, **settings: Any) -> None:
        super().__init__(math.gcd(32, channels), channels, **settings)


def _group_normed(name: str, settings: Mapping[str, Any]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        plain = timm.create_model(name, **settings)
    wanted = [layer for layer, module in plain.named_modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    refusal = f"backbone {name!r} cannot be made with group norm; choose norm = 'batch', or a ResNet (resnet18, …)"
    try:
        backbone: nn.Module = timm.create_model(name, norm_layer=_Groups, **settings)
    except (TypeError, AssertionError, ValueError) as error:
        # Other families take no such argument, or want a layer that holds the activation too.
        raise ConfigError(refusal) from error
    # Transformers have no batch norm, and take the argument for their tokens, on which groups mean nothing.
    if not wanted or wanted != [layer for layer, module in backbone.named_modules() if isinstance(module, _Groups)]:
        raise ConfigError(refusal)
    return backbone


def feature_count(backbone: Any) -> int:
    """Length of the feature vector of a timm backbone; its head may widen what its last stage gives."""
    return int(getattr(backbone, "head_hidden_size", None) or backbone.num_features)


def as_tensor(pixels: npt.NDArray[Any]) -> Tensor:
    """A tensor over the same memory as an array, which may be a read-only view of a file; nothing here writes to it."""
    native = pixels if pixels.dtype.isnative else pixels.astype(pixels.dtype.newbyteorder("="))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(np.ascontiguousarray(native))


def _resampled(pixels: Tensor, group: BandGroup, fill: Tensor, size: int) -> Tensor:
    """Bilinear to size × size, antialiased when shrinking; no-data pixels take the band's mean before they spread."""
    values = pixels.to(torch.float32)
    if group.nodata is not None:
        values = torch.where(values == group.nodata, fill, values)
    if values.shape[-2:] == (size, size):
        return values
    shrinking = values.shape[-1] > size
    return F.interpolate(values, size=(size, size), mode="bilinear", align_corners=False, antialias=shrinking)
