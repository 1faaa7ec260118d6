"""What a running training tells Prometheus, through Ray.

The first worker publishes; every node's agent exports what processes on it published, under these names with ``ray_``
in front, until the process ends. All have the label ``run``, the name of the run:

* ``sscm_training_pairs_total``, pairs trained on by all workers since this process began;
* ``sscm_training_step`` and ``sscm_training_epoch``, how many are done;
* ``sscm_training_loss{loss}``, the first worker's terms of the objective at the last step told;
* ``sscm_training_pairs_per_s``, ``sscm_training_data_wait_fraction``, ``sscm_training_skipped_pairs``,
  ``sscm_training_learning_rate`` and ``sscm_training_workers``, of the last epoch;
* ``sscm_training_recall{direction,k}``, partner recall on the validation split after the last epoch.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from ray.util.metrics import Counter, Gauge
from torch import Tensor

from sscm.training.checkpoint import LOSSES

PUBLISH_S = 5.0
"""How often steps are told, seconds: reading a loss waits for the device, and Prometheus asks every ten."""

_EPOCH = {
    "sscm_training_pairs_per_s": ("pairs_per_s", "Pairs trained on a second, in the last epoch"),
    "sscm_training_data_wait_fraction": ("data_wait_fraction", "Share of the last epoch spent waiting for data"),
    "sscm_training_skipped_pairs": ("skipped_pairs", "Pairs of the last epoch left out, being not finite"),
    "sscm_training_learning_rate": ("lr", "Learning rate at the end of the last epoch"),
    "sscm_training_workers": ("workers", "Workers of the last epoch"),
}
"""Gauges of an epoch: which of its metrics, and one line of help."""


class TrainingMetrics:
    """Publishes how one run goes; made by its first worker.

    Args:
        run: name of the run.
    """

    def __init__(self, run: str) -> None:
        self._tags = {"run": run}
        self._pairs = _counter("sscm_training_pairs", "Pairs trained on by all workers since this process began")
        self._step = _gauge("sscm_training_step", "Steps done")
        self._epoch = _gauge("sscm_training_epoch", "Epochs done")
        self._loss = _gauge("sscm_training_loss", "Term of the objective at the last step told", "loss")
        self._recall = _gauge("sscm_training_recall", "Partner recall on the validation split", "direction", "k")
        self._of_epoch = {key: _gauge(name, about) for name, (key, about) in _EPOCH.items()}
        self._told = 0.0
        self._untold = 0

    def step(self, steps: int, losses: Tensor, pairs: int) -> None:
        """Tell of a step, at most every :data:`PUBLISH_S` seconds; what is not told yet is told with a later one.

        Args:
            steps: steps done since the training began.
            losses: float32 [4], the first worker's, in the order of :data:`~sscm.training.checkpoint.LOSSES`.
            pairs: pairs of this step, over all workers.
        """
        self._untold += pairs
        if time.monotonic() - self._told < PUBLISH_S:
            return
        self._tell_pairs()
        self._step.set(steps, self._tags)
        for name, value in zip(LOSSES, losses.tolist(), strict=True):
            self._loss.set(value, {**self._tags, "loss": name})
        self._told = time.monotonic()

    def epoch(self, metrics: Mapping[str, Any]) -> None:
        """Tell of an epoch that is done.

        Args:
            metrics: as in the run's history: ``epoch``, ``pairs_per_s`` …, and ``validation``, recall by direction.
        """
        self._tell_pairs()
        self._epoch.set(metrics["epoch"], self._tags)
        for key, gauge in self._of_epoch.items():
            if key in metrics:
                gauge.set(metrics[key], self._tags)
        for direction, values in metrics.get("validation", {}).items():
            for name, value in values.items():
                if name.startswith("recall@"):
                    self._recall.set(value, {**self._tags, "direction": direction, "k": name.removeprefix("recall@")})

    def _tell_pairs(self) -> None:
        if self._untold:  # Ray refuses to add nothing
            self._pairs.inc(self._untold, self._tags)
        self._untold = 0


def _counter(name: str, about: str) -> Any:
    return Counter(name, description=about, tag_keys=("run",))


def _gauge(name: str, about: str, *labels: str) -> Any:
    return Gauge(name, description=about, tag_keys=("run", *labels))
