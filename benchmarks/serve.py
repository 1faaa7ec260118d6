"""The HTTP service against a vector database's server, a route that does nothing, and bare parts of its own.

Load comes from ``wrk`` (Debian's package of that name) on the same machine; every figure is a ratio to a peer or a
limit in the same run, in turns (A B A B …), medians of the rounds. The index holds 200,000 × 128 embeddings of a
trained encoder, enlarged (``benchmarks/enlarge.py``), and answers with whole STAC Items; queries are radar embeddings
drawn apart from them, 20,000 different ones. Parts, each by itself with ``--only``:

* ``vector``: searches by vector, 10 answers, 32 clients and one, by exact search and by an approximate index of
  recall@10 ≥ 0.99, against ``chromadb`` (its own server, its effort raised until it has recall@10 ≥ 0.99 on the same
  queries, answering with ids and distances) and against ``/livez``;
* ``image``: searches by an uploaded radar image, 16 clients and one, against the bare encoder (resnet18, 120²);
* ``shards``: the same as ``vector`` over 1, 2 and 4 index shards;
* ``swap``: the index grows under load, and the service follows: errors, and p99 against that without;
* ``soak``: 70 % of the most searches for ``--minutes``: errors, and memory at the end against that after a minute.

Run: ``python benchmarks/serve.py [--only vector image] [--json FILE]``; ``pip install -e ".[bench]"`` brings the peer.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import httpx
import numpy as np
from enlarge import demo_embeddings, enlarge
from search import table_of
from under_load import LUA_FILE, SECONDS, K, Load, free_port, load, make_index, scripts, service, wait

from sscm.index.append import append_segment
from sscm.index.approximate_build import approximate_segments
from sscm.index.exact import ExactScan
from sscm.index.generation import commit, open_segments, read_generation, successor
from sscm.index.search import IndexReader
from sscm.model.bundle import load_bundle
from sscm.runtime import ray_session
from sscm.workspace import open_workspace

ROWS, QUERIES, RECALL = 200_000, 20_000, 0.99
ASKED_RECALL = 0.995
"""Of the approximate index: what other queries find with it is :data:`RECALL` at least, whichever they are."""
PEER_EFFORTS = ((200, 16), (400, 24), (800, 32))
"""``ef_search`` and links of the peer's graph, tried in turn until it reaches the recall, each built anew."""


@dataclass
class Report:
    """Figures, printed as they come."""

    rows: list[dict[str, Any]] = field(default_factory=list)

    def say(self, name: str, ours: float, peer: float | None = None, peer_name: str = "", **more: Any) -> None:
        """Print a figure; with a peer, the ratio to it. ``target`` ("≥ 4") tells whether it is met."""
        ratio = None if peer is None else ours / peer
        target, unit = more.get("target"), more.get("unit", "")
        met = None
        if target is not None:
            sign, bound = target.split()
            value = ours if ratio is None else ratio
            met = value >= float(bound) if sign == "≥" else value <= float(bound)
        self.rows.append(
            {
                "name": name,
                "ours": ours,
                "peer": peer,
                "peer_name": peer_name,
                "unit": unit,
                "ratio": ratio,
                "target": target,
                "met": met,
            }
        )
        compared = "" if ratio is None else f"{peer:>12.5g}  {peer_name:24} × {ratio:.3g}"
        wish = "" if target is None else f"  aim {target}: {'met' if met else 'missed'}"
        print(f"{name:52} {ours:>12.5g} {unit:12}{compared}{wish}", flush=True)


def turns(rounds: int, **loads: Any) -> dict[str, list[Load]]:
    """Each load in turn, so many times."""
    found: dict[str, list[Load]] = {name: [] for name in loads}
    for _ in range(rounds):
        for name, ask in loads.items():
            found[name].append(ask())
    return found


def middle(loads: list[Load], what: str) -> float:
    """The median of one figure."""
    return statistics.median(getattr(one, what) for one in loads)


