"""What a training worker does: stream, encode, optimise, validate, report; the same for one process and for many."""

from __future__ import annotations

import dataclasses
import itertools
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

from sscm.archive.order import Deal, StreamPlan
from sscm.archive.stream import Reader, stream_batches
from sscm.errors import NonFiniteLossError
from sscm.model.bundle import make_encoders, save_bundle
from sscm.model.encoders import Encoder, prepared_images
from sscm.model.weights import load_backbone_weights
from sscm.training.checkpoint import LOSSES, Epoch, Place, report, restore, trained_bundle
from sscm.training.job import WorkerJob
from sscm.training.metrics import TrainingMetrics
from sscm.training.prefetch import Ready, prefetched
from sscm.training.step import PairEncoders, TrainingStep, in_bfloat16, learning_rate
from sscm.training.validate import validate
from sscm.workspace import RUNS

LOOK_S = 5.0
"""How often workers agree on whether a node of theirs is to be taken away, seconds; a notice comes minutes before."""
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
    plan = StreamPlan(shards=job.manifest.of_split("train"), seed=config.seed, batch_size=config.batch_size)
    torch.manual_seed(config.seed)
    encoders = make_encoders(job.manifest.modalities, job.manifest.statistics, config.model)
    if config.model.weights is not None:
        load_backbone_weights(encoders, Path(config.model.weights))
    encoders = encoders.to(device).to(memory_format=torch.channels_last)
    model: nn.Module = PairEncoders(encoders, in_bfloat16(config, device))
    if workers > 1:
        model = nn.parallel.DistributedDataParallel(model, device_ids=[device] if device.type == "cuda" else None)
    train_step = TrainingStep(encoders, config, config.epochs * plan.steps_per_epoch, model)
    place = restore(job, encoders, train_step, device)
    epochs = range(len(place.history), config.epochs)
    if not place.epoch.steps:
        place.epoch = Epoch(deals=(Deal(0, workers),))
    elif place.epoch.deals[-1].workers != workers:
        place.epoch.deals = (*place.epoch.deals, Deal(place.epoch.steps, workers))
    done = place.epoch.steps - place.epoch.deals[-1].step
    reader = Reader(
        worker=rank,
        epochs=epochs,
        deals=place.epoch.deals,
        steps=done,
        neighbours=context.get_local_world_size(),
        by=config.stream,
    )
    stream = itertools.chain.from_iterable(stream_batches(job.workspace, job.manifest, plan, reader))
    told = TrainingMetrics(job.name) if rank == 0 else None
    watch = _Watch(config.checkpoint_minutes * 60)
    with prefetched(stream, device) as batches:
        for epoch in epochs:
            _run_epoch(job, plan, train_step, place, batches, told, watch)
            metrics = _metrics(job, plan, train_step, epoch, place.epoch)
            metrics["workers"] = workers
            metrics["validation"] = validate(encoders, job, rank, workers)
            place.history.append(metrics)
            if told is not None:
                told.epoch(metrics)
            place.epoch = Epoch(deals=(Deal(0, workers),))
            report(job, rank, encoders, train_step, place)
            watch.kept()
    if rank == 0:
        save_bundle(job.workspace, trained_bundle(job, encoders, place))


def _run_epoch(
    job: WorkerJob,
    plan: StreamPlan,
    train_step: TrainingStep,
    place: Place,
    batches: Iterator[Ready],
    told: TrainingMetrics | None,
    watch: _Watch,
) -> None:
    """The steps that are left of an epoch, with a checkpoint now and then; what it came to is in ``place.epoch``."""
    rank = ray.train.get_context().get_world_rank()
    number = len(place.history)
    encoders = train_step.encoders
    tally = _Tally(place.epoch, train_step)
    workers = ray.train.get_context().get_world_size()
    for step in range(place.epoch.steps, plan.steps_per_epoch):
        asked = time.monotonic()
        batch = next(batches)
        tally.waited += time.monotonic() - asked
        total = number * plan.steps_per_epoch + step
        images = {m.name: prepared_images(_encoder(encoders, m.name), batch.groups) for m in job.manifest.modalities}
        train_step.wish = watch.wish() if rank == 0 else 0
        losses = train_step(images, batch.pair_ids, total, _generator(job.config.seed, total, rank))
        tally.losses += losses.detached()
        if told is not None:
            told.step(total + 1, losses.detached(), job.config.batch_size)
        if rank == 0 and job.board is not None:
            if train_step.taken == 1:
                job.board.add_start.remote(total, workers)
            job.board.show_steps.remote(total + 1)
        wanted = watch.granted(train_step.wished)
        if wanted and step + 1 < plan.steps_per_epoch:
            train_step.check()
            place.epoch = tally.after(step + 1)
            report(job, rank, encoders, train_step, place)
            if watch.going and rank == 0 and job.board is not None:
                job.board.add_notice.remote(total)
    train_step.check()
    place.epoch = tally.after(plan.steps_per_epoch)


