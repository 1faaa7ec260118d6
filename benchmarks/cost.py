"""What it costs to train on 500,000 pairs, to embed 100 million and to serve 500 million.

Nothing is timed here: counted quantities (pairs, bytes, requests, rows) are multiplied by rates that other benchmarks
measured, and by prices. **Prices are inputs.** The defaults are examples, to be replaced by yours; no bill was looked
at. Rates say where they were measured; those that were not, say what is assumed. Each is an argument.

What is left out: start-up, validation and checkpoints, failures of spot nodes, nodes that idle, the head, load
balancers, traffic out of the region, people.

Run: ``python benchmarks/cost.py [--markdown] [--gpu-hour 2.50] … [--json FILE]``
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HOUR = 3_600.0
MONTH_H = 730.0
"""Hours of a month."""
MILLION = 1_000_000


def _of(default: float, text: str, source: str) -> Any:
    """A setting: its default, what it is, and where that was measured, counted or assumed."""
    return field(default=default, metadata={"text": text, "source": source})


@dataclass(frozen=True, kw_only=True)
class Assumptions:
    """Every number that goes in."""

    train_pairs: float = _of(500_000, "pairs trained on", "the question")
    epochs: float = _of(100, "epochs", "the question")
    embed_pairs: float = _of(100 * MILLION, "pairs embedded", "the question")
    serve_pairs: float = _of(500 * MILLION, "pairs served", "the question")

    pair_bytes: float = _of(290_017, "bytes a pair in a shard", "measured, `codec.py`, real pairs")
    read_bytes: float = _of(275_000, "of these read by training and embedding", "counted: pixels and an id")
    group_pairs: float = _of(64, "pairs a row group, one request each", "counted, the default of `sscm ingest`")
    index_bytes: float = _of(1_238, "bytes a pair of the index, two modalities of 128", "measured, `search.py`")

    gpu_rate: float = _of(3_729, "pairs/s of a GPU, ResNet-50", "measured, `gpu.py`, one H200, from host memory")
    small_gpu_rate: float = _of(
        233, "pairs/s of an L4", "ESTIMATE: 3,729 × 300 / 4,800, the cards' GB/s of memory; not measured"
    )
    gpus: float = _of(8, "GPUs at once", "assumed")
    small_gpus: float = _of(4, "L4s at once", "`ray_cluster.yaml`")
    scaling: float = _of(0.9, "of a GPU's rate that is left with several", "ASSUMED: the aim; no two GPUs were run")
    embed_speedup: float = _of(
        1, "embedding's rate over training's", "ESTIMATE, at least: a forward pass is a third of a step"
    )
    stream_rate: float = _of(7_684, "pairs/s that a core streams", "measured, `stream.py`, half of two cores' 15,368")
    cpu_rate: float = _of(
        558, "pairs/s that a core embeds, ResNet-18", "measured, `train.py`, half of 1,117 on two cores"
    )
    build_core_s: float = _of(
        172, "core seconds to build the lists of a million pairs", "measured, `search.py`: 2 × 43 s on two cores"
    )

    shards: float = _of(64, "index shards", "assumed, as above")
    copies: float = _of(2, "replicas of a shard", "assumed: one may be lost")
    query_core_s: float = _of(
        0.00102, "core seconds a query and shard, approximate", "measured, `search.py`: 8 segments × 1 / 7,823 s"
    )
    node_bytes: float = _of(64 * 2**30, "bytes of memory of a serving node", "`ray_cluster.yaml`, r7i.2xlarge")
    node_cores: float = _of(8, "virtual cores of a serving node", "the same; counted as cores")
    node_share: float = _of(0.75, "of a node's memory for shards", "assumed; the rest: Ray, gateways, swaps")

    gpu_hour: float = _of(3.50, "$ an hour of an H200", "EXAMPLE; 2.50 to 7.00 in a list of May 2026¹")
    small_gpu_hour: float = _of(1.30, "$ an hour of a node with one L4", "EXAMPLE price, replace by yours")
    core_hour: float = _of(0.05, "$ an hour of a core", "EXAMPLE price, replace by yours")
    serve_node_month: float = _of(390, "$ a month of a serving node", "EXAMPLE price, replace by yours")
    gb_month: float = _of(0.023, "$ a GB and month of object storage", "EXAMPLE price, replace by yours")
    thousand_gets: float = _of(0.0004, "$ a thousand GET requests", "EXAMPLE price, replace by yours")


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of the result.

    Args:
        job: what is done.
        name: what is counted.
        value: how much.
        unit: of what.
        how: how it comes about, in the names of the assumptions.
    """

    job: str
    name: str
    value: float
    unit: str
    how: str


