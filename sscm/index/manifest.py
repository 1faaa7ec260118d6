"""What a generation's manifest says: its segments, which of their rows are deleted, what made and adapted it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sscm.errors import GenerationError, IntegrityError
from sscm.index.effort import ApproximateInfo
from sscm.index.tombstones import Tombstones
from sscm.workspace import Stored

if TYPE_CHECKING:
    from sscm.model.adaptation import Kind  # loads torch, which readers of an index do without

FORMAT = 4
"""4 has approximate indexes; 3, without them, has tombstones and names of properties; 2, without those, has what adapts
the model; 1 has none of it."""
SEGMENT_ROWS = 1_000_000
"""Most rows of a segment: with two modalities of 128 dimensions 1 GB, which a builder holds in memory."""


@dataclass(frozen=True, kw_only=True)
class SegmentInfo:
    """A segment as a generation's manifest lists it.

    Args:
        name: its folder under ``index/segments/``.
        rows: pairs in it, deleted ones too.
        files: file name → size and checksum.
        sources: archive file → SHA-256 of the shard that it was embedded from.
        properties: names of the properties that any of its rows has, sorted; None where it was written before they were
            noted.
        deleted: which rows are no part of the index any more; None where there are none.
        approximate: modality → its approximate index; empty where all are searched exactly.
    """

    name: str
    rows: int
    files: Mapping[str, Stored]
    sources: Mapping[str, str]
    properties: tuple[str, ...] | None = None
    deleted: Tombstones | None = None
    approximate: Mapping[str, ApproximateInfo] = field(default_factory=dict)

    @property
    def live(self) -> int:
        """Pairs in it that are not deleted."""
        return self.rows - (0 if self.deleted is None else self.deleted.rows)

    @property
    def bytes(self) -> int:
        """Size of its files, tombstones too."""
        return sum(stored.bytes for stored in self.files.values()) + (0 if self.deleted is None else self.deleted.bytes)


@dataclass(frozen=True, kw_only=True)
class AdaptationInfo:
    """What adapts the encoders, as a generation's manifest names it.

    Args:
        file: relative to ``index/``.
        kind: ``centre``: embeddings are centred; ``statistics``: batch-norm statistics were estimated before.
        bytes: size of the file.
        sha256: hexadecimal SHA-256 of its content.
        fingerprint: of the adaptation, hexadecimal: a model with the same one makes the same embeddings.
        images: modality → images that it was estimated on; empty where one has too few, and all are as trained.
        pairs: pairs of the sample.
        most: pairs that were asked for.
        seed: of the choice of the sample among the shards that are indexed.
        sample: hexadecimal digest of the pairs chosen and of what is adapted to them.
    """

    file: str
    kind: Kind
    bytes: int
    sha256: str
    fingerprint: str
    images: Mapping[str, int]
    pairs: int
    most: int
    seed: int
    sample: str


@dataclass(frozen=True, kw_only=True)
class Generation:
    """One state of an index.

    Args:
        number: counts up from 1.
        segments: its segments; each pair is in one of them.
        modalities: names of the modalities that are embedded.
        dimension: length of an embedding.
        bundle: name of the model bundle that made the embeddings.
        fingerprint: the bundle's, hexadecimal: what tells it from another of the same name.
        simulated: whether the archive's images were computed, not observed.
        created: ISO 8601 time of writing.
        code_version: version of sscm that wrote it.
        adaptation: what adapts the bundle to the archive, for queries and images alike; None where nothing does.
        emptied: archive file → SHA-256 of shards that were embedded and of which no segment has a pair any more, since
            all were deleted and compacted away.
        recall: recall@10 that approximate indexes are to reach; 1 where everything is searched exactly.
        exact_rows: segments of at most so many rows are searched exactly whatever the recall.
    """

    number: int
    segments: tuple[SegmentInfo, ...]
    modalities: tuple[str, ...]
    dimension: int
    bundle: str
    fingerprint: str
    simulated: bool
    created: str
    code_version: str
    adaptation: AdaptationInfo | None = None
    emptied: Mapping[str, str] = field(default_factory=dict)
    recall: float = 1.0
    exact_rows: int = 0

    @property
    def rows(self) -> int:
        """Pairs in the index; deleted ones are not counted."""
        return sum(segment.live for segment in self.segments)

    @property
    def deleted(self) -> int:
        """Deleted pairs that are still in a segment."""
        return sum(segment.rows - segment.live for segment in self.segments)

    @property
    def sources(self) -> dict[str, str]:
        """Archive file → SHA-256 of every shard that was embedded, whether or not its pairs were deleted since."""
        held = {file: sha256 for segment in self.segments for file, sha256 in segment.sources.items()}
        return dict(self.emptied) | held

    def to_json(self) -> dict[str, Any]:
        """A JSON object that :meth:`from_json` reads back."""
        return {
            "format": FORMAT,
            "number": self.number,
            "created": self.created,
            "code_version": self.code_version,
            "simulated": self.simulated,
            "rows": self.rows,
            "bundle": {"name": self.bundle, "fingerprint": self.fingerprint},
            "adaptation": None if self.adaptation is None else dataclasses.asdict(self.adaptation),
            "dimension": self.dimension,
            "modalities": list(self.modalities),
            "segments": [dataclasses.asdict(segment) for segment in self.segments],
            "emptied": dict(self.emptied),
            "recall": self.recall,
            "exact_rows": self.exact_rows,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any], where: str) -> Generation:
        """Read what :meth:`to_json` wrote.

        Raises:
            GenerationError: another format.
            IntegrityError: fields missing.
        """
        written = value.get("format")
        if not isinstance(written, int) or not 1 <= written <= FORMAT:
            raise GenerationError(f"{where}: format {written!r}; this version of sscm reads formats 1 to {FORMAT}")
        try:
            adaptation = value["adaptation"] if written >= 2 else None
            return cls(
                number=value["number"],
                segments=tuple(_segment_of(segment, written) for segment in value["segments"]),
                modalities=tuple(value["modalities"]),
                dimension=value["dimension"],
                bundle=value["bundle"]["name"],
                fingerprint=value["bundle"]["fingerprint"],
                simulated=value["simulated"],
                created=value["created"],
                code_version=value["code_version"],
                adaptation=None if adaptation is None else AdaptationInfo(**adaptation),
                emptied=value["emptied"] if written >= 3 else {},
                recall=value["recall"] if written >= 4 else 1.0,
                exact_rows=value["exact_rows"] if written >= 4 else 0,
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise IntegrityError(f"{where}: field missing or of another type ({error!r}); it was altered") from error


def _segment_of(value: Mapping[str, Any], written: int) -> SegmentInfo:
    """A segment as a manifest of some format lists it."""
    properties = value["properties"] if written >= 3 else None
    deleted = value["deleted"] if written >= 3 else None
    approximate = value["approximate"] if written >= 4 else {}
    unlisted = sorted({info["file"] for info in approximate.values()} - set(value["files"]))
    if unlisted:
        raise KeyError(f"segment {value['name']} has approximate indexes in {unlisted}, which are not among its files")
    return SegmentInfo(
        name=value["name"],
        rows=value["rows"],
        files={name: Stored(**stored) for name, stored in value["files"].items()},
        sources=value["sources"],
        properties=None if properties is None else tuple(properties),
        deleted=None if deleted is None else Tombstones(**deleted),
        approximate={name: ApproximateInfo.from_json(info) for name, info in approximate.items()},
    )