class _Watch:
    """When the first worker wants a checkpoint within an epoch, and when it wants to know whether a node is to go."""

    CHECKPOINT, LOOK = 1, 2
    going: bool
    """Whether the checkpoint that was granted last is made since a node is to go."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._kept = self._looked = time.monotonic()
        self.going = self._told = False

    def wish(self) -> int:
        """Bits for the next step."""
        now = time.monotonic()
        return (self.CHECKPOINT if now - self._kept >= self._seconds else 0) | (
            self.LOOK if now - self._looked >= LOOK_S else 0
        )

    def granted(self, wished: int) -> bool:
        """Whether all workers are to make a checkpoint now; asked by all of them with the same bits."""
        self.going = False
        if wished & self.LOOK:
            self._looked = time.monotonic()
            self.going = ray.train.get_preemption_info() is not None and not self._told
            self._told |= self.going
        if self.going or wished & self.CHECKPOINT:
            self.kept()
            return True
        return False

    def kept(self) -> None:
        """There is a checkpoint now: the next one is as long from here."""
        self._kept = time.monotonic()


class _Tally:
    """What an epoch comes to, on this worker, since it was begun or restored."""

    def __init__(self, before: Epoch, train_step: TrainingStep) -> None:
        self.losses = torch.zeros(len(LOSSES), device=train_step.device)
        self.waited = 0.0
        self._before = before
        self._step = train_step
        self._skipped = train_step.skipped
        self._begun = time.monotonic()

    def after(self, steps: int) -> Epoch:
        """The epoch after so many steps; all workers must ask together."""
        losses = _mean_over_workers(self.losses.clone()).tolist()
        skipped = torch.tensor(self._step.skipped - self._skipped, device=self.losses.device)
        return dataclasses.replace(
            self._before,
            steps=steps,
            losses=tuple(before + more for before, more in zip(self._before.losses, losses, strict=True)),
            skipped=self._before.skipped + _sum_over_workers(skipped),
            seconds=self._before.seconds + time.monotonic() - self._begun,
            waited=self._before.waited + self.waited,
        )


def _metrics(job: WorkerJob, plan: StreamPlan, train_step: TrainingStep, epoch: int, done: Epoch) -> dict[str, Any]:
    """What is told of an epoch that is done."""
    steps = plan.steps_per_epoch
    return {
        "epoch": epoch + 1,
        **{name: total / steps for name, total in zip(LOSSES, done.losses, strict=True)},
        "lr": learning_rate((epoch + 1) * steps - 1, train_step.total_steps, job.config),
        "skipped_pairs": done.skipped,
        "pairs_per_s": steps * plan.batch_size / done.seconds,
        "data_wait_fraction": done.waited / done.seconds,
        "seconds": done.seconds,
    }


def _mean_over_workers(values: Tensor) -> Tensor:
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(values)
        values /= dist.get_world_size()
    return values


def _sum_over_workers(value: Tensor) -> int:
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(value)
    return int(value.item())


def _encoder(encoders: nn.ModuleDict, name: str) -> Encoder:
    return cast(Encoder, encoders[name])


def _generator(*key: int) -> torch.Generator:
    """A generator that depends on the key alone."""
    seed = np.random.SeedSequence(key).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(seed >> 1))
