"""What a model bundle says of itself in its ``config.json``; read without its weights, and without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sscm.archive.statistics import BandStatistics
from sscm.config import ModelConfig
from sscm.errors import BundleError, IntegrityError
from sscm.sensors import Modality
from sscm.workspace import MODELS, Workspace

FORMAT = 1
CONFIG = "config.json"
LATEST = "LATEST.json"


@dataclass(frozen=True, kw_only=True)
class BundleAbout:
    """A bundle without its weights; fields as those of :class:`~sscm.model.bundle.Bundle`.

    Args:
        weights: file of the weights in the bundle's folder, with its size and checksum.
        resampling: what the statistics assume.
    """

    name: str
    fingerprint: str
    config: ModelConfig
    modalities: tuple[Modality, ...]
    statistics: Mapping[str, BandStatistics]
    resampling: str
    split: str
    simulated: bool
    created: str
    code_version: str
    record: Mapping[str, Any]
    weights: Mapping[str, Any]

    def modality(self, name: str) -> Modality:
        """A modality by name; raises BundleError where the bundle has no encoder for it."""
        for modality in self.modalities:
            if modality.name == name:
                return modality
        raise BundleError(f"model {self.name} has no encoder for {name!r}; it has {[m.name for m in self.modalities]}")


def read_about(workspace: Workspace, name: str | None = None) -> BundleAbout:
    """Read what a bundle says of itself.

    Args:
        workspace: where ``models/`` is.
        name: which one; the newest if None.

    Raises:
        BundleError: there is none of that name, or it is of another format.
        IntegrityError: a field is missing or of another type.
    """
    if name is None:
        if not workspace.exists(MODELS, LATEST):
            raise BundleError(
                f"{workspace.uri_of(MODELS)}: there is no model in this workspace; `sscm train` makes one"
            )
        name = str(workspace.read_json(MODELS, LATEST)["name"])
    where = workspace.uri_of(MODELS, name)
    if not workspace.exists(MODELS, name, CONFIG):
        known = [found for found in workspace.names(MODELS) if found != LATEST]
        raise BundleError(f"{where}: there is no such model; this workspace has {known}")
    about = workspace.read_json(MODELS, name, CONFIG)
    if about.get("format") != FORMAT:
        raise BundleError(f"{where}: format {about.get('format')!r}; this version of sscm reads format {FORMAT}")
    try:
        bands = about["statistics"]["bands"]
        return BundleAbout(
            name=name,
            fingerprint=about["fingerprint"],
            config=ModelConfig(**about["config"]),
            modalities=tuple(Modality.from_json(value) for value in about["modalities"]),
            statistics={key: BandStatistics.from_json(value) for key, value in bands.items()},
            resampling=about["statistics"]["resampling"],
            split=about["trained_on_split"],
            simulated=about["simulated"],
            created=about["created"],
            code_version=about["code_version"],
            record=about["record"],
            weights=about["weights"],
        )
    except (KeyError, TypeError) as error:
        raise IntegrityError(
            f"{where}/{CONFIG}: field missing or of another type ({error!r}); it was altered"
        ) from error
