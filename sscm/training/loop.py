"""What a training worker does: stream, encode, optimise, validate, report; the same for one process and for many."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import ray.train
import ray.train.torch
import torch
import torch.distributed as dist
from torch import Tensor, nn

from sscm.archive.manifest import Manifest
from sscm.archive.schema import decode_group
from sscm.archive.stream import Batch, Piece, StreamPlan, pieces_of, read_pieces, stream_batches, stream_columns
from sscm.config import TrainConfig
from sscm.errors import TrainingError
from sscm.evaluation.metrics import partner_ranks, recall_at
from sscm.model.bundle import make_bundle, make_encoders, save_bundle
from sscm.model.encoders import Encoder, as_tensor
from sscm.model.weights import load_backbone_weights
from sscm.training.step import PairEncoders, TrainingStep, learning_rate
from sscm.workspace import RUNS, Workspace

VALIDATION_PAIRS = 1000
"""Most pairs of the validation split that are embedded after each epoch."""
METRICS = "metrics.json"
STATE = "state.pt"
_LOSSES = ("loss", "mim", "mde", "isp")


@dataclass(frozen=True, kw_only=True)
class WorkerJob:
    """All that a worker is given.

    Args:
        workspace: where archive, runs and models are.
        manifest: the archive.
        config: settings; ``name`` is set.
        board: handle of a :class:`~sscm.training.progress.TrainingBoard`, or None.
    """

    workspace: Workspace
    manifest: Manifest
    config: TrainConfig
    board: Any = None

    @property
    def name(self) -> str:
        """Name of the run."""
        if self.config.name is None:
            raise TrainingError("a run without a name reached a worker; launch names it")
        return self.config.name


def train_worker(settings: Mapping[str, Any]) -> None:
    """Body of every Ray Train worker.

    Args:
        settings: ``{"job": WorkerJob}``.

    Raises:
        TrainingError: the loss is not finite.
    """
    job: WorkerJob = settings["job"]
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
    model: nn.Module = PairEncoders(encoders)
    if workers > 1:
        model = nn.parallel.DistributedDataParallel(model, device_ids=[device] if device.type == "cuda" else None)
    train_step = TrainingStep(encoders, config, total_steps, model)
    history = _restore(job, encoders, train_step, device)
    epochs = range(len(history), config.epochs)
    stream = stream_batches(job.workspace, job.manifest, plan, rank, epochs)
    started = time.monotonic()
    for epoch, batches in zip(epochs, stream, strict=True):
        begun = time.monotonic()
        sums = torch.zeros(len(_LOSSES), device=device)
        waited = 0.0
        skipped = train_step.skipped
        generator = _generator(config.seed, epoch, rank)
        for step, (batch, wait) in enumerate(_timed(batches), epoch * plan.steps_per_epoch):
            waited += wait
            images = {m.name: _prepared(_encoder(encoders, m.name), batch) for m in job.manifest.modalities}
            losses = train_step(images, batch["pair_id"].tolist(), step, generator)
            sums += losses.detached()
            if rank == 0 and job.board is not None:
                job.board.add_pairs.remote(config.batch_size)
        train_step.check()
        means = _mean_over_workers(sums / plan.steps_per_epoch).tolist()
        seconds = time.monotonic() - begun
        metrics = {
            "epoch": epoch + 1,
            **dict(zip(_LOSSES, means, strict=True)),
            "lr": learning_rate((epoch + 1) * plan.steps_per_epoch - 1, total_steps, config),
            "skipped_pairs": _sum_over_workers(torch.tensor(train_step.skipped - skipped, device=device)),
            "pairs_per_s": plan.steps_per_epoch * config.batch_size / seconds,
            "data_wait_fraction": waited / seconds,
            "seconds": seconds,
            "workers": workers,
            "validation": validate(encoders, job, rank, workers),
        }
        history.append(metrics)
        _report(job, rank, encoders, train_step, history)
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


@torch.inference_mode()
def validate(encoders: nn.ModuleDict, job: WorkerJob, rank: int, workers: int) -> dict[str, dict[str, float]]:
    """Partner recall between modalities on the first pairs of the validation split; every worker embeds its share.

    Returns:
        ``<query>-><target>`` → ``recall@1``, ``recall@5``, ``recall@10``, ``median_rank``, ``pairs``; empty where the
        archive has no validation split.
    """
    shards = [shard for shard in job.manifest.shards if shard.split == "validation"]
    pieces: Sequence[Piece] = pieces_of(shards)
    before = itertools.accumulate((piece.rows for piece in pieces), initial=0)
    pieces = [piece for piece, start in zip(pieces, before, strict=False) if start < VALIDATION_PAIRS]
    if not pieces:
        return {}
    encoders.eval()
    names = [m.name for m in job.manifest.modalities]
    mine: dict[str, list[Any]] = {name: [] for name in names}
    for piece in pieces[rank::workers]:
        table = read_pieces(job.workspace, [piece], stream_columns(job.manifest.modalities)).drop_null()
        for m in job.manifest.modalities:
            groups = {g.name: as_tensor(decode_group(table[g.name], g)) for g in m.groups}
            pixels = _encoder(encoders, m.name).prepare(groups)
            pixels = pixels.contiguous(memory_format=torch.channels_last)
            with torch.autocast(pixels.device.type, torch.bfloat16, enabled=pixels.device.type == "cuda"):
                mine[m.name].append(encoders[m.name](pixels).float().cpu().numpy())
    everyone: list[Any] = [mine]
    if workers > 1:
        everyone = [None] * workers
        dist.all_gather_object(everyone, mine)
    joined = {name: np.concatenate([part for worker in everyone for part in worker[name]]) for name in names}
    result = {}
    for query, target in itertools.permutations(names, 2):
        ranks = partner_ranks(joined[query], joined[target])
        result[f"{query}->{target}"] = {
            **{f"recall@{k}": recall_at(ranks, k) for k in (1, 5, 10)},
            "median_rank": float(np.median(ranks)),
            "pairs": float(len(ranks)),
        }
    return result


def _prepared(encoder: Encoder, batch: Batch) -> Tensor:
    """A batch's images of one modality, normalised; those with a pixel that is not finite are NaN all over.

    Looked for in the native pixels, since normalising clips infinity to something finite.
    """
    groups = {name: batch[name] for name in encoder.modality.group_names}
    pixels = encoder.prepare({name: as_tensor(values) for name, values in groups.items()})
    bad = np.zeros(len(pixels), bool)
    for values in groups.values():
        if values.dtype.kind == "f":
            bad |= ~np.isfinite(values).all(axis=(1, 2, 3))
    if bad.any():
        pixels[torch.from_numpy(bad).to(pixels.device)] = torch.nan
    return pixels


def _report(
    job: WorkerJob, rank: int, encoders: nn.ModuleDict, train_step: TrainingStep, history: list[dict[str, Any]]
) -> None:
    """Checkpoint and metrics of an epoch, by the first worker; all workers must call it."""
    flat = {"epoch": history[-1]["epoch"], **{name: history[-1][name] for name in _LOSSES}}
    if rank != 0:
        ray.train.report(flat)
        return
    folder = tempfile.mkdtemp(prefix="sscm-checkpoint-")
    state = {
        "trained": _trained(job),
        "encoders": encoders.state_dict(),
        "step": train_step.state_dict(),
        "history": history,
    }
    torch.save(state, Path(folder) / STATE)
    ray.train.report(
        flat, checkpoint=ray.train.Checkpoint.from_directory(folder), delete_local_checkpoint_after_upload=True
    )
    job.workspace.write_json(history, RUNS, job.name, METRICS)
    if job.board is not None:
        job.board.add_epoch.remote(history[-1])


def _restore(
    job: WorkerJob, encoders: nn.ModuleDict, train_step: TrainingStep, device: torch.device
) -> list[dict[str, Any]]:
    """Load the run's last checkpoint, if there is one; the history of the epochs that it holds.

    Raises:
        TrainingError: it is of other bands or of another architecture; both are named.
    """
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        return []
    with checkpoint.as_directory() as folder:
        state = torch.load(Path(folder) / STATE, map_location=device, weights_only=True)
    require_same(state["trained"], _trained(job), f"the checkpoint of run {job.name}")
    encoders.load_state_dict(state["encoders"])
    train_step.load_state_dict(state["step"])
    history: list[dict[str, Any]] = state["history"]
    return history


def require_same(found: Mapping[str, Any], wanted: Mapping[str, Any], where: str) -> None:
    """Check that a checkpoint is of the bands and the architecture that are trained now.

    Raises:
        TrainingError: it is not; what it has and what would be right are named.
    """
    differ = [key for key in wanted if found.get(key) != wanted[key]]
    if differ:
        listed = "; ".join(f"{key}: {found.get(key)} there, {wanted[key]} now" for key in differ)
        raise TrainingError(
            f"{where} is of other bands or another architecture ({listed}); restore what it was trained on, "
            "or choose another --name"
        )


def _trained(job: WorkerJob) -> dict[str, Any]:
    """What weights fit to: bands by modality, and the architecture."""
    model = job.config.model
    return {
        "bands": {m.name: list(m.band_names) for m in job.manifest.modalities},
        "backbone": model.backbone,
        "dimension": model.dimension,
        "image_size": model.image_size,
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
