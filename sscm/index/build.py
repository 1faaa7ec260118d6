"""Building an index: adapt the encoders, embed what is missing, gather it into segments, commit a generation.

What adapts the encoders is staged first, then each embedded shard as a file of its own, named by model, adaptation and
content. A build that was killed is run again with the same command: it goes on with the adaptation that is staged,
embeds the shards that are not, and ends as if it had never stopped.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import PurePosixPath

import numpy as np
import pyarrow as pa

from sscm.archive.manifest import Manifest, Shard, read_manifest
from sscm.config import IndexConfig
from sscm.errors import ConfigError, ConflictError, IntegrityError, WorkspaceError
from sscm.index.adapt import Sample, draw_sample, run_adaptation, write_adaptation
from sscm.index.embed import EmbeddedShard, embedding_session, run_embedding
from sscm.index.generation import Generation, SegmentInfo, commit, read_generation, settle
from sscm.index.segment import SEGMENTS, write_segment
from sscm.model.adaptation import MIN_IMAGES, Adaptation, adapt
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
        config: workspace, model, splits, adaptation, actors.

    Returns:
        The generation. One that this model, adapted alike, and these shards made before is returned as it is.

    Raises:
        ManifestError: there is no archive.
        ConfigError: the archive has no pairs of these splits.
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
    shards = _shards(manifest, config.splits)
    sample = draw_sample(shards, config.adapt) if config.adapt != "none" else None
    base = settle(workspace)
    present = read_generation(workspace, base) if base else None
    if present is not None and _is_up_to_date(workspace, present, bundle, shards, sample):
        print(
            f"index: generation {base} already holds these {present.rows:,} pairs, embedded by {bundle.name}",
            file=sys.stderr,
        )
    else:
        try:
            present = _build(workspace, bundle, shards, sample, manifest.simulated, config, base + 1)
        except WorkspaceError as error:
            newest = settle(workspace)
            if newest == base or isinstance(error, ConflictError):
                raise
            # The other build has deleted what both had staged.
            raise ConflictError(f"generation {newest} was committed meanwhile; run the same command again") from error
    for name in workspace.names(INDEX, STAGING):
        if name.startswith(_prefix(bundle, sample)):
            workspace.delete(INDEX, STAGING, name)
    return present


def _build(
    workspace: Workspace,
    bundle: Bundle,
    shards: Sequence[Shard],
    sample: Sample | None,
    simulated: bool,
    config: IndexConfig,
    number: int,
) -> Generation:
    rows = sum(shard.rows for shard in shards)
    with contextlib.ExitStack() as session:
        adaptation = _staged_adaptation(workspace, bundle, sample)
        if sample is not None and adaptation is None:
            session.enter_context(embedding_session(config))  # one for both: it takes seconds to start
            adaptation = run_adaptation(workspace, bundle, sample, config)
            workspace.write_bytes(adaptation.to_bytes(), INDEX, STAGING, _adaptation_name(bundle, sample))
        _tell(bundle, adaptation, config, rows)
        encoders = bundle if adaptation is None else adapt(bundle, adaptation)
        staging = _prefix(bundle, sample) + ("" if adaptation is None else f"-{adaptation.fingerprint[:12]}")
        paths = {shard.file: (INDEX, STAGING, staging, _part_name(shard)) for shard in shards}
        with progress("index", rows) as advance:
            missing = []
            for shard, done in _staged(workspace, shards, staging):
                if done:
                    advance(shard.rows)
                else:
                    missing.append(shard)
            for row in run_embedding(workspace, encoders, missing, config, paths):
                advance(row["rows"])
    names = tuple(modality.name for modality in bundle.modalities)
    segments = tuple(_segment(workspace, group, staging, names) for group in _gathered(shards, SEGMENT_ROWS))
    adapted = None if adaptation is None or sample is None else write_adaptation(workspace, adaptation, sample)
    generation = Generation(
        number=number,
        segments=segments,
        modalities=names,
        dimension=bundle.dimension,
        bundle=bundle.name,
        fingerprint=bundle.fingerprint,
        simulated=simulated,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        code_version=code_version(),
        adaptation=adapted,
    )
    commit(workspace, generation)
    _sweep(workspace, segments)
    return generation


def _shards(manifest: Manifest, splits: Sequence[str]) -> tuple[Shard, ...]:
    """Shards of the splits that are to be indexed, in the archive's order."""
    shards = tuple(shard for shard in manifest.shards if shard.split in splits)
    if manifest.shards and not shards:
        raise ConfigError(f"the archive has no pairs of splits {list(splits)}; it has {manifest.rows_by_split}")
    return shards


def _prefix(bundle: Bundle, sample: Sample | None) -> str:
    """How all that a build stages is named first: its model, and the sample that it is adapted to, and how."""
    return f"{bundle.fingerprint[:12]}-" + ("plain" if sample is None else sample.digest[:12])


def _adaptation_name(bundle: Bundle, sample: Sample) -> str:
    return f"{_prefix(bundle, sample)}.safetensors"


def _staged_adaptation(workspace: Workspace, bundle: Bundle, sample: Sample | None) -> Adaptation | None:
    """What a build of the same model and archive adapted the encoders with before it was killed."""
    if sample is None:
        return None
    path = (INDEX, STAGING, _adaptation_name(bundle, sample))
    if not workspace.exists(*path):
        return None
    try:
        return Adaptation.from_bytes(workspace.read_bytes(*path), workspace.uri_of(*path))
    except IntegrityError:
        return None


def _tell(bundle: Bundle, adaptation: Adaptation | None, config: IndexConfig, rows: int) -> None:
    """Say that the encoders embed as they were trained though adaptation was wanted."""
    if config.adapt == "none" or not rows or (adaptation is not None and adaptation.images):
        return
    names = ", ".join(modality.name for modality in bundle.modalities)
    print(
        f"index: encoders of {names} are not adapted to the archive and embed as they were trained: "
        f"it has fewer than {MIN_IMAGES} images of one of them",
        file=sys.stderr,
    )


def _is_up_to_date(
    workspace: Workspace, generation: Generation, bundle: Bundle, shards: Sequence[Shard], sample: Sample | None
) -> bool:
    """Whether a generation is of this model and these shards, adapted alike to this sample, and its files are there."""
    if generation.fingerprint != bundle.fingerprint:
        return False
    if generation.sources != {shard.file: shard.sha256 for shard in shards}:
        return False
    adapted = generation.adaptation
    # The sample's digest decides the adaptation, its kind included: nothing has to be estimated to compare it.
    if (adapted and adapted.sample) != (sample and sample.digest):
        return False
    files = [((INDEX, SEGMENTS, s.name, file), stored) for s in generation.segments for file, stored in s.files.items()]
    sizes: dict[tuple[str, ...], int] = {path: stored.bytes for path, stored in files}
    if adapted is not None:
        sizes[(INDEX, *adapted.file.split("/"))] = adapted.bytes
    return all(workspace.exists(*path) and workspace.size(*path) == size for path, size in sizes.items())


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
