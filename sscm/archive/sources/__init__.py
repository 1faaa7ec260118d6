"""Sources of pairs, by their settings."""

from __future__ import annotations

from sscm.archive.sources.base import PairRef, Source
from sscm.archive.sources.bigearthnet import BigEarthNetSource
from sscm.archive.sources.pairs import PairsSource
from sscm.archive.sources.stac import StacSource
from sscm.archive.sources.synthetic import SyntheticSource
from sscm.config import BigEarthNetConfig, PairsConfig, StacConfig, SyntheticConfig

__all__ = ["BigEarthNetSource", "PairRef", "PairsSource", "Source", "StacSource", "SyntheticSource", "make_source"]


def make_source(config: SyntheticConfig | BigEarthNetConfig | PairsConfig | StacConfig) -> Source:
    """The source that some settings are of."""
    match config:
        case SyntheticConfig():
            return SyntheticSource(config)
        case BigEarthNetConfig():
            return BigEarthNetSource(config)
        case PairsConfig():
            return PairsSource(config)
        case StacConfig():
            return StacSource(config)
