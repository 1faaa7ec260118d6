"""The archive's manifest: what an archive holds, written last. No manifest, no archive.

``archive/manifest.json`` names every shard with its rows, split, bytes and checksum, declares the modalities with their
band groups, and carries the band statistics of the ingest pass. Readers find shards here, never by listing a bucket.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sscm.archive.schema import SPLITS
from sscm.archive.statistics import RESAMPLING, BandStatistics
from sscm.errors import ConfigError, ManifestError
from sscm.sensors import BandGroup, Modality
from sscm.workspace import ARCHIVE, Workspace

FORMAT = 1
NAME = "manifest.json"


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One Parquet file of pairs of one split.

    Args:
        file: path relative to ``archive/``.
        split: the split of all its pairs.
        rows: pairs in it.
        row_groups: rows of each Parquet row group, in order; sums to ``rows``.
        complete: of these, the rows that have every modality.
        bytes: size of the file.
        sha256: hexadecimal checksum of the file.
    """

    file: str
    split: str
    rows: int
    row_groups: tuple[int, ...]
    complete: tuple[int, ...]
    bytes: int
    sha256: str

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Shard:
        """Read the JSON object of its fields."""
        return cls(**{**value, "row_groups": tuple(value["row_groups"]), "complete": tuple(value["complete"])})


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What an archive holds.

    Args:
        modalities: the modalities it declares.
        shards: its shards, in order.
        statistics: band name → statistics of the train split's valid pixels (of all pixels where there is no train
            split), native resolution. Keys are ``<modality>/<band>``.
        source: name of the source and its settings, as text for people.
        simulated: whether the images were computed, not observed.
        created: ISO 8601 time of writing.
        code_version: version of sscm that wrote it.
        bad_pairs: pairs that were read but could not be used; ``archive/bad_pairs.json`` lists them.
        additions: what was added since, in order: each as ``source``, with ``rows`` and the time ``added``.
    """

    modalities: tuple[Modality, ...]
    shards: tuple[Shard, ...]
    statistics: Mapping[str, BandStatistics]
    source: Mapping[str, Any]
    created: str
    code_version: str
    simulated: bool = False
    bad_pairs: int = 0
    resampling: str = field(default=RESAMPLING)
    additions: tuple[Mapping[str, Any], ...] = ()

    @property
    def identities(self) -> tuple[str, ...]:
        """Names of the ingests that it was made by, as far as they are known."""
        return tuple(str(each["identity"]) for each in (self.source, *self.additions) if "identity" in each)

    @property
    def rows(self) -> int:
        """Pairs in the archive."""
        return sum(shard.rows for shard in self.shards)

    @property
    def rows_by_split(self) -> dict[str, int]:
        """Split → pairs in it, for every split of :data:`~sscm.archive.schema.SPLITS`."""
        return {split: sum(s.rows for s in self.shards if s.split == split) for split in SPLITS}

    @property
    def bytes(self) -> int:
        """Bytes of all shards."""
        return sum(shard.bytes for shard in self.shards)

    def of_split(self, split: str) -> tuple[Shard, ...]:
        """Shards of one split.

        Raises:
            ConfigError: the archive has no pair of that split; the splits it has are named.
        """
        found = tuple(shard for shard in self.shards if shard.split == split)
        if not found:
            raise ConfigError(f"the archive has no pairs of split {split!r}; it has {self.rows_by_split}")
        return found

    def modality(self, name: str) -> Modality:
        """A modality by name.

        Raises:
            ConfigError: the archive does not declare it; the ones it does are named.
        """
        for modality in self.modalities:
            if modality.name == name:
                return modality
        raise ConfigError(f"unknown modality {name!r}; the archive has {[m.name for m in self.modalities]}")

    def group(self, name: str) -> BandGroup:
        """A band group by name."""
        return next(g for m in self.modalities for g in m.groups if g.name == name)

    def to_json(self) -> dict[str, Any]:
        """A JSON object that :meth:`from_json` reads back."""
        return {
            "format": FORMAT,
            "simulated": self.simulated,
            "created": self.created,
            "code_version": self.code_version,
            "source": dict(self.source),
            "additions": [dict(addition) for addition in self.additions],
            "rows": self.rows,
            "rows_by_split": self.rows_by_split,
            "bad_pairs": self.bad_pairs,
            "modalities": [m.to_json() for m in self.modalities],
            "statistics": {
                "resampling": self.resampling,
                "bands": {name: s.to_json() for name, s in self.statistics.items()},
            },
            "shards": [dataclasses.asdict(shard) for shard in self.shards],
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any], where: str) -> Manifest:
        """Read what :meth:`to_json` wrote.

        Raises:
            ManifestError: another format, or fields missing.
        """
        if value.get("format") != FORMAT:
            raise ManifestError(f"{where}: format {value.get('format')!r}; this version of sscm reads format {FORMAT}")
        try:
            shards = tuple(Shard.from_json(shard) for shard in value["shards"])
            return cls(
                modalities=tuple(Modality.from_json(m) for m in value["modalities"]),
                shards=shards,
                statistics={k: BandStatistics.from_json(v) for k, v in value["statistics"]["bands"].items()},
                source=value["source"],
                created=value["created"],
                code_version=value["code_version"],
                simulated=value["simulated"],
                bad_pairs=value["bad_pairs"],
                resampling=value["statistics"]["resampling"],
                additions=tuple(value.get("additions", ())),  # older archives say nothing of it
            )
        except (KeyError, TypeError) as error:
            raise ManifestError(
                f"{where}: field missing or of another type ({error}); ingest the archive again"
            ) from error


def read_manifest(workspace: Workspace) -> Manifest:
    """The manifest of a workspace's archive.

    Raises:
        ManifestError: there is none, or it cannot be read.
    """
    where = workspace.uri_of(ARCHIVE, NAME)
    if not workspace.exists(ARCHIVE, NAME):
        raise ManifestError(f"{where}: there is no archive in this workspace; `sscm ingest` makes one")
    return Manifest.from_json(workspace.read_json(ARCHIVE, NAME), where)


def write_manifest(workspace: Workspace, manifest: Manifest) -> None:
    """Commit an archive: the one small write after which it exists."""
    workspace.write_json(manifest.to_json(), ARCHIVE, NAME)