def train(a: Assumptions) -> list[Line]:
    """Training: pairs × epochs through both encoders."""
    job = f"train ResNet-50 on {a.train_pairs:,.0f} pairs, {a.epochs:,.0f} epochs"
    steps = a.train_pairs * a.epochs
    gpu_h = steps / (a.gpu_rate * a.scaling) / HOUR
    small_h = steps / (a.small_gpu_rate * a.scaling) / HOUR
    stream_h = steps / a.stream_rate / HOUR
    read = _reading(a, steps)
    stored = a.train_pairs * a.pair_bytes / 1e9
    beside = stream_h * a.core_hour + read["$"]
    return [
        Line(job=job, name="pairs through a step", value=steps / MILLION, unit="million", how="pairs × epochs"),
        Line(job=job, name="read", value=read["TB"], unit="TB", how="steps × bytes read"),
        Line(job=job, name="requests", value=read["requests"] / 1e3, unit="thousand", how="steps / pairs a row group"),
        Line(job=job, name="streaming", value=stream_h, unit="core h", how="steps / rate of a core"),
        Line(job=job, name="GPUs, H200", value=gpu_h, unit="GPU h", how="steps / (rate × scaling)"),
        Line(job=job, name=f"time on {a.gpus:.0f} of them", value=gpu_h / a.gpus, unit="h", how="GPU h / GPUs"),
        Line(
            job=job,
            name="cores that feed them",
            value=a.gpus * a.gpu_rate * a.scaling / a.stream_rate,
            unit="cores",
            how="their rate / rate of a core",
        ),
        Line(
            job=job,
            name="**cost on H200s**",
            value=gpu_h * a.gpu_hour + beside,
            unit="$",
            how="GPU h, core h, requests",
        ),
        Line(job=job, name="GPUs, L4 (estimate)", value=small_h, unit="GPU h", how="steps / (rate × scaling)"),
        Line(
            job=job,
            name=f"time on {a.small_gpus:.0f} of them",
            value=small_h / a.small_gpus,
            unit="h",
            how="GPU h / GPUs",
        ),
        Line(
            job=job,
            name="**cost on L4s** (estimate)",
            value=small_h * a.small_gpu_hour + read["$"],
            unit="$",
            how="node hours, whose cores stream; requests",
        ),
        Line(job=job, name="archive", value=stored, unit="GB", how="pairs × bytes"),
        Line(job=job, name="archive, a month", value=stored * a.gb_month, unit="$", how="GB × price"),
    ]


def embed(a: Assumptions) -> list[Line]:
    """Embedding and indexing: every pair once through both encoders."""
    job = f"embed and index {a.embed_pairs / MILLION:,.0f} million pairs"
    rate = a.gpu_rate * a.embed_speedup * a.scaling
    small = a.small_gpu_rate * a.embed_speedup * a.scaling
    gpu_h, small_h = a.embed_pairs / rate / HOUR, a.embed_pairs / small / HOUR
    stream_h = a.embed_pairs / a.stream_rate / HOUR
    cpu_h = a.embed_pairs / a.cpu_rate / HOUR
    build_h = a.embed_pairs / MILLION * a.build_core_s / HOUR
    read = _reading(a, a.embed_pairs)
    return [
        Line(job=job, name="read", value=read["TB"], unit="TB", how="pairs × bytes read"),
        Line(job=job, name="streaming", value=stream_h, unit="core h", how="pairs / rate of a core"),
        Line(job=job, name="lists of approximate search", value=build_h, unit="core h", how="pairs × core s"),
        Line(job=job, name="GPUs, H200 (estimate)", value=gpu_h, unit="GPU h", how="pairs / (rate × scaling)"),
        Line(job=job, name=f"time on {a.gpus:.0f} of them", value=gpu_h / a.gpus, unit="h", how="GPU h / GPUs"),
        Line(
            job=job,
            name="**cost on H200s** (estimate)",
            value=gpu_h * a.gpu_hour + (stream_h + build_h) * a.core_hour + read["$"],
            unit="$",
            how="GPU h, core h, requests",
        ),
        Line(
            job=job,
            name="**cost on L4s** (estimate)",
            value=small_h * a.small_gpu_hour + build_h * a.core_hour + read["$"],
            unit="$",
            how=f"{small_h:,.0f} node hours; lists; requests",
        ),
        Line(
            job=job,
            name="**cost on CPUs**, ResNet-18",
            value=(cpu_h + build_h) * a.core_hour + read["$"],
            unit="$",
            how=f"{cpu_h:,.0f} core hours, streaming included; lists; requests",
        ),
        Line(job=job, name="index", value=a.embed_pairs * a.index_bytes / 1e9, unit="GB", how="pairs × bytes"),
    ]


