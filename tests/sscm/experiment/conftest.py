"""A small experiment, and results as trials write them."""

from __future__ import annotations

import copy

import pytest

from sscm.experiment.results import Results, make_rows, table_columns
from sscm.experiment.spec import parse_experiment
from sscm.experiment.trials import Trial

VALUES = {
    "name": "small",
    "seeds": [0, 1],
    "defaults": {
        "epochs": 1,
        "batch_size": 32,
        "cpus_per_worker": 1,
        "model": {"backbone": "test_resnet", "image_size": 32, "dimension": 16},
    },
    "runs": [
        {"name": "NT-Xent", "objective": {"w_mde": 0.0, "w_isp": 0.0}},
        {"name": "joint", "adapt": ["none", "centre"]},
    ],
}


@pytest.fixture
def values():
    """Tables of an experiment file."""
    return copy.deepcopy(VALUES)


@pytest.fixture
def experiment(values):
    """The experiment of :func:`values`."""
    return parse_experiment(values, "f.toml")


def figure(direction, metric, k, value):
    query, target = direction.split("->")
    return {"query_modality": query, "target_modality": target, "metric": metric, "k": k, "value": value}


def evaluation(adapt, value):
    return {
        "adapt": adapt,
        "notes": [],
        "figures": [
            figure("s1->s2", "partner_recall", 10, value),
            figure("s2->s1", "partner_recall", 10, value / 2),
            figure("s1->s2", "modality_gap", None, 1 - value),
            figure("s2->s1", "modality_gap", None, 1 - value),
            figure("s1->s1", "mean_pair_f1", 5, value / 4),
        ],
    }


@pytest.fixture
def results():
    """Two runs and chance over three seeds; seed 2 of the second run failed."""
    trials, found = [], {}
    for seed in range(3):
        trials.append(Trial(row="chance", kind="chance", seed=seed, key=f"c{seed}"))
        trials.append(Trial(row="NT-Xent", kind="train", seed=seed, key=f"n{seed}"))
        trials.append(Trial(row="joint", kind="train", seed=seed, adapt=("none", "centre"), key=f"j{seed}"))
    for trial in trials:
        if trial.key == "j2":
            continue
        value = {"c": 0.1, "n": 0.5, "j": 0.6}[trial.key[0]] + 0.01 * trial.seed
        found[trial.key] = {
            "train_seconds": 10.0 + trial.seed,
            "evaluations": [evaluation(adapt, value + 0.1 * (adapt == "centre")) for adapt in trial.adapt],
        }
    return Results(
        name="small",
        header={"data": "two modalities", "seeds": "0, 1, 2"},
        columns=table_columns(["s1", "s2"]),
        rows=make_rows(trials, found, {"j2": "memory was short"}),
        notes=("label metrics left out",),
    )
