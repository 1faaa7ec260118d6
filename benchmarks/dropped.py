"""What was tried beside the objective and did not stay in the library: each variant against the same run without it.

A variant is a patch on the library's own training, so that everything else is as in a run of an experiment file.

    python benchmarks/dropped.py --workspace W --recipe recipes/ombria.toml [--variants speckle ema …] [--json FILE]

The workspace holds the archive of that recipe; the run "NT-Xent" of the recipe is what is varied.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sscm.archive.manifest import read_manifest
from sscm.config import TrainConfig
from sscm.evaluation.protocols import Protocol
from sscm.experiment import measuring
from sscm.experiment.prepared import prepare
from sscm.experiment.spec import read_experiment
from sscm.experiment.trials import Trial
from sscm.model import augment as library_augment
from sscm.model import bundle, encoders, objective
from sscm.training import step as training_step
from sscm.workspace import open_workspace

RUN = "NT-Xent"
SHOWN = (("partner_recall", 10), ("mean_pair_f1", 5), ("mean_average_precision", None), ("cover_distance", 5))
LOWER_IS_BETTER = {"cover_distance"}
TRAINED = objective._partner_nll

Augment = Callable[[Mapping[str, Tensor], float, torch.Generator], dict[str, Tensor]]


@contextmanager
def nothing() -> Iterator[None]:
    """The run as it is."""
    yield


def augmented(change: Callable[[dict[str, Tensor], torch.Generator], dict[str, Tensor]]) -> Any:
    """A variant that changes prepared images after the library's own augmentation."""

    def augment(images: Mapping[str, Tensor], crop: float, generator: torch.Generator) -> dict[str, Tensor]:
        return change(library_augment.augment(images, crop, generator), generator)

    return patch.object(training_step, "augment", augment)


