"""Model bundles: trained encoders as one self-describing directory, ``models/<name>/`` of a workspace.

``weights.safetensors`` holds the encoders' weights; ``config.json``, written last, says everything else: bands and band
groups, statistics and their resampling, split, code version and the training record. Never a pickle.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors.torch
import torch
from torch import Tensor, nn

from sscm.archive.manifest import Manifest
from sscm.archive.statistics import RESAMPLING, BandStatistics
from sscm.config import ModelConfig
from sscm.errors import BandMismatchError, BundleError, IntegrityError
from sscm.model.about import CONFIG, FORMAT, LATEST, read_about
from sscm.model.encoders import Encoder, as_tensor
from sscm.sensors import Modality
from sscm.version import code_version
from sscm.workspace import MODELS, Workspace

WEIGHTS = "weights.safetensors"


@dataclass(frozen=True, kw_only=True, eq=False)
class Bundle:
    """Encoders with all that is needed to use them. Picklable.

    Args:
        name: directory under ``models/``.
        fingerprint: hexadecimal SHA-256 of bands, statistics, configuration and weights: two bundles with the same one
            make the same embeddings, unless adapted otherwise.
        config: backbone, dimension, image size.
        modalities: bands and band groups that it was trained on.
        statistics: ``<modality>/<band>`` → statistics that normalise the images.
        encoders: modality → encoder, as ``nn.ModuleDict``.
        split: split that it was trained on; ``none`` for an untrained one.
        simulated: whether the training images were computed, not observed.
        created: ISO 8601 time.
        code_version: version of sscm.
        record: the training's settings (``config``) and history (``epochs``).
        adapted: fingerprint of the :class:`~sscm.model.adaptation.Adaptation` that the encoders carry; None where they
            are as they were trained.
    """

    name: str
    fingerprint: str
    config: ModelConfig
    modalities: tuple[Modality, ...]
    statistics: Mapping[str, BandStatistics]
    encoders: nn.ModuleDict
    split: str
    simulated: bool
    created: str
    code_version: str
    record: Mapping[str, Any] = field(default_factory=dict)
    adapted: str | None = None

    @property
    def dimension(self) -> int:
        """Length of an embedding."""
        return self.config.dimension

    @property
    def device(self) -> torch.device:
        """Where the encoders are."""
        return next(self.encoders.parameters()).device

    def modality(self, name: str) -> Modality:
        """A modality by name.

        Raises:
            BundleError: the bundle has no encoder for it; those it has are named.
        """
        for modality in self.modalities:
            if modality.name == name:
                return modality
        raise BundleError(f"model {self.name} has no encoder for {name!r}; it has {[m.name for m in self.modalities]}")

    def encoder(self, name: str) -> Encoder:
        """The encoder of one modality; raises like :meth:`modality`."""
        self.modality(name)
        encoder = self.encoders[name]
        if not isinstance(encoder, Encoder):
            raise BundleError(f"model {self.name}: {name} is a {type(encoder).__name__}; expected an Encoder")
        return encoder

    def to(self, device: str) -> Bundle:
        """The same bundle with its encoders on another device."""
        self.encoders.to(device)
        return self

    @torch.inference_mode()
    def encode(self, modality: str, groups: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[np.float32]:
        """Embed images of one modality.

        Args:
            modality: its name.
            groups: band-group name → pixels [N, bands, height, width], native dtype and unit.

        Returns:
            float32 [N, dimension], unit norm.

        Raises:
            BundleError: no encoder for that modality.
            BandMismatchError: a band group is missing or has another number of bands.
        """
        encoder = self.encoder(modality)
        encoder.eval()
        pixels = encoder.prepare({name: as_tensor(values) for name, values in groups.items()})
        with torch.autocast(pixels.device.type, torch.bfloat16, enabled=pixels.device.type == "cuda"):
            embeddings: Tensor = encoder(pixels)
        return np.asarray(embeddings.float().cpu().numpy(), np.float32)

    def require_bands_of(self, manifest: Manifest, where: str) -> None:
        """Check that an archive has the bands that this bundle was trained on.

        Raises:
            BandMismatchError: a modality is missing, or its bands differ; both lists are named.
        """
        declared = {m.name: m for m in manifest.modalities}
        for modality in self.modalities:
            if modality.name not in declared:
                raise BandMismatchError(declared, [m.name for m in self.modalities], where)
            modality.require_same_bands(declared[modality.name], where)


def make_encoders(
    modalities: tuple[Modality, ...], statistics: Mapping[str, BandStatistics], config: ModelConfig
) -> nn.ModuleDict:
    """Fresh encoders, one a modality, their weights drawn by torch's current random state."""
    return nn.ModuleDict({m.name: Encoder(m, statistics, config) for m in modalities})


