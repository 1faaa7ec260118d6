"""How fast pairs are simulated, and how far the mean colour of a patch solves the simulated archive.

A simulated archive that a patch's mean spectrum solves would be a toy. This prints what label-free baselines reach that
see nothing but the means (and, for radar, the spread) of a patch, beside chance; encoders have to be far better.

Run: ``python benchmarks/simulated.py [--pairs 1500] [--json FILE]``
"""

# ruff: noqa: E402 - the number of threads must be set before numpy is imported

from __future__ import annotations

import os

for _threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_threads] = "1"  # pairs/s are those of one core

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sscm.archive.schema import Pair
from sscm.archive.sources.synthetic import SyntheticSource
from sscm.config import SyntheticConfig

TARGET_PAIRS_PER_S = 100.0
RECALL_AT = 10
F1_AT = 5
RIDGE = 1.0

Features = npt.NDArray[np.float64]


def backscatter_features(pair: Pair) -> Features:
    """Mean and deviation of VV and VH, dB: float64 [4]."""
    db = pair.images["s1"].astype(np.float64)
    return np.concatenate([db.mean((1, 2)), db.std((1, 2))])


def spectrum_features(pair: Pair) -> Features:
    """Mean of each of the twelve optical bands over valid pixels, reflectance × 10⁴: float64 [12]."""
    means = []
    for name in ("s2_10m", "s2_20m", "s2_60m"):
        image = pair.images[name].astype(np.float64)
        valid = image != 0
        means.append((image * valid).sum((1, 2)) / np.maximum(valid.sum((1, 2)), 1))
    return np.concatenate(means)


def ridge(train_x: Features, train_y: Features, test_x: Features) -> Features:
    """Ridge regression of standardised features, fitted on train, applied to test."""
    x = np.hstack([train_x, np.ones((len(train_x), 1))])
    weights = np.linalg.solve(x.T @ x + RIDGE * np.eye(x.shape[1]), x.T @ train_y)
    return np.asarray(np.hstack([test_x, np.ones((len(test_x), 1))]) @ weights)


def canonical(train_x: Features, train_y: Features, test_x: Features, test_y: Features) -> tuple[Features, Features]:
    """Canonical correlation analysis: both test sets in the common space fitted on train (Hotelling 1936).

    Directions are weighted by their correlation. Stronger than :func:`ridge`, as it leaves out what the sensors do not
    share.
    """
    whitened = []
    for train, test in ((train_x, test_x), (train_y, test_y)):
        covariance = np.cov(train.T) + 1e-3 * np.diag(train.var(0))
        turn = np.linalg.inv(np.linalg.cholesky(covariance)).T
        whitened.append((train @ turn, test @ turn))
    (a, test_a), (b, test_b) = whitened
    left, correlations, right = np.linalg.svd(a.T @ b / len(a), full_matrices=False)
    return np.asarray(test_a @ left * correlations), np.asarray(test_b @ right.T * correlations)


def distances(queries: Features, archive: Features) -> Features:
    """Euclidean distances, float64 [queries, archive]."""
    return np.asarray(np.sqrt(((queries[:, None] - archive[None]) ** 2).sum(-1)))


def partner_recall(distance: Features, k: int) -> float:
    """Share of queries whose partner, on the diagonal, is among the k nearest."""
    nearer = (distance < np.diag(distance)[:, None]).sum(1)
    return float((nearer < k).mean())


def label_f1(distance: Features, labels: Sequence[set[str]], k: int) -> float:
    """Mean over queries and their k nearest, never the query's own pair, of the F1 of the two label sets."""
    distance = distance.copy()
    np.fill_diagonal(distance, np.inf)
    scores = [
        2 * len(labels[query] & labels[found]) / (len(labels[query]) + len(labels[found]))
        for query, row in enumerate(np.argsort(distance, axis=1, kind="stable")[:, :k])
        for found in row
    ]
    return statistics.fmean(scores)


