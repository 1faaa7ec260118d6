"""What a training worker does: stream, encode, optimise, validate, report; the same for one process and for many."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import ray.train
import ray.train.torch
import torch
import torch.distributed as dist
from torch import Tensor, nn

from sscm.archive.stream import StreamPlan, stream_batches
from sscm.errors import NonFiniteLossError
from sscm.model.bundle import make_bundle, make_encoders, save_bundle
from sscm.model.encoders import Encoder, prepared_images
from sscm.model.weights import load_backbone_weights
from sscm.training.checkpoint import LOSSES, report, restore
from sscm.training.job import WorkerJob
from sscm.training.step import PairEncoders, TrainingStep, in_bfloat16, learning_rate
from sscm.training.validate import validate
from sscm.workspace import RUNS

NON_FINITE = "non_finite_batch.json"
"""Beside a run's metrics: the step whose loss was not finite, and the pairs of its batch."""


def train_worker(settings: Mapping[str, Any]) -> None:
    """Body of every Ray Train worker.

    A loss that is not finite ends it without a bundle: the pairs of that batch are written down, and whoever launched
    the run finds them. It is not raised, since Ray Train would start the workers again, and they would come to the
    same step.

    Args:
        settings: ``{"job": WorkerJob}``.

    Raises:
        TrainingError: the run's checkpoint is of other bands or another architecture.
    """
    job: WorkerJob = settings["job"]
    try:
        _train(job)
    except NonFiniteLossError as error:  # on every worker at the same step
        if ray.train.get_context().get_world_rank() == 0:
            found = {"step": error.step, "pair_ids": list(error.pair_ids)}
            job.workspace.write_json(found, RUNS, job.name, NON_FINITE)


def _train(job: WorkerJob) -> None:
    config = job.config
    context = ray.train.get_context()
    rank, workers = context.get_world_rank(), context.get_world_size()
    device = ray.train.torch.get_device()
    if device.type == "cpu":
        torch.set_num_threads(config.cpus_per_worker)
    plan = StreamPlan(
        shards=job.manifest.of_split("train"),
        seed=config.seed,
        workers=workers,
        local_batch=config.batch_size // workers,
    )
    torch.manual_seed(config.seed)
    encoders = make_encoders(job.manifest.modalities, job.manifest.statistics, config.model)
    if config.model.weights is not None:
        load_backbone_weights(encoders, Path(config.model.weights))
    encoders = encoders.to(device).to(memory_format=torch.channels_last)
    total_steps = config.epochs * plan.steps_per_epoch
    model: nn.Module = PairEncoders(encoders, in_bfloat16(config, device))
    if workers > 1:
        model = nn.parallel.DistributedDataParallel(model, device_ids=[device] if device.type == "cuda" else None)
    train_step = TrainingStep(encoders, config, total_steps, model)
    history = restore(job, encoders, train_step, device)
    epochs = range(len(history), config.epochs)
    stream = stream_batches(job.workspace, job.manifest, plan, rank, epochs)
    started = time.monotonic()
    for epoch, batches in zip(epochs, stream, strict=True):
        begun = time.monotonic()
        sums = torch.zeros(len(LOSSES), device=device)
        waited = 0.0
        skipped = train_step.skipped
        generator = _generator(config.seed, epoch, rank)
        for step, (batch, wait) in enumerate(_timed(batches), epoch * plan.steps_per_epoch):
            waited += wait
            images = {m.name: prepared_images(_encoder(encoders, m.name), batch) for m in job.manifest.modalities}
            losses = train_step(images, batch["pair_id"].tolist(), step, generator)
            sums += losses.detached()
            if rank == 0 and job.board is not None:
                job.board.add_pairs.remote(config.batch_size)
        train_step.check()
        means = _mean_over_workers(sums / plan.steps_per_epoch).tolist()
        seconds = time.monotonic() - begun
        metrics = {
            "epoch": epoch + 1,
            **dict(zip(LOSSES, means, strict=True)),
            "lr": learning_rate((epoch + 1) * plan.steps_per_epoch - 1, total_steps, config),
            "skipped_pairs": _sum_over_workers(torch.tensor(train_step.skipped - skipped, device=device)),
            "pairs_per_s": plan.steps_per_epoch * config.batch_size / seconds,
            "data_wait_fraction": waited / seconds,
            "seconds": seconds,
            "workers": workers,
            "validation": validate(encoders, job, rank, workers),
        }
        history.append(metrics)
        report(job, rank, encoders, train_step, history)
    if rank == 0:
        save_bundle(
            job.workspace,
            make_bundle(
                job.name,
                config=dataclasses.replace(config.model, weights=None),
                modalities=job.manifest.modalities,
                statistics=job.manifest.statistics,
                encoders=encoders,
                split="train",
                simulated=job.manifest.simulated,
                record={
                    "config": _plain(dataclasses.asdict(config)),
                    "archive": dict(job.manifest.source),
                    "train_pairs": job.manifest.rows_by_split["train"],
                    "epochs": history,
                    "seconds": sum(float(m["seconds"]) for m in history),
                    "seconds_since_last_start": time.monotonic() - started,
                },
            ),
        )


def _mean_over_workers(values: Tensor) -> Tensor:
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(values)
        values /= dist.get_world_size()
    return values


def _sum_over_workers(value: Tensor) -> int:
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(value)
    return int(value.item())


def _timed(batches: Iterator[Any]) -> Iterator[tuple[Any, float]]:
    """Each batch with the seconds that were waited for it."""
    while True:
        asked = time.monotonic()
        with contextlib.suppress(StopIteration):
            batch = next(batches)
            yield batch, time.monotonic() - asked
            continue
        return


def _encoder(encoders: nn.ModuleDict, name: str) -> Encoder:
    return cast(Encoder, encoders[name])


def _generator(*key: int) -> torch.Generator:
    """A generator that depends on the key alone."""
    seed = np.random.SeedSequence(key).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(seed >> 1))


def _plain(value: Any) -> Any:
    """Paths as text, so that settings go into JSON."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return str(value) if isinstance(value, Path) else value