def noise(images: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
    """Speckle drawn anew: multiplicative noise is additive in dB; 0.3 deviations of the first modality's bands."""
    first = next(iter(images))
    return images | {first: images[first] + 0.3 * torch.randn(images[first].shape, generator=generator)}


def radiometric(strength: float) -> Callable[[dict[str, Tensor], torch.Generator], dict[str, Tensor]]:
    """Gain and offset of the whole image and of each band (calibration, moisture, haze, brightness)."""

    def change(images: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        changed = {}
        for name, pixels in images.items():
            n, bands = pixels.shape[:2]
            draw = [torch.randn(n, count, 1, 1, generator=generator) for count in (1, bands, 1, bands)]
            gain, offset = draw[0] + draw[1] / 2, draw[2] + draw[3] / 2
            changed[name] = pixels * (1 + strength * gain) + strength * offset
        return changed

    return change


def band_dropout(images: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
    """One band in ten at its mean, where a modality has several."""
    kept = {}
    for name, pixels in images.items():
        n, bands = pixels.shape[:2]
        keep = torch.rand(n, bands, 1, 1, generator=generator) > 0.1
        kept[name] = pixels * keep if bands > 1 else pixels
    return kept


def unpaired(images: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
    """Flips and turns drawn for each modality by itself."""
    turned = {}
    for name, pixels in images.items():
        drawn = library_augment.random_symmetries(len(pixels), generator)
        turned |= library_augment.apply_symmetries({name: pixels}, drawn)
    return turned


def hard_negatives(queries: Tensor, targets: Tensor, first: int, temperature: float) -> Tensor:
    """Negatives weighted by their similarity (Robinson et al. 2021, arXiv 2010.04592), β = 1."""
    logits = queries @ targets.T / temperature
    partners = torch.arange(first, first + len(queries))
    own = F.one_hot(partners, len(targets)).bool()
    weights = (logits.detach() * temperature).exp().masked_fill(own, 0.0)
    weights = weights / weights.sum(dim=1, keepdim=True) * (len(targets) - 1)
    return F.cross_entropy(logits + weights.masked_fill(own, 1.0).log(), partners, reduction="none")


def damped(queries: Tensor, targets: Tensor, first: int, temperature: float) -> Tensor:
    """Targets nearer than cos 0.8 to a query's own partner are no negatives of it."""
    logits = queries @ targets.T / temperature
    partners = torch.arange(first, first + len(queries))
    near = (targets[partners] @ targets.T).detach() > 0.8
    near[torch.arange(len(queries)), partners] = False
    return F.cross_entropy(logits.masked_fill(near, -1e4), partners, reduction="none")


@contextmanager
def learnable_temperature() -> Iterator[None]:
    """The temperature is a weight, from the run's own setting on (Radford et al. 2021, arXiv 2103.00020)."""
    scale = nn.Parameter(torch.zeros(()))
    groups = training_step.parameter_groups

    def with_scale(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
        return [*groups(module, weight_decay), {"params": [scale], "weight_decay": 0.0}]

    def nll(queries: Tensor, targets: Tensor, first: int, temperature: float) -> Tensor:
        return TRAINED(queries * scale.exp().clamp(max=10), targets, first, temperature)

    with patch.object(training_step, "parameter_groups", with_scale), patch.object(objective, "_partner_nll", nll):
        yield


@contextmanager
def mlp_head() -> Iterator[None]:
    """A hidden layer of 512 with batch norm in the projection head."""

    def make(*arguments: Any) -> nn.ModuleDict:
        made = bundle.make_encoders(*arguments)
        for encoder in made.values():
            width, dimension = encoder.head.in_features, encoder.head.out_features
            encoder.head = nn.Sequential(
                nn.Linear(width, 512), nn.BatchNorm1d(512), nn.ReLU(), nn.Linear(512, dimension)
            )
        return made

    with patch.object(measuring, "make_encoders", make):
        yield


@contextmanager
def averaged_weights() -> Iterator[None]:
    """An exponential moving average of the weights, 0.98 a step, is what is evaluated."""
    plain = training_step.TrainingStep
    kept: list[tuple[nn.Module, nn.Module]] = []

    class Averaging(plain):  # type: ignore[misc, valid-type]
        def __call__(self, images: Any, pair_ids: Any, step: int, generator: Any) -> Any:
            losses = super().__call__(images, pair_ids, step, generator)
            if not kept:
                kept.append((self.encoders, copy.deepcopy(self.encoders)))
            decay = min(0.98, (1 + step) / (10 + step))
            with torch.no_grad():
                for mean, now in zip(kept[0][1].parameters(), self.encoders.parameters(), strict=True):
                    mean.lerp_(now, 1 - decay)
            return losses

    train = measuring.train_in_memory

    def train_then_average(*arguments: Any) -> Any:
        history = train(*arguments)
        now, mean = kept[0]
        with torch.no_grad():
            for target, value in zip(now.parameters(), mean.parameters(), strict=True):
                target.copy_(value)
        return history

    with (
        patch.object(measuring, "TrainingStep", Averaging),
        patch.object(measuring, "train_in_memory", train_then_average),
    ):
        yield


@contextmanager
def eight_views() -> Iterator[None]:
    """The embedding of an image is the mean over its eight flips and turns; training is as it was."""
    one = encoders.Encoder.forward

    def mean(self: Any, pixels: Tensor) -> Tensor:
        if self.training:
            return one(self, pixels)
        every = [torch.rot90(pixels, turn, dims=(2, 3)) for turn in range(4)]
        views = [one(self, view) for image in every for view in (image, image.flip(3))]
        return F.normalize(torch.stack(views).mean(dim=0), dim=1)

    with patch.object(encoders.Encoder, "forward", mean):
        yield


VARIANTS: dict[str, Callable[[], Any]] = {
    "as it is": nothing,
    "speckle redraw": lambda: augmented(noise),
    "radiometry 0.1": lambda: augmented(radiometric(0.1)),
    "radiometry 0.3": lambda: augmented(radiometric(0.3)),
    "band dropout": lambda: augmented(band_dropout),
    "unpaired flips and turns": lambda: augmented(unpaired),
    "hard negatives": lambda: patch.object(objective, "_partner_nll", hard_negatives),
    "damping": lambda: patch.object(objective, "_partner_nll", damped),
    "learnable temperature": learnable_temperature,
    "MLP head": mlp_head,
    "EMA": averaged_weights,
    "eight views": eight_views,
}


def main() -> None:
    """Train and measure each variant, print and write rows against the run as it is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workspace", required=True)
    parser.add_argument("--recipe", type=Path, required=True)
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    experiment = read_experiment(arguments.recipe)
    config: TrainConfig = next(run.config for run in experiment.runs if run.name == RUN)
    workspace = open_workspace(arguments.workspace)
    manifest = read_manifest(workspace)
    protocol = Protocol(query_split=experiment.query_split, archive_split=experiment.archive_split)
    setting = measuring.Setting(workspace=workspace, manifest=manifest, protocol=protocol)
    prepared = prepare(workspace, manifest, config.model, experiment.pairs)
    found: dict[str, dict[str, float]] = {}
    for name in dict.fromkeys(("as it is", *arguments.variants)):
        values: dict[str, list[float]] = {}
        for seed in arguments.seeds:
            trial = Trial(
                row=name, kind="train", seed=seed, config=dataclasses.replace(config, seed=seed), adapt=("centre",)
            )
            with VARIANTS[name]():
                result = measuring.run_trial(trial, setting, prepared, lambda epoch, loss: None)
            for figure in result["evaluations"][0]["figures"]:
                if (figure["metric"], figure["k"]) in SHOWN:
                    at = f"@{figure['k']}" if figure["k"] else ""
                    values.setdefault(f"{figure['direction']} {figure['metric']}{at}", []).append(figure["value"])
        found[name] = {key: float(np.mean(each)) for key, each in values.items()}
        print(f"{name:26}", "  ".join(f"{key} {value:.3f}" for key, value in found[name].items()), flush=True)
    if arguments.json:
        rows = [_row(name, key, value, found["as it is"][key]) for name in found for key, value in found[name].items()]
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


def _row(name: str, key: str, ours: float, peer: float) -> dict[str, Any]:
    better = ours < peer if key.split()[1].split("@")[0] in LOWER_IS_BETTER else ours > peer
    return {
        "name": f"{name}: {key}",
        "ours": ours,
        "peer": peer,
        "peer_name": "as it is",
        "unit": "1",
        "ratio": ours / peer,
        "target": "better than the peer",
        "met": better,
    }


if __name__ == "__main__":
    main()