def simulate(source: SyntheticSource) -> tuple[dict[str, list[Any]], list[float]]:
    """Features of all pairs by split, and pairs a second of processor time of each tenth of the archive.

    Only simulation is timed, on one thread; processor time, since other programs may share the core.
    """
    found: dict[str, list[Any]] = {"train": [], "validation": [], "test": []}
    refs = source.plan()
    next(source.read(refs[0]))  # tables that are made once a process are not what is asked for
    rates = []
    for part in np.array_split(np.arange(len(refs)), 10):
        seconds = 0.0
        for index in part:
            started = time.process_time()
            pair = next(source.read(refs[index]))
            seconds += time.process_time() - started
            found[pair.split].append((backscatter_features(pair), spectrum_features(pair), set(pair.labels or ())))
        rates.append(len(part) / seconds)
    return found, rates


def main() -> None:
    """Simulate, measure, print, and write JSON rows if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=1500, help="pairs to simulate, at least 200")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    arguments = parser.parse_args()
    if arguments.pairs < 200:
        parser.error(f"--pairs {arguments.pairs}: expected at least 200, so that the test split says something")

    found, rates = simulate(SyntheticSource(SyntheticConfig(pairs=arguments.pairs, seed=arguments.seed)))
    (train_s1, train_s2), (test_s1, test_s2) = (
        [np.array([row[column] for row in found[split]]) for column in (0, 1)] for split in ("train", "test")
    )
    labels = [row[2] for row in found["test"]]
    count = len(labels)
    for train, test in ((train_s1, test_s1), (train_s2, test_s2)):
        mean, std = train.mean(0), train.std(0)
        train -= mean
        train /= std
        test -= mean
        test /= std
    predicted_s2 = distances(ridge(train_s1, train_s2, test_s1), test_s2)
    predicted_s1 = distances(ridge(train_s2, train_s1, test_s2), test_s1)
    common = distances(*canonical(train_s1, train_s2, test_s1, test_s2))
    across = (
        ("S1→S2", "ridge of means", predicted_s2),
        ("S2→S1", "ridge of means", predicted_s1),
        ("S1→S2", "CCA of means", common),
        ("S2→S1", "CCA of means", common.T),
    )
    within = (("S1→S1", "means", distances(test_s1, test_s1)), ("S2→S2", "means", distances(test_s2, test_s2)))
    chance_f1 = label_f1(np.random.default_rng(0).random((count, count)), labels, F1_AT)

    rows = [row("simulated pairs/s, one core", statistics.median(rates), TARGET_PAIRS_PER_S, "target", "pairs/s", 1.0)]
    for direction, by, distance in across:
        recall = partner_recall(distance, RECALL_AT)
        rows.append(row(f"{direction} partner recall@{RECALL_AT}, {by}", recall, RECALL_AT / count, "chance", "share"))
    for direction, by, distance in (*across, *within):
        found_f1 = label_f1(distance, labels, F1_AT)
        rows.append(row(f"{direction} label F1@{F1_AT}, {by}", found_f1, chance_f1, "chance", "F1"))
    print(f"{arguments.pairs} simulated pairs, seed {arguments.seed}; fitted on {len(train_s1)} train pairs, ", end="")
    print(f"measured on {count} test pairs; {statistics.mean(len(each) for each in labels):.2f} labels a patch")
    print(f"pairs a second of processor time, over tenths of the archive: {min(rates):.0f} to {max(rates):.0f}\n")
    print(f"{'':42}{'found':>10}{'against':>10}  {'':8}{'ratio':>7}")
    for each in rows:
        print(f"{each['name']:42}{each['ours']:10.3f}{each['peer']:10.3f}  {each['peer_name']:8}{each['ratio']:7.2f}")
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n")


def row(name: str, ours: float, peer: float, peer_name: str, unit: str, target: float | None = None) -> dict[str, Any]:
    """One row of the report; ``target`` is the least ratio wanted, None where there is none to meet."""
    ratio = ours / peer
    met = None if target is None else ratio >= target
    return {"name": name, "ours": ours, "peer": peer, "peer_name": peer_name, "unit": unit, "ratio": ratio,
            "target": target, "met": met}  # fmt: skip


if __name__ == "__main__":
    main()
