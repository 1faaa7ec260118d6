"""What a running training tells: steps and epochs, from the workers to the terminal of whoever started it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import ray
from rich.console import Console

from sscm.progress import Advance


class Start(NamedTuple):
    """Workers that have begun.

    Args:
        step: their first step, from 0.
        workers: how many they are.
        again: steps from there on that others had done before them.
    """

    step: int
    workers: int
    again: int


class Notice(NamedTuple):
    """A checkpoint within an epoch, made since a node of the workers is to be taken away.

    Args:
        step: the last one done, from 0.
    """

    step: int


@ray.remote(num_cpus=0)
class TrainingBoard:
    """An actor on which the first worker writes and the driver reads."""

    def __init__(self) -> None:
        self._steps = 0
        self._epochs: list[dict[str, Any]] = []
        self._events: list[Start | Notice] = []

    def add_start(self, step: int, workers: int) -> None:
        """Tell that so many workers have begun, and which step of the training, from 0, was their first."""
        self._events.append(Start(step, workers, max(0, self._steps - step)))

    def add_notice(self, step: int) -> None:
        """Tell that a node is to be taken away, and a checkpoint was made after this step, from 0."""
        self._events.append(Notice(step))

    def show_steps(self, steps: int) -> None:
        """Tell how many steps are done; fewer than before where a run started again."""
        self._steps = steps

    def add_epoch(self, metrics: dict[str, Any]) -> None:
        """Append the metrics of a finished epoch; one reported again after a restart replaces itself."""
        self._epochs = [e for e in self._epochs if e["epoch"] < metrics["epoch"]] + [metrics]

    def read(self) -> tuple[int, list[dict[str, Any]], list[Start | Notice]]:
        """Steps so far, the metrics of all finished epochs, and all starts and notices."""
        return self._steps, self._epochs, self._events


class BoardFollower:
    """Moves a progress bar and shows each epoch once, each time it is called.

    Args:
        board: handle of a :class:`TrainingBoard`.
        batch_size: pairs of a step.
        advance: called with pairs seen since the last call.
        show: called with the metrics of each finished epoch.
        tell: called at each start and notice.
    """

    def __init__(
        self,
        board: Any,
        batch_size: int,
        advance: Advance,
        show: Callable[[Mapping[str, Any]], None],
        tell: Callable[[Start | Notice], None],
    ) -> None:
        self._board = board
        self._batch_size = batch_size
        self._advance = advance
        self._show = show
        self._tell = tell
        self._pairs = 0
        self._shown = self._told = 0

    def __call__(self) -> None:
        """Look at the board once."""
        steps, epochs, events = ray.get(self._board.read.remote(), timeout=5)
        pairs = steps * self._batch_size
        for event in events[self._told :]:
            self._tell(event)
        self._told = len(events)
        self._advance(max(0, pairs - self._pairs))
        self._pairs = max(pairs, self._pairs)
        for metrics in epochs[self._shown :]:
            self._show(metrics)
        self._shown = max(len(epochs), self._shown)


def epoch_line(metrics: Mapping[str, Any], epochs: int) -> str:
    """One line about an epoch: losses, speed, and partner recall on the validation split."""
    recall = "  ".join(
        f"{direction} {values['recall@10']:.3f}" for direction, values in metrics.get("validation", {}).items()
    )
    return (
        f"epoch {metrics['epoch']:3d}/{epochs}  loss {metrics['loss']:7.4f}  mim {metrics['mim']:.4f}  "
        f"mde {metrics['mde']:.4f}  isp {metrics['isp']:+.4f}  {metrics['pairs_per_s']:6,.0f} pairs/s, "
        f"{metrics['data_wait_fraction']:.1%} waiting for data"
        + (f"  {metrics['skipped_pairs']} pairs skipped: not finite" if metrics.get("skipped_pairs") else "")
        + (f"  partner recall@10 {recall}" if recall else "")
    )


def print_event(event: Start | Notice) -> None:
    """Print that workers have begun, or gone on after one was lost, or that a node is to be taken away."""
    if isinstance(event, Notice):
        text = f"a node is to be taken away: checkpoint after step {event.step + 1}"
    else:
        text = f"{event.workers} worker{'s' if event.workers > 1 else ''} at step {event.step + 1}"
        if event.again:
            text += f": {event.again} of what the ones before had done again"
    Console(stderr=True, highlight=False, soft_wrap=True).print(text)


def print_epoch(metrics: Mapping[str, Any], epochs: int) -> None:
    """Print :func:`epoch_line` where the progress bar is."""
    Console(stderr=True, highlight=False, soft_wrap=True).print(epoch_line(metrics, epochs))
