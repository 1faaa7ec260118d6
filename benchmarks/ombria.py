"""Does training find optical images by radar on real pairs, against NT-Xent alone and an encoder never trained?

The OMBRIA pairs (Drakonakis et al. 2022, https://github.com/geodrak/OMBRIA) are 8-bit Sentinel-1 and Sentinel-2 images
of 256², cut into tiles of 128². Neighbouring numbers are chips of one scene, so the split goes by blocks of numbers:
721 and up are tested on, 681 to 720 validate, the rest trains. The folder wants an ``index.csv`` with the columns
pair_id, s1, s2, <class>_fraction and weak_labels (separated by blanks); labels and fractions serve evaluation only.

    python benchmarks/ombria.py --data FOLDER --workspace FOLDER [--json FILE]

Both runs have the same data, epochs, batch, seed and network; they differ in the objective alone.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
from pathlib import Path

from rich.console import Console

from sscm import runtime
from sscm.archive.ingest import ingest
from sscm.archive.sources import PairsSource
from sscm.config import (
    EvaluateConfig,
    IndexConfig,
    IngestConfig,
    ModelConfig,
    ObjectiveConfig,
    PairsConfig,
    TrainConfig,
)
from sscm.evaluation.evaluate import Evaluation, evaluate
from sscm.index.build import build_index
from sscm.model.bundle import CONFIG
from sscm.training.launch import train
from sscm.workspace import MODELS, open_workspace

DECLARATION = """\
[s1]
title = "Sentinel-1 (8-bit)"
[s1.groups.s1]
bands = ["VV"]
common_names = ["vv"]
dtype = "uint8"
unit = "digital number, stretched per image"
pixels = 256

[s2]
title = "Sentinel-2 (8-bit B11, B08, B03)"
[s2.groups.s2]
bands = ["B11", "B08", "B03"]
common_names = ["swir16", "nir", "green"]
dtype = "uint8"
unit = "digital number"
pixels = 256
"""
RUNS = {"joint": ObjectiveConfig(), "ntxent": ObjectiveConfig(w_mde=0.0, w_isp=0.0)}
HIGHER_IS_BETTER = {"partner_recall": True, "mean_pair_f1": True, "cover_distance": False, "modality_gap": False}


def split_of(pair_id: str) -> str:
    """Split of a pair by the block of its number."""
    number = int(pair_id.rsplit("_", 1)[1])
    return "test" if number >= 721 else "validation" if number >= 681 else "train"


def write_table(data: Path, folder: Path) -> PairsConfig:
    """Write the table and the declaration that ingest reads."""
    folder.mkdir(parents=True, exist_ok=True)
    with (data / "index.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        row["split"] = split_of(row["pair_id"])
        row["labels"] = ";".join(row.pop("weak_labels").split())
    with (folder / "pairs.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    (folder / "modalities.toml").write_text(DECLARATION)
    return PairsConfig(
        table=str(folder / "pairs.csv"), modalities=str(folder / "modalities.toml"), root=str(data), tile=128
    )


def measure(name: str, settings: TrainConfig) -> Evaluation:
    """Train one run (or take it up again), index by it, evaluate."""
    workspace = open_workspace(settings.workspace)
    if not workspace.exists(MODELS, name, CONFIG):
        train(dataclasses.replace(settings, name=name, resume=True, objective=RUNS[name]))
    build_index(IndexConfig(workspace=settings.workspace, model=name))
    folder = Path(workspace.path_of())
    return evaluate(
        EvaluateConfig(
            workspace=settings.workspace,
            json=folder / f"{name}.json",
            report=folder / f"{name}.html",
            seed=settings.seed,
        )
    )


def comparisons(joint: Evaluation, ntxent: Evaluation) -> list[dict[str, object]]:
    """Rows of ratios: the joint objective against NT-Xent alone and against no training."""
    values = {
        (run, f.encoder, f"{f.query_modality}->{f.target_modality}", f.metric, f.k): f.value
        for run, evaluation in (("joint", joint), ("ntxent", ntxent))
        for f in evaluation.figures
    }
    rows: list[dict[str, object]] = []
    for (run, encoder, direction, metric, k), ours in values.items():
        if (run, encoder) != ("joint", "trained") or metric not in HIGHER_IS_BETTER:
            continue
        for peer_name, key in (("NT-Xent alone", ("ntxent", "trained")), ("untrained", ("joint", "untrained"))):
            peer = values[(*key, direction, metric, k)]
            ratio = ours / peer if peer else float("nan")
            better = ratio > 1 if HIGHER_IS_BETTER[metric] else ratio < 1
            rows.append(
                {
                    "name": f"{direction} {metric}" + (f"@{k}" if k else ""),
                    "ours": ours,
                    "peer": peer,
                    "peer_name": peer_name,
                    "unit": "1",
                    "ratio": ratio,
                    "target": "better than the peer",
                    "met": better,
                }
            )
    return rows


def main() -> None:
    """Ingest, train both, evaluate both, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of OMBRIA with its index.csv")
    parser.add_argument("--workspace", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--backbone", default="resnet10t")
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    workspace = str(arguments.workspace.absolute())
    settings = TrainConfig(
        workspace=workspace,
        epochs=arguments.epochs,
        batch_size=128,
        lr=2e-3,
        seed=arguments.seed,
        model=ModelConfig(backbone=arguments.backbone, image_size=arguments.image_size),
    )
    with runtime.ray_session():
        ingest(
            PairsSource(write_table(arguments.data.absolute(), arguments.workspace.absolute() / "source")),
            IngestConfig(workspace=workspace),
        )
        found = {name: measure(name, settings) for name in RUNS}
    console = Console()
    for name, evaluation in found.items():
        console.print(f"[bold]{name}[/bold]")
        console.print(evaluation.table())
    rows = comparisons(found["joint"], found["ntxent"])
    for row in rows:
        console.print(
            f"{row['name']:28} {row['ours']:7.3f}  {row['peer_name']:14} {row['peer']:7.3f}  {row['ratio']:6.2f} x"
        )
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
