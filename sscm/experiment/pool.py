"""Trials on Ray: so many at once, each in a process of its own with its own threads, with deadlines and retries."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ray
import torch

from sscm import placement, runtime
from sscm.config import TrainConfig
from sscm.errors import ConfigError, SscmError
from sscm.experiment.board import Display, State, TrialBoard, read_board
from sscm.experiment.measuring import Setting, run_trial
from sscm.experiment.prepared import Prepared
from sscm.experiment.trials import Trial, read_result, write_result

ATTEMPTS = 3
"""Times that a trial is begun whose process was killed."""
START_S = 1800.0
"""Longest time that a trial may wait for a node with room."""
_POLL_S = 0.5
_KILLED = (
    ray.exceptions.WorkerCrashedError,
    ray.exceptions.OutOfMemoryError,
    ray.exceptions.NodeDiedError,
    ray.exceptions.LocalRayletDiedError,
    ray.exceptions.ObjectLostError,
)


@dataclass
class _Running:
    trial: Trial
    attempt: int
    submitted: float


def run_trials(
    trials: Sequence[Trial],
    setting: Setting,
    prepared: dict[int | None, ray.ObjectRef],
    name: str,
    at_once: int,
    hours: float,
    display: Display,
) -> dict[str, str]:
    """Run trials; each writes its own result. One that fails does not hold up the others.

    Args:
        trials: what to run, in order.
        setting: what they share.
        prepared: image size → the training pairs in Ray's object store.
        name: of the experiment.
        at_once: most trials at a time.
        hours: most that a trial may run.
        display: told of progress.

    Returns:
        Key of each failed trial → why.
    """
    board: Any = TrialBoard.remote()  # type: ignore[attr-defined]
    shared = ray.put(setting)
    waiting = [_Running(trial, 0, 0.0) for trial in trials]
    running: dict[ray.ObjectRef, _Running] = {}
    failed: dict[str, str] = {}
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                job = waiting.pop(0)
                running[_submit(job.trial, shared, prepared, name, board)] = _Running(
                    job.trial, job.attempt + 1, time.time()
                )
            done, _ = ray.wait(list(running), timeout=_POLL_S)
            states = read_board(board)
            for reference in done:
                job = running.pop(reference)
                _settle(reference, job, waiting, failed, display)
            for reference, job in list(running.items()):
                if reason := _overdue(job, states.get(job.trial.key), hours):
                    ray.cancel(reference, force=True)
                    del running[reference]
                    failed[job.trial.key] = reason
                    display.finished(job.trial, reason)
            display.show([job.trial for job in running.values()], states)
    finally:
        for reference in running:  # interrupted: what runs must not go on alone
            with contextlib.suppress(ray.exceptions.RayError):
                ray.cancel(reference, force=True)
        ray.kill(board)
    return failed


def trials_at_once(trials: Sequence[Trial], wanted: int | None) -> int:
    """How many trials run at a time: as many as the cores, or GPUs, have room for, unless so many are wanted.

    Raises:
        ConfigError: a trial wants more CPUs or GPUs than there are.
    """
    have = ray.cluster_resources()
    configs = [trial.config for trial in trials if trial.config is not None and trial.kind == "train"]
    threads = max((config.cpus_per_worker for config in configs), default=1)
    gpus = any(config.gpu for config in configs)
    if have.get("CPU", 0) < threads or (gpus and have.get("GPU", 0) < 1):
        raise ConfigError(
            f"a trial wants {threads} CPUs{' and a GPU' if gpus else ''}; Ray has {have.get('CPU', 0):g} CPUs and "
            f"{have.get('GPU', 0):g} GPUs: lower cpus_per_worker, set gpu = false, or add nodes"
        )
    cores = have["CPU"] / runtime.core_share()
    room = int(have["GPU"]) if gpus else int(cores // threads)
    return max(1, wanted or room)


def _submit(
    trial: Trial, shared: ray.ObjectRef, prepared: dict[int | None, ray.ObjectRef], name: str, board: Any
) -> ray.ObjectRef:
    config = trial.config or TrainConfig(cpus_per_worker=1)
    trains = trial.kind == "train"
    # Killed trials are begun again here, counted; Ray itself would try one that exhausts the memory for ever.
    task = ray.remote(_task).options(
        num_cpus=config.cpus_per_worker,
        num_gpus=1 if trains and config.gpu else 0,
        label_selector=placement.computing(trains and config.gpu),
        max_retries=0,
        runtime_env={"env_vars": {"OMP_NUM_THREADS": str(config.cpus_per_worker), **runtime.TORCH_ENVIRONMENT}},
    )
    data = prepared[config.model.image_size] if trains else None
    reference: ray.ObjectRef = task.remote(trial, shared, data, name, board)
    return reference


def _task(trial: Trial, setting: Setting, prepared: Prepared | None, name: str, board: Any) -> str:
    """Run one trial in this process; the reason where it failed, else nothing."""
    torch.set_num_threads(trial.config.cpus_per_worker if trial.config else 1)
    board.begin.remote(trial.key, os.getpid())
    try:
        if read_result(setting.workspace, name, trial.key) is None:  # a process that was cut off may have written it
            result = run_trial(trial, setting, prepared, lambda *epoch: board.epoch.remote(trial.key, *epoch))
            write_result(setting.workspace, name, trial.key, result)
    except SscmError as error:
        return f"{type(error).__name__.removesuffix('Error')} error: {error}"
    return ""


def _settle(
    reference: ray.ObjectRef, job: _Running, waiting: list[_Running], failed: dict[str, str], display: Display
) -> None:
    """Take note of how a trial ended; one whose process was killed waits for its next attempt."""
    try:
        reason = str(ray.get(reference, timeout=60))
    except _KILLED as error:
        if job.attempt < ATTEMPTS:
            waiting.insert(0, job)
            return
        reason = f"its process was killed {job.attempt} times ({type(error).__name__}); memory may be short"
    except ray.exceptions.RayError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = lines[-1] if lines else type(error).__name__
    if reason:
        failed[job.trial.key] = reason
    display.finished(job.trial, f"failed: {reason}" if reason else f"done in {time.time() - job.submitted:,.0f} s")


def _overdue(job: _Running, state: State | None, hours: float) -> str:
    """Why a running trial is to be ended; empty where it is not."""
    now = time.time()
    if state is None or state.started < job.submitted - 60:  # not begun, or only its attempt before
        return f"no node had room for it within {START_S / 60:g} minutes" if now - job.submitted > START_S else ""
    return f"ended after hours_per_trial = {hours:g}" if now - state.started > hours * 3600 else ""
