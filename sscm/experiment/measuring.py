"""What a trial does: train, measure, write down. Runs in a process of its own, or in a test's."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from sscm.archive.manifest import Manifest
from sscm.config import TrainConfig
from sscm.errors import ConfigError, TrainingError
from sscm.evaluation.collect import Part, collect
from sscm.evaluation.figures import Figure
from sscm.evaluation.measure import measure, measure_chance
from sscm.evaluation.protocols import Protocol
from sscm.experiment.adapting import adapted
from sscm.experiment.exact import exact
from sscm.experiment.prepared import Prepared
from sscm.experiment.spec import Adapt
from sscm.experiment.spectral_trial import measure_rows, measure_spectrum
from sscm.experiment.trials import FORMAT, Trial
from sscm.index.embed import embed_shard
from sscm.model.bundle import Bundle, make_bundle, make_encoders
from sscm.model.weights import load_backbone_weights
from sscm.training.step import TrainingStep
from sscm.version import code_version
from sscm.workspace import Workspace

EMBED_BATCH = 64
"""Pairs embedded at a time."""

OnEpoch = Callable[[int, float], None]
"""Called with the number of the finished epoch, from 1, and its mean loss."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What all trials of an experiment share.

    Args:
        workspace: where archive and experiment are.
        manifest: the archive.
        protocol: which images ask, and which may answer.
        pairs: training pairs to sample; None for all.
    """

    workspace: Workspace
    manifest: Manifest
    protocol: Protocol
    pairs: int | None = None

    @property
    def splits(self) -> tuple[str, ...]:
        """Splits whose images are embedded."""
        return tuple(dict.fromkeys((self.protocol.query_split, self.protocol.archive_split)))

    @property
    def names(self) -> list[str]:
        """Names of the modalities."""
        return [m.name for m in self.manifest.modalities]


def run_trial(trial: Trial, setting: Setting, prepared: Prepared | None, on_epoch: OnEpoch) -> dict[str, Any]:
    """Train and measure.

    Args:
        trial: what.
        setting: on what.
        prepared: training pairs, where the trial trains.
        on_epoch: told of progress.

    Returns:
        The result, as JSON can hold it.

    Raises:
        SscmError: it cannot be done.
    """
    started = time.monotonic()
    history: list[float] = []
    seconds = 0.0
    if trial.config is not None:
        bundle, history, seconds = _bundle(trial, trial.config, setting, prepared, on_epoch)
        evaluations = [
            {"adapt": adapt, **_measured(_adapted(bundle, setting, adapt), trial, setting)} for adapt in trial.adapt
        ]
    elif trial.kind == "spectrum":
        given = (setting.workspace, setting.manifest, setting.protocol, setting.pairs)
        evaluations = [{"adapt": adapt, **_json(*measure_spectrum(*given, adapt != "none"))} for adapt in trial.adapt]
    else:
        evaluations = [{"adapt": "none", **_json(*_chance(setting, trial.seed))}]
    return {
        "format": FORMAT,
        "key": trial.key,
        "row": trial.row,
        "kind": trial.kind,
        "seed": trial.seed,
        "config": _plain(dataclasses.asdict(trial.config)) if trial.config else None,
        "train_pairs": len(prepared) if prepared is not None else 0,
        "losses": history,
        "train_seconds": seconds,
        "seconds": time.monotonic() - started,
        "threads": torch.get_num_threads(),
        "device": "gpu" if trial.config is not None and trial.config.gpu and trial.kind == "train" else "cpu",
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "code_version": code_version(),
        "evaluations": evaluations,
    }


def train_in_memory(encoders: nn.ModuleDict, config: TrainConfig, prepared: Prepared, on_epoch: OnEpoch) -> list[float]:
    """Train encoders on pairs in memory: a seeded order each epoch, the last part of a batch dropped.

    Args:
        encoders: on the device they are trained on; changed in place.
        config: settings.
        prepared: the pairs.
        on_epoch: told of each finished epoch.

    Returns:
        Mean loss of each epoch.

    Raises:
        ConfigError: the pairs do not fill one batch.
        TrainingError: the loss is not finite.
    """
    steps = len(prepared) // config.batch_size
    if steps < 1:
        raise ConfigError(
            f"{len(prepared)} training pairs do not fill one batch of {config.batch_size}; choose a smaller batch_size"
        )
    device = next(encoders.parameters()).device
    step = TrainingStep(encoders, config, config.epochs * steps)
    history = []
    for epoch in range(config.epochs):
        order = np.random.default_rng([config.seed, epoch]).permutation(len(prepared))
        seed = np.random.SeedSequence([config.seed, epoch]).generate_state(1, np.uint64)[0]
        generator = torch.Generator().manual_seed(int(seed >> 1))
        total = torch.zeros((), device=device)
        for number in range(steps):
            rows = order[number * config.batch_size : (number + 1) * config.batch_size]
            images, pair_ids = prepared.batch(rows, device)
            total += step(images, pair_ids, epoch * steps + number, generator).total.detach()
        history.append(float(total) / steps)
        if not np.isfinite(history[-1]):
            raise TrainingError(f"epoch {epoch + 1}: the loss is not finite; choose a smaller learning rate")
        on_epoch(epoch + 1, history[-1])
    return history


def _bundle(
    trial: Trial, config: TrainConfig, setting: Setting, prepared: Prepared | None, on_epoch: OnEpoch
) -> tuple[Bundle, list[float], float]:
    """Encoders of a trial, trained unless it wants none; mean losses and seconds of the training."""
    manifest = setting.manifest
    torch.manual_seed(config.seed)
    encoders = make_encoders(manifest.modalities, manifest.statistics, config.model)
    if config.model.weights is not None:
        load_backbone_weights(encoders, Path(config.model.weights))
    history: list[float] = []
    started = time.monotonic()
    if trial.kind == "train":
        if prepared is None:
            raise TrainingError(f"{trial.title}: no training pairs were prepared")
        encoders = encoders.to("cuda" if config.gpu else "cpu").to(memory_format=torch.channels_last)
        history = train_in_memory(encoders, config, prepared, on_epoch)
    seconds = time.monotonic() - started if trial.kind == "train" else 0.0
    bundle = make_bundle(
        f"{trial.kind}-{trial.key[:12]}",
        config=dataclasses.replace(config.model, weights=None),
        modalities=manifest.modalities,
        statistics=manifest.statistics,
        encoders=encoders.eval(),
        split="train" if trial.kind == "train" else "none",
        simulated=manifest.simulated,
        record={},
    )
    return exact(bundle), history, seconds


def _adapted(bundle: Bundle, setting: Setting, adapt: Adapt) -> Bundle:
    if adapt == "none":
        return bundle
    return adapted(bundle, setting.workspace, setting.manifest, setting.protocol.archive_split, adapt)


def _measured(bundle: Bundle, trial: Trial, setting: Setting) -> dict[str, Any]:
    """Figures of a bundle: the query and archive splits embedded as an index would."""
    parts = []
    for shard in setting.manifest.shards:
        if shard.split in setting.splits:
            found = embed_shard(setting.workspace, bundle, shard, setting.manifest.modalities, EMBED_BATCH)
            parts.append(Part(rows=found.rows, vectors=found.vectors))
    images = collect(parts, setting.splits, setting.names)
    queries, archive = images[setting.protocol.query_split], images[setting.protocol.archive_split]
    encoder = "trained" if trial.kind == "train" else "untrained"
    return _json(*measure(queries, archive, setting.names, setting.protocol, encoder))


def _chance(setting: Setting, seed: int) -> tuple[list[Figure], list[str]]:
    queries, archive = measure_rows(setting.workspace, setting.manifest, setting.protocol)
    return measure_chance(queries, archive, setting.names, setting.protocol, seed), []


def _json(figures: Sequence[Figure], notes: Sequence[str]) -> dict[str, Any]:
    return {"figures": [figure.to_json() for figure in figures], "notes": list(notes)}


def _plain(value: Any) -> Any:
    """Paths as text, so that settings go into JSON."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return str(value) if isinstance(value, Path) else value
