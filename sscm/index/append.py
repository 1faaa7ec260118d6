"""Appending to an index: what is new becomes a segment of its own, and nothing else is touched.

The cost is that of the rows appended: no other segment is read. So a pair that is in the index already is not noticed
here; ids are unique in an archive, and :mod:`sscm.index.verify` and :mod:`sscm.index.compact` check that they are.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence

import pyarrow as pa

from sscm.archive.manifest import Manifest, Shard, read_manifest
from sscm.config import AppendConfig, IndexConfig
from sscm.errors import ConfigError, GenerationError
from sscm.index.approximate_build import approximate_segments
from sscm.index.build import overtaken_by_others, stage_shards
from sscm.index.encoders import load_encoders
from sscm.index.generation import Generation, SegmentInfo, commit, latest_generation, successor
from sscm.index.incoming import checked_rows, checked_vectors
from sscm.index.manifest import SEGMENT_ROWS
from sscm.index.pins import writing
from sscm.index.segment import Vectors, property_names, write_segment
from sscm.index.staging import gather_segments, unstage
from sscm.model.bundle import Bundle
from sscm.workspace import ARCHIVE, Workspace, open_workspace

ELSEWHERE = "elsewhere"
"""How a source is called first that is no shard of the archive, where nothing is said."""


def append_to_index(
    config: AppendConfig, decide: Callable[[Generation, Generation], object] | None = None
) -> Generation:
    """Embed the shards of a workspace's archive that its index does not have, and commit them as its next generation.

    They are embedded by the index's own model, adapted as its other images were. Killed and run again, it embeds the
    rest.

    Args:
        config: workspace, splits, actors.
        decide: called with the generation that is there and the one to be committed, all segments of which are written;
            what it raises leaves the index as it is. What was embedded lies ready for the next append.

    Returns:
        The generation; the current one where nothing is new.

    Raises:
        GenerationError: there is no index; the model of that name is another one now; or a shard of it has changed.
        ManifestError: there is no archive.
        BundleError: the model of the index is not there.
        BandMismatchError: the archive's bands are not the model's.
        IntegrityError: a shard is not what the manifest says.
        ConflictError: another writer committed first; run again.
        WorkspaceError: the workspace cannot be written.
    """
    workspace = open_workspace(config.workspace)
    manifest = read_manifest(workspace)
    with writing(workspace, "sscm index append"):
        before = latest_generation(workspace)
        shards = new_shards(workspace, manifest, before, config.splits)
        if not shards:
            print(
                f"index: generation {before.number} already has every shard of the archive; nothing to append",
                file=sys.stderr,
            )
            return before
        encoders = load_encoders(workspace, before)
        encoders.require_bands_of(manifest, workspace.uri_of(ARCHIVE))
        staging = _staging(encoders)
        with overtaken_by_others(workspace, before.number):
            stage_shards(workspace, encoders, shards, staging, _embedding(config))
            segments = gather_segments(workspace, shards, staging, before.modalities)
            segments = _approximated(workspace, before, segments)
            after = successor(before, before.segments + segments, simulated=before.simulated or manifest.simulated)
            if decide is not None:
                decide(before, after)
            commit(workspace, after)
        unstage(workspace, shards, staging)
    return after


def new_shards(
    workspace: Workspace, manifest: Manifest, generation: Generation, splits: Sequence[str] | None
) -> tuple[Shard, ...]:
    """Shards of an archive that a generation was not made of.

    Args:
        workspace: where ``archive/`` is, for messages.
        manifest: of the archive.
        generation: what is indexed.
        splits: whose shards are wanted; None for those that the index has shards of, all where it has none.

    Raises:
        GenerationError: a shard was indexed with another content.
        ConfigError: the archive has no pairs of these splits.
    """
    known = generation.sources
    for shard in manifest.shards:
        indexed = known.get(shard.file, shard.sha256)
        if indexed != shard.sha256:
            raise GenerationError(
                f"{workspace.uri_of(ARCHIVE, shard.file)} has SHA-256 {shard.sha256[:12]}; index generation "
                f"{generation.number} has the pairs of one with {indexed[:12]}: it was ingested anew since; "
                "run `sscm index` to index the archive as it is"
            )
    if splits is None:
        splits = sorted({shard.split for shard in manifest.shards if shard.file in known}) or None
    elif not any(shard.split in splits for shard in manifest.shards):
        raise ConfigError(f"the archive has no pairs of splits {list(splits)}; it has {manifest.rows_by_split}")
    new = [shard for shard in manifest.shards if shard.file not in known]
    wanted = tuple(shard for shard in new if splits is None or shard.split in splits)
    if splits is not None and len(wanted) < len(new):
        others = sorted({shard.split for shard in new if shard.split not in splits})
        print(
            f"index: {len(new) - len(wanted)} new shards of split {', '.join(others)} are left out; --splits names the "
            "splits that are appended",
            file=sys.stderr,
        )
    return wanted


def append_segment(
    workspace: Workspace, rows: pa.Table, vectors: Mapping[str, Vectors], sources: Mapping[str, str] | None = None
) -> Generation:
    """Add embeddings that were made elsewhere to an index, and commit them as its next generation.

    Args:
        workspace: where ``index/`` is.
        rows: table of :func:`~sscm.index.segment.rows_schema`, in any order; none of its pairs in the index.
        vectors: modality → float32 [n, d], unit norm, in the order of the rows; zeros where a pair lacks the modality.
            Only what the index's model, adapted alike, made can be compared with the rest.
        sources: what they were embedded from, as :attr:`~sscm.index.manifest.SegmentInfo.sources`; by default a name
            made of their content.

    Returns:
        The generation; the current one where these very rows are in it, or there are none.

    Raises:
        GenerationError: there is no index; columns, modalities, dimension or values are not as above; a pair occurs
            twice; or some of these rows are in the index, and others of them deleted.
        ConflictError: another writer committed first; call it again.
        WorkspaceError: the workspace cannot be written.
    """
    with writing(workspace, "append_segment"):
        before = latest_generation(workspace)
        rows = checked_rows(rows, before.modalities)
        vectors = checked_vectors(rows, vectors, before.modalities, before.dimension)
        held = {segment.name: segment for segment in before.segments}
        for start in range(0, rows.num_rows, SEGMENT_ROWS):
            part = rows.slice(start, SEGMENT_ROWS)
            matrices = {name: values[start : start + SEGMENT_ROWS] for name, values in vectors.items()}
            name, files = write_segment(workspace, part, matrices)
            info = SegmentInfo(
                name=name,
                rows=part.num_rows,
                files=files,
                sources={f"{ELSEWHERE}/{name}": name} if sources is None else dict(sources),
                properties=property_names(part),
            )
            held[name] = _beside(held.get(name), info, before.number)
        segments = tuple(held.values())
        if segments == before.segments:
            return before
        after = successor(before, _approximated(workspace, before, segments))
        commit(workspace, after)
        return after


def _approximated(
    workspace: Workspace, before: Generation, segments: tuple[SegmentInfo, ...]
) -> tuple[SegmentInfo, ...]:
    """Segments with the approximate indexes that those of the index have; segments that have theirs stay the same."""
    known = {info.name for info in before.segments}
    new = [info for info in segments if info.name not in known]
    built = approximate_segments(workspace, new, before.modalities, before.recall, before.exact_rows)
    ready = {info.name: info for info in built}
    return tuple(ready.get(info.name, info) for info in segments)


def _beside(held: SegmentInfo | None, new: SegmentInfo, number: int) -> SegmentInfo:
    """The new segment; the one that is there where they are the same rows."""
    if held is None or held.live == 0:
        return new
    if held.deleted is None:
        return held
    raise GenerationError(
        f"these {held.rows:,} rows are segment {held.name} of index generation {number}, from which "
        f"{held.deleted.rows:,} were deleted; append only the rows that are to return"
    )


def _staging(encoders: Bundle) -> str:
    """Where an append stages: told from builds, which clear what they staged of the same model and archive."""
    return f"{encoders.fingerprint[:12]}-append-" + ("plain" if encoders.adapted is None else encoders.adapted[:12])


def _embedding(config: AppendConfig) -> IndexConfig:
    return IndexConfig(
        workspace=config.workspace,
        actors=config.actors,
        cpus_per_actor=config.cpus_per_actor,
        gpu=config.gpu,
        batch_size=config.batch_size,
    )
