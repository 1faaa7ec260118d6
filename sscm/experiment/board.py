"""What running trials tell: an actor they write on, and the display that reads it."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from sscm.experiment.trials import Trial

LOG_EVERY_S = 30.0
"""Seconds between lines where the output is not a terminal."""


@dataclass(frozen=True)
class State:
    """How far one trial has come.

    Args:
        started: seconds since 1970 at which its process began.
        epoch: epochs done.
        loss: mean loss of the last one, NaN before.
        process: number of its process, on its node.
    """

    started: float
    process: int
    epoch: int = 0
    loss: float = float("nan")


@ray.remote(num_cpus=0)
class TrialBoard:
    """An actor on which trials write and the driver reads."""

    def __init__(self) -> None:
        self._states: dict[str, State] = {}

    def begin(self, key: str, process: int) -> None:
        """A trial began, perhaps once more."""
        self._states[key] = State(time.time(), process)

    def epoch(self, key: str, epoch: int, loss: float) -> None:
        """A trial has done an epoch."""
        self._states[key] = dataclasses.replace(self._states[key], epoch=epoch, loss=loss)

    def read(self) -> dict[str, State]:
        """Key → state of every trial that began."""
        return self._states


class Display:
    """A bar over all trials and one for each that runs, in epochs; lines now and then in a log.

    Args:
        name: of the experiment.
        trials: all of them.
        done: how many need not run.
    """

    def __init__(self, name: str, trials: Sequence[Trial], done: int) -> None:
        self._name, self._total, self._done = name, len(trials), done
        self._started = self._logged = time.monotonic()
        self._epochs = sum(max(trial.epochs, 1) for trial in trials)
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._bars: dict[str, TaskID] = {}
        self._progress = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
            TextColumn("{task.fields[unit]}"), TimeElapsedColumn(), console=self._console,
        )  # fmt: skip
        self._live = self._console.is_terminal

    def __enter__(self) -> Display:
        if self._live:
            self._progress.start()
            self._all = self._progress.add_task(self._name, total=self._total, completed=self._done, unit="trials")
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._progress.stop()

    def show(self, running: Sequence[Trial], states: Mapping[str, State]) -> None:
        """How far the running trials have come."""
        if self._live:
            self._show_bars(running, states)
        elif time.monotonic() - self._logged >= LOG_EVERY_S:
            self._logged = time.monotonic()
            told = "; ".join(_text(trial, states.get(trial.key)) for trial in running)
            print(f"{self._name}: {self._done} of {self._total} trials; {told}", file=sys.stderr, flush=True)

    def finished(self, trial: Trial, text: str) -> None:
        """A trial has ended, well or not."""
        self._done += 1
        if self._live:
            self._progress.update(self._all, completed=self._done)
            if trial.key in self._bars:
                self._progress.remove_task(self._bars.pop(trial.key))
        self._console.print(f"{self._done}/{self._total}  {trial.title}: {text}", markup=False)

    def _show_bars(self, running: Sequence[Trial], states: Mapping[str, State]) -> None:
        for trial in running:
            state = states.get(trial.key)
            if state is None or not trial.epochs:
                continue
            if trial.key not in self._bars:
                self._bars[trial.key] = self._progress.add_task(trial.title, total=trial.epochs, unit="epochs")
            loss = f"  loss {state.loss:.4f}" if state.epoch else ""
            self._progress.update(self._bars[trial.key], completed=state.epoch, description=f"  {trial.title}{loss}")


def _text(trial: Trial, state: State | None) -> str:
    if state is None:
        return f"{trial.title} is to start"
    loss = f", loss {state.loss:.4f}" if state.epoch else ""
    return f"{trial.title}: epoch {state.epoch} of {trial.epochs}{loss}" if trial.epochs else f"{trial.title} runs"


def read_board(board: Any) -> dict[str, State]:
    """The states on a board, empty where it cannot be reached for the moment."""
    try:
        states: dict[str, State] = ray.get(board.read.remote(), timeout=5)
    except ray.exceptions.RayError:
        return {}
    return states
