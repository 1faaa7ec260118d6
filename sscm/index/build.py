"""Building an index: adapt the encoders, embed what is missing, gather it into segments, commit a generation.

What adapts the encoders is staged first, then each embedded shard as a file of its own, named by model, adaptation and
content. A build that was killed is run again with the same command: it goes on with the adaptation that is staged,
embeds the shards that are not, and ends as if it had never stopped.

A build indexes the archive as it is: pairs that were deleted from the index and are in the archive return.
"""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Iterator, Sequence

from sscm.archive.manifest import Manifest, Shard, read_manifest
from sscm.config import IndexConfig
from sscm.errors import ConfigError, ConflictError, GenerationError, IntegrityError, WorkspaceError
from sscm.index.adapt import Sample, draw_sample, run_adaptation, write_adaptation
from sscm.index.approximate_build import approximate_segments
from sscm.index.embed import embedding_session, run_embedding
from sscm.index.generation import Generation, commit, now, read_generation, settle, successor
from sscm.index.pins import writing
from sscm.index.segment import SEGMENTS
from sscm.index.staging import STAGING, gather_segments, part_name, staged, sweep
from sscm.model.adaptation import MIN_IMAGES, Adaptation, adapt
from sscm.model.bundle import Bundle, load_bundle
from sscm.progress import progress
from sscm.version import code_version
from sscm.workspace import ARCHIVE, INDEX, Workspace, open_workspace


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
    with writing(workspace, "sscm index"):
        base = settle(workspace)
        present = _readable(workspace, base)
        if present is not None and _is_up_to_date(workspace, present, bundle, shards, sample):
            with overtaken_by_others(workspace, base):
                present = _retuned(workspace, present, config)
            print(
                f"index: generation {present.number} already holds these {present.rows:,} pairs, embedded by "
                f"{bundle.name}",
                file=sys.stderr,
            )
        else:
            if present is not None:
                _tell_of_changes(present, manifest, shards)
            with overtaken_by_others(workspace, base):
                restored = present and _restore(workspace, present, bundle, shards, sample, config)
                present = restored or _build(workspace, bundle, shards, sample, manifest.simulated, config, base + 1)
        for name in workspace.names(INDEX, STAGING):
            if name.startswith(_prefix(bundle, sample)):
                workspace.delete(INDEX, STAGING, name)
    return present


@contextlib.contextmanager
def overtaken_by_others(workspace: Workspace, base: int) -> Iterator[None]:
    """Call a failure what it is where another writer has committed since generation ``base`` was read.

    Raises:
        ConflictError: another writer committed first, and deleted what both had staged.
    """
    try:
        yield
    except WorkspaceError as error:
        newest = settle(workspace)
        if newest == base or isinstance(error, ConflictError):
            raise
        raise ConflictError(f"generation {newest} was committed meanwhile; run the same command again") from error


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
        stage_shards(workspace, encoders, shards, staging, config)
    names = tuple(modality.name for modality in bundle.modalities)
    segments = gather_segments(workspace, shards, staging, names)
    segments = approximate_segments(workspace, segments, names, config.recall, config.exact_rows)
    adapted = None if adaptation is None or sample is None else write_adaptation(workspace, adaptation, sample)
    generation = Generation(
        number=number,
        segments=segments,
        modalities=names,
        dimension=bundle.dimension,
        bundle=bundle.name,
        fingerprint=bundle.fingerprint,
        simulated=simulated,
        created=now(),
        code_version=code_version(),
        adaptation=adapted,
        recall=config.recall,
        exact_rows=config.exact_rows,
    )
    commit(workspace, generation)
    sweep(workspace, segments)
    return generation


def stage_shards(
    workspace: Workspace, encoders: Bundle, shards: Sequence[Shard], staging: str, config: IndexConfig
) -> None:
    """Embed the shards that are not staged yet, each into a file of its own.

    Args:
        workspace: where ``archive/`` and ``index/`` are.
        encoders: what embeds them, on CPU.
        shards: what is to be staged.
        staging: folder under ``index/staging/``, one for each model and adaptation.
        config: actors, their CPUs or GPU, and batch size.

    Raises:
        SscmError: see :func:`~sscm.index.embed.run_embedding`.
    """
    paths = {shard.file: (INDEX, STAGING, staging, part_name(shard)) for shard in shards}
    with progress("index", sum(shard.rows for shard in shards)) as advance:
        missing = []
        for shard, done in staged(workspace, shards, staging):
            if done:
                advance(shard.rows)
            else:
                missing.append(shard)
        for row in run_embedding(workspace, encoders, missing, config, paths):
            advance(row["rows"])


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


def _readable(workspace: Workspace, number: int) -> Generation | None:
    """A generation; None where there is none yet, or its manifest cannot be read: a build is the remedy for that."""
    if not number:
        return None
    try:
        return read_generation(workspace, number)
    except (GenerationError, IntegrityError) as error:
        print(f"index: {error}; building anew", file=sys.stderr)
        return None


def _tell_of_changes(present: Generation, manifest: Manifest, shards: Sequence[Shard]) -> None:
    """Say what a build undoes of what was deleted from the index before, or appended to it from elsewhere."""
    known = present.sources
    again = sum(shard.rows for shard in shards if known.get(shard.file) == shard.sha256)
    returning = max(present.deleted, again - present.rows)
    if returning > 0:
        print(
            f"index: {returning:,} pairs that were deleted from generation {present.number} return, where the archive "
            "has them: a build indexes the archive as it is",
            file=sys.stderr,
        )
    files = {shard.file for shard in manifest.shards}
    elsewhere = [source for source in known if source not in files]
    if elsewhere:
        print(
            f"index: pairs of generation {present.number} that came from {len(elsewhere)} sources outside of the "
            f"archive (first: {elsewhere[0]}) are left out",
            file=sys.stderr,
        )


def _restore(
    workspace: Workspace,
    present: Generation,
    bundle: Bundle,
    shards: Sequence[Shard],
    sample: Sample | None,
    config: IndexConfig,
) -> Generation | None:
    """Take deleted pairs in again; None where segments lack some, or other pairs, and all is to be embedded anew."""
    whole = tuple(dataclasses.replace(segment, deleted=None) for segment in present.segments)
    restored = successor(present, whole)
    if not _is_up_to_date(workspace, restored, bundle, shards, sample):
        return None
    return _tuned(workspace, restored, config)


def _retuned(workspace: Workspace, present: Generation, config: IndexConfig) -> Generation:
    """The generation that searches as is asked for: the present one, or one after it that differs in nothing else."""
    if (present.recall, present.exact_rows) == (config.recall, config.exact_rows):
        return present
    return _tuned(workspace, successor(present, present.segments), config)


def _tuned(workspace: Workspace, following: Generation, config: IndexConfig) -> Generation:
    """Build the approximate indexes that a generation is to have, and commit it."""
    segments = approximate_segments(
        workspace, following.segments, following.modalities, config.recall, config.exact_rows
    )
    tuned = dataclasses.replace(following, segments=segments, recall=config.recall, exact_rows=config.exact_rows)
    commit(workspace, tuned)
    return tuned


def _is_up_to_date(
    workspace: Workspace, generation: Generation, bundle: Bundle, shards: Sequence[Shard], sample: Sample | None
) -> bool:
    """Whether a generation is of this model and all of these shards, adapted alike, and its files are there."""
    if generation.fingerprint != bundle.fingerprint:
        return False
    if generation.sources != {shard.file: shard.sha256 for shard in shards}:
        return False
    if generation.rows != sum(shard.rows for shard in shards):
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
