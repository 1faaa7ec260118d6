"""How image columns of a shard are best stored: bytes, reading and writing speed, and what object storage charges.

Shards of the same pairs are written with each codec and encoding that Parquet offers for such columns, and read back by
row groups from the system's cache, in turn (A B A B …, medians): by one thread, in pairs a second of processor time,
since other programs may share the core, and by two, in pairs a second. What reading costs beside the plain copy, and
the bytes that are saved, give the bandwidth to the storage below which compression is faster.

Pairs are real ones (``--data``: BigEarthNet and SSL4EO-S12 patches; a row group has each of them once, the next one has
them turned or mirrored) and simulated ones. Byte-stream split is Parquet's own for a fixed-size column: it splits at
every byte of an *image*, not of a pixel.

Run: ``python benchmarks/codec.py [--pairs 448] [--json FILE]``
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import rasterio

from sscm.archive.previews import preview_jpeg
from sscm.archive.schema import Pair, encode_pairs
from sscm.archive.sources.bigearthnet import BigEarthNetSource
from sscm.archive.sources.synthetic import SyntheticSource
from sscm.config import BigEarthNetConfig, IngestConfig, SyntheticConfig
from sscm.sensors import sentinel1, sentinel2

MODALITIES = (sentinel1(), sentinel2())
IMAGES = [group.name for modality in MODALITIES for group in modality.groups]
ROW_GROUP = IngestConfig().pairs_per_row_group
SECONDS = 0.3
"""Of reading, a round."""
RANGE_BYTES = 32 * 2**20
"""Most that Arrow asks object storage for at once."""


@dataclass(frozen=True)
class Codec:
    """One way to store the image columns."""

    name: str
    compression: str
    level: int | None = None
    split: bool = False

    def options(self) -> dict[str, Any]:
        """Arguments of ``pyarrow.parquet.ParquetWriter``: other columns are stored as shards store them."""
        wanted: dict[str, Any] = {"compression": dict.fromkeys(IMAGES, self.compression), "use_dictionary": False}
        if self.level is not None:
            wanted["compression_level"] = dict.fromkeys(IMAGES, self.level)
        if self.split:
            wanted["column_encoding"] = dict.fromkeys(IMAGES, "BYTE_STREAM_SPLIT")
        return wanted


COMPRESSIONS = (("none", "none", None), ("LZ4", "lz4", None), ("zstd 1", "zstd", 1), ("zstd 3", "zstd", 3))
CODECS = [
    Codec(f"{name}{', split' if split else ''}", compression, level, split)
    for name, compression, level in COMPRESSIONS
    for split in (False, True)
]


@dataclass
class Measured:
    """What one codec gave."""

    bytes_a_pair: float = 0.0
    image_bytes_a_pair: float = 0.0
    write: list[float] = field(default_factory=list)
    read: dict[int, list[float]] = field(default_factory=lambda: {1: [], 2: []})

    def pairs_s(self, threads: int) -> float:
        """Median pairs/s read."""
        return statistics.median(self.read[threads])


def real_pairs(data: Path) -> list[Pair]:
    """BigEarthNet pairs, and patches of 120 pixels cut of the SSL4EO-S12 place."""
    source = BigEarthNetSource(BigEarthNetConfig(root=str(data / "bigearthnet-v1")))
    pairs = [pair for ref in source.plan() for pair in source.read(ref)]
    for radar, optical in zip(sorted((data / "ssl4eo-s12").rglob("*/VV.tif")), _optical_folders(data), strict=False):
        planes = {name: _band(radar.parent / f"{name}.tif") for name in ("VV", "VH")}
        for group in MODALITIES[1].groups:
            # its files are called B2, not B02
            planes |= {name: _band(optical / f"{name.replace('B0', 'B')}.tif") for name in group.band_names}
        for row in range(2):
            for col in range(2):
                images = {
                    group.name: np.stack([_cut(planes[name], group.height, row, col) for name in group.band_names])
                    .astype(group.dtype)
                    for modality in MODALITIES for group in modality.groups
                }  # fmt: skip
                pairs.append(Pair(pair_id=f"{radar.parent.name}_{row}{col}", split="train", images=images))
    return pairs


def _optical_folders(data: Path) -> list[Path]:
    return sorted(path.parent for path in (data / "ssl4eo-s12").rglob("*/B2.tif"))


def _band(path: Path) -> np.ndarray:
    with rasterio.open(path) as file:
        return np.asarray(file.read(1))


def _cut(plane: np.ndarray, side: int, row: int, col: int) -> np.ndarray:
    return plane[row * side : (row + 1) * side, col * side : (col + 1) * side]


def turned(pairs: list[Pair]) -> Iterator[list[Pair]]:
    """The pairs in their eight turns and mirror images.

    Two turns of one image in a row group would be compressed far better than two images.
    """
    for turn in range(8):
        found = []
        for pair in pairs:
            images = {
                name: np.ascontiguousarray(np.rot90(image[:, :, ::-1] if turn >= 4 else image, turn % 4, (1, 2)))
                for name, image in pair.images.items()
            }
            found.append(Pair(pair_id=f"{pair.pair_id}_{turn}", split="train", images=images, geometry=pair.geometry))
        yield found


def table_of(pairs: list[Pair]) -> pa.Table:
    """A row group as ingest makes it."""
    drawn = [
        Pair(
            pair_id=pair.pair_id,
            split=pair.split,
            images=pair.images,
            geometry=pair.geometry,
            previews={m.name: preview_jpeg(pair.images, m) for m in MODALITIES},
        )
        for pair in pairs
    ]
    return encode_pairs(drawn, MODALITIES)


def write(path: Path, tables: list[pa.Table], codec: Codec) -> float:
    """Write a shard; seconds of processor time."""
    start = time.process_time()
    with pq.ParquetWriter(path, tables[0].schema, write_statistics=False, **codec.options()) as writer:
        for table in tables:
            writer.write_table(table, row_group_size=len(table))
    return time.process_time() - start


def read(path: Path, groups: list[int]) -> int:
    """Read row groups as the training stream does, on one thread; pairs read."""
    with pq.ParquetFile(path, memory_map=True) as file:
        return sum(len(file.read_row_group(group, columns=IMAGES, use_threads=False)) for group in groups)


def reading(path: Path, groups: int, threads: int) -> float:
    """Pairs a second by so many threads, each with row groups of its own; of processor time where it is one."""
    shares = [[group for group in range(groups) if group % threads == turn] for turn in range(threads)]
    clock = time.process_time if threads == 1 else time.perf_counter
    rounds = done = 0
    with ThreadPoolExecutor(threads) as pool:
        start = clock()
        while rounds < 2 or clock() - start < SECONDS:
            done += sum(pool.map(lambda share: read(path, share), shares))
            rounds += 1
        return done / (clock() - start)


def measure(tables: list[pa.Table], folder: Path, rounds: int) -> dict[str, Measured]:
    """All codecs on some row groups."""
    pairs = sum(map(len, tables))
    found = {codec.name: Measured() for codec in CODECS}
    plain = pa.concat_tables(tables)
    for codec in CODECS:
        path = folder / f"{codec.name}.parquet"
        write(path, tables, codec)
        assert pq.read_table(path).equals(plain), codec
        with pq.ParquetFile(path) as file:
            groups = [file.metadata.row_group(number) for number in range(file.metadata.num_row_groups)]
            chunks = [group.column(number) for group in groups for number in range(group.num_columns)]
        stored = sum(chunk.total_compressed_size for chunk in chunks if chunk.path_in_schema in IMAGES)
        found[codec.name].image_bytes_a_pair = stored / pairs
        found[codec.name].bytes_a_pair = path.stat().st_size / pairs
    for _ in range(rounds):
        for codec in CODECS:
            path = folder / f"{codec.name}.parquet"
            found[codec.name].write.append(pairs / write(path, tables, codec))
            for threads in (1, 2):
                found[codec.name].read[threads].append(reading(path, len(tables), threads))
    return found


def break_even(plain: Measured, packed: Measured) -> float:
    """Megabytes a second to the storage, a reading thread, below which compression is faster (0: never).

    Fetching and decoding follow one another in a thread: bytes saved over seconds that decoding costs more.
    """
    saved = plain.image_bytes_a_pair - packed.image_bytes_a_pair
    slower = 1 / packed.pairs_s(1) - 1 / plain.pairs_s(1)
    if saved <= 0:
        return 0.0
    return float("inf") if slower <= 0 else saved / slower / 1e6


def costs(measured: Measured, arguments: argparse.Namespace) -> dict[str, float]:
    """Dollars of a million pairs: a month of keeping them, and one pass over their images."""
    group_bytes = measured.image_bytes_a_pair * ROW_GROUP
    requests = -(-group_bytes // RANGE_BYTES) / ROW_GROUP  # image columns of a row group lie side by side
    gigabytes = measured.image_bytes_a_pair / 1e9
    return {
        "month": 1e6 * measured.bytes_a_pair / 1e9 * arguments.storage_price,
        "pass": 1e6 * (requests * arguments.get_price / 1000 + gigabytes * arguments.transfer_price),
        "requests": requests,
    }


def rows_of(name: str, found: dict[str, Measured]) -> Iterator[dict[str, Any]]:
    """Rows of ``--json``: every codec against storing pixels as they are."""
    plain = found["none"]
    figures: dict[str, tuple[str, Callable[[Measured], float]]] = {
        "bytes a pair, all columns": ("bytes", lambda m: m.bytes_a_pair),
        "bytes a pair, images": ("bytes", lambda m: m.image_bytes_a_pair),
        "read, 1 thread": ("pairs/s", lambda m: m.pairs_s(1)),
        "read, 2 threads": ("pairs/s", lambda m: m.pairs_s(2)),
        "write, 1 thread": ("pairs/s", lambda m: statistics.median(m.write)),
    }
    for codec, measured in found.items():
        for what, (unit, of) in figures.items():
            yield {"name": f"{name}, {codec}: {what}", "ours": of(measured), "peer": of(plain), "peer_name": "none",
                   "unit": unit, "ratio": of(measured) / of(plain), "target": None, "met": None}  # fmt: skip


def main() -> None:
    """Measure, print, and write JSON rows if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=448, help="simulated pairs of a shard")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of real pairs")
    parser.add_argument("--storage-price", type=float, default=0.023, help="dollars a GB and month (S3 Standard)")
    parser.add_argument("--get-price", type=float, default=0.0004, help="dollars a thousand GET requests")
    parser.add_argument(
        "--transfer-price", type=float, default=0.02, help="dollars a GB to another region; 0 within one"
    )
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    arguments = parser.parse_args()

    source = SyntheticSource(SyntheticConfig(pairs=arguments.pairs))
    simulated = [pair for ref in source.plan() for pair in source.read(ref)]
    kinds = {"simulated": [simulated[start : start + ROW_GROUP] for start in range(0, len(simulated), ROW_GROUP)]}
    if arguments.data.is_dir():
        kinds = {"real": list(turned(real_pairs(arguments.data))), **kinds}
    else:
        print(f"no real pairs at {arguments.data}: simulated ones only", file=sys.stderr)
    rows: list[dict[str, Any]] = []
    pa.set_cpu_count(1)
    for name, groups in kinds.items():
        with tempfile.TemporaryDirectory(prefix="sscm-bench-") as folder:
            found = measure([table_of(pairs) for pairs in groups], Path(folder), arguments.rounds)
        rows += rows_of(name, found)
        print(f"\n{name} pairs, {len(groups)} row groups of {len(groups[0])}, {arguments.rounds} rounds")
        print(f"{'':15}{'bytes a pair':>14}{'images':>9}{'read 1':>9}{'read 2':>9}{'write':>8}", end="")
        print(f"{'faster below':>16}{'$ a month':>11}{'$ a pass':>10}{'GET/pair':>10}")
        for codec, m in found.items():
            dollars = costs(m, arguments)
            speed = f"{m.pairs_s(1):9,.0f}{m.pairs_s(2):9,.0f}{statistics.median(m.write):8,.0f}"
            below = "" if codec == "none" else f"{break_even(found['none'], m):,.0f} MB/s"
            print(f"{codec:15}{m.bytes_a_pair:14,.0f}{m.image_bytes_a_pair:9,.0f}{speed}{below:>16}", end="")
            print(f"{dollars['month']:11.2f}{dollars['pass']:10.2f}{dollars['requests']:10.4f}")
    print(
        f"\n$: a million pairs at {arguments.storage_price} a GB and month, {arguments.get_price} a thousand GET",
        end="",
    )
    print(f" requests, {arguments.transfer_price} a GB read")
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
