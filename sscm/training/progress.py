"""What a running training tells: steps and epochs, from the workers to the terminal of whoever started it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import ray
from rich.console import Console

from sscm.progress import Advance


@ray.remote(num_cpus=0)
class TrainingBoard:
    """An actor on which the first worker writes and the driver reads."""

    def __init__(self) -> None:
        self._pairs = 0
        self._epochs: list[dict[str, Any]] = []

    def add_pairs(self, pairs: int) -> None:
        """Count pairs that the optimiser has seen."""
        self._pairs += pairs

    def add_epoch(self, metrics: dict[str, Any]) -> None:
        """Append the metrics of a finished epoch; one reported again after a restart replaces itself."""
        self._epochs = [e for e in self._epochs if e["epoch"] < metrics["epoch"]] + [metrics]

    def read(self) -> tuple[int, list[dict[str, Any]]]:
        """Pairs so far, and the metrics of all finished epochs."""
        return self._pairs, self._epochs


class BoardFollower:
    """Moves a progress bar and shows each epoch once, each time it is called.

    Args:
        board: handle of a :class:`TrainingBoard`.
        advance: called with pairs seen since the last call.
        show: called with the metrics of each finished epoch.
    """

    def __init__(self, board: Any, advance: Advance, show: Callable[[Mapping[str, Any]], None]) -> None:
        self._board = board
        self._advance = advance
        self._show = show
        self._pairs = 0
        self._shown = 0

    def __call__(self) -> None:
        """Look at the board once."""
        pairs, epochs = ray.get(self._board.read.remote(), timeout=5)
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
        f"mde {metrics['mde']:.4f}  isp {metrics['isp']:+.4f}  {metrics['pairs_per_s']:6,.0f} pairs/s"
        + (f"  {metrics['skipped_pairs']} pairs skipped: not finite" if metrics.get("skipped_pairs") else "")
        + (f"  partner recall@10 {recall}" if recall else "")
    )


def print_epoch(metrics: Mapping[str, Any], epochs: int) -> None:
    """Print :func:`epoch_line` where the progress bar is."""
    Console(stderr=True, highlight=False, soft_wrap=True).print(epoch_line(metrics, epochs))
