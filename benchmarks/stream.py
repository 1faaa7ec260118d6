"""The training stream against plain reading, and against what else feeds a training.

Shards have the Sentinel layout (275 KB a pair) and random pixels; one shard is written as ingest writes it and copied,
which changes nothing for a reader. Everything is read from a warm page cache, in turns (A B A B …), medians of the
rounds. Parts, each by itself with ``--only``:

* ``local``: pairs/s of the stream's batches, start-up apart, read by the worker and by Ray Data, against ``pyarrow``
  reading the same columns of the same files, row group by row group, in one process; time to the first batch;
* ``peers``: the same against a ``torch`` DataLoader of 2 workers over LMDB (safetensors values) and over GeoTIFFs;
* ``s3``: from an S3 server on this machine (``moto``), against a plain ``s3fs`` read of the same objects;
* ``epoch``: seconds of an epoch over 256 pairs;
* ``memory``: highest resident memory of the process that uses the stream, at two sizes of the archive.

Run: ``python benchmarks/stream.py [--only local] [--pairs 20480] [--json FILE]``; ``pip install -e ".[bench,dev]"``.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import itertools
import json
import mmap
import os
import pickle
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import pyarrow.parquet as pq
import rasterio
import safetensors.numpy
import torch
from torch.utils.data import DataLoader, Dataset

from sscm.archive.manifest import Manifest, Shard
from sscm.archive.order import Deal, StreamPlan
from sscm.archive.schema import Pair
from sscm.archive.shard_file import write_shard
from sscm.archive.stream import Reader, stream_batches
from sscm.archive.windows import stream_columns
from sscm.config import StreamBy
from sscm.model.encoders import as_tensor
from sscm.runtime import ray_session
from sscm.sensors import sentinel1, sentinel2
from sscm.workspace import ARCHIVE, Workspace, open_workspace

MODALITIES = (sentinel1(120), sentinel2(120))
GROUPS = [group for modality in MODALITIES for group in modality.groups]
PAIR_BYTES = sum(group.nbytes for group in GROUPS)
SHARD_PAIRS = 704
"""As many as ingest puts in a shard of this layout, a multiple of the row group."""
BATCH = 256
WAYS: tuple[StreamBy, ...] = ("workers", "ray-data")
"""Who reads."""
PARTS = ("local", "peers", "s3", "epoch", "memory")

Row = dict[str, Any]


def row(name: str, ours: float, peer: float | None, peer_name: str, unit: str, target: str | None = None) -> Row:
    """A figure, printed; with a peer the target is on the ratio."""
    ratio = None if peer is None else ours / peer
    met = None
    if target is not None:
        sign, bound = target.split()
        value = ours if ratio is None else ratio
        met = value >= float(bound) if sign == "≥" else value <= float(bound)
    compared = "" if peer is None else f"{peer:>12,.4g}  {peer_name:34} × {ratio:.3g}"
    wish = "" if target is None else f"  aim {target}: {'met' if met else 'missed'}"
    print(f"{name:44} {ours:>12,.4g} {unit:8}{compared}{wish}", flush=True)
    return {
        **{"name": name, "ours": ours, "peer": peer, "peer_name": peer_name, "unit": unit},
        **{"ratio": ratio, "target": target, "met": met},
    }


def random_pairs(count: int) -> Iterator[Pair]:
    """Pairs of the Sentinel layout with random pixels; previews are a few bytes."""
    rng = np.random.default_rng(0)
    for number in range(count):
        images = {group.name: rng.integers(1, 10_000, group.shape).astype(group.dtype) for group in GROUPS}
        previews = {modality.name: b"jpeg" for modality in MODALITIES}
        yield Pair(pair_id=f"pair_{number:06d}", split="train", images=images, previews=previews)


def make_archive(folder: Path, pairs: int) -> tuple[Workspace, Manifest]:
    """An archive of at least so many pairs, as many whole shards as that takes."""
    workspace = open_workspace(str(folder))
    each = min(SHARD_PAIRS, pairs)
    first, _ = write_shard(workspace, random_pairs(each), MODALITIES, "shards/00000.parquet", "train", 64)
    assert first is not None
    shards: list[Shard] = [first]
    for number in range(1, -(-pairs // each)):
        file = f"shards/{number:05d}.parquet"
        shutil.copyfile(workspace.path_of(ARCHIVE, first.file), workspace.path_of(ARCHIVE, file))
        shards.append(dataclasses.replace(first, file=file))
    manifest = Manifest(
        modalities=MODALITIES, shards=tuple(shards), statistics={}, source={}, created="", code_version=""
    )
    return workspace, manifest


def plain(workspace: Workspace, manifest: Manifest) -> float:
    """Pairs/s of pyarrow, row group by row group, nothing kept."""
    columns = stream_columns(MODALITIES)
    begun = time.perf_counter()
    for shard in manifest.shards:
        with pq.ParquetFile(workspace.path_of(ARCHIVE, shard.file), memory_map=True) as file:
            for group in range(file.metadata.num_row_groups):
                file.read_row_group(group, columns=columns)
    return manifest.rows / (time.perf_counter() - begun)


def streamed(
    workspace: Workspace, manifest: Manifest, epochs: int = 1, by: StreamBy = "auto", skipped: int = 0
) -> tuple[float, float]:
    """Pairs/s of the stream, after its first batch or after some epochs, and seconds to the first batch.

    A byte of each page of memory is read: before that, views of the object store are promises.
    """
    plan = StreamPlan(shards=manifest.shards, seed=0, batch_size=min(BATCH, manifest.rows))
    reader = Reader(worker=0, epochs=range(epochs), deals=(Deal(0, 1),), by=by)
    first, count = None, 0
    begun = counted = time.perf_counter()
    for epoch, batches in enumerate(stream_batches(workspace, manifest, plan, reader)):
        if epoch == skipped and epoch:
            counted, count = time.perf_counter(), 0
        for batch in batches:
            for group in GROUPS:
                as_tensor(batch[group.name]).reshape(-1).view(torch.uint8)[:: mmap.PAGESIZE].sum()
            count += plan.batch_size
            if first is None:
                counted, count = time.perf_counter(), 0
                first = counted - begun
    assert first is not None
    return count / (time.perf_counter() - counted), first


def local(folder: Path, pairs: int, rounds: int) -> list[Row]:
    """The stream against plain reading."""
    workspace, manifest = make_archive(folder, pairs)
    found: dict[StreamBy, list[tuple[float, float, float]]] = {"workers": [], "ray-data": []}
    with ray_session(object_store_bytes=2_000_000_000):
        plain(workspace, manifest)
        streamed(workspace, manifest, by="ray-data")
        for _ in range(rounds):
            found["workers"].append((plain(workspace, manifest), *streamed(workspace, manifest, 2, "workers")))
            found["ray-data"].append((plain(workspace, manifest), *streamed(workspace, manifest, 12, "ray-data", 8)))
    rows = []
    for by, values in found.items():
        raw, ours, first = (statistics.median(each) for each in zip(*values, strict=True))
        print(f"{by}, rounds: {[[round(value, 3) for value in each] for each in values]}")
        rows += [
            row(f"stream to batches, by {by}", ours, raw, "pyarrow, one process", "pairs/s", "≥ 0.6"),
            row("bytes", ours * PAIR_BYTES / 1e9, raw * PAIR_BYTES / 1e9, "pyarrow, one process", "GB/s"),
            row("first batch", first, None, "", "s", "≤ 0.5"),
        ]
    return rows


class Lmdb(Dataset[dict[str, torch.Tensor]]):
    """One pair a key, safetensors values."""

    def __init__(self, path: Path, count: int) -> None:
        self.path, self.count = path, count
        self._opened: Any = None

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        if self._opened is None:
            self._opened = lmdb.open(str(self.path), readonly=True, lock=False, readahead=False)
        with self._opened.begin() as transaction:
            found = safetensors.numpy.load(transaction.get(f"{index:08d}".encode()))
        return {name: torch.from_numpy(values) for name, values in found.items()}


class Tiffs(Dataset[dict[str, torch.Tensor]]):
    """One GeoTIFF a band."""

    def __init__(self, folder: Path, count: int) -> None:
        self.folder, self.count = folder, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        images = {}
        for group in GROUPS:
            planes = []
            for band in group.band_names:
                with rasterio.open(self.folder / str(index) / f"{band}.tif") as file:
                    planes.append(file.read(1))
            images[group.name] = torch.from_numpy(np.stack(planes))
        return images


def loaded(dataset: Any) -> float:
    """Pairs/s of a DataLoader of two workers, from its first batch on."""
    batches = iter(DataLoader(dataset, batch_size=BATCH, shuffle=True, num_workers=2, drop_last=True))
    count = len(next(batches)["s1"])
    begun = time.perf_counter()
    count = sum(len(batch["s1"]) for batch in batches)
    return count / (time.perf_counter() - begun)


def peers(folder: Path, pairs: int, rounds: int) -> list[Row]:
    """The stream against DataLoaders over the same pairs."""
    count, tiffs = min(pairs, 8 * SHARD_PAIRS), 2 * SHARD_PAIRS
    workspace, manifest = make_archive(folder / "archive", count)
    store = lmdb.open(str(folder / "lmdb"), map_size=2 * count * PAIR_BYTES)
    with store.begin(write=True) as transaction:
        for number, pair in enumerate(itertools.islice(itertools.cycle(list(random_pairs(SHARD_PAIRS))), count)):
            transaction.put(f"{number:08d}".encode(), safetensors.numpy.save(dict(pair.images)))
    store.close()
    for number, pair in enumerate(random_pairs(tiffs)):
        (folder / "tiffs" / str(number)).mkdir(parents=True)
        for group in GROUPS:
            for band, plane in zip(group.band_names, pair.images[group.name], strict=True):
                about = {"driver": "GTiff", "height": group.height, "width": group.width, "count": 1}
                georeference = {"crs": "EPSG:32633", "transform": rasterio.transform.from_origin(5e5, 5e6, 10, 10)}
                path = folder / "tiffs" / str(number) / f"{band}.tif"
                with rasterio.open(path, "w", dtype=group.dtype, **about, **georeference) as file:
                    file.write(plane, 1)
    found: dict[str, list[float]] = {"ours": [], "ray": [], "lmdb": [], "tiffs": []}
    with ray_session(object_store_bytes=2_000_000_000):
        streamed(workspace, manifest, by="ray-data")
        for _ in range(rounds):
            found["ours"].append(streamed(workspace, manifest, 4)[0])
            found["ray"].append(streamed(workspace, manifest, 16, "ray-data", 8)[0])
            found["lmdb"].append(loaded(Lmdb(folder / "lmdb", count)))
            found["tiffs"].append(loaded(Tiffs(folder / "tiffs", tiffs)))
    ours, by_ray, others, files = (statistics.median(values) for values in found.values())
    return [
        row("stream to batches, by workers", ours, others, "DataLoader over LMDB, 2 workers", "pairs/s", "≥ 2"),
        row("stream to batches, by ray-data", by_ray, others, "DataLoader over LMDB, 2 workers", "pairs/s", "≥ 2"),
        row("stream to batches, by workers", ours, files, "DataLoader over GeoTIFFs, 2 workers", "pairs/s", "≥ 2"),
    ]


@contextlib.contextmanager
def s3_server() -> Iterator[None]:
    """``moto`` on a free port, and the environment that has it found."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    told = {
        **{"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "AWS_ACCESS_KEY_ID": "testing"},
        **{"AWS_SECRET_ACCESS_KEY": "testing", "AWS_DEFAULT_REGION": "us-east-1"},
    }
    before = {name: os.environ.get(name) for name in told}
    os.environ.update(told)
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(100):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.2):
                break
            time.sleep(0.2)
        yield
    finally:
        server.terminate()
        server.wait(20)
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.__setitem__(name, value)


