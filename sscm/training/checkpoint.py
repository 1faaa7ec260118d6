"""What a run leaves behind after each epoch, and how it goes on from there."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray.train
import torch
from torch import nn

from sscm.errors import TrainingError
from sscm.training.job import WorkerJob
from sscm.training.step import TrainingStep
from sscm.workspace import RUNS

METRICS = "metrics.json"
STATE = "state.pt"
LOSSES = ("loss", "mim", "mde", "isp")
"""What an epoch's metrics call the four losses."""


def report(
    job: WorkerJob, rank: int, encoders: nn.ModuleDict, train_step: TrainingStep, history: list[dict[str, Any]]
) -> None:
    """Checkpoint and metrics of an epoch, by the first worker; all workers must call it."""
    flat = {"epoch": history[-1]["epoch"], **{name: history[-1][name] for name in LOSSES}}
    if rank != 0:
        ray.train.report(flat)
        return
    folder = tempfile.mkdtemp(prefix="sscm-checkpoint-")
    state = {
        "trained": _trained_on(job),
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


def restore(
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
    require_same(state["trained"], _trained_on(job), f"the checkpoint of run {job.name}")
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
