"""What a shard costs in an object store: requests, bytes and time to write it and to read row groups of it.

A store in memory that speaks S3 stands behind a proxy that counts requests and delays each, as a network does. Row
groups are read one by one in a random order, each time from a file that is opened anew, as a training stream reads:

- ``ours``: :meth:`sscm.workspace.Workspace.parquet`;
- ``s3fs``: the same file system's own files, with their read-ahead;
- ``arrow``: Arrow's own S3 client.

All read the same columns of the same row groups in the same run. The store and the proxy are Python, so that seconds
tell of requests and delays, not of bandwidth.

Run: ``python benchmarks/object_storage.py [--pairs 1024] [--delay-ms 30] [--json FILE]``
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.fs
import pyarrow.parquet as pq
import s3fs
from moto.server import ThreadedMotoServer

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from sscm.archive.schema import Pair
from sscm.archive.shard_file import write_shard
from sscm.archive.windows import stream_columns
from sscm.sensors import sentinel1, sentinel2
from sscm.workspace import ARCHIVE, Workspace, open_workspace
from tests.plugins.fault_proxy import FaultProxy

MODALITIES = (sentinel1(), sentinel2())
KEYS = {"AWS_ACCESS_KEY_ID": "benchmark", "AWS_SECRET_ACCESS_KEY": "benchmark", "AWS_DEFAULT_REGION": "us-east-1"}


def pairs(count: int) -> Any:
    """Pairs of the size of Sentinel patches; what is in them does not matter here."""
    rng = np.random.default_rng(0)
    groups = [group for modality in MODALITIES for group in modality.groups]
    images = {
        group.name: rng.uniform(100, 3000, group.shape).astype(group.numpy_dtype)
        if group.dtype != "float32"
        else rng.uniform(-25, 0, group.shape).astype("float32")
        for group in groups
    }
    for number in range(count):
        yield Pair(
            pair_id=f"pair_{number:06d}", split="train", images=images, previews={"s1": b"x" * 3000, "s2": b"x" * 3000}
        )


def ours(workspace: Workspace, file: str) -> Callable[[], pq.ParquetFile]:
    """A file opened as this project opens it."""
    return lambda: workspace.parquet(ARCHIVE, file)


def by_s3fs(workspace: Workspace, file: str) -> Callable[[], pq.ParquetFile]:
    """A file of s3fs with its defaults."""
    fs = s3fs.S3FileSystem(endpoint_url=workspace.storage_options["endpoint_url"])
    return lambda: pq.ParquetFile(fs.open(workspace.path_of(ARCHIVE, file), "rb"), pre_buffer=True)


def by_arrow(workspace: Workspace, file: str) -> Callable[[], pq.ParquetFile]:
    """A file of Arrow's own client."""
    fs = pyarrow.fs.S3FileSystem(endpoint_override=workspace.storage_options["endpoint_url"], region="us-east-1")
    return lambda: pq.ParquetFile(workspace.path_of(ARCHIVE, file), filesystem=fs, pre_buffer=True)


def read(proxy: FaultProxy, opened: Callable[[], pq.ParquetFile], order: list[int]) -> dict[str, float]:
    """Read row groups one by one; means of a row group."""
    columns = stream_columns(MODALITIES)
    sent, needed = proxy.sent, 0
    began = time.perf_counter()
    with proxy.counted() as requests:
        for group in order:
            with opened() as file:
                needed += file.read_row_group(group, columns=columns).nbytes
    seconds = time.perf_counter() - began
    total = requests["HEAD"] + requests["GET"]
    return {
        "requests": total / len(order),
        "head": requests["HEAD"] / len(order),
        "get": requests["GET"] / len(order),
        "bytes_over_needed": (proxy.sent - sent) / needed,
        "seconds": seconds / len(order),
    }


def main() -> None:
    """Write a shard, read it three ways, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=1024, help="of the shard")
    parser.add_argument("--row-group", type=int, default=64, help="pairs of a row group")
    parser.add_argument("--delay-ms", type=float, default=30.0, help="of each answer")
    parser.add_argument("--json", type=Path, help="where the figures go")
    arguments = parser.parse_args()
    os.environ |= KEYS
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with FaultProxy(f"http://{host}:{port}") as proxy:
        os.environ["AWS_ENDPOINT_URL"] = proxy.url
        workspace = open_workspace("s3://benchmark/w")
        s3fs.S3FileSystem(endpoint_url=proxy.url).mkdir("benchmark")
        proxy.add("slow", seconds=arguments.delay_ms / 1000)
        began = time.perf_counter()
        with proxy.counted() as requests:
            shard, _ = write_shard(
                workspace, pairs(arguments.pairs), MODALITIES, "shard.parquet", "train", arguments.row_group
            )
        assert shard is not None
        methods = {name: count for name, count in sorted(requests.items()) if " " not in name}
        print(f"shard of {shard.rows} pairs, {len(shard.row_groups)} row groups, {shard.bytes / 1e6:.0f} MB")
        print(f"written by {sum(methods.values())} requests {methods}, {time.perf_counter() - began:.1f} s\n")
        order = np.random.default_rng(1).permutation(len(shard.row_groups)).tolist()
        found: dict[str, Any] = {"bytes": shard.bytes, "row_groups": len(shard.row_groups), "written": methods}
        print(f"{'a row group':<12}{'requests':>9}{'HEAD':>6}{'GET':>6}{'bytes/needed':>14}{'seconds':>9}{'x ours':>8}")
        for name, make in {"ours": ours, "s3fs": by_s3fs, "arrow": by_arrow}.items():
            figures = found[name] = read(proxy, make(workspace, shard.file), order)
            print(
                f"{name:<12}{figures['requests']:>9.2f}{figures['head']:>6.2f}{figures['get']:>6.2f}"
                f"{figures['bytes_over_needed']:>14.2f}{figures['seconds']:>9.3f}"
                f"{figures['seconds'] / found['ours']['seconds']:>8.2f}"
            )
    server.stop()
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