def from_s3(folder: Path, _: int, rounds: int) -> list[Row]:
    """The stream from S3 against a plain read of the same objects."""
    local_workspace, manifest = make_archive(folder, 4 * SHARD_PAIRS)
    with s3_server():
        import s3fs

        fs = s3fs.S3FileSystem(skip_instance_cache=True)
        fs.mkdir("stream")
        for shard in manifest.shards:
            fs.put_file(local_workspace.path_of(ARCHIVE, shard.file), f"stream/w/archive/{shard.file}")
        workspace = open_workspace("s3://stream/w")

        def read() -> float:
            begun = time.perf_counter()
            for shard in manifest.shards:
                fs.cat_file(f"stream/w/archive/{shard.file}")
            return manifest.rows / (time.perf_counter() - begun)

        with ray_session(object_store_bytes=2_000_000_000):
            streamed(workspace, manifest)
            found = [(read(), streamed(workspace, manifest, 4, "auto", 1)[0]) for _ in range(rounds)]
    raw, ours = (statistics.median(values) for values in zip(*found, strict=True))
    return [row("stream from S3", ours, raw, "s3fs, object by object", "pairs/s", "≥ 0.6")]


def small_epochs(folder: Path, _: int, rounds: int) -> list[Row]:
    """Seconds of an epoch over 256 pairs, the first one apart."""
    workspace, manifest = make_archive(folder, 256)
    plan = StreamPlan(shards=manifest.shards, seed=0, batch_size=64)
    epochs = 16 * rounds
    rows = []
    with ray_session():
        for by in WAYS:
            streamed(workspace, manifest, by=by)
            times = []
            reader = Reader(worker=0, epochs=range(epochs), deals=(Deal(0, 1),), by=by)
            begun = time.perf_counter()
            for batches in stream_batches(workspace, manifest, plan, reader):
                for _ in batches:
                    pass
                times.append(time.perf_counter() - begun)
                if by == "ray-data":
                    time.sleep(0.2)  # so that the actor comes up while there are epochs to read
                begun = time.perf_counter()
            print(f"epochs by {by}: {[round(seconds, 3) for seconds in times]}")
            rows.append(
                row(f"epoch over 256 pairs, by {by}, mean", statistics.fmean(times[1:]), None, "", "s", "≤ 0.5")
            )
            rows.append(row("the longest", max(times[1:]), None, "", "s"))
    return rows