@contextlib.contextmanager
def chroma(folder: Path, pairs: dict[str, np.ndarray], asked: np.ndarray) -> Iterator[tuple[str, dict[str, Any]]]:
    """A chromadb server with the same vectors, tuned to the recall; URL of its queries and what it was tuned to."""
    import chromadb

    port = free_port()
    program = str(Path(sys.executable).with_name("chroma"))
    with (folder / "chroma.log").open("w") as log:
        command = [program, "run", "--path", str(folder / "chroma"), "--port", str(port)]
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        url = f"http://127.0.0.1:{port}"
        wait(lambda: httpx.get(f"{url}/api/v2/heartbeat", timeout=5).status_code == 200, process, log.name)
        client = chromadb.HttpClient(host="127.0.0.1", port=port)
        vectors = pairs["s2"]
        truth = ExactScan(vectors, 2).search(asked[:500], K)[1]
        for effort, links in PEER_EFFORTS:
            settings = {
                "hnsw": {"space": "ip", "ef_construction": 200, "ef_search": effort, "max_neighbors": links},
            }
            collection = client.create_collection(f"pairs{effort}", configuration=settings)
            start = time.perf_counter()
            for first in range(0, len(vectors), 5_000):
                part = vectors[first : first + 5_000]
                collection.add(ids=[str(first + n) for n in range(len(part))], embeddings=part)
            built = time.perf_counter() - start
            got = collection.query(query_embeddings=asked[:500], n_results=K, include=[])["ids"]
            found = np.array([[int(name) for name in row] for row in got])
            recall = float((found[:, :, None] == truth[:, None, :]).any(axis=1).mean())
            if recall >= RECALL or (effort, links) == PEER_EFFORTS[-1]:
                break
            client.delete_collection(f"pairs{effort}")
        path = f"/api/v2/tenants/default_tenant/databases/default_database/collections/{collection.id}/query"
        yield f"{url}{path}", {"recall": recall, "ef_search": effort, "build_s": built}
    finally:
        process.terminate()
        process.wait(30)


def vector(report: Report, folder: Path, pairs: dict[str, np.ndarray], asked: np.ndarray, rounds: int) -> None:
    """Searches by vector."""
    lua = scripts(folder, asked)
    with chroma(folder, pairs, asked) as (peer, about):
        report.say("chromadb's recall@10", about["recall"])
        report.say("chromadb's ef_search", about["ef_search"])
        report.say("chromadb's time to index", about["build_s"], unit="s")
        for kind, place in (("exact", folder / "index"), ("approximate", approximated(folder))):
            with service(place, "--threads", "1") as url:
                recall = check(url, pairs, asked, 1.0 if kind == "exact" else RECALL)
                report.say(f"{kind} search: recall@10", recall)
                for clients in (32, 1):
                    against(report, f"{kind} search", clients, rounds, url, peer, lua)


def against(report: Report, kind: str, clients: int, rounds: int, url: str, peer: str, lua: dict[str, Path]) -> None:
    """Searches of so many clients, the peer's, and a route that does nothing."""
    found = turns(
        rounds,
        ours=lambda: load(f"{url}/v1/search", clients, script=lua["ours"]),
        chroma=lambda: load(peer, clients, script=lua["chroma"]),
        nothing=lambda: load(f"{url}/livez", clients),
    )
    assert not sum(one.failed for loads in found.values() for one in loads), found
    ours, theirs, nothing = found["ours"], found["chroma"], found["nothing"]
    named = f"{kind}, {clients} client{'s' if clients > 1 else ''}"
    aims = {"rate": "≥ 4", "p99": "≤ 0.5"} if clients > 1 else {"p50": "≤ 1"}
    for what, unit in (("rate", "requests/s"), ("p50", "ms"), ("p99", "ms")):
        own, other = middle(ours, what), middle(theirs, what)
        report.say(f"{named}: {what}", own, other, "chromadb", unit=unit, target=aims.get(what))
    own, other = middle(ours, "rate"), middle(nothing, "rate")
    aim = "≥ 0.5" if clients > 1 else None
    report.say(f"{named}: rate", own, other, "/livez", unit="requests/s", target=aim)


