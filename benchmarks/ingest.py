"""Ingest of BigEarthNet GeoTIFFs against nothing but reading the same files with rasterio.

A version 2 folder of patches is written first, as the archive stores them (uncompressed GeoTIFFs in UTM, 14 a pair);
the pixels are real ones where ``--data`` has them, turned, else noise. Then, in turn (A B A B …):

* ``bare``: one process opens each file with rasterio and reads it, and does nothing else;
* ``no listing``: the same, GDAL told not to list the folder of each file that it opens;
* ``read``: one process reads pairs with the source, labels, times and footprints with them;
* ``shard``: one process reads pairs, checks them, draws previews, gathers statistics and writes a shard;
* ``parts`` (with ``--only``): what is done to a pair, step by step, in milliseconds;
* ``ingest``: `sscm ingest` on a Ray that runs already, all cores, from the plan to the committed manifest.

Files are in the system's cache. All but the last are timed in processor time, since other programs may share a core.
The aim: `sscm ingest` reaches 0.8 × the bare loop on every core. ``--copies`` links the patches so often under other
names: longer runs, in which the seconds that Ray takes to start count for less.

Run: ``python benchmarks/ingest.py [--pairs 1500] [--rounds 3] [--json FILE]``
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import rasterio

from sscm import runtime
from sscm.archive.ingest import ingest
from sscm.archive.previews import preview_jpeg, render
from sscm.archive.schema import Pair, encode_pairs
from sscm.archive.shard_file import table_statistics, write_shard, writer_options
from sscm.archive.sources.bigearthnet import BigEarthNetSource
from sscm.archive.validate import validate_pair
from sscm.config import BigEarthNetConfig, IngestConfig
from sscm.workspace import file_sha256, file_xxh3, open_workspace
from tests.plugins.bigearthnet import random_pairs, write_v2

AIM = 0.8
"""Of the bare loop, on each core."""


def patches(data: Path, count: int) -> list[Pair]:
    """Pairs to write: real pixels, each time turned otherwise, or noise."""
    if not data.is_dir():
        return random_pairs(count)
    source = BigEarthNetSource(BigEarthNetConfig(root=str(data / "bigearthnet-v1")))
    real = [pair for ref in source.plan() for pair in source.read(ref)]
    rng = np.random.default_rng(0)
    found = []
    for number in range(count):
        pair, turn = real[number % len(real)], int(rng.integers(4))
        images = {
            name: np.ascontiguousarray(np.rot90(image, turn, (1, 2)) + image.dtype.type(rng.integers(1, 50)))
            for name, image in pair.images.items()
        }
        split = ("train", "train", "validation", "test")[number % 4]
        found.append(Pair(pair_id=str(number), split=split, images=images, labels=pair.labels))
    return found


def link(root: Path, copies: int) -> None:
    """Have every patch several times: of copy n the tile is called 33UnP instead of 33UUP."""
    table = pq.read_table(root / "metadata.parquet").to_pylist()
    rows = list(table)
    files = list(root.glob("BigEarthNet-S?/*/*/*.tif"))
    for copy in range(1, copies):
        for path in files:
            named = root / str(path.relative_to(root)).replace("33UUP", f"33U{copy}P")
            named.parent.mkdir(parents=True, exist_ok=True)
            named.hardlink_to(path)
        for row in table:
            names = {key: row[key].replace("33UUP", f"33U{copy}P") for key in ("patch_id", "s1_name")}
            rows.append({**row, **names})
    pq.write_table(pa.Table.from_pylist(rows), root / "metadata.parquet")


def bare(files: list[Path]) -> None:
    """Open and read every file, nothing else."""
    for path in files:
        with rasterio.open(path) as file:
            file.read(1)


def without_listing(files: list[Path]) -> None:
    """The same; GDAL does not look for files beside each."""
    with rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR"):
        bare(files)


def read(source: BigEarthNetSource) -> None:
    """Read every pair."""
    for ref in source.plan():
        for _ in source.read(ref):
            pass


def shard(source: BigEarthNetSource, folder: Path) -> None:
    """One shard of all pairs."""
    pairs = (pair for ref in source.plan() for pair in source.read(ref))
    write_shard(open_workspace(str(folder)), pairs, source.modalities, "shards/all.parquet", "train", 64)


def parts(source: BigEarthNetSource, folder: Path, count: int = 256) -> None:
    """Print the milliseconds of processor time that each step takes of a pair; the least of three times."""
    refs, modalities = source.plan()[:count], source.modalities
    pairs = [pair for ref in refs for pair in source.read(ref)]
    drawn = [replace(p, previews={m.name: preview_jpeg(p.images, m) for m in modalities}) for p in pairs]
    tables = [encode_pairs(drawn[start : start + 64], modalities) for start in range(0, len(drawn), 64)]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "shard.parquet"

    def write() -> None:
        with pq.ParquetWriter(path, tables[0].schema, **writer_options(modalities, "none")) as writer:
            for table in tables:
                writer.write_table(table, row_group_size=64)

    steps: dict[str, Callable[[], Any]] = {
        "read": lambda: [pair for ref in refs for pair in source.read(ref)],
        "check": lambda: [validate_pair(pair, modalities, "") for pair in pairs],
        "draw": lambda: [render(pair.images, m) for pair in pairs for m in modalities],
        "draw, JPEG": lambda: [preview_jpeg(pair.images, m) for pair in pairs for m in modalities],
        "encode": lambda: [encode_pairs(drawn[start : start + 64], modalities) for start in range(0, len(drawn), 64)],
        "statistics": lambda: [table_statistics(table, modalities) for table in tables],
        "write": write,
        "SHA-256": lambda: file_sha256(path),
        "XXH3": lambda: file_xxh3(path),
    }
    for name, step in steps.items():
        spent = []
        for _ in range(3):
            start = time.process_time()
            step()
            spent.append(time.process_time() - start)
        print(f"  {name:12}{min(spent) / len(pairs) * 1e3:8.3f} ms a pair")


def whole(source: BigEarthNetSource, folder: Path, pairs: int) -> None:
    """The command, on a Ray that runs."""
    manifest = ingest(source, IngestConfig(workspace=str(folder), pairs_per_shard=512))
    assert (manifest.rows, manifest.bad_pairs) == (pairs, 0), manifest


def main() -> None:
    """Write the patches, measure, print, and write JSON rows if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=1500)
    parser.add_argument("--copies", type=int, default=1, help="how often each patch lies there, at most 9")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of real pairs")
    parser.add_argument("--keep", type=Path, help="folder of the patches: made if it is not there, and left there")
    parser.add_argument("--only", nargs="+", default=["bare", "no listing", "read", "shard", "ingest"])
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    arguments = parser.parse_args()

    with tempfile.TemporaryDirectory(prefix="sscm-bench-") as temporary:
        root = arguments.keep or Path(temporary, "patches")
        if not root.is_dir():
            root.mkdir(parents=True)
            write_v2(root, patches(arguments.data, arguments.pairs))
            link(root, arguments.copies)
        files = sorted([*root.glob("BigEarthNet-S1/*/*/*.tif"), *root.glob("BigEarthNet-S2/*/*/*.tif")])
        pairs = len(files) // 14
        source = BigEarthNetSource(BigEarthNetConfig(root=str(root)))
        place = Path(temporary, "workspace")
        ways: dict[str, Callable[[], None]] = {
            "bare": lambda: bare(files),
            "no listing": lambda: without_listing(files),
            "read": lambda: read(source),
            "shard": lambda: shard(source, place),
            "ingest": lambda: whole(source, place, pairs),
        }
        if "parts" in arguments.only:
            parts(source, place)
        spent: dict[str, list[float]] = {name: [] for name in ways if name in arguments.only}
        with runtime.ray_session() if "ingest" in spent else contextlib.nullcontext():
            for turn in range(arguments.rounds + 1):
                for name, times in spent.items():
                    shutil.rmtree(place, ignore_errors=True)
                    clock = time.perf_counter if name == "ingest" else time.process_time
                    start = clock()
                    ways[name]()
                    if turn:  # the first time fills caches and starts workers
                        times.append(clock() - start)
        rates = {name: [pairs / each for each in times] for name, times in spent.items()}
    if "bare" in rates:
        report(rates, pairs, arguments.json)


def report(rates: dict[str, list[float]], pairs: int, path: Path | None) -> None:
    """Print pairs/s, and each against the bare loop of the same round."""
    cores = os.cpu_count() or 1
    rows: list[dict[str, Any]] = []
    print(f"{pairs} BigEarthNet pairs of 14 GeoTIFFs, {cores} cores, {len(next(iter(rates.values())))} rounds")
    print(f"{'':10}{'pairs/s':>9}{'lowest':>9}{'highest':>9}  × the bare loop a core")
    for name, found in rates.items():
        used = cores if name == "ingest" else 1
        target = AIM if name == "ingest" else None
        ratio = statistics.median(a / b for a, b in zip(found, rates["bare"], strict=True)) / used
        rate = statistics.median(found)
        print(f"{name:10}{rate:9,.0f}{min(found):9,.0f}{max(found):9,.0f}{ratio:8.2f}", end="")
        print(f"  (aim ≥ {target})" if target else "")
        rows.append({"name": name, "ours": rate, "peer": statistics.median(rates["bare"]) * used,
                     "peer_name": f"bare rasterio loop × {used}", "unit": "pairs/s", "ratio": ratio,
                     "target": target, "met": None if target is None else ratio >= target})  # fmt: skip
    if path:
        path.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