MEMORY = """
import pickle, sys, threading, time, psutil
sys.path.insert(0, {folder!r})
from stream import streamed
from sscm.runtime import ray_session
workspace, manifest = pickle.load(open(sys.argv[1], "rb"))
most, me = 0, psutil.Process()
def look():
    global most
    while True:
        most = max(most, me.memory_info().rss)
        time.sleep(0.02)
with ray_session():
    threading.Thread(target=look, daemon=True).start()
    streamed(workspace, manifest, 4, sys.argv[2])
    print("peak", most, me.memory_full_info().uss)
"""


def memory(folder: Path, pairs: int, _: int) -> list[Row]:
    """Highest resident memory of the process that uses the stream, pages of the object store that it sees included."""
    rows = []
    for count in (pairs // 4, pairs):
        place = folder / str(count)
        archive = make_archive(place, count)
        (place / "archive.pickle").write_bytes(pickle.dumps(archive))
        program = MEMORY.format(folder=str(Path(__file__).parent))
        for by in WAYS:
            command = [sys.executable, "-c", program, place / "archive.pickle", by]
            said = subprocess.run(command, check=True, capture_output=True, text=True, timeout=600).stdout
            peak, own = (int(value) / 1e9 for value in said.split("peak ")[1].split())
            rows.append(row(f"memory, {count:,} pairs, by {by}", peak, None, "", "GB", "≤ 1.5"))
            rows.append(row("of which its own at the end", own, None, "", "GB"))
        shutil.rmtree(place)
    return rows


def main() -> None:
    """Run the parts that are asked for."""
    runs: dict[str, Callable[[Path, int, int], list[Row]]] = dict(
        zip(PARTS, (local, peers, from_s3, small_epochs, memory), strict=True)
    )
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--pairs", type=int, default=20_480)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rows: list[Row] = []
    for part in arguments.only:
        print(f"\n{part}", flush=True)
        with tempfile.TemporaryDirectory(prefix="sscm-stream-") as folder:
            rows += runs[part](Path(folder), arguments.pairs, arguments.rounds)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