def make_bundle(
    name: str,
    *,
    config: ModelConfig,
    modalities: tuple[Modality, ...],
    statistics: Mapping[str, BandStatistics],
    encoders: nn.ModuleDict,
    split: str,
    simulated: bool,
    record: Mapping[str, Any],
) -> Bundle:
    """A bundle of these encoders, with its fingerprint."""
    weights = safetensors.torch.save(_weights(encoders))
    return Bundle(
        name=name,
        fingerprint=_fingerprint(_meaning(config, modalities, statistics), weights),
        config=config,
        modalities=modalities,
        statistics=statistics,
        encoders=encoders,
        split=split,
        simulated=simulated,
        created=datetime.now(UTC).isoformat(timespec="microseconds"),
        code_version=code_version(),
        record=record,
    )


def untrained(bundle: Bundle, seed: int) -> Bundle:
    """A bundle of the same architecture and statistics whose weights were never trained.

    Batch-norm layers keep their initial statistics (mean 0, variance 1), as in any fresh network.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoders = make_encoders(bundle.modalities, bundle.statistics, bundle.config)
    return make_bundle(
        f"untrained-{seed}",
        config=bundle.config,
        modalities=bundle.modalities,
        statistics=bundle.statistics,
        encoders=encoders,
        split="none",
        simulated=bundle.simulated,
        record={},
    )


def save_bundle(workspace: Workspace, bundle: Bundle) -> None:
    """Write a bundle; it exists from the moment its ``config.json`` is there.

    Raises:
        BundleError: it is adapted to an archive: what adapts it lies with the archive's index, not with the model.
        WorkspaceError: it cannot be written.
    """
    if bundle.adapted is not None:
        raise BundleError(f"model {bundle.name} is adapted to an archive; save the one that was trained")
    weights = safetensors.torch.save(_weights(bundle.encoders))
    stored = workspace.write_bytes(weights, MODELS, bundle.name, WEIGHTS)
    about = {
        "format": FORMAT,
        "name": bundle.name,
        "fingerprint": bundle.fingerprint,
        "created": bundle.created,
        "code_version": bundle.code_version,
        "simulated": bundle.simulated,
        "trained_on_split": bundle.split,
        "weights": {"file": WEIGHTS, "bytes": stored.bytes, "sha256": stored.sha256},
        **_meaning(bundle.config, bundle.modalities, bundle.statistics),
        "record": dict(bundle.record),
    }
    workspace.write_json(about, MODELS, bundle.name, CONFIG)
    workspace.write_json({"name": bundle.name}, MODELS, LATEST)


def load_bundle(workspace: Workspace, name: str | None = None, device: str = "cpu") -> Bundle:
    """Load a bundle.

    Args:
        workspace: where ``models/`` is.
        name: which one; the newest if None.
        device: where its encoders go.

    Raises:
        BundleError: there is none of that name, or it is of another format.
        IntegrityError: its weights are not those that its ``config.json`` names.
    """
    about = read_about(workspace, name)
    where = workspace.uri_of(MODELS, about.name)
    weights = workspace.read_bytes(MODELS, about.name, WEIGHTS)
    if hashlib.sha256(weights).hexdigest() != about.weights["sha256"]:
        raise IntegrityError(
            f"{where}/{WEIGHTS}: {len(weights)} bytes that are not the {about.weights['bytes']} bytes written; "
            "restore it, or train again"
        )
    encoders = make_encoders(about.modalities, about.statistics, about.config)
    encoders.load_state_dict(safetensors.torch.load(weights))
    encoders.eval()
    return Bundle(
        name=about.name,
        fingerprint=about.fingerprint,
        config=about.config,
        modalities=about.modalities,
        statistics=about.statistics,
        encoders=encoders.to(device),
        split=about.split,
        simulated=about.simulated,
        created=about.created,
        code_version=about.code_version,
        record=about.record,
    )


def _weights(encoders: nn.ModuleDict) -> dict[str, Tensor]:
    return {name: value.detach().cpu().contiguous() for name, value in encoders.state_dict().items()}


def _meaning(
    config: ModelConfig, modalities: tuple[Modality, ...], statistics: Mapping[str, BandStatistics]
) -> dict[str, Any]:
    """What, with the weights, decides the embeddings."""
    return {
        "config": dataclasses.asdict(config),
        "modalities": [m.to_json() for m in modalities],
        "statistics": {"resampling": RESAMPLING, "bands": {key: value.to_json() for key, value in statistics.items()}},
    }


def _fingerprint(meaning: Mapping[str, Any], weights: bytes) -> str:
    digest = hashlib.sha256(json.dumps(meaning, sort_keys=True).encode())
    digest.update(weights)
    return digest.hexdigest()
