"""The command line: parse → settings → one function that a notebook can call too.

Flags are made from the classes of :mod:`sscm.config`. What a command needs is imported when it runs, so that ``--help``
answers at once.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from sscm.config import (
    BigEarthNetConfig,
    DemoConfig,
    EvaluateConfig,
    ExperimentConfig,
    IndexConfig,
    IngestConfig,
    PairsConfig,
    ServeConfig,
    SyntheticConfig,
    TrainConfig,
)
from sscm.errors import SscmError

SourceConfig = (
    Annotated[SyntheticConfig, tyro.conf.subcommand("synthetic")]
    | Annotated[BigEarthNetConfig, tyro.conf.subcommand("bigearthnet")]
    | Annotated[PairsConfig, tyro.conf.subcommand("pairs")]
)


@dataclass(frozen=True, kw_only=True)
class Ingest:
    """Write image pairs as an archive: shards and a manifest."""

    source: SourceConfig
    """Where the pairs come from."""
    settings: IngestConfig = field(default_factory=IngestConfig)


@dataclass(frozen=True, kw_only=True)
class Search:
    """Ask a running service for images like this one."""

    files: tyro.conf.Positional[tuple[str, ...]]
    """The image: one multi-band GeoTIFF, a GeoTIFF a band, or .npy, .npz; or --id."""
    modality: str
    """What the image was taken by, e.g. s1."""
    target: str
    """What is looked for, e.g. s2."""
    id: str | None = None
    """Search by an image of the index, instead of files."""
    url: str = "http://127.0.0.1:8000"
    """Where the service listens."""
    limit: int = 10
    """Answers wanted."""
    format: Literal["table", "json"] = "table"
    """A table for people, or the service's GeoJSON."""


def main(arguments: list[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: as after ``sscm`` on the command line; ``sys.argv`` if None.

    Returns:
        Exit code: 0 done, 1 an error that the message explains, 130 interrupted.
    """
    commands: dict[str, Callable[..., Any]] = {
        "ingest": _ingest,
        "train": _train,
        "index": _index,
        "evaluate": _evaluate,
        "experiment": _experiment,
        "serve": _serve,
        "search": _search,
        "demo": _demo,
    }
    try:
        tyro.extras.subcommand_cli_from_dict(
            commands,
            prog="sscm",
            description="Find satellite images across sensors: train, index, evaluate, serve.",
            args=sys.argv[1:] if arguments is None else arguments,
            config=(tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes, tyro.conf.CascadeSubcommandArgs),
        )
    except SscmError as error:
        print(f"sscm: {type(error).__name__.removesuffix('Error')} error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("sscm: interrupted; run it again to go on (a training: with --resume and its --name)", file=sys.stderr)
        return 130
    return 0


def _ingest(command: Ingest) -> None:
    """Write image pairs as an archive: shards and a manifest."""
    from sscm.archive.ingest import ingest
    from sscm.archive.sources import make_source

    manifest = ingest(make_source(command.source), command.settings)
    splits = ", ".join(f"{rows} {split}" for split, rows in manifest.rows_by_split.items())
    size = f"{len(manifest.shards)} shards, {manifest.bytes / 1e6:,.0f} MB"
    bad = f"; {manifest.bad_pairs} unusable, listed in archive/bad_pairs.json" if manifest.bad_pairs else ""
    print(f"archive of {manifest.rows} pairs ({splits}) in {size}{bad}")


def _train(config: TrainConfig) -> None:
    """Train encoders on the archive."""
    from sscm.training.launch import train

    bundle = train(config)
    seconds = float(bundle.record["seconds"])
    print(f"model {bundle.name}, {len(bundle.record['epochs'])} epochs in {seconds:.0f} s; next: sscm index")


def _index(config: IndexConfig) -> None:
    """Embed the archive and commit an index generation."""
    from sscm.index.build import build_index

    generation = build_index(config)
    rows = sum(segment.rows for segment in generation.segments)
    print(f"index generation {generation.number}: {rows} rows by model {generation.bundle}; next: sscm serve")


def _evaluate(config: EvaluateConfig) -> None:
    """Measure retrieval and write the report page."""
    from rich.console import Console

    from sscm.evaluation.evaluate import evaluate

    evaluation = evaluate(config)
    Console().print(evaluation.table())
    print(f"report: {evaluation.report}")


def _experiment(file: tyro.conf.Positional[Path], settings: ExperimentConfig) -> None:
    """Run what is missing of an experiment: runs compared on the same data, budget and seeds; table and plot.

    Args:
        file: TOML file that names the runs, e.g. recipes/simulated.toml.
        settings: where and how.
    """
    from rich.console import Console

    from sscm.errors import TrainingError
    from sscm.experiment.launch import run_experiment_file
    from sscm.experiment.table import terminal
    from sscm.experiment.trials import EXPERIMENTS
    from sscm.workspace import open_workspace

    results = run_experiment_file(file, settings)
    Console().print(terminal(results))
    print(f"table and plot: {open_workspace(settings.workspace).uri_of(EXPERIMENTS, results.name)}")
    if results.missing:
        raise TrainingError(f"{'; '.join(results.missing)}; run the same command again: it does what is missing")


def _serve(config: ServeConfig) -> None:
    """Answer queries over HTTP until interrupted."""
    from serve.app import serve_workspace

    serve_workspace(config)


def _search(command: Search) -> None:
    """Ask a running service for images like this one."""
    import json

    from sscm.client import print_answers, search_id, search_image

    common: dict[str, Any] = {
        "modality": command.modality,
        "target": command.target,
        "url": command.url,
        "limit": command.limit,
    }
    answers = search_id(command.id, **common) if command.id else search_image(command.files, **common)
    if command.format == "json":
        print(json.dumps(answers, indent=1))
    else:
        print_answers(answers)


def _demo(config: DemoConfig) -> None:
    """Run the whole main job on a simulated archive."""
    from sscm.demo import demo

    demo(config)


if __name__ == "__main__":
    sys.exit(main())
