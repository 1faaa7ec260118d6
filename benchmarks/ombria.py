"""Does training find optical images by radar on real pairs, and which part of the objective helps?

The OMBRIA pairs (Drakonakis et al. 2022, https://github.com/geodrak/OMBRIA) are 8-bit Sentinel-1 and Sentinel-2 images
of 256², cut into tiles of 128² here. Neighbouring numbers are chips of one scene, so the split goes by blocks of
numbers: 721 and up are tested on, 681 to 720 validate, the rest trains. The folder wants an ``index.csv`` with the
columns pair_id, s1 and s2. Land cover serves evaluation only; it is weak, read from the optical tile itself by two
band ratios, see :func:`land_cover`.

    python benchmarks/ombria.py --data FOLDER --workspace FOLDER [--json FILE]

makes the archive and runs ``recipes/ombria.toml`` on it; run again, it does what is missing.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from rich.console import Console

from sscm import runtime
from sscm.archive.ingest import ingest
from sscm.archive.sources import PairsSource
from sscm.config import ExperimentConfig, IngestConfig, PairsConfig
from sscm.evaluation.protocols import metric as metric_named
from sscm.experiment.launch import run_experiment_file
from sscm.experiment.results import Results
from sscm.experiment.table import terminal

RECIPE = Path(__file__).resolve().parents[1] / "recipes" / "ombria.toml"
TILE = 128
"""Rows and columns of a tile."""
RATIO = 0.1
"""Band ratio from which a pixel is water or vegetation."""
LABEL_FROM = 0.1
"""Share of a tile from which a class is one of its labels."""
OURS = "joint, crops, centred"
"""Run that the JSON rows compare with all others."""
DECLARATION = """\
[s1]
title = "Sentinel-1 (8-bit)"
[s1.groups.s1]
bands = ["VV"]
common_names = ["vv"]
dtype = "uint8"
unit = "digital number, stretched per image"
pixels = 128

[s2]
title = "Sentinel-2 (8-bit B11, B08, B03)"
[s2.groups.s2]
bands = ["B11", "B08", "B03"]
common_names = ["swir16", "nir", "green"]
dtype = "uint8"
unit = "digital number"
pixels = 128
"""


def split_of(pair_id: str) -> str:
    """Split of a pair by the block of its number."""
    number = int(pair_id.rsplit("_", 1)[1])
    return "test" if number >= 721 else "validation" if number >= 681 else "train"


def land_cover(optical: npt.NDArray[np.uint8]) -> dict[str, float]:
    """Share of an optical tile that each class covers, and that has no data.

    Args:
        optical: uint8 [height, width, 3]: B11, B08, B03; no data where all are 0.

    Returns:
        ``water``: (B03 − B11)/(B03 + B11 + 1) > 0.1; ``vegetation``: (B08 − B11)/(B08 + B11 + 1) > 0.1 and not water;
        ``other``: the rest; ``s2_nodata``.
    """
    swir, infrared, green = np.moveaxis(optical.astype(np.float64), -1, 0)
    nodata = (optical == 0).all(axis=-1)
    water = ((green - swir) / (green + swir + 1) > RATIO) & ~nodata
    vegetation = ((infrared - swir) / (infrared + swir + 1) > RATIO) & ~water & ~nodata
    classes = {"water": water, "vegetation": vegetation, "other": ~(water | vegetation | nodata), "s2_nodata": nodata}
    return {name: float(mask.mean()) for name, mask in classes.items()}


def write_tiles(data: Path, folder: Path) -> PairsConfig:
    """Cut the images into tiles and write them with the table and the declaration that ingest reads.

    Args:
        data: folder of OMBRIA.
        folder: where the tiles go; tiles that were written whole before are left as they are.
    """
    (folder / "tiles").mkdir(parents=True, exist_ok=True)
    table = folder / "tiles.csv"
    if not table.exists():
        with (data / "index.csv").open(newline="") as file:
            rows = [row for pair in csv.DictReader(file) for row in _tiles(data, folder, pair)]
        with (folder / "tiles.part").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        (folder / "modalities.toml").write_text(DECLARATION)
        (folder / "tiles.part").replace(table)  # last: without the table nothing is taken for whole
    return PairsConfig(table=str(table), modalities=str(folder / "modalities.toml"))


def _tiles(data: Path, folder: Path, pair: dict[str, str]) -> Iterator[dict[str, Any]]:
    """Write the tiles of one pair; their rows of the table."""
    images = {name: np.asarray(Image.open(data / pair[name])) for name in ("s1", "s2")}
    height, width = images["s2"].shape[:2]
    for row in range(height // TILE):
        for column in range(width // TILE):
            tile_id = f"{pair['pair_id']}_{row}_{column}"
            window = np.s_[row * TILE : (row + 1) * TILE, column * TILE : (column + 1) * TILE]
            files = {}
            for name, image in images.items():
                files[name] = f"tiles/{tile_id}_{name}.png"
                Image.fromarray(np.ascontiguousarray(image[window])).save(folder / files[name])
            cover = land_cover(images["s2"][window])
            labels = [name for name, share in cover.items() if share >= LABEL_FROM and name != "s2_nodata"]
            yield {
                "pair_id": tile_id,
                **files,
                "split": split_of(pair["pair_id"]),
                "labels": ";".join(labels),
                "image": pair["pair_id"],
                **{f"{name}_fraction": f"{share:.6f}" for name, share in cover.items()},
            }


def comparisons(results: Results) -> list[dict[str, object]]:
    """Rows of ratios: the joint objective against every other row, means over seeds."""
    rows = {row.name: row for row in results.rows}
    found: list[dict[str, object]] = []
    for peer_name, peer in rows.items():
        for column in results.columns:
            ours, theirs = rows[OURS].mean(column), peer.mean(column)
            if peer_name == OURS or ours is None or not theirs:
                continue
            better = ours > theirs if metric_named(column.metric).higher_is_better else ours < theirs
            found.append(
                {
                    "name": column.title,
                    "ours": ours,
                    "peer": theirs,
                    "peer_name": peer_name,
                    "unit": "1",
                    "ratio": ours / theirs,
                    "target": "better than the peer",
                    "met": better,
                }
            )
    return found


def main() -> None:
    """Cut, ingest, run the experiment, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of OMBRIA with its index.csv")
    parser.add_argument("--workspace", type=Path, required=True)
    parser.add_argument("--recipe", type=Path, default=RECIPE, help="another experiment file")
    parser.add_argument("--trials-at-once", type=int)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    workspace = arguments.workspace.absolute()
    source = PairsSource(write_tiles(arguments.data.absolute(), workspace / "source"))
    with runtime.ray_session():
        ingest(source, IngestConfig(workspace=str(workspace)))
    results = run_experiment_file(
        arguments.recipe, ExperimentConfig(workspace=str(workspace), trials_at_once=arguments.trials_at_once)
    )
    Console().print(terminal(results))
    if arguments.json:
        arguments.json.write_text(json.dumps(comparisons(results), indent=1, ensure_ascii=False) + "\n")
    if results.missing:
        raise SystemExit("missing: " + "; ".join(results.missing))


if __name__ == "__main__":
    main()
