"""How fast pairs are simulated, and how far the colours of a patch solve the simulated archive.

A simulated archive that a patch's mean spectrum solves would be a toy. This prints what a label-free baseline reaches
that sees nothing but means and deviations of a patch's bands and, for radar, their histograms, beside chance; encoders
have to be far better. The baseline is the row "mean spectrum" of ``sscm experiment``.

Run: ``python benchmarks/simulated.py [--pairs 1500] [--unseen-test] [--json FILE]``
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
from sscm.archive.statistics import BandStatistics, group_statistics, merge_statistics
from sscm.config import SyntheticConfig
from sscm.experiment.spectrum import Features, canonical_projections, patch_features, standardise, unit_rows

TARGET_PAIRS_PER_S = 100.0
RECALL_AT = 10
F1_AT = 5

Distances = npt.NDArray[np.floating[Any]]


def distances(queries: Features, archive: Features) -> Distances:
    """1 − cosine, float32 [queries, archive]."""
    return np.asarray(1 - unit_rows(queries) @ unit_rows(archive).T)


def partner_recall(distance: Distances, k: int) -> float:
    """Share of queries whose partner, on the diagonal, is among the k nearest."""
    nearer = (distance < np.diag(distance)[:, None]).sum(1)
    return float((nearer < k).mean())


def label_f1(distance: Distances, labels: Sequence[set[str]], k: int) -> float:
    """Mean over queries and their k nearest, never the query's own pair, of the F1 of the two label sets."""
    distance = distance.copy()
    np.fill_diagonal(distance, np.inf)
    scores = [
        2 * len(labels[query] & labels[found]) / (len(labels[query]) + len(labels[found]))
        for query, row in enumerate(np.argsort(distance, axis=1, kind="stable")[:, :k])
        for found in row
    ]
    return statistics.fmean(scores)


def simulate(source: SyntheticSource) -> tuple[dict[str, list[Pair]], list[float]]:
    """All pairs by split, and pairs a second of processor time of each tenth of the archive.

    Only simulation is timed, on one thread; processor time, since other programs may share the core.
    """
    found: dict[str, list[Pair]] = {"train": [], "validation": [], "test": []}
    refs = source.plan()
    next(source.read(refs[0]))  # tables that are made once a process are not what is asked for
    rates = []
    for part in np.array_split(np.arange(len(refs)), 10):
        seconds = 0.0
        for index in part:
            started = time.process_time()
            pair = next(source.read(refs[index]))
            seconds += time.process_time() - started
            found[pair.split].append(pair)
        rates.append(len(part) / seconds)
    return found, rates


def features(source: SyntheticSource, train: Sequence[Pair], test: Sequence[Pair]) -> dict[str, list[Features]]:
    """Modality → features of train and test, standardised by train."""
    found = {}
    for modality in source.modalities:
        known: dict[str, BandStatistics] = {}
        for pair in train:
            for group in modality.groups:
                of_group = group_statistics(pair.images[group.name][None], group)
                known = merge_statistics(known, {f"{modality.name}/{band}": s for band, s in of_group.items()})
        both = [
            np.concatenate(
                [patch_features({g.name: p.images[g.name][None] for g in modality.groups}, modality, known) for p in ps]
            )
            for ps in (train, test)
        ]
        found[modality.name] = standardise(*both)
    return found


def main() -> None:
    """Simulate, measure, print, and write JSON rows if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=1500, help="pairs to simulate, at least 200")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--unseen-test", action="store_true", help="test on kinds of country that training has none of")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    arguments = parser.parse_args()
    if arguments.pairs < 200:
        parser.error(f"--pairs {arguments.pairs}: expected at least 200, so that the test split says something")

    source = SyntheticSource(
        SyntheticConfig(pairs=arguments.pairs, seed=arguments.seed, unseen_test=arguments.unseen_test)
    )
    found, rates = simulate(source)
    (train_s1, test_s1), (train_s2, test_s2) = features(source, found["train"], found["test"]).values()
    labels = [set(pair.labels or ()) for pair in found["test"]]
    count = len(labels)
    turn_s1, turn_s2 = canonical_projections(train_s1, train_s2)
    common = distances(test_s1 @ turn_s1, test_s2 @ turn_s2)
    across = (("S1→S2", "CCA of features", common), ("S2→S1", "CCA of features", common.T))
    within = (("S1→S1", "features", distances(test_s1, test_s1)), ("S2→S2", "features", distances(test_s2, test_s2)))
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