def approximated(folder: Path) -> Path:
    """A copy of the index whose segment is searched approximately."""
    place = folder / "approximate"
    shutil.copytree(folder / "index", place, ignore=shutil.ignore_patterns("pins", "serve.log"))
    workspace, before = open_workspace(str(place)), current(place)
    with ray_session(num_cpus=2):
        segments = approximate_segments(workspace, before.segments, before.modalities, ASKED_RECALL, ROWS // 2)
    commit(workspace, successor(before, segments, recall=ASKED_RECALL, exact_rows=ROWS // 2))
    return place


def check(url: str, pairs: dict[str, np.ndarray], asked: np.ndarray, least: float) -> float:
    """Share of an exact search's answers that the service gives; it fails below the least."""
    truth, found = ExactScan(pairs["s2"], 2).search(asked[:500], K)[1], 0
    for vector, rows in zip(asked[:500], truth, strict=True):
        body = {"vector": vector.tolist(), "modality": "s1", "target": "s2", "limit": K}
        answers = httpx.post(f"{url}/v1/search", json=body, timeout=30).json()["features"]
        found += len({feature["id"] for feature in answers} & {f"pair_{row:09d}" for row in rows})
    recall = found / truth.size
    assert recall >= least, recall
    return recall


def image(report: Report, folder: Path, pairs: dict[str, np.ndarray], rounds: int) -> None:
    """Searches by an uploaded image."""
    rng = np.random.default_rng(0)
    pixels = rng.normal(-12, 3, (2, 120, 120)).astype(np.float32)
    buffer = io.BytesIO()
    np.savez(buffer, s1=pixels)
    form = {"modality": "s1", "target": "s2", "limit": str(K)}
    request = httpx.Request("POST", "http://x", data=form, files={"files": ("query.npz", buffer.getvalue())})
    (folder / "image.bin").write_bytes(request.read())
    lua = folder / "image.lua"
    lua.write_text(LUA_FILE % {"kind": request.headers["content-type"], "bodies": folder / "image.bin"})
    bare = bare_encoder(folder / "index", pixels)
    with service(folder / "index", "--threads", "2") as url:
        rates, lone = [], []
        for _ in range(rounds):
            lone.append((load(f"{url}/v1/search/image", 1, script=lua), bare("one")))
            rates.append((load(f"{url}/v1/search/image", 16, script=lua), bare("batch")))
        assert not sum(one.failed for one, _ in (*rates, *lone))
    report.say(
        "search by image, 16 clients: rate",
        statistics.median(one.rate for one, _ in rates),
        statistics.median(rate for _, rate in rates),
        "bare encoder",
        unit="images/s",
        target="≥ 0.8",
    )
    searcher = IndexReader(open_segments(open_workspace(str(folder / "index")), current(folder / "index")), 2)
    times = []
    for query in pairs["s1"][:50]:
        start = time.perf_counter()
        searcher.search(query[None], target="s2", k=K)
        times.append(1e3 * (time.perf_counter() - start))
    report.say(
        "search by image, one client: p50",
        statistics.median(one.p50 for one, _ in lone),
        statistics.median(ms for _, ms in lone) + statistics.median(times),
        "bare encoder + search",
        unit="ms",
        target="≤ 1.5",
    )


def bare_encoder(folder: Path, pixels: np.ndarray) -> Any:
    """The encoder of the index alone, with two threads: images/s in the best batch size, or ms of a single one."""
    import torch

    bundle = load_bundle(open_workspace(str(folder)), "enlarged")
    torch.set_num_threads(2)

    def once(size: int, seconds: float) -> float:
        images = np.repeat(pixels[None], size, 0)
        bundle.encode("s1", {"s1": images})
        count, start = 0, time.perf_counter()
        while time.perf_counter() - start < seconds:
            bundle.encode("s1", {"s1": images})
            count += size
        return count / (time.perf_counter() - start)

    best = max((1, 2, 4, 8, 16, 32), key=lambda size: once(size, 1.5))
    return lambda how: once(best, SECONDS) if how == "batch" else 1e3 / once(1, SECONDS / 2)


def shards(report: Report, folder: Path, asked: np.ndarray, rounds: int) -> None:
    """The cost of fan-out: the same rows over more shards."""
    lua = scripts(folder, asked)["ours"]
    rates: dict[int, tuple[float, float]] = {}
    for count in (1, 2, 4):
        with service(folder / "index", "--threads", "1", "--shards", str(count)) as url:
            found = turns(
                rounds,
                many=lambda: load(f"{url}/v1/search", 32, script=lua),
                one=lambda: load(f"{url}/v1/search", 1, script=lua),
            )
            rates[count] = middle(found["many"], "rate"), middle(found["one"], "p50")
    for count in (2, 4):
        report.say(f"{count} shards, 32 clients: rate", rates[count][0], rates[1][0], "1 shard", unit="requests/s")
        report.say(f"{count} shards, one client: p50", rates[count][1], rates[1][1], "1 shard", unit="ms")


def swap(report: Report, folder: Path, asked: np.ndarray) -> None:
    """The index grows while it is asked."""
    lua = scripts(folder, asked)["ours"]
    place = folder / "growing"
    shutil.copytree(folder / "index", place, ignore=shutil.ignore_patterns("pins", "serve.log"))
    workspace = open_workspace(str(place))
    with service(place, "--threads", "1", "--watch-s", "1") as url:
        load(f"{url}/v1/search", 16, 5, lua)
        steady = load(f"{url}/v1/search", 16, 24, lua)
        grown = [enlarge(demo_embeddings(Path("demo")), 1_000, seed=500 + turn) for turn in range(4)]

        def grow() -> None:
            for turn, batch in enumerate(grown):
                time.sleep(3)
                append_segment(workspace, table_of(1_000, seed=turn, first=10**8 + 1_000 * turn), batch)

        before = httpx.get(f"{url}/v1/index", timeout=10).json()["generation"]
        growing = threading.Thread(target=grow)
        growing.start()
        swapped = load(f"{url}/v1/search", 16, 24, lua)
        growing.join()
        time.sleep(3)
        after = httpx.get(f"{url}/v1/index", timeout=10).json()["generation"]
    report.say("hot swaps during 24 s of load", after - before)
    report.say("requests that failed during them", swapped.failed, target="≤ 0")
    report.say("p99 during them", swapped.p99, steady.p99, "without", unit="ms", target="≤ 2")


def soak(report: Report, folder: Path, asked: np.ndarray, minutes: float) -> None:
    """Many searches for long: memory and errors."""
    lua = scripts(folder, asked)["ours"]
    with service(folder / "index", "--threads", "1") as url:
        most = load(f"{url}/v1/search", 32, 10, lua).rate
        clients = 32
        while clients > 1 and load(f"{url}/v1/search", clients, 5, lua).rate > 0.7 * most:
            clients = max(1, int(clients * 0.7))
        load(f"{url}/v1/search", clients, 60, lua)
        before, failed, rates = memory(), 0, []
        for _ in range(max(1, round(minutes))):
            one = load(f"{url}/v1/search", clients, 60, lua)
            failed += one.failed
            rates.append(one.rate)
        after = memory()
    report.say("soak: minutes", len(rates))
    report.say("soak: share of the most requests/s", statistics.mean(rates) / most)
    report.say("soak: requests that failed", failed, target="≤ 0")
    for name in sorted(after.keys() & before.keys()):
        report.say(f"soak: memory of {name}", after[name] / 1e6, before[name] / 1e6, "a minute in", unit="MB")


def memory() -> dict[str, int]:
    """Private memory of each replica of a service, bytes."""
    found = {}
    for status in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            name = status.read_bytes().split(b"\0")[0].decode()
            if name.startswith("ray::ServeReplica:sscm:"):
                (line,) = [x for x in (status.parent / "status").read_text().splitlines() if x.startswith("RssAnon")]
                found[name.rsplit(":", 1)[1]] = int(line.split()[1]) * 1024
    return found


def current(folder: Path) -> Any:
    """The current generation of an index in a folder."""
    return read_generation(open_workspace(str(folder)))


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parts = ("vector", "image", "shards", "swap", "soak")
    parser.add_argument("--only", nargs="+", choices=parts, default=parts[:-1], help="parts; soak by name only")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=30, help="of the soak")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    arguments = parser.parse_args()
    if shutil.which("wrk") is None:
        raise SystemExit("wrk is missing; Debian's package of that name has it")
    report = Report()
    real = demo_embeddings(Path("demo"))
    pairs, asked = enlarge(real, ROWS, seed=0), enlarge(real, QUERIES, seed=1)["s1"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_index(folder / "index", pairs)
        for part in arguments.only:
            print(f"\n{part}", flush=True)
            if part == "vector":
                vector(report, folder, pairs, asked, arguments.rounds)
            elif part == "image":
                image(report, folder, pairs, arguments.rounds)
            elif part == "shards":
                shards(report, folder, asked, arguments.rounds)
            elif part == "swap":
                swap(report, folder, asked)
            else:
                soak(report, folder, asked, arguments.minutes)
    if arguments.json:
        arguments.json.write_text(json.dumps(report.rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
