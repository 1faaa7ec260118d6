"""Run an experiment: make the archive if there is none, check it, run what is missing, write table and plot."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ray

from sscm import runtime
from sscm.archive.ingest import ingest
from sscm.archive.manifest import NAME, read_manifest
from sscm.archive.sources import make_source
from sscm.config import ExperimentConfig, IngestConfig
from sscm.errors import ManifestError
from sscm.evaluation.protocols import Protocol
from sscm.experiment.board import Display
from sscm.experiment.expect import require_expected
from sscm.experiment.fields import flatten
from sscm.experiment.measuring import Setting
from sscm.experiment.plot import plot_png
from sscm.experiment.pool import run_trials, trials_at_once
from sscm.experiment.prepared import prepare, require_memory, training_pairs
from sscm.experiment.results import Results, make_rows, table_columns
from sscm.experiment.spec import Experiment, read_experiment
from sscm.experiment.table import markdown
from sscm.experiment.trials import EXPERIMENTS, Trial, plan_trials, read_result
from sscm.model.encoders import make_backbone
from sscm.workspace import ARCHIVE, Workspace, open_workspace

TABLE, FIGURES, PLOT = "table.md", "table.json", "plot.png"
"""What an experiment writes into its folder, besides its trials."""


def run_experiment_file(file: Path, config: ExperimentConfig) -> Results:
    """Run the experiment that a file describes; see :func:`run_experiment`."""
    return run_experiment(read_experiment(file), config)


def run_experiment(experiment: Experiment, config: ExperimentConfig) -> Results:
    """Run what is missing of an experiment, and write its table and plot.

    Trials whose results are there are not run again; a failed one does not hold up the others.

    Args:
        experiment: what is compared.
        config: where, and how many trials at once.

    Returns:
        All rows; ``missing`` names what failed, and why.

    Raises:
        ConfigError: a setting that cannot work on this archive or these machines.
        ArchiveError: there is no archive and nothing to make it from, or it is not the one that is expected.
    """
    workspace = open_workspace(config.workspace)
    if not workspace.exists(ARCHIVE, NAME):
        if experiment.source is None:
            raise ManifestError(
                f"{workspace.uri_of(ARCHIVE)}: there is no archive, and the experiment file has no [ingest] table; "
                "make one by sscm ingest"
            )
        ingest(make_source(experiment.source), IngestConfig(workspace=workspace.uri))
    manifest = read_manifest(workspace)
    require_expected(workspace, manifest, experiment.expect, experiment.name)
    setting = Setting(
        workspace=workspace,
        manifest=manifest,
        protocol=Protocol(query_split=experiment.query_split, archive_split=experiment.archive_split),
        pairs=experiment.pairs,
    )
    for split in setting.splits:
        manifest.of_split(split)  # raises where there is none
    for run in experiment.runs:  # raises where timm does not know it, before the first trial runs
        make_backbone(run.config.model.backbone, 1, run.config.model.image_size or 64, run.config.model.norm)
    trials = plan_trials(experiment, manifest)
    missing = list({t.key: t for t in trials if read_result(workspace, experiment.name, t.key) is None}.values())
    failed = _run(missing, len(trials) - len(missing), experiment, setting, config.trials_at_once) if missing else {}
    results = gather(experiment, setting, trials, failed)
    write_results(workspace, results)
    return results


def gather(experiment: Experiment, setting: Setting, trials: Sequence[Trial], failed: Mapping[str, str]) -> Results:
    """The results of all trials that are there."""
    found = {}
    for trial in trials:
        result = read_result(setting.workspace, experiment.name, trial.key)
        if result is not None:
            found[trial.key] = result
    notes = dict.fromkeys(n for result in found.values() for each in result["evaluations"] for n in each["notes"])
    return Results(
        name=experiment.name,
        header=_header(experiment, setting, list(found.values())),
        columns=table_columns(setting.names),
        rows=make_rows(trials, found, failed),
        notes=tuple(notes),
    )


def write_results(workspace: Workspace, results: Results) -> None:
    """Write table and plot into the experiment's folder."""
    workspace.write_bytes(markdown(results).encode(), EXPERIMENTS, results.name, TABLE)
    workspace.write_json(results.to_json(), EXPERIMENTS, results.name, FIGURES)
    workspace.write_bytes(plot_png(results), EXPERIMENTS, results.name, PLOT)


def _run(
    missing: Sequence[Trial], done: int, experiment: Experiment, setting: Setting, wanted: int | None
) -> dict[str, str]:
    """Run trials on Ray, their training pairs in its object store; key → why of those that failed."""
    workspace, manifest = setting.workspace, setting.manifest
    models = {t.config.model.image_size: t.config.model for t in missing if t.kind == "train" and t.config}
    needed = 0
    if models:
        pairs = training_pairs(manifest, experiment.pairs)
        needed = require_memory(manifest, list(models.values()), pairs, experiment.memory_gb)
    with runtime.ray_session(object_store_bytes=runtime.OBJECT_STORE_BYTES + int(1.2 * needed)):
        at_once = trials_at_once(missing, wanted)
        prepared = {
            size: ray.put(prepare(workspace, manifest, model, experiment.pairs)) for size, model in models.items()
        }
        with Display(experiment.name, missing, done) as display:
            return run_trials(missing, setting, prepared, experiment.name, at_once, experiment.hours_per_trial, display)


def _header(experiment: Experiment, setting: Setting, found: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """What the figures were made of."""
    manifest, first = setting.manifest, experiment.runs[0].config
    rows = ", ".join(f"{count:,} {split}" for split, count in manifest.rows_by_split.items())
    source = ", ".join(f"{k} {v}" for k, v in manifest.source.items() if k != "identity" and v is not None)
    sample = f"; trained on a sample of {experiment.pairs:,}" if experiment.pairs else ""
    model = first.model
    header = {
        "data": f"{source}{' (simulated)' if manifest.simulated else ''}; {rows} pairs{sample}",
        "budget": f"{first.epochs} epochs, batch {first.batch_size}, peak learning rate {first.lr:g}, {model.backbone} "
        f"at {model.image_size or 'native'} pixels, {model.dimension} dimensions",
        "protocol": setting.protocol.text,
        "seeds": ", ".join(map(str, experiment.seeds)),
    }
    header |= _differences(experiment)
    seconds = [float(result["train_seconds"]) for result in found if result["kind"] == "train"]
    if seconds:
        how = {_machine(result) for result in found if result["kind"] == "train"}
        header["seconds a trial"] = (
            f"{statistics.fmean(seconds):,.0f} of training on {' or '.join(sorted(how))} "
            f"({min(seconds):,.0f} to {max(seconds):,.0f})"
        )
    return header


def _machine(result: Mapping[str, Any]) -> str:
    if result["device"] == "gpu":
        return "a GPU"
    return f"{result['threads']} CPU threads" if result["threads"] > 1 else "one CPU thread"


def _differences(experiment: Experiment) -> dict[str, str]:
    """Each run, and what it was given beyond the defaults."""
    return {
        f"run {run.name}": ", ".join(f"{key} = {value}" for key, value in flatten(run.differs).items()) or "as default"
        for run in experiment.runs
    }
