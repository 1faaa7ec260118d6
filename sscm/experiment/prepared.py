"""The training split in memory, prepared once and shared by all trials of a node."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from sscm.archive.manifest import Manifest, Shard
from sscm.archive.order import pieces_of
from sscm.archive.schema import decode_group
from sscm.archive.windows import read_pieces, stream_columns
from sscm.config import ModelConfig
from sscm.errors import ConfigError
from sscm.model.bundle import make_encoders
from sscm.model.encoders import Encoder, as_tensor, prepared_images
from sscm.progress import progress
from sscm.sensors import Modality
from sscm.workspace import Workspace

SAMPLE_SEED = 0
"""Of the sample of training pairs: all runs and seeds of an experiment see the same pairs."""

Groups = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Prepared:
    """Training pairs, resampled and normalised. Sharing it between processes of a node copies nothing.

    Args:
        pair_ids: str [N].
        images: modality → float16 [N, bands, size, size], in deviations from the mean.
    """

    pair_ids: npt.NDArray[np.str_]
    images: Mapping[str, npt.NDArray[np.float16]]

    def __len__(self) -> int:
        return len(self.pair_ids)

    def batch(self, rows: npt.NDArray[np.int64], device: torch.device) -> tuple[dict[str, torch.Tensor], list[str]]:
        """Some pairs: modality → float32 [n, bands, size, size] on a device, and their ids."""
        images = {name: torch.from_numpy(pixels[rows]).to(device).float() for name, pixels in self.images.items()}
        return images, self.pair_ids[rows].tolist()


def training_pairs(manifest: Manifest, pairs: int | None) -> int:
    """Complete pairs that are trained on.

    Raises:
        ConfigError: the archive has no training split, or fewer complete pairs than the sample wants.
    """
    complete = sum(sum(shard.complete) for shard in manifest.of_split("train"))
    if pairs is not None and pairs > complete:
        raise ConfigError(f"pairs = {pairs}; the training split has {complete} pairs with all modalities")
    return pairs or complete


def sample_rows(manifest: Manifest, pairs: int | None) -> npt.NDArray[np.int64]:
    """Which of the complete training pairs, counted in the manifest's order, are trained on: int64 [n], ascending.

    Raises:
        ConfigError: see :func:`training_pairs`.
    """
    complete = training_pairs(manifest, None)
    return np.sort(np.random.default_rng(SAMPLE_SEED).choice(complete, training_pairs(manifest, pairs), replace=False))


def prepared_bytes(manifest: Manifest, model: ModelConfig, pairs: int) -> int:
    """Memory of prepared pairs: two bytes a pixel and band."""
    pixels = sum(len(m.band_names) * _size(m, model) ** 2 for m in manifest.modalities)
    return 2 * pixels * pairs


def require_memory(manifest: Manifest, models: Sequence[ModelConfig], pairs: int, memory_gb: float) -> int:
    """Check that the prepared pairs, once for each of some image sizes, fit the memory they may take.

    Returns:
        Bytes in all.

    Raises:
        ConfigError: they do not; the message names what would.
    """
    needed = sum(prepared_bytes(manifest, model, pairs) for model in models)
    if needed > memory_gb * 1e9:
        fitting = int(pairs * memory_gb * 1e9 / needed)
        raise ConfigError(
            f"{pairs:,} training pairs, prepared at {[model.image_size or 'native' for model in models]} pixels, take "
            f"{needed / 1e9:.1f} GB; memory_gb = {memory_gb:g} allows less: set pairs = {fitting} to train on a seeded "
            "sample, choose a smaller image_size, or raise memory_gb where the machine has more"
        )
    return needed


def prepare(workspace: Workspace, manifest: Manifest, model: ModelConfig, pairs: int | None) -> Prepared:
    """Read the training split once, only its images and only complete pairs, and prepare it.

    Args:
        workspace: where the archive is.
        manifest: what it holds.
        model: its image size counts.
        pairs: how many to sample; None for all.

    Raises:
        WorkspaceError: a shard cannot be read.
    """
    chosen = sample_rows(manifest, pairs)
    count = len(chosen)
    encoders = make_encoders(manifest.modalities, manifest.statistics, model)
    ids: list[str] = []
    images = {
        m.name: np.empty((count, len(m.band_names), _size(m, model), _size(m, model)), np.float16)
        for m in manifest.modalities
    }
    seen = 0
    with progress("prepare", count) as advance, torch.inference_mode():
        for table in complete_tables(workspace, manifest.of_split("train"), manifest.modalities):
            rows = chosen[(chosen >= seen) & (chosen < seen + len(table))] - seen
            seen += len(table)
            if not len(rows):
                continue
            table = table.take(pa.array(rows))
            for m in manifest.modalities:
                encoder = encoders[m.name]
                if not isinstance(encoder, Encoder):
                    raise TypeError(f"{m.name}: expected an Encoder")
                groups = {name: as_tensor(values) for name, values in images_of(table, m).items()}
                pixels = prepared_images(encoder, groups)
                images[m.name][len(ids) : len(ids) + len(rows)] = pixels.numpy()
            ids += table["pair_id"].to_pylist()
            advance(len(rows))
    return Prepared(pair_ids=np.array(ids), images=images)


def complete_tables(
    workspace: Workspace, shards: Sequence[Shard], modalities: Sequence[Modality], extra: Sequence[str] = ()
) -> Iterator[pa.Table]:
    """Row groups of some shards, in order, only pairs that have every modality.

    Args:
        workspace: where the archive is.
        shards: what to read.
        modalities: whose images are read.
        extra: other columns to read; they may be null.
    """
    columns = stream_columns(modalities)
    for piece in pieces_of(shards):
        table = read_pieces(workspace, [piece], [*columns, *extra])
        valid = np.ones(len(table), np.bool_)
        for name in columns:
            if table[name].null_count:
                valid &= table[name].is_valid().to_numpy(zero_copy_only=False)
        yield table if valid.all() else table.filter(pa.array(valid))


def images_of(table: pa.Table, modality: Modality) -> Groups:
    """Band group → pixels [rows, bands, height, width] of one modality, native dtype."""
    return {group.name: decode_group(table[group.name], group) for group in modality.groups}


def _size(modality: Modality, model: ModelConfig) -> int:
    return model.image_size or max(modality.height, modality.width)