def serve(a: Assumptions) -> list[Line]:
    """Serving: every shard in memory, each query by all shards."""
    job = f"serve {a.serve_pairs / MILLION:,.0f} million pairs"
    shard = a.serve_pairs * a.index_bytes / a.shards
    a_node = math.floor(a.node_bytes * a.node_share / shard)
    if a_node < 1:
        raise SystemExit(f"a shard of {shard / 1e9:.1f} GB does not fit a node: raise --shards or --node-bytes")
    nodes = math.ceil(a.shards * a.copies / a_node)
    rate = a.copies / a.query_core_s
    stored = a.serve_pairs * (a.pair_bytes + a.index_bytes) / 1e9
    month = nodes * a.serve_node_month
    return [
        Line(job=job, name="index", value=a.serve_pairs * a.index_bytes / 1e9, unit="GB", how="pairs × bytes"),
        Line(job=job, name="a shard", value=shard / 1e9, unit="GB", how="index / shards"),
        Line(job=job, name="shards a node", value=a_node, unit="", how="memory × share / shard"),
        Line(job=job, name="nodes", value=nodes, unit="", how="shards × replicas / shards a node"),
        Line(
            job=job,
            name="searches/s, one core a replica",
            value=rate,
            unit="/s",
            how="replicas / core s; merging, encoding and the network come on top",
        ),
        Line(
            job=job,
            name="cores that search, of those there are",
            value=a.shards * a.copies / (nodes * a.node_cores),
            unit="of 1",
            how="replicas / (nodes × cores)",
        ),
        Line(job=job, name="**nodes, a month**", value=month, unit="$", how="nodes × price"),
        Line(
            job=job,
            name="a million searches at that rate",
            value=month / (rate * MONTH_H * HOUR) * MILLION,
            unit="$",
            how="month / searches",
        ),
        Line(job=job, name="archive and index", value=stored / 1e3, unit="TB", how="pairs × bytes"),
        Line(job=job, name="**storage, a month**", value=stored * a.gb_month, unit="$", how="GB × price"),
    ]


def _reading(a: Assumptions, pairs: float) -> dict[str, float]:
    requests = pairs / a.group_pairs
    return {"TB": pairs * a.read_bytes / 1e12, "requests": requests, "$": requests / 1_000 * a.thousand_gets}


def shown(value: float) -> str:
    """Two figures that count, three of large numbers."""
    if value == 0:
        return "0"
    power = math.floor(math.log10(abs(value)))
    rounded = round(value, 2 - power) if power >= 2 else round(value, 1 - power)
    return f"{rounded:,.0f}" if power >= 1 or value == int(value) else f"{rounded:,.{1 - power}f}"


def markdown(a: Assumptions, lines: list[Line]) -> str:
    """The tables that `docs/scale.md` shows."""
    result = ["| | | how |", "|---|---|---|"]
    job = ""
    for line in lines:
        if line.job != job:
            job = line.job
            result.append(f"| *{job}* | | |")
        result.append(f"| {line.name} | {shown(line.value)} {line.unit}".rstrip() + f" | {line.how} |")
    result += ["", "What goes in; each is an argument of the command:", ""]
    result += ["| argument | default | what | where from |", "|---|---|---|---|"]
    for item in dataclasses.fields(a):
        value = getattr(a, item.name)
        default = f"{value:,.0f}" if value >= 1_000 else f"{value:g}"
        result.append(f"| `{_flag(item.name)}` | {default} | {item.metadata['text']} | {item.metadata['source']} |")
    return "\n".join(result)


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def main() -> None:
    """Print the table; with --json write it to a file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for item in dataclasses.fields(Assumptions):
        text = f"{item.metadata['text']}: {item.metadata['source']} (default {item.default:g})"
        parser.add_argument(_flag(item.name), type=float, default=item.default, help=text.replace("%", "%%"))
    parser.add_argument("--markdown", action="store_true", help="as docs/scale.md has it")
    parser.add_argument("--json", type=Path, help="write assumptions and result to a file")
    given = vars(parser.parse_args())
    as_markdown, file = given.pop("markdown"), given.pop("json")
    wrong = [_flag(name) for name, value in given.items() if not value > 0]
    if wrong:
        parser.error(f"{', '.join(wrong)}: expected more than 0")
    a = Assumptions(**given)
    lines = [*train(a), *embed(a), *serve(a)]
    if as_markdown:
        print(markdown(a, lines))
    else:
        job = ""
        for line in lines:
            if line.job != job:
                job = line.job
                print(f"\n{job}")
            print(f"  {line.name.replace('*', ''):40} {shown(line.value):>10} {line.unit:8} {line.how}")
        print("\nPrices are examples and rates are of other machines: see --help, and replace them by yours.")
    if file:
        rows = [{**dataclasses.asdict(line), "name": line.name.replace("*", "")} for line in lines]
        file.write_text(json.dumps({"assumptions": dataclasses.asdict(a), "rows": rows}, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
