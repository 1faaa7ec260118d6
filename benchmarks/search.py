"""Search in an index against libraries that do the same, and against what the hardware allows.

Every figure is a ratio to a peer or a limit in the same run: calls in turn (A B A B …), the median of the rounds. What
is searched are embeddings of a trained encoder, enlarged (`benchmarks/enlarge.py`): optical ones, asked with radar ones
that were drawn apart from them. Parts, each by itself with ``--only``:

* ``exact``: a scan of 200,000 × 128 against ``faiss.IndexFlatIP`` and against nothing but its int8 products; two
  threads against one; int8 instructions against floats; cost a row as rows grow;
* ``approximate``: 1,000,000 × 128 against hnswlib, FAISS HNSW and usearch, each tuned to the same recall@10 on the same
  queries;
* ``overtaking``: the number of rows from which the approximate index is faster than the exact scan;
* ``filtered``: queries that 1, 10 or 50 % of the rows may answer, against lancedb and chromadb;
* ``segments``: appending 1,000 rows to 1,000,000, opening a generation of 1,000,000, memory a vector.

Run: ``python benchmarks/search.py [--only exact filtered] [--json FILE]``; ``pip install -e ".[bench]"`` brings peers.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np
import pyarrow as pa
import torch
from enlarge import demo_embeddings, enlarge

from sscm.index.approximate import ApproximateScan, build_lists
from sscm.index.exact import GROUP_ROWS, ExactScan
from sscm.index.filters import Filter
from sscm.index.generation import Generation, SegmentInfo, commit, open_segments, read_generation
from sscm.index.openmp import faiss
from sscm.index.product import float_product, int8_pays, int8_product
from sscm.index.search import IndexReader
from sscm.index.segment import property_names, rows_schema, write_segment
from sscm.index.tuning import held_out, measure, tune
from sscm.workspace import open_workspace

Search = Callable[[np.ndarray], Any]
K, RECALL = 10, 0.99
SECONDS = 0.4
"""Of one round of one search."""


@dataclass
class Report:
    """Figures, printed as they come."""

    figures: dict[str, Any] = field(default_factory=dict)

    def say(self, name: str, value: float, target: str = "") -> None:
        """Note a figure; a target is what was aimed at."""
        self.figures[name] = value
        shown = f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
        print(f"  {name:78} {shown:>12}  {target}", flush=True)


def rates(searches: dict[str, Search], queries: np.ndarray, batch: int, rounds: int = 5) -> dict[str, list[float]]:
    """Queries a second of each search, round by round, in turn."""
    found: dict[str, list[float]] = {name: [] for name in searches}
    place = 0
    for search in searches.values():
        search(queries[:batch])
    for _ in range(rounds):
        for name, search in searches.items():
            done, start = 0, time.perf_counter()
            while (spent := time.perf_counter() - start) < SECONDS:
                place = (place + batch) % (len(queries) - batch)
                search(queries[place : place + batch])
                done += batch
            found[name].append(done / spent)
    return found


def ratio(found: dict[str, list[float]], ours: str, peer: str) -> float:
    """Median over rounds of one rate over another."""
    return statistics.median(a / b for a, b in zip(found[ours], found[peer], strict=True))


def recall(found: np.ndarray, wanted: np.ndarray) -> float:
    """Share of the wanted rows [q, k] that were found."""
    return float((found[:, :, None] == wanted[:, None, :]).any(axis=1).mean())


def product_alone(vectors: np.ndarray, width: int | None = None, product: Any = int8_product) -> Search:
    """All int8 products of a batch with rows, in blocks as the scan makes them, and nothing else.

    Args:
        vectors: float32 [n, d].
        width: codes of a row; those of the scan form if not given.
        product: what multiplies.
    """
    form = ExactScan(vectors).form
    codes = torch.from_numpy(np.array(form.codes))
    if width is not None:
        codes = torch.randint(-127, 128, (len(vectors), width), dtype=torch.int8)

    def multiply(queries: np.ndarray) -> None:
        asked = torch.from_numpy(form.queries(queries).codes)
        if width is not None:
            asked = asked.repeat(1, -(-width // asked.shape[1]))[:, :width].contiguous()
        block = min(len(codes), 2**18 // len(queries) // GROUP_ROWS * GROUP_ROWS)
        scores = torch.empty(len(queries), block, dtype=torch.int32)
        for start in range(0, len(codes) - block + 1, block):
            product(asked, codes[start : start + block], scores)

    return multiply


def exact(report: Report, vectors: np.ndarray, queries: np.ndarray) -> None:
    """The exact scan."""
    rows = vectors[:200_000]
    form = ExactScan(rows).form
    one, two = (ExactScan(rows, threads, form=form) for threads in (1, 2))
    flat = faiss.IndexFlatIP(rows.shape[1])
    flat.add(rows)
    found = one.search(queries[:256], K)[1]
    truth = np.argsort(-(queries[:256].astype(np.float64) @ rows.T.astype(np.float64)), axis=1, kind="stable")[:, :K]
    report.say("exact: recall@10 against float64", recall(found, truth), "1")
    searches = {
        "ours": lambda q: one.search(q, K),
        "flat": lambda q: flat.search(q, K),
        "product": product_alone(rows, rows.shape[1]),
        "codes": product_alone(rows),
    }
    for batch, aim in ((32, 12), (1, 3.5)):
        done = rates(searches, queries, batch)
        report.say(f"exact, 200,000 rows, batch {batch}: queries/s, 1 thread", statistics.median(done["ours"]))
        report.say(f"exact, batch {batch}: × faiss.IndexFlatIP", ratio(done, "ours", "flat"), f"≥ {aim}")
        report.say(
            f"exact, batch {batch}: share of int8 products of all dimensions alone",
            ratio(done, "ours", "product"),
            "≥ 0.6",
        )
        report.say(f"exact, batch {batch}: share of int8 products of the codes alone", ratio(done, "ours", "codes"))
        threads = rates({"1": searches["ours"], "2": lambda q: two.search(q, K)}, queries, batch)
        report.say(f"exact, batch {batch}: 2 threads × 1", ratio(threads, "2", "1"), "≥ 1.7")
    ways = {
        "int8": product_alone(rows, product=lambda asked, codes, out: torch._int_mm(asked, codes.T, out=out)),
        "floats": product_alone(rows, product=float_product),
    }
    report.say("exact: int8 instructions are used here", float(int8_pays()))
    for batch in (32, 1):
        report.say(
            f"exact, batch {batch}: products by floats × by int8 instructions",
            ratio(rates(ways, queries, batch), "floats", "int8"),
        )
    report.say("exact: share of queries widened", one.counts.widened / one.counts.queries)
    report.say("exact: rows scored in float32, a query", one.counts.scored / one.counts.queries)
    costs = {}
    for count in (200_000, 500_000, 1_000_000):
        scan = ExactScan(vectors[:count])
        costs[count] = 1e9 / statistics.median(rates({"": lambda q, s=scan: s.search(q, K)}, queries, 32)[""]) / count
        report.say(f"exact, {count:,} rows, batch 32: ns of a core a query and row", costs[count])
    report.say("exact: cost a row, 1,000,000 over 200,000", costs[1_000_000] / costs[200_000], "about 1: linear")


def tuned(search: Callable[[np.ndarray, int], np.ndarray], queries: np.ndarray, truth: np.ndarray) -> tuple[int, float]:
    """The least ef that reaches the recall, and what it reaches."""
    low, high = 10, 20
    while recall(search(queries, high), truth) < RECALL and high < 4_000:
        low, high = high, high * 2
    while high - low > max(2, low // 20):
        middle = (low + high) // 2
        low, high = (low, middle) if recall(search(queries, middle), truth) >= RECALL else (middle, high)
    return high, recall(search(queries, high), truth)


def graphs(vectors: np.ndarray) -> Iterator[tuple[str, float, Callable[[np.ndarray, int], np.ndarray]]]:
    """Peers, built with two threads: name, seconds, and a search with one thread and an ef."""
    import hnswlib
    from usearch.index import Index

    rows, dimension = vectors.shape
    for links, effort in ((16, 200), (24, 200)):
        start = time.perf_counter()
        peer = hnswlib.Index("ip", dimension)
        peer.init_index(rows, M=links, ef_construction=effort, random_seed=0)
        peer.add_items(vectors, num_threads=2)

        def of_hnswlib(queries: np.ndarray, ef: int, peer: Any = peer) -> np.ndarray:
            peer.set_ef(ef)
            return peer.knn_query(queries, K, num_threads=1)[0].astype(np.int64)

        yield f"hnswlib M {links}", time.perf_counter() - start, of_hnswlib
        del peer, of_hnswlib
    start = time.perf_counter()
    faiss.omp_set_num_threads(2)
    graph = faiss.IndexHNSWFlat(dimension, 16, faiss.METRIC_INNER_PRODUCT)
    graph.hnsw.efConstruction = 200
    graph.add(vectors)
    spent = time.perf_counter() - start
    faiss.omp_set_num_threads(1)

    def of_faiss(queries: np.ndarray, ef: int) -> np.ndarray:
        graph.hnsw.efSearch = ef
        return graph.search(queries, K)[1]

    yield "faiss HNSW 16", spent, of_faiss
    start = time.perf_counter()
    dense = Index(ndim=dimension, metric="ip", dtype="f32", connectivity=16, expansion_add=200)
    dense.add(np.arange(rows), vectors, threads=2)

    def of_usearch(queries: np.ndarray, ef: int) -> np.ndarray:
        dense.expansion_search = ef
        return np.atleast_2d(dense.search(queries, K, threads=1).keys.astype(np.int64))

    yield "usearch 16", time.perf_counter() - start, of_usearch


def approximate(report: Report, pairs: dict[str, np.ndarray], asked: dict[str, np.ndarray]) -> None:
    """The approximate index of a million rows."""
    vectors = pairs["s2"]
    searched = ExactScan(vectors, 2)
    truth = {name: searched.search(queries, K)[1] for name, queries in asked.items()}
    present = {name: np.ones(len(vectors), np.bool_) for name in pairs}
    ours, spent = _ours(pairs, present, len(vectors))
    report.say("approximate, 1,000,000 rows: s to build and tune, 2 threads", spent)
    for name, queries in asked.items():
        report.say(
            f"approximate, asked with {name}: recall@10", recall(ours.search(queries, K)[1], truth[name]), "≥ 0.99"
        )
    best: dict[tuple[str, int], float] = {}
    slowest = 0.0
    for peer, seconds, search in graphs(vectors):
        slowest = max(slowest, seconds)
        report.say(f"{peer}: s to build, 2 threads", seconds)
        for name, queries in asked.items():
            ef, reached = tuned(search, queries[:1_000], truth[name][:1_000])
            report.say(f"{peer}, asked with {name}: ef for recall {reached:.4f}", ef)
            for batch in (32, 1):
                done = rates(
                    {"ours": lambda q: ours.search(q, K), "peer": lambda q, s=search, e=ef: s(q, e)}, queries, batch
                )
                times = ratio(done, "ours", "peer")
                best[name, batch] = min(best.get((name, batch), np.inf), times)
                report.say(
                    f"{peer}, asked with {name}, batch {batch}: queries/s, 1 thread", statistics.median(done["peer"])
                )
                report.say("ours, the same: queries/s, 1 thread", statistics.median(done["ours"]))
                report.say(f"ours × {peer}, asked with {name}, batch {batch}", times)
    for (name, batch), times in best.items():
        report.say(f"approximate × the best peer, asked with {name}, batch {batch}", times, "≥ 1")
    report.say("approximate: time to build over the slowest peer's", spent / slowest, "≤ 1")


def _ours(pairs: dict[str, np.ndarray], present: dict[str, np.ndarray], rows: int) -> tuple[ApproximateScan, float]:
    """An approximate index of the first rows, and the seconds that building and tuning it took."""
    part = {name: values[:rows] for name, values in pairs.items()}
    has = {name: values[:rows] for name, values in present.items()}
    scan = ExactScan(part["s2"], 2)
    start = time.perf_counter()
    index = build_lists(part["s2"], scan.form, has["s2"], 2)
    kinds = held_out(scan, part, has, "s2")
    effort = tune(index, part["s2"], RECALL, {name: kind.half(0) for name, kind in kinds.items()})
    assert effort is not None
    measure(ApproximateScan(part["s2"], index, effort, scan), {n: kind.half(1) for n, kind in kinds.items()}, has["s2"])
    spent = time.perf_counter() - start
    print(f"  {effort}")
    return ApproximateScan(part["s2"], index, effort, ExactScan(part["s2"], 1, form=scan.form)), spent


def overtaking(report: Report, pairs: dict[str, np.ndarray], queries: np.ndarray) -> None:
    """How the approximate index compares with the exact scan as rows grow."""
    present = {name: np.ones(len(values), np.bool_) for name, values in pairs.items()}
    for rows in (12_500, 25_000, 50_000, 100_000, 200_000, 1_000_000):
        ours, _ = _ours(pairs, present, rows)
        plain = ExactScan(pairs["s2"][:rows])
        for batch in (32, 1):
            done = rates(
                {"ours": lambda q, s=ours: s.search(q, K), "exact": lambda q, s=plain: s.search(q, K)},
                queries,
                batch,
                3,
            )
            report.say(f"{rows:,} rows, batch {batch}: exact queries/s", statistics.median(done["exact"]))
            report.say(f"{rows:,} rows, batch {batch}: approximate × exact", ratio(done, "ours", "exact"))


def table_of(rows: int, seed: int = 0, first: int = 0) -> pa.Table:
    """Rows of a segment: boxes spread over Europe, a property ``tile`` from 0 to 99."""
    import shapely

    rng = np.random.default_rng(seed)
    west, south = rng.uniform(-10, 30, rows), rng.uniform(36, 60, rows)
    boxes = shapely.box(west, south, west + 0.01, south + 0.01)
    tile = pa.array(rng.integers(100, size=rows).astype(str))
    keys = pa.array(np.full(rows, "tile"))
    offsets = pa.array(np.arange(rows + 1, dtype=np.int32))
    when = pa.array(np.datetime64("2018-06-01", "us") + rng.integers(365, size=rows).astype("timedelta64[D]"))
    when = when.cast(pa.timestamp("us", tz="UTC"))
    yes = pa.array(np.ones(rows, np.bool_))
    schema = rows_schema(["s1", "s2"])
    columns = {
        "pair_id": pa.array([f"pair_{number:09d}" for number in range(first, first + rows)]),
        "split": pa.array(np.full(rows, "train")),
        "labels": pa.array([None] * rows, pa.list_(pa.string())),
        "geometry": pa.array(shapely.to_wkb(boxes), pa.binary()),
        "bbox": pa.StructArray.from_arrays(
            [pa.array(v) for v in (west, south, west + 0.01, south + 0.01)], ["xmin", "ymin", "xmax", "ymax"]
        ),
        "s1_datetime": when,
        "s2_datetime": when,
        "properties": pa.MapArray.from_arrays(offsets, keys, tile),
        "has_s1": yes,
        "has_s2": yes,
        "archive_file": pa.array(np.full(rows, "shards/a.parquet")),
        "archive_row": pa.array(np.arange(rows)),
    }
    return pa.table([columns[name].cast(schema.field(name).type) for name in schema.names], schema=schema)


def written(folder: Path, pairs: dict[str, np.ndarray]) -> Generation:
    """An index of one segment in a folder."""
    workspace = open_workspace(str(folder))
    rows = table_of(len(pairs["s2"]))
    name, files = write_segment(workspace, rows, pairs)
    segment = SegmentInfo(
        name=name, rows=len(rows), files=files, sources={"shards/a.parquet": "0" * 64}, properties=property_names(rows)
    )
    generation = Generation(
        number=1,
        segments=(segment,),
        modalities=tuple(pairs),
        dimension=pairs["s2"].shape[1],
        bundle="enlarged",
        fingerprint="f" * 64,
        simulated=True,
        created="2026-01-01T00:00:00+00:00",
        code_version="0",
    )
    commit(workspace, generation)
    return generation


def filtered(report: Report, pairs: dict[str, np.ndarray], queries: np.ndarray, folder: Path) -> None:
    """Queries with a filter on a property."""
    import chromadb
    import lancedb

    rows = 200_000
    part = {name: np.ascontiguousarray(values[:rows]) for name, values in pairs.items()}
    generation = written(folder / "filtered", part)
    reader = IndexReader(open_segments(open_workspace(str(folder / "filtered")), generation))
    tiles = np.array([int(dict(p)["tile"]) for p in reader.segments[0].rows["properties"].to_pylist()])
    lance = lancedb.connect(str(folder / "lance")).create_table(
        "rows",
        pa.table(
            {
                "row": pa.array(np.arange(rows)),
                "tile": pa.array(tiles),
                "vector": pa.FixedSizeListArray.from_arrays(pa.array(part["s2"].reshape(-1)), part["s2"].shape[1]),
            }
        ),
    )
    lance.create_index("tile", config=lancedb.index.BTree())
    chroma = chromadb.PersistentClient(str(folder / "chroma")).create_collection(
        "rows", configuration={"hnsw": {"space": "ip", "ef_search": 200, "ef_construction": 200}}
    )
    for start in range(0, rows, 5_000):
        chroma.add(
            ids=[str(row) for row in range(start, start + 5_000)],
            embeddings=part["s2"][start : start + 5_000],
            metadatas=[{"tile": int(tile)} for tile in tiles[start : start + 5_000]],
        )
    plain = ExactScan(part["s2"])
    serial = iter(range(10**9))
    for below in (1, 10, 50):
        passing = tiles < below
        truth = plain.search(queries[:200], K, passing)[1]
        same = Filter(filter=f"tile < {below}")

        def ours(asked: np.ndarray, wanted: Filter = same) -> Any:
            return reader.search(asked, target="s2", k=K, filter=wanted)

        def afresh(asked: np.ndarray, below: int = below) -> Any:
            # Never seen before: what it passes is found out each time.
            return ours(asked, Filter(filter=f"tile < {below} AND tile <> {1_000 + next(serial)}"))

        def of_lance(asked: np.ndarray, below: int = below) -> np.ndarray:
            return np.array(
                [
                    lance.search(query)
                    .distance_type("dot")
                    .where(f"tile < {below}", prefilter=True)
                    .select(["row", "_distance"])
                    .limit(K)
                    .to_arrow()["row"]
                    .to_numpy()
                    for query in asked
                ]
            )

        def of_chroma(asked: np.ndarray, below: int = below) -> np.ndarray:
            got = chroma.query(query_embeddings=asked, n_results=K, where={"tile": {"$lt": below}}, include=[])
            return np.array([[int(row) for row in ids] + [-1] * (K - len(ids)) for ids in got["ids"]])

        found = np.array([[hit.row for hit in hits] for hits in ours(queries[:200])])
        ids = [hit.row for hits in ours(queries[:200]) for hit in hits]
        assert found.size == len(ids)
        report.say(f"filter of {below} %: our recall@10", recall(found, truth))
        report.say(f"filter of {below} %: lancedb's recall@10", recall(of_lance(queries[:200]), truth))
        report.say(f"filter of {below} %: chromadb's recall@10", recall(of_chroma(queries[:200]), truth))
        for batch in (1, 32):
            searches = {"ours": ours, "afresh": afresh, "lancedb": of_lance, "chromadb": of_chroma}
            searches["unfiltered"] = lambda asked: reader.search(asked, target="s2", k=K)
            done = rates(searches, queries, batch, 3)
            for name, values in done.items():
                report.say(f"filter of {below} %, batch {batch}: {name}, queries/s", statistics.median(values))
            for peer in ("lancedb", "chromadb"):
                report.say(f"filter of {below} %, batch {batch}: ours × {peer}", ratio(done, "ours", peer), "≥ 2")
                report.say(
                    f"filter of {below} %, batch {batch}: ours, filter unseen × {peer}", ratio(done, "afresh", peer)
                )
            report.say(
                f"filter of {below} %, batch {batch}: filtered × unfiltered", ratio(done, "ours", "unfiltered"), "≥ 1"
            )


OPENING = """
import sys, time, os, json
import numpy as np
from sscm.index.generation import open_segments, read_generation
from sscm.index.search import IndexReader
from sscm.workspace import open_workspace
def private():
    (line,) = [line for line in open("/proc/self/status") if line.startswith("RssAnon")]
    return int(line.split()[1]) * 1024
