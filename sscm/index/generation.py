"""Index generations: what an index consists of at one moment, committed by one last small write.

``index/generations/<n>/manifest.json`` lists immutable segments with sizes and checksums and says which model made
them of which archive, and what adapted it to that archive. ``index/CURRENT`` names the generation that readers open.
The manifest is created only where there is none yet, so that of two writers at a time one wins and the other is told; a
writer that died between manifest and ``CURRENT`` is finished by the next (:func:`settle`).
"""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sscm.errors import ConflictError, GenerationError, IntegrityError
from sscm.index.segment import Segment, open_segment
from sscm.workspace import INDEX, Stored, Workspace, retrying, storage_errors

if TYPE_CHECKING:
    from sscm.model.adaptation import Kind  # loads torch, which readers of an index do without

FORMAT = 2
"""2 has what adapts the model; 1, without it, is read as not adapted."""
GENERATIONS = "generations"
MANIFEST = "manifest.json"
CURRENT = "CURRENT"


@dataclass(frozen=True, kw_only=True)
class SegmentInfo:
    """A segment as a generation's manifest lists it.

    Args:
        name: its folder under ``index/segments/``.
        rows: pairs in it.
        files: file name → size and checksum.
        sources: archive file → SHA-256 of the shard that it was embedded from.
    """

    name: str
    rows: int
    files: Mapping[str, Stored]
    sources: Mapping[str, str]


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

    @property
    def rows(self) -> int:
        """Pairs in the index."""
        return sum(segment.rows for segment in self.segments)

    @property
    def sources(self) -> dict[str, str]:
        """Archive file → SHA-256 of every shard that is indexed."""
        return {file: sha256 for segment in self.segments for file, sha256 in segment.sources.items()}

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
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any], where: str) -> Generation:
        """Read what :meth:`to_json` wrote.

        Raises:
            GenerationError: another format.
            IntegrityError: fields missing.
        """
        if value.get("format") not in (1, FORMAT):
            raise GenerationError(
                f"{where}: format {value.get('format')!r}; this version of sscm reads formats 1 and {FORMAT}"
            )
        try:
            adaptation = value["adaptation"] if value["format"] == FORMAT else None
            segments = tuple(
                SegmentInfo(
                    name=segment["name"],
                    rows=segment["rows"],
                    files={name: Stored(**stored) for name, stored in segment["files"].items()},
                    sources=segment["sources"],
                )
                for segment in value["segments"]
            )
            return cls(
                number=value["number"],
                segments=segments,
                modalities=tuple(value["modalities"]),
                dimension=value["dimension"],
                bundle=value["bundle"]["name"],
                fingerprint=value["bundle"]["fingerprint"],
                simulated=value["simulated"],
                created=value["created"],
                code_version=value["code_version"],
                adaptation=None if adaptation is None else AdaptationInfo(**adaptation),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise IntegrityError(f"{where}: field missing or of another type ({error!r}); it was altered") from error


def current_number(workspace: Workspace) -> int | None:
    """Number of the generation that readers open; None where nothing is indexed.

    Raises:
        IntegrityError: ``CURRENT`` was altered.
    """
    if not workspace.exists(INDEX, CURRENT):
        return None
    value = workspace.read_json(INDEX, CURRENT)
    number = value.get("generation") if isinstance(value, dict) else None
    if not isinstance(number, int):
        raise IntegrityError(f'{workspace.uri_of(INDEX, CURRENT)} holds {value!r}; expected {{"generation": <number>}}')
    return number


def read_generation(workspace: Workspace, number: int | None = None) -> Generation:
    """A generation of a workspace's index.

    Args:
        workspace: where ``index/`` is.
        number: which one; the current one if None.

    Raises:
        GenerationError: there is no index, or no such generation; those there are, are named.
        IntegrityError: its manifest was altered.
    """
    wanted = current_number(workspace) if number is None else number
    if wanted is None:
        raise GenerationError(f"{workspace.uri_of(INDEX)}: there is no index in this workspace; `sscm index` makes one")
    where = workspace.uri_of(INDEX, GENERATIONS, str(wanted), MANIFEST)
    if not workspace.exists(INDEX, GENERATIONS, str(wanted), MANIFEST):
        raise GenerationError(f"{where}: there is no such generation; the index has {_numbers(workspace)}")
    return Generation.from_json(workspace.read_json(INDEX, GENERATIONS, str(wanted), MANIFEST), where)


def open_segments(workspace: Workspace, generation: Generation, verify: bool = True) -> tuple[Segment, ...]:
    """Open all segments of a generation.

    Args:
        workspace: where ``index/`` is.
        generation: which one.
        verify: compare checksums, not only sizes.

    Raises:
        IntegrityError: a file is missing, truncated or altered; it is named.
    """
    return tuple(
        open_segment(workspace, info.name, info.files, generation.modalities, verify) for info in generation.segments
    )


def settle(workspace: Workspace) -> int:
    """Finish a commit whose writer died before ``CURRENT`` was written.

    Returns:
        Number of the newest generation, which is the current one now; 0 where there is none.
    """
    newest = max(_numbers(workspace), default=0)
    if newest > (current_number(workspace) or 0):
        _point(workspace, newest)
    return newest


def commit(workspace: Workspace, generation: Generation) -> None:
    """Make a generation the current one; all its segments must have been written.

    Raises:
        ConflictError: another writer committed this number, or a later one, first.
        WorkspaceError: it cannot be written.
    """
    data = (json.dumps(generation.to_json(), indent=1, allow_nan=False) + "\n").encode()
    where = workspace.uri_of(INDEX, GENERATIONS, str(generation.number), MANIFEST)
    with storage_errors("write", where):
        try:
            _create(workspace, data, INDEX, GENERATIONS, str(generation.number), MANIFEST)
        except FileExistsError as error:
            raise ConflictError(
                f"{where} exists: another `sscm index` committed first; run the same command again"
            ) from error
    newest = current_number(workspace) or 0
    if newest > generation.number:
        raise ConflictError(
            f"{workspace.uri_of(INDEX)}: generation {newest} was committed while {generation.number} was written; "
            "run the same command again"
        )
    _point(workspace, generation.number)


def _point(workspace: Workspace, number: int) -> None:
    workspace.write_json({"generation": number}, INDEX, CURRENT)


def _numbers(workspace: Workspace) -> list[int]:
    """Numbers of the generations that have a manifest."""
    found = (int(name) for name in workspace.names(INDEX, GENERATIONS) if name.isdecimal())
    return sorted(n for n in found if workspace.exists(INDEX, GENERATIONS, str(n), MANIFEST))


def _create(workspace: Workspace, data: bytes, *parts: str) -> None:
    """Write a file whole, and only where there is none.

    Raises:
        FileExistsError: there is one.
    """
    if not workspace.is_local:
        # Object stores put an object on the condition that there is none (S3: If-None-Match).
        retrying(lambda: workspace.fs.pipe_file(workspace.path_of(*parts), data, mode="create"))
        return
    target = Path(workspace.path_of(*parts))
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}-{time.time_ns()}.part")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.link(temporary, target)  # unlike a rename, never replaces
    finally:
        temporary.unlink(missing_ok=True)
