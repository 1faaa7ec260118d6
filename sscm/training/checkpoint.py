"""What a run leaves behind, at the end of each epoch and now and then within one, and how it goes on from there.

A checkpoint is a folder that is a workspace of its own: ``models/<run>`` is a whole model bundle of the weights so far,
beside ``state.pt``, which holds what only a training needs: the optimiser, and where in the epoch the run is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray.train
import torch
from torch import nn

from sscm.archive.order import Deal
from sscm.errors import TrainingError
from sscm.model.bundle import Bundle, load_bundle, make_bundle, save_bundle
from sscm.training.job import WorkerJob
from sscm.training.scratch import scratch_folder
from sscm.training.step import TrainingStep
from sscm.workspace import RUNS, Workspace, open_workspace

METRICS = "metrics.json"
STATE = "state.pt"
RECORD = "checkpoint_manager_snapshot.json"
"""Ray Train's record of a run's checkpoints, beside them."""
LOSSES = ("loss", "mim", "mde", "isp")
"""What an epoch's metrics call the four losses."""


@dataclass(kw_only=True)
class Epoch:
    """An epoch that has begun: how far it is, and what it has come to so far; whole numbers and sums over all workers.

    Args:
        deals: how it has been dealt to workers.
        steps: steps done.
        losses: sums over these steps, in the order of :data:`LOSSES`.
        skipped: pairs left out.
        seconds: time it took.
        waited: seconds of it in which the first worker waited for data.
    """

    deals: tuple[Deal, ...] = ()
    steps: int = 0
    losses: tuple[float, ...] = (0.0,) * len(LOSSES)
    skipped: int = 0
    seconds: float = 0.0
    waited: float = 0.0


@dataclass(kw_only=True)
class Place:
    """Where a run is.

    Args:
        history: metrics of the epochs that are done.
        epoch: the one after them.
    """

    history: list[dict[str, Any]] = field(default_factory=list)
    epoch: Epoch = field(default_factory=Epoch)


def report(job: WorkerJob, rank: int, encoders: nn.ModuleDict, train_step: TrainingStep, place: Place) -> None:
    """Checkpoint and metrics, by the first worker; all workers must call it. It is uploaded while training goes on."""
    metrics: dict[str, Any] = {"epoch": len(place.history), "step": place.epoch.steps}
    if place.history:
        metrics |= {name: place.history[-1][name] for name in LOSSES}
    mode = ray.train.CheckpointUploadMode.ASYNC
    if rank != 0:
        ray.train.report(metrics, checkpoint_upload_mode=mode)
        return
    folder = scratch_folder()
    save_bundle(open_workspace(folder), trained_bundle(job, encoders, place))
    state = {"trained": _trained_on(job), "step": train_step.state_dict(), "place": dataclasses.asdict(place)}
    torch.save(state, Path(folder) / STATE)
    ray.train.report(
        metrics,
        checkpoint=ray.train.Checkpoint.from_directory(folder),
        checkpoint_upload_mode=mode,
        delete_local_checkpoint_after_upload=True,
    )
    if not place.epoch.steps:
        job.workspace.write_json(place.history, RUNS, job.name, METRICS)
        if job.board is not None:
            job.board.add_epoch.remote(place.history[-1])


def whole_checkpoints(workspace: Workspace, run: str) -> list[str]:
    """Names of a run's checkpoints, oldest first: those that Ray Train has in its record, since their upload ended."""
    names = workspace.names(RUNS, run)  # listed anew: a file that is looked for may be answered from an old listing
    if RECORD not in names:
        return []
    record = workspace.read_bytes(RUNS, run, RECORD).decode()
    return [name for name in names if _is_checkpoint(name) and name in record]


def sweep(workspace: Workspace, run: str, latest: str | None) -> None:
    """Delete what uploads that did not end left behind; nobody must be uploading.

    Nothing is deleted where the record and Ray Train do not agree on what there is.

    Args:
        workspace: where the run is.
        run: its name.
        latest: name of the checkpoint that Ray Train goes on from; None where it knows of none.
    """
    kept = whole_checkpoints(workspace, run)
    if (latest is None and kept) or (latest is not None and latest not in kept):
        return
    for name in workspace.names(RUNS, run):
        if _is_checkpoint(name) and name not in kept:
            workspace.delete(RUNS, run, name)


def _is_checkpoint(name: str) -> bool:
    return name.startswith("checkpoint_") and name != RECORD


def restore(job: WorkerJob, encoders: nn.ModuleDict, train_step: TrainingStep, device: torch.device) -> Place:
    """Load the run's last checkpoint, if there is one; where the run is.

    Raises:
        TrainingError: it is of other bands or of another architecture; both are named.
    """
    checkpoint = ray.train.get_checkpoint()
    if ray.train.get_context().get_world_rank() == 0:
        sweep(job.workspace, job.name, checkpoint and checkpoint.path.rstrip("/").rsplit("/", 1)[-1])
    if checkpoint is None:
        return Place()
    with checkpoint.as_directory() as folder:
        state = torch.load(Path(folder) / STATE, map_location=device, weights_only=True)
        require_same(state["trained"], _trained_on(job), f"the checkpoint of run {job.name}")
        encoders.load_state_dict(load_bundle(open_workspace(folder), job.name).encoders.state_dict())
    train_step.load_state_dict(state["step"])
    epoch = state["place"]["epoch"]
    deals = tuple(Deal(**deal) for deal in epoch["deals"])
    return Place(history=state["place"]["history"], epoch=Epoch(**(epoch | {"deals": deals})))


def trained_bundle(job: WorkerJob, encoders: nn.ModuleDict, place: Place) -> Bundle:
    """The encoders as a model bundle of the run's name, with the record of how they came to be."""
    config = job.config
    return make_bundle(
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
            "epochs": list(place.history),
            "steps_of_next_epoch": place.epoch.steps,
            "seconds": sum(float(m["seconds"]) for m in place.history) + place.epoch.seconds,
        },
    )


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


def _trained_on(job: WorkerJob) -> dict[str, Any]:
    """What weights fit to: bands by modality, and the architecture."""
    model = job.config.model
    return {
        "bands": {m.name: list(m.band_names) for m in job.manifest.modalities},
        "backbone": model.backbone,
        "norm": model.norm,
        "dimension": model.dimension,
        "image_size": model.image_size,
    }


def _plain(value: Any) -> Any:
    """Paths as text, so that settings go into JSON."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return str(value) if isinstance(value, Path) else value
