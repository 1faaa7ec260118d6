"""Building an index: embed what is missing, gather it into segments, commit a generation.

Each embedded shard is staged as a file of its own, named by model and content. A build that was killed is run again
with the same command: it embeds the shards that are not staged, and ends as if it had never stopped.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import PurePosixPath

import numpy as np
import pyarrow as pa

from sscm.archive.manifest import Manifest, Shard, read_manifest
from sscm.config import IndexConfig
from sscm.errors import ConflictError, IntegrityError, WorkspaceError
from sscm.index.embed import EmbeddedShard, run_embedding
from sscm.index.generation import Generation, SegmentInfo, commit, read_generation, settle
from sscm.index.segment import SEGMENTS, write_segment
from sscm.model.bundle import Bundle, load_bundle
from sscm.progress import progress
from sscm.version import code_version
from sscm.workspace import ARCHIVE, INDEX, Workspace, open_workspace

STAGING = "staging"
SEGMENT_ROWS = 1_000_000
"""Most rows of a segment: with two modalities of 128 dimensions 1 GB, which a builder holds in memory."""


def build_index(config: IndexConfig) -> Generation:
    """Embed a workspace's archive with a model and commit it as the next index generation.

    Args:
        config: workspace, model, actors.

    Returns:
        The generation. One that this model and these shards made before is returned as it is.

    Raises:
        ManifestError: there is no archive.
        BundleError: there is no such model.
        BandMismatchError: the archive's bands are not the model's.
        IntegrityError: a shard is not what the manifest says.
        ConflictError: another build committed first; run again.
        WorkspaceError: the workspace cannot be written.
    """
    workspace = open_workspace(config.workspace)
    workspace.require_writable()
    manifest = read_manifest(workspace)
    bundle = load_bundle(workspace, config.model)
    bundle.require_bands_of(manifest, workspace.uri_of(ARCHIVE))
    base = settle(workspace)
    staging = bundle.fingerprint[:12]
    present = read_generation(workspace, base) if base else None
    if present is not None and _is_up_to_date(workspace, present, bundle, manifest):
        print(
            f"index: generation {base} already holds these {present.rows:,} pairs, embedded by {bundle.name}",
            file=sys.stderr,
        )
    else:
        try:
            present = _build(workspace, bundle, manifest, config, staging, base + 1)
        except WorkspaceError as error:
            newest = settle(workspace)
            if newest == base or isinstance(error, ConflictError):
                raise
            # The other build has deleted what both had staged.
            raise ConflictError(f"generation {newest} was committed meanwhile; run the same command again") from error
    workspace.delete(INDEX, STAGING, staging)
    return present


def _build(
    workspace: Workspace, bundle: Bundle, manifest: Manifest, config: IndexConfig, staging: str, number: int
) -> Generation:
    paths = {shard.file: (INDEX, STAGING, staging, _part_name(shard)) for shard in manifest.shards}
    with progress("index", manifest.rows) as advance:
        missing = []
        for shard, done in _staged(workspace, manifest.shards, staging):
            if done:
                advance(shard.rows)
            else:
                missing.append(shard)
        for row in run_embedding(workspace, bundle, missing, config, paths):
            advance(row["rows"])
    names = tuple(modality.name for modality in bundle.modalities)
    segments = tuple(_segment(workspace, shards, staging, names) for shards in _gathered(manifest.shards, SEGMENT_ROWS))
    generation = Generation(
        number=number,
        segments=segments,
        modalities=names,
        dimension=bundle.dimension,
        bundle=bundle.name,
        fingerprint=bundle.fingerprint,
        simulated=manifest.simulated,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        code_version=code_version(),
    )
    commit(workspace, generation)
    _sweep(workspace, segments)
    return generation


def _is_up_to_date(workspace: Workspace, generation: Generation, bundle: Bundle, manifest: Manifest) -> bool:
    """Whether a generation is of this model and archive, and none of its files is missing or cut short."""
    if generation.fingerprint != bundle.fingerprint:
        return False
    if generation.sources != {shard.file: shard.sha256 for shard in manifest.shards}:
        return False
    files = (((INDEX, SEGMENTS, s.name, file), stored) for s in generation.segments for file, stored in s.files.items())
    return all(workspace.exists(*path) and workspace.size(*path) == stored.bytes for path, stored in files)


def _part_name(shard: Shard) -> str:
    return f"{PurePosixPath(shard.file).stem}-{shard.sha256[:12]}.parquet"


def _staged(workspace: Workspace, shards: Sequence[Shard], staging: str) -> Iterator[tuple[Shard, bool]]:
    """Each shard, and whether it is staged whole."""
    there = set(workspace.names(INDEX, STAGING, staging))
    for shard in shards:
        name = _part_name(shard)
        yield shard, name in there and _rows_of(workspace, INDEX, STAGING, staging, name) == shard.rows


def _rows_of(workspace: Workspace, *path: str) -> int | None:
    """Rows of a Parquet file; None where it is not a whole one."""
    try:
        with workspace.parquet(*path) as file:
            return int(file.metadata.num_rows)
    except IntegrityError:
        return None


def _gathered(shards: Iterable[Shard], most: int) -> Iterator[list[Shard]]:
    """Consecutive shards of at most so many rows together, at least one."""
    group: list[Shard] = []
    for shard in shards:
        if group and sum(s.rows for s in group) + shard.rows > most:
            yield group
            group = []
        group.append(shard)
    if group:
        yield group


def _segment(workspace: Workspace, shards: Sequence[Shard], staging: str, names: Sequence[str]) -> SegmentInfo:
    parts = [
        EmbeddedShard.from_parquet(shard.file, workspace.read_bytes(INDEX, STAGING, staging, _part_name(shard)), names)
        for shard in shards
    ]
    rows = pa.concat_tables([part.rows for part in parts])
    vectors = {name: np.concatenate([part.vectors[name] for part in parts]) for name in names}
    name, files = write_segment(workspace, rows, vectors)
    return SegmentInfo(
        name=name, rows=rows.num_rows, files=files, sources={shard.file: shard.sha256 for shard in shards}
    )


def _sweep(workspace: Workspace, segments: Sequence[SegmentInfo]) -> None:
    """Delete what a killed build left half-written beside the files of these segments."""
    for segment in segments:
        for name in workspace.names(INDEX, SEGMENTS, segment.name):
            if name.startswith(".") and name.endswith(".part"):
                workspace.delete(INDEX, SEGMENTS, segment.name, name)
