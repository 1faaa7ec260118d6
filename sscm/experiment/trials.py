"""Trials: one run or baseline with one seed each, and the key under which its result is kept.

A result is ``experiments/<name>/trials/<key>.json``. The key is a hash of all that decides the figures, so that a
result is used again exactly where it would come out again: whatever a row is called, and however many seeds, runs or
rows the file has by now.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from sscm.archive.manifest import Manifest
from sscm.config import TrainConfig
from sscm.errors import ConfigError
from sscm.evaluation.figures import FORMAT as FIGURES
from sscm.experiment.spec import Adapt, Experiment, Run
from sscm.workspace import Workspace, file_sha256

FORMAT = 2
"""Of a trial's result, and of how it comes about: another one makes all trials run again."""
EXPERIMENTS = "experiments"
TRIALS = "trials"
_IRRELEVANT = ("workspace", "name", "resume", "workers", "cpus_per_worker", "max_failures")
"""Settings that say where and how a trial runs, not what it computes."""

Kind = Literal["train", "untrained", "spectrum", "chance"]


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One run or baseline with one seed.

    Args:
        row: name of the run or baseline.
        kind: what is measured.
        seed: of weights, order and augmentation; of the random order.
        config: settings, the seed among them; None where nothing has weights.
        adapt: how encoders are adapted before they are measured, each at most once.
        key: hexadecimal, see the module.
    """

    row: str
    kind: Kind
    seed: int
    config: TrainConfig | None = None
    adapt: tuple[Adapt, ...] = ("none",)
    key: str = ""

    @property
    def title(self) -> str:
        """For messages: row and seed."""
        return f"{self.row}, seed {self.seed}"

    @property
    def epochs(self) -> int:
        """Epochs of training."""
        return self.config.epochs if self.kind == "train" and self.config else 0


def plan_trials(experiment: Experiment, manifest: Manifest) -> list[Trial]:
    """All trials of an experiment, seed by seed, so that every row has its first seed early.

    Raises:
        ConfigError: a weights file cannot be read.
    """
    archive = archive_fingerprint(manifest)
    trials = []
    for place, seed in enumerate(experiment.seeds):
        found = _baselines(experiment, seed, first=place == 0)
        for run in experiment.runs:
            config = dataclasses.replace(run.config, seed=seed)
            adapt = tuple(dict.fromkeys(run.adapt))
            found.append(Trial(row=run.name, kind="train", seed=seed, config=config, adapt=adapt))
        trials += [dataclasses.replace(trial, key=trial_key(trial, experiment, archive)) for trial in found]
    return trials


def _baselines(experiment: Experiment, seed: int, first: bool) -> list[Trial]:
    found = []
    if experiment.baselines.chance:
        found.append(Trial(row="chance", kind="chance", seed=seed))
    if experiment.baselines.spectrum and first:  # nothing in it is drawn: one seed is all
        adapt = tuple(dict.fromkeys(_of_spectrum(each) for each in _kinds(experiment.runs)))
        found.append(Trial(row="mean spectrum", kind="spectrum", seed=seed, adapt=adapt))
    if experiment.baselines.untrained:
        models = list(dict.fromkeys(run.config.model for run in experiment.runs))
        for model in models:
            runs = [run for run in experiment.runs if run.config.model == model]
            name = "untrained" if len(models) == 1 else f"untrained ({runs[0].name})"
            config = dataclasses.replace(runs[0].config, seed=seed)
            found.append(Trial(row=name, kind="untrained", seed=seed, config=config, adapt=_kinds(runs)))
    return found


def _kinds(runs: Sequence[Run]) -> tuple[Adapt, ...]:
    """How any of the runs is adapted, in a fixed order."""
    wanted = {each for run in runs for each in run.adapt}
    return tuple(each for each in get_args(Adapt) if each in wanted)


def _of_spectrum(adapt: Adapt) -> Adapt:
    """A spectrum is standardised by the images searched, whichever adaptation it is compared with."""
    return "none" if adapt == "none" else "statistics"


def trial_key(trial: Trial, experiment: Experiment, archive: str) -> str:
    """Hexadecimal hash of all that decides a trial's figures.

    Args:
        trial: which.
        experiment: its splits and sample count.
        archive: of :func:`archive_fingerprint`.

    Raises:
        ConfigError: the weights file cannot be read.
    """
    about: dict[str, Any] = {
        "format": [FORMAT, FIGURES],
        "archive": archive,
        "kind": trial.kind,
        "splits": [experiment.query_split, experiment.archive_split],
        "adapt": list(trial.adapt),
    }
    if trial.kind != "spectrum":
        about["seed"] = trial.seed
    if trial.kind in ("train", "spectrum"):
        about["pairs"] = experiment.pairs
    if trial.config is not None:
        settings = dataclasses.asdict(trial.config)
        settings = settings if trial.kind == "train" else {"model": settings["model"]}
        about["config"] = {name: value for name, value in settings.items() if name not in _IRRELEVANT}
        about["weights"] = _weights_sha256(trial.config)
    return hashlib.sha256(json.dumps(about, sort_keys=True, default=str).encode()).hexdigest()[:24]


def archive_fingerprint(manifest: Manifest) -> str:
    """Hexadecimal hash of an archive's content: the checksums of its shards."""
    shards = sorted([shard.split, shard.sha256] for shard in manifest.shards)
    return hashlib.sha256(json.dumps(shards).encode()).hexdigest()


def read_result(workspace: Workspace, name: str, key: str) -> Mapping[str, Any] | None:
    """The result of a trial, or None where there is none."""
    if not workspace.exists(EXPERIMENTS, name, TRIALS, f"{key}.json"):
        return None
    result: Mapping[str, Any] = workspace.read_json(EXPERIMENTS, name, TRIALS, f"{key}.json")
    return result


def write_result(workspace: Workspace, name: str, key: str, result: Mapping[str, Any]) -> None:
    """Write the result of a trial, whole or not at all."""
    workspace.write_json(result, EXPERIMENTS, name, TRIALS, f"{key}.json")


def _weights_sha256(config: TrainConfig) -> str | None:
    if config.model.weights is None:
        return None
    try:
        return file_sha256(Path(config.model.weights))
    except OSError as error:
        raise ConfigError(f"weights = {config.model.weights!r}: {error.strerror}; expected a file") from error
