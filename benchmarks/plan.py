"""What planning an ingest of half a million pairs costs before the first image is read, and adding to so many.

References are of BigEarthNet version 2, made without any file but ``metadata.parquet``; shards hold ids and no images.
Seconds are of processor time, since other programs may share the cores; megabytes are of memory.

Run: ``python benchmarks/plan.py [--pairs 500000] [--json FILE]``
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from sscm.archive.held import read_held
from sscm.archive.manifest import Manifest, Shard
from sscm.archive.plan import ShardPlan, archive_identity, plan_shards
from sscm.archive.schema import shard_schema
from sscm.archive.shard_file import writer_options
from sscm.archive.sources.bigearthnet import BigEarthNetSource
from sscm.archive.sources.bigearthnet_layout import Layout
from sscm.archive.sources.bigearthnet_metadata import METADATA, plan_by_metadata
from sscm.archive.writing import _packed
from sscm.config import BigEarthNetConfig, IngestConfig
from sscm.workspace import Workspace, open_workspace

PER_TILE = 8_000
T = TypeVar("T")


def names(pairs: int) -> list[tuple[str, str]]:
    """Names of Sentinel-2 and Sentinel-1 patches."""
    found = []
    for number in range(pairs):
        tile, place = divmod(number, PER_TILE)
        hour, zone = f"{tile % 24:02}", f"33U{chr(65 + tile // 24)}P"
        row, col = divmod(place, 90)
        s2 = f"S2A_MSIL2A_20170613T{hour}0531_N9999_R022_T{zone}_{row:02}_{col:02}"
        found.append((s2, f"S1A_IW_GRDH_1SDV_20170613T{hour}5043_{zone}_{row}_{col}"))
    return found


def write_metadata(path: Path, patches: list[tuple[str, str]]) -> None:
    """A metadata file as the archive has it."""
    count = len(patches)
    columns = {
        "patch_id": [s2 for s2, _ in patches],
        "labels": [["Arable land", "Inland waters", "Mixed forest"]] * count,
        "split": [("train", "train", "validation", "test")[number % 4] for number in range(count)],
        "country": ["Austria"] * count,
        "s1_name": [s1 for _, s1 in patches],
        "s2v1_name": [s2.replace("_N9999_R022", "") for s2, _ in patches],
        "contains_seasonal_snow": [False] * count,
        "contains_cloud_or_shadow": [False] * count,
    }
    pq.write_table(pa.table(columns), path)


def write_ids(workspace: Workspace, source: BigEarthNetSource, plans: tuple[ShardPlan, ...]) -> Manifest:
    """An archive of shards that hold ids alone."""
    schema = shard_schema(source.modalities)
    options = writer_options(source.modalities, "none")
    Path(workspace.path_of("archive", "shards")).mkdir(parents=True)
    shards = []
    for plan in plans:
        given = {"pair_id": [ref.key for ref in plan.refs], "split": [plan.split] * len(plan.refs)}
        columns = [pa.array(given.get(f.name) or [None] * len(plan.refs), f.type) for f in schema]
        table = pa.Table.from_arrays(columns, schema=schema)
        pq.write_table(table, workspace.path_of("archive", *plan.file.split("/")), row_group_size=64, **options)
        known: dict[str, Any] = {"rows": len(table), "row_groups": (), "complete": (), "bytes": 0, "sha256": ""}
        shards.append(Shard(file=plan.file, split=plan.split, **known))
    about: dict[str, Any] = {"statistics": {}, "source": {}, "created": "", "code_version": ""}
    return Manifest(modalities=source.modalities, shards=tuple(shards), **about)


def main() -> None:
    """Measure, print, and write JSON rows if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=500_000)
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []

    def say(name: str, value: float, unit: str) -> None:
        print(f"{name:60}{value:10.2f} {unit}", flush=True)
        rows.append({"name": name, "ours": value, "peer": None, "peer_name": None, "unit": unit, "ratio": None,
                     "target": None, "met": None})  # fmt: skip

    def timed(name: str, action: Callable[[], T]) -> T:
        start = time.process_time()
        result = action()
        say(name, time.process_time() - start, "s")
        return result

    with tempfile.TemporaryDirectory(prefix="sscm-bench-") as root:
        patches = names(arguments.pairs)
        where = f"{root}/{METADATA}"
        write_metadata(Path(where), patches)
        layout = Layout(
            version=2,
            s1={s1: f"BigEarthNet-S1/{s1.rsplit('_', 3)[0]}" for _, s1 in patches},
            s2={s2: f"BigEarthNet-S2/{s2.rsplit('_', 2)[0]}" for s2, _ in patches},
        )
        source, config = BigEarthNetSource(BigEarthNetConfig(root=root)), IngestConfig()
        refs = timed("references of the metadata", lambda: plan_by_metadata(root, where, layout))
        say("memory at its peak, references made", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3, "MB")
        identity = timed("name of the archive", lambda: archive_identity(source, config, refs))
        plans = timed("dealing them to shards", lambda: plan_shards(refs, source, config, identity))
        packed = timed(f"packing {len(plans)} shards for the workers", lambda: [_packed(plan) for plan in plans])
        say("what is sent to them", sum(map(len, packed)) / 1e6, "MB")
        workspace = open_workspace(f"{root}/workspace")
        manifest = write_ids(workspace, source, plans)
        held = timed("adding: reading the ids of the archive", lambda: read_held(workspace, manifest))
        missing = timed("adding: finding what is new", lambda: held.missing(refs))
        assert len(held.ids) == len(refs) and not missing
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
