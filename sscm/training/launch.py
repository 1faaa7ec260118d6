"""Launch a training on Ray Train: check what can be checked first, then run, watch and finish it."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import ray
import ray.train
import ray.train.torch
from ray.data._internal.stats import get_or_create_stats_actor
from ray.train.v2.api import data_parallel_trainer
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from sscm import placement, runtime
from sscm.archive.manifest import Manifest, read_manifest
from sscm.archive.order import StreamPlan
from sscm.archive.statistics import BandStatistics
from sscm.config import TrainConfig
from sscm.errors import ConfigError, TrainingError
from sscm.model.about import CONFIG
from sscm.model.bundle import Bundle, load_bundle
from sscm.model.encoders import make_backbone
from sscm.polling import polling
from sscm.progress import progress
from sscm.training.job import WorkerJob
from sscm.training.loop import NON_FINITE, train_worker
from sscm.training.progress import BoardFollower, TrainingBoard, print_epoch, print_event
from sscm.training.run_storage import run_storage
from sscm.workspace import MODELS, RUNS, Workspace, open_workspace

SETTINGS = "settings.json"
_CLEANER_S = 1.0
"""Longest wait at a run's end for Ray Train's cleaner, seconds."""
_MAY_CHANGE = {
    *("workspace", "resume", "workers", "min_workers", "cpus_per_worker", "gpu", "max_failures", "checkpoint_minutes"),
    "resize_minutes",
}
"""Settings that a resumed run may have otherwise: where and how it runs, not what it computes."""


def train(config: TrainConfig) -> Bundle:
    """Train encoders on a workspace's archive.

    Args:
        config: settings; a run without a name gets one made of the time.

    Returns:
        The bundle, as saved in the workspace. A run that was finished before and is resumed returns its bundle.

    Raises:
        ConfigError: the name is in use; a resumed run's settings differ; or the cluster is too small.
        ManifestError: there is no archive.
        TrainingError: it failed more often than ``max_failures``, or its loss became NaN or infinite; the message names
            the cause.
    """
    workspace = open_workspace(config.workspace)
    manifest = _as_begun(workspace, read_manifest(workspace), config)
    name = config.name or datetime.now(UTC).strftime("run-%Y%m%d-%H%M%S")
    config = dataclasses.replace(config, name=name, workspace=workspace.uri)
    plan = StreamPlan(  # raises where the batch does not fit the split
        shards=manifest.of_split("train"),
        seed=config.seed,
        batch_size=config.batch_size,
    )
    # Raises where timm does not know it, or cannot make it with that norm.
    make_backbone(config.model.backbone, 1, config.model.image_size or 64, config.model.norm)
    _claim_name(workspace, config, manifest)
    if workspace.exists(MODELS, name, CONFIG):
        return load_bundle(workspace, name)
    with runtime.ray_session():
        placement.require_node("data")
        placement.require_node("gpu" if config.gpu else "data")
        require_resources(config)
        # Where this process is, and nowhere else: with a node of the workers the board would be lost, and all it shows.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        board: Any = TrainingBoard.options(scheduling_strategy=here).remote()  # type: ignore[attr-defined]
        job = WorkerJob(workspace=workspace, manifest=manifest, config=config, board=board)
        total = config.epochs * plan.steps_per_epoch * config.batch_size
        with progress(f"train {name}", total) as advance:
            follower = BoardFollower(
                board, config.batch_size, advance, lambda metrics: print_epoch(metrics, config.epochs), print_event
            )
            with polling(follower, 0.5):
                _fit(job, manifest)
    return load_bundle(workspace, name)


def require_resources(config: TrainConfig) -> None:
    """Check that the cluster can hold the workers and the tasks that feed them.

    Raises:
        ConfigError: too few logical CPUs or GPUs, or no node has those of a worker together; both counts are named.
    """
    claim = runtime.TrainingClaim(
        workers=config.min_workers or config.workers, cpus_per_worker=config.cpus_per_worker, gpu=config.gpu
    )
    refusal = claim.refusal(runtime.node_resources(), runtime.most_resources())
    if refusal is not None:
        raise ConfigError(refusal)


def _fit(job: WorkerJob, manifest: Manifest) -> None:
    config = job.config
    trainer = ray.train.torch.TorchTrainer(
        train_worker,
        train_loop_config={"job": job},
        torch_config=ray.train.torch.TorchConfig(backend="nccl" if config.gpu else "gloo", timeout_s=300),
        scaling_config=ray.train.ScalingConfig(
            num_workers=(config.min_workers, config.workers) if config.min_workers else config.workers,
            use_gpu=config.gpu,
            resources_per_worker={"CPU": config.cpus_per_worker, **({"GPU": 1} if config.gpu else {})},
            label_selector=placement.computing(config.gpu),
            elastic_resize_monitor_interval_s=config.resize_minutes * 60,
        ),
        run_config=ray.train.RunConfig(
            name=job.name,
            failure_config=ray.train.FailureConfig(
                max_failures=config.max_failures, controller_failure_limit=config.max_failures
            ),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=2),
            worker_runtime_env={
                "env_vars": {"OMP_NUM_THREADS": str(config.cpus_per_worker), **runtime.TORCH_ENVIRONMENT}
            },
            **run_storage(job.workspace),
        ),
    )
    job.workspace.delete(RUNS, job.name, NON_FINITE)  # of a run that is resumed
    try:
        # With fewer workers allowed, those that are there begin soon; else the cluster has time to grow.
        start = _environment("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "40" if config.min_workers else "600")
        # What Ray Data counts is kept by an actor that outlives the run, on the node of whoever executes first. If that
        # were a worker's, the node would never be idle, and the autoscaler would never take it away.
        get_or_create_stats_actor()
        with start, _cleaner_ends_soon():
            trainer.fit()
    except Exception as error:
        raise TrainingError(
            f"run {job.name} of {manifest.rows_by_split['train']} pairs failed: {_cause(error)}; once that is mended, "
            f"go on from its last checkpoint with --resume --name {job.name}"
        ) from error
    if job.workspace.exists(RUNS, job.name, NON_FINITE):
        bad = job.workspace.read_json(RUNS, job.name, NON_FINITE)
        where = job.workspace.uri_of(RUNS, job.name, NON_FINITE)
        raise TrainingError(
            f"run {job.name} stopped: the loss of step {bad['step']} or its gradient is not finite; {where} names "
            f"its batch's {len(bad['pair_ids'])} pairs: look at them, or train under another --name with a smaller --lr"
        )


@contextlib.contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    """Have an environment variable for the length of a block, unless whoever started this process has set it."""
    if name in os.environ:
        yield
        return
    os.environ[name] = value
    try:
        yield
    finally:
        del os.environ[name]


@contextlib.contextmanager
def _cleaner_ends_soon() -> Iterator[None]:
    """Have a run end without its wait for the actor that would clean up after a controller that died.

    That actor asks Ray's dashboard whether the controller lives. A Ray of our own has no dashboard, and each run would
    wait twelve seconds for the answer. It exits after this time all the same.
    """
    usual = data_parallel_trainer.PlacementGroupCleanerCallback
    data_parallel_trainer.PlacementGroupCleanerCallback = functools.partial(usual, stop_timeout=_CLEANER_S)
    try:
        yield
    finally:
        data_parallel_trainer.PlacementGroupCleanerCallback = usual


def _as_begun(workspace: Workspace, manifest: Manifest, config: TrainConfig) -> Manifest:
    """The archive with the training shards and statistics that a resumed run began with; what was added is another's.

    Raises:
        ConfigError: some of them are gone.
    """
    if not config.resume or config.name is None or not workspace.exists(RUNS, config.name, SETTINGS):
        return manifest
    settings = workspace.read_json(RUNS, config.name, SETTINGS)
    if "shards" not in settings:  # begun by a version that did not write them down
        return manifest
    begun = settings["shards"]
    kept = [shard for shard in manifest.shards if shard.split != "train" or shard.file in begun]
    missing = sorted(set(begun) - {shard.file for shard in kept})
    if missing:
        raise ConfigError(
            f"run {config.name!r} cannot be resumed: {len(missing)} shards that it was trained on are no longer in the "
            f"archive ({missing[0]}); choose another --name"
        )
    statistics = {name: BandStatistics.from_json(value) for name, value in settings["statistics"].items()}
    return dataclasses.replace(manifest, shards=tuple(kept), statistics=statistics)


def _claim_name(workspace: Workspace, config: TrainConfig, manifest: Manifest) -> None:
    """Write down settings and training shards of a new run; compare the settings of a resumed one.

    Raises:
        ConfigError: the name is in use, or settings differ.
    """
    name = str(config.name)
    settings = json.loads(json.dumps(dataclasses.asdict(config), default=str))
    if not workspace.exists(RUNS, name, SETTINGS):
        shards = [shard.file for shard in manifest.of_split("train")]
        statistics = {name: value.to_json() for name, value in manifest.statistics.items()}
        workspace.write_json({**settings, "shards": shards, "statistics": statistics}, RUNS, name, SETTINGS)
        return
    if not config.resume:
        raise ConfigError(
            f"run {name!r} exists in {workspace.uri_of(RUNS)}; go on with it by --resume, or choose another --name"
        )
    before = workspace.read_json(RUNS, name, SETTINGS)
    differ = sorted(key for key in settings if key not in _MAY_CHANGE and settings[key] != before.get(key))
    if differ:
        listed = ", ".join(f"{key}: {before.get(key)!r} then, {settings[key]!r} now" for key in differ)
        raise ConfigError(f"run {name!r} cannot be resumed with other settings ({listed}); choose another --name")


def _cause(error: BaseException) -> str:
    """The innermost line of what Ray wrapped."""
    text = str(getattr(error, "training_failed_error", error)) or type(error).__name__
    worker_failures = getattr(error, "worker_failures", None)
    if worker_failures:
        text = "; ".join(sorted({str(failure) for failure in worker_failures.values()}))
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
