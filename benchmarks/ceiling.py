"""How near in land cover can answers be, if encoders of this size and budget are trained with the labels?

Label-free training is measured against targets; this says what the images and the budget allow. The encoders of a
recipe's first run learn the class fractions of the training images, each modality by itself; their embedding is the
square root of the predicted fractions, so that the score is the Bhattacharyya coefficient. Everything else (images,
augmentation, epochs, batch, schedule, splits) is as in that run. It is no method: it sees what the product never does.

    python benchmarks/ceiling.py --workspace W --recipe recipes/ombria.toml [--json FILE]
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from sscm.archive.manifest import read_manifest
from sscm.evaluation.protocols import Protocol
from sscm.experiment import measuring
from sscm.experiment.prepared import prepare
from sscm.experiment.spec import read_experiment
from sscm.experiment.spectral_trial import measure_rows
from sscm.experiment.trials import Trial
from sscm.model.augment import augment
from sscm.model.encoders import Encoder
from sscm.training.step import learning_rate, parameter_groups
from sscm.workspace import open_workspace


def fractions_embedding(self: Encoder, pixels: Tensor) -> Tensor:
    """Prepared pixels → square roots of predicted class fractions float32 [N, classes], unit norm."""
    return F.softmax(self.project(pixels).float(), dim=1).sqrt()


def main() -> None:
    """Train with labels, measure, print, and write rows against a random order if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workspace", required=True)
    parser.add_argument("--recipe", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    experiment = read_experiment(arguments.recipe)
    workspace = open_workspace(arguments.workspace)
    manifest = read_manifest(workspace)
    protocol = Protocol(query_split=experiment.query_split, archive_split=experiment.archive_split)
    labelled, _ = measure_rows(workspace, manifest, dataclasses.replace(protocol, query_split="train"))
    if labelled.cover is None:
        raise SystemExit("the archive has no class fractions")
    config = experiment.runs[0].config
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, dimension=labelled.cover.shape[1]))
    prepared = prepare(workspace, manifest, config.model, experiment.pairs)
    row = {pair_id: place for place, pair_id in enumerate(labelled.ids)}
    cover = torch.from_numpy(labelled.cover[[row[pair_id] for pair_id in prepared.pair_ids.tolist()]]).float()

    def train(encoders: Any, settings: Any, pairs: Any, on_epoch: Any) -> list[float]:
        steps = len(pairs) // settings.batch_size
        optimizer = torch.optim.AdamW(parameter_groups(encoders, settings.weight_decay), lr=settings.lr)
        generator = torch.Generator().manual_seed(settings.seed)
        encoders.train()
        for epoch in range(settings.epochs):
            order = np.random.default_rng([settings.seed, epoch]).permutation(len(pairs))
            for number in range(steps):
                rows = order[number * settings.batch_size : (number + 1) * settings.batch_size]
                images = augment(pairs.batch(rows, torch.device("cpu"))[0], settings.crop, generator)
                loss = torch.zeros(())
                for name, pixels in images.items():
                    with torch.autocast("cpu", torch.bfloat16, enabled=bool(settings.bfloat16)):
                        logits = encoders[name].project(pixels.contiguous(memory_format=torch.channels_last))
                    loss = loss + F.cross_entropy(logits.float(), cover[rows])
                for group in optimizer.param_groups:
                    group["lr"] = learning_rate(epoch * steps + number, settings.epochs * steps, settings)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        return [float(loss.detach())]

    setting = measuring.Setting(workspace=workspace, manifest=manifest, protocol=protocol)
    trial = Trial(row="with labels", kind="train", seed=0, config=config, adapt=("none",))
    chance = measuring.run_trial(Trial(row="chance", kind="chance", seed=0), setting, None, lambda epoch, loss: None)
    with (
        patch.object(measuring, "train_in_memory", train),
        patch.object(Encoder, "forward", fractions_embedding),
    ):
        result = measuring.run_trial(trial, setting, prepared, lambda epoch, loss: None)
    rows = []
    random = {(f["direction"], f["metric"], f["k"]): f["value"] for f in chance["evaluations"][0]["figures"]}
    for figure in result["evaluations"][0]["figures"]:
        key = (figure["direction"], figure["metric"], figure["k"])
        if (figure["metric"], figure["k"]) in (("cover_distance", 5), ("mean_pair_f1", 5)):
            ours, peer = figure["value"], random[key]
            print(f"{figure['direction']:8} {figure['metric']}@5  with labels {ours:.3f}  random {peer:.3f}")
            rows.append(
                {
                    "name": f"{figure['direction']} {figure['metric']}@5, trained with labels",
                    "ours": ours,
                    "peer": peer,
                    "peer_name": "random order",
                    "unit": "1",
                    "ratio": ours / peer,
                    "target": None,
                    "met": None,
                }
            )
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