queries = np.load(sys.argv[2])
small = IndexReader([])
before, start = private(), time.perf_counter()
workspace = open_workspace(sys.argv[1])
reader = IndexReader(open_segments(workspace, read_generation(workspace)))
reader.search(queries[:1], target="s2", k=10)
first = time.perf_counter() - start
for i in range(0, 320, 32):
    reader.search(queries[i:i + 32], target="s2", k=10)
print(json.dumps({"first": first, "private": private() - before}))
"""


def segments(report: Report, pairs: dict[str, np.ndarray], queries: np.ndarray, folder: Path) -> None:
    """Appending, opening and memory."""
    from sscm.index.append import append_segment
    from sscm.index.follow import open_current

    rows = len(pairs["s2"])
    new = enlarge(demo_embeddings(Path("demo")), 1_000, seed=77)
    asked = folder / "queries.npy"
    np.save(asked, queries)
    spent = {}
    for count in (10_000, rows):
        place = folder / f"rows_{count}"
        written(place, {name: np.ascontiguousarray(values[:count]) for name, values in pairs.items()})
        workspace = open_workspace(str(place))
        opened = open_current(workspace)
        times = []
        for turn in range(5):
            batch = enlarge(demo_embeddings(Path("demo")), 1_000, seed=100 + turn)
            table = table_of(1_000, seed=turn, first=10**8 + 1_000 * turn)
            start = time.perf_counter()
            append_segment(workspace, table, batch)
            opened = open_current(workspace, opened)
            hits = IndexReader(opened.segments).search(batch["s2"][:1], target="s2", k=1)
            times.append(time.perf_counter() - start)
            assert hits[0][0].pair_id == f"pair_{10**8 + 1_000 * turn:09d}", hits
        spent[count] = statistics.median(times)
        report.say(f"append 1,000 rows to {count:,}: s until they are found", spent[count], "< 1")
    report.say("append: cost at 1,000,000 rows over 10,000", spent[rows] / spent[10_000], "about 1")
    del new
    place = folder / f"rows_{rows}"
    workspace = open_workspace(str(place))
    for kind in ("cached by the system", "not cached"):
        if kind == "not cached":
            for file in place.rglob("*"):
                if file.is_file():
                    with file.open("rb") as handle:
                        os.posix_fadvise(handle.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        done = subprocess.run(
            [sys.executable, "-c", OPENING, str(place), str(asked)], check=True, capture_output=True, text=True
        )
        told = json.loads(done.stdout)
        report.say(f"open {rows:,} × 128 × 2 modalities, {kind}: s to the first answer", told["first"], "< 1")
        report.say(f"private memory after that and 320 queries, {kind}: bytes a row", told["private"] / rows)
    info = read_generation(workspace).segments[0]
    for kind in ("vectors", "scan"):
        size = sum(stored.bytes for name, stored in info.files.items() if name.startswith(f"{kind}_s2"))
        report.say(f"{kind}: bytes a vector", size / info.rows)
    searched = ExactScan(pairs["s2"])
    lists = folder / "lists.npy"
    build_lists(pairs["s2"], searched.form, np.ones(rows, np.bool_), 2).save(lists)
    report.say("approximate index: bytes a vector", lists.stat().st_size / rows, "≤ 64")


def main() -> None:
    """Run the parts that are asked for."""
    parts = ("exact", "approximate", "overtaking", "filtered", "segments")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=parts, default=parts)
    parser.add_argument("--workspace", type=Path, default=Path("demo"), help="what `sscm demo --no-serve` made")
    parser.add_argument("--rows", type=int, default=1_000_000, help="of the large index")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    real = demo_embeddings(arguments.workspace)
    pairs = enlarge(real, arguments.rows, seed=0)
    fresh = enlarge(real, 4_000, seed=1)
    radar = fresh["s1"]
    report = Report()
    with tempfile.TemporaryDirectory(prefix="sscm-bench-") as folder:
        for part in arguments.only:
            print(part, flush=True)
            if part == "exact":
                exact(report, pairs["s2"], radar)
            elif part == "approximate":
                approximate(report, pairs, {"radar": radar, "optical": fresh["s2"]})
            elif part == "overtaking":
                overtaking(report, pairs, radar)
            elif part == "filtered":
                filtered(report, pairs, radar, Path(folder))
            else:
                segments(report, pairs, radar, Path(folder))
    if arguments.json:
        arguments.json.write_text(json.dumps(report.figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
