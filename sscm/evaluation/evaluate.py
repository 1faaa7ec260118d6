"""``sscm evaluate``: measure the current index, beside an untrained encoder and chance, and write JSON and report."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from sscm.archive.manifest import read_manifest
from sscm.config import EvaluateConfig, IndexConfig
from sscm.evaluation.collect import Part, collect, places, with_vectors
from sscm.evaluation.collection import Collection
from sscm.evaluation.exhibits import make_exhibits
from sscm.evaluation.figures import TRAINED, UNTRAINED, Evaluation
from sscm.evaluation.gallery import gallery_rows, write_gallery_png
from sscm.evaluation.measure import measure, measure_chance
from sscm.evaluation.protocols import choose_protocol
from sscm.evaluation.report import write_report
from sscm.index.adapt import draw_sample, run_adaptation
from sscm.index.embed import embed_shards, embedding_session
from sscm.index.encoders import load_model
from sscm.index.generation import Generation, open_segments, read_generation
from sscm.model.adaptation import adapt
from sscm.model.bundle import Bundle, untrained
from sscm.progress import progress
from sscm.version import code_version
from sscm.workspace import Workspace, open_workspace

__all__ = ["REPORT", "Evaluation", "evaluate"]

REPORT = "report.html"
"""Name of the report page where the settings give none."""
PICTURE_ROWS = 5
"""Rows of the gallery picture, all of one direction: what fits a page beside text."""


def evaluate(config: EvaluateConfig) -> Evaluation:
    """Measure retrieval on the workspace's current index generation.

    Writes the report page, and with ``config.json`` every figure as JSON; both whole or not at all.

    Args:
        config: protocol or splits, seed and where the results go.

    Returns:
        All figures.

    Raises:
        ConfigError: the protocol has other splits than those given.
        EvaluationError: a split has no images, or the index is of another archive.
        GenerationError: there is no index, or the model of that name is another one now.
        BundleError: the model that made it is gone.
        WorkspaceError: something cannot be read or written.
    """
    protocol = choose_protocol(config.protocol, config.query_split, config.archive_split)
    workspace = open_workspace(config.workspace)
    generation = read_generation(workspace)
    bundle = load_model(workspace, generation)
    names = generation.modalities
    splits = tuple(dict.fromkeys((protocol.query_split, protocol.archive_split)))
    parts = [
        Part(rows=segment.rows, vectors={name: segment.vectors(name) for name in names})
        for segment in open_segments(workspace, generation)
    ]
    images = collect(parts, splits, names)
    queries, archive = images[protocol.query_split], images[protocol.archive_split]
    shown = {TRAINED: (queries, archive)}
    figures, notes = measure(queries, archive, names, protocol, TRAINED)
    if generation.adaptation is not None and generation.adaptation.images:
        how = {"centre": "embeddings centred", "statistics": "batch-norm statistics, then embeddings centred"}
        notes.append(
            f"encoders adapted, without labels, to {generation.adaptation.pairs:,} pairs of the index: "
            f"{how[generation.adaptation.kind]}"
        )
    if config.untrained:
        bare = _untrained(workspace, generation, bundle, images, config.seed)
        shown[UNTRAINED] = bare[protocol.query_split], bare[protocol.archive_split]
        figures += measure(*shown[UNTRAINED], names, protocol, UNTRAINED)[0]
    figures += measure_chance(queries, archive, names, protocol, config.seed)
    evaluation = Evaluation(
        protocol=protocol,
        figures=tuple(figures),
        notes=tuple(notes),
        model=bundle.name,
        fingerprint=bundle.fingerprint,
        generation=generation.number,
        dimension=generation.dimension,
        simulated=bundle.simulated or generation.simulated,
        seed=config.seed,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        code_version=code_version(),
        report=_report_path(config, workspace),
    )
    if config.json is not None:
        target = config.json.expanduser().absolute()
        open_workspace(str(target.parent)).write_json(evaluation.to_json(), target.name)
    rows = gallery_rows(workspace, queries, archive, places(parts, splits), names, config.seed)
    titles = {name: bundle.modality(name).title for name in names}
    write_report(
        _report_path(config, workspace), evaluation, bundle, rows, make_exhibits(shown, titles, protocol, config.seed)
    )
    if config.gallery is not None:
        first = [row for row in rows if row.direction == rows[0].direction][:PICTURE_ROWS]
        write_gallery_png(config.gallery.expanduser().absolute(), first, titles)
    return evaluation


def _untrained(
    workspace: Workspace, generation: Generation, bundle: Bundle, images: Mapping[str, Collection], seed: int
) -> dict[str, Collection]:
    """The same images, embedded by encoders that were never trained.

    Where the index's encoders are adapted to its archive, these are too, alike and on the same pairs: what training
    gained is then the difference.
    """
    manifest = read_manifest(workspace)
    shards = [shard for shard in manifest.shards if shard.split in images]
    config = IndexConfig(workspace=workspace.uri)
    fresh = untrained(bundle, seed)
    with embedding_session(config):
        if generation.adaptation is not None:
            indexed = [shard for shard in manifest.shards if shard.file in generation.sources]
            how = generation.adaptation
            sample = draw_sample(indexed, how.kind, how.most, how.seed)
            if sample is not None:
                fresh = adapt(fresh, run_adaptation(workspace, fresh, sample, config))
        with progress("embed untrained", sum(shard.rows for shard in shards)) as advance:
            parts = [
                Part(rows=shard.rows, vectors=shard.vectors)
                for shard in embed_shards(workspace, fresh, shards, config, progress=advance)
            ]
    names = [m.name for m in bundle.modalities]
    return {split: with_vectors(collection, parts, names) for split, collection in images.items()}


def _report_path(config: EvaluateConfig, workspace: Workspace) -> Path:
    if config.report is not None:
        return config.report.expanduser().absolute()
    return Path(workspace.path_of(REPORT)) if workspace.is_local else Path(REPORT).absolute()
