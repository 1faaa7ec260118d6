"""Training and embedding through Ray against the same work without it, and what a start and a lost worker cost.

On the archive of ``sscm demo`` (2,000 simulated Sentinel pairs; made first where it is not), with resnet18 at 120
pixels, the default, or with the encoders that the demo trains (``--small``), so that what surrounds them shows. In
turns (A B A B …), medians of the rounds. Parts, each by itself with ``--only``:

* ``step``: pairs/s of an epoch through Ray Data and Ray Train, against the same step on tensors in memory;
* ``workers``: two workers of one core against twice one worker of one core;
* ``embed``: pairs/s of embedding an archive, start-up apart, against a bare inference loop on tensors in memory;
* ``start``: seconds from ``sscm train`` to its first step on a Ray that runs, and its parts;
* ``recovery``: seconds from a worker's death to the next step, and steps done again.

Run: ``python benchmarks/train.py [--only step] [--demo demo] [--json FILE]``; ``pip install -e ".[bench,dev]"``.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import torch
from stream import Row, row

from sscm.archive.manifest import read_manifest, write_manifest
from sscm.archive.order import Deal, StreamPlan, pieces_of
from sscm.archive.schema import decode_group
from sscm.archive.stream import Reader
from sscm.archive.windows import cut_batches, groups_of, read_pieces, read_window, stream_columns
from sscm.config import DemoConfig, IndexConfig, IngestConfig, ModelConfig, SyntheticConfig, TrainConfig
from sscm.demo import MODEL, demo
from sscm.index.embed import embed_shards
from sscm.model.bundle import load_bundle, make_encoders
from sscm.model.encoders import as_tensor, prepared_images
from sscm.runtime import ray_session
from sscm.training.launch import train
from sscm.training.step import TrainingStep
from sscm.workspace import Workspace, open_workspace
from tests.plugins.raylets import command, raylets, workers_of

PARTS = ("step", "workers", "embed", "start", "recovery")
BATCH = 128
SMALL = MODEL
"""The demo's encoders."""
model = ModelConfig()
"""The encoders that are trained."""


def config_of(workspace: Workspace, name: str, **changes: Any) -> TrainConfig:
    """The demo's training under another name."""
    settings: dict[str, Any] = {"epochs": 4 if model == SMALL else 3, "batch_size": BATCH, "lr": 2e-3, "model": model}
    return TrainConfig(workspace=workspace.uri, name=name, **(settings | changes))


def through_ray(workspace: Workspace, name: str, **changes: Any) -> tuple[float, float]:
    """Pairs/s and share of time waited for data, over the epochs after the first."""
    history = train(config_of(workspace, name, **changes)).record["epochs"][1:]
    seconds = sum(float(metrics["seconds"]) for metrics in history)
    pairs = sum(float(metrics["seconds"]) * float(metrics["pairs_per_s"]) for metrics in history)
    waited = sum(float(metrics["seconds"]) * float(metrics["data_wait_fraction"]) for metrics in history)
    return pairs / seconds, waited / seconds


def in_memory(workspace: Workspace, threads: int) -> float:
    """Pairs/s of the same step on one epoch's batches, held as tensors; the first epoch does not count."""
    torch.set_num_threads(threads)
    manifest = read_manifest(workspace)
    config = config_of(workspace, "memory")
    epochs = config.epochs
    plan = StreamPlan(shards=manifest.of_split("train"), seed=0, batch_size=BATCH)
    reader = Reader(worker=0, epochs=range(1), deals=(Deal(0, 1),))
    groups = groups_of(manifest.modalities)
    windows = (read_window(workspace, part, groups) for part in reader.window_plans(plan))
    batches = list(cut_batches(windows, reader.batch_of(plan), plan.steps_per_epoch))
    groups = [{k: as_tensor(v) for k, v in batch.items() if k != "pair_id"} for batch in batches]
    torch.manual_seed(0)
    encoders = make_encoders(manifest.modalities, manifest.statistics, config.model)
    encoders = encoders.to(memory_format=torch.channels_last)
    step = TrainingStep(encoders, config, epochs * plan.steps_per_epoch)
    generator = torch.Generator().manual_seed(0)
    begun = 0.0
    for epoch in range(epochs):
        if epoch == 1:
            begun = time.perf_counter()
        for held, batch in zip(groups, batches, strict=True):
            images = {name: prepared_images(encoder, held) for name, encoder in encoders.items()}  # type: ignore[arg-type]
            step(images, batch["pair_id"].tolist(), step.taken, generator)
    return (epochs - 1) * plan.steps_per_epoch * BATCH / (time.perf_counter() - begun)


def steps(workspace: Workspace, rounds: int) -> list[Row]:
    """Through Ray against tensors in memory."""
    found = []
    with ray_session():
        for number in range(rounds):
            peer = in_memory(workspace, 2)
            ours, waited = through_ray(workspace, f"bench-{time.time_ns()}-{number}")
            found.append((ours, peer, waited))
    print(f"rounds: {[[round(value, 3) for value in values] for values in found]}")
    ratios = [ours / peer for ours, peer, _ in found]
    middle = sorted(range(rounds), key=lambda i: ratios[i])[rounds // 2]
    ours, peer, waited = found[middle]
    return [
        row("training", ours, peer, "the same step on tensors in memory", "pairs/s", "≥ 0.95"),
        row("share of time waited for data", waited, None, "", "", "≤ 0.03"),
    ]


def two_workers(workspace: Workspace, rounds: int) -> list[Row]:
    """Two workers of one core against one of one core."""
    found = []
    with ray_session():
        for number in range(rounds):
            one = through_ray(workspace, f"bench-{time.time_ns()}-{number}-1", cpus_per_worker=1)[0]
            two = through_ray(workspace, f"bench-{time.time_ns()}-{number}-2", cpus_per_worker=1, workers=2)[0]
            found.append((two, one))
    print(f"rounds: {[[round(value, 3) for value in values] for values in found]}")
    two, one = (statistics.median(values) for values in zip(*found, strict=True))
    return [row("two workers of one core", two, 2 * one, "twice one worker of one core", "pairs/s", "≥ 0.9")]


def embedding(workspace: Workspace, rounds: int) -> list[Row]:
    """Embedding all shards, from when the first is done, against bare inference."""
    with tempfile.TemporaryDirectory(prefix="sscm-embed-") as folder:
        from sscm.archive.ingest import ingest
        from sscm.archive.sources import SyntheticSource

        there = open_workspace(folder)
        with ray_session():
            source = SyntheticSource(SyntheticConfig(pairs=1280, validation=0, test=0))
            manifest = ingest(source, IngestConfig(workspace=there.uri, pairs_per_shard=128))
            bundle = load_bundle(workspace)
            config = IndexConfig(workspace=there.uri)
            found = []
            for _ in range(rounds):
                torch.set_num_threads(config.cpus_per_actor)
                table = read_pieces(there, pieces_of(manifest.shards[:4]), stream_columns(manifest.modalities))
                table = table.combine_chunks()
                batches = [table.slice(start, 64) for start in range(0, len(table), 64)]
                held = [
                    {
                        m.name: {g.name: decode_group(part[g.name], g).copy() for g in m.groups}
                        for m in bundle.modalities
                    }
                    for part in batches
                ]
                for groups in held[:2]:
                    for name, images in groups.items():
                        bundle.encode(name, images)
                begun = time.perf_counter()
                for groups in held:
                    for name, images in groups.items():
                        bundle.encode(name, images)
                bare = len(table) / (time.perf_counter() - begun)
                done = [
                    (time.perf_counter(), len(s.rows)) for s in embed_shards(there, bundle, manifest.shards, config)
                ]
                found.append((sum(rows for _, rows in done[1:]) / (done[-1][0] - done[0][0]), bare))
    print(f"rounds: {[[round(value, 3) for value in values] for values in found]}")
    ours, bare = (statistics.median(values) for values in zip(*found, strict=True))
    return [row("embedding", ours, bare, "bare inference on tensors in memory", "pairs/s", "≥ 0.95")]


def lines_of(process: subprocess.Popen[str]) -> Iterator[tuple[float, str]]:
    """What a command says, with the time of each line."""
    for line in process.stderr or ():
        yield time.perf_counter(), line


def start(workspace: Workspace, rounds: int) -> list[Row]:
    """Seconds to the first step."""
    times, imports = [], []
    with ray_session():
        import ray

        address = ray.get_runtime_context().gcs_address
        for number in range(rounds):
            words = [sys.executable, "-c", "import sys; from sscm.cli import main; sys.exit(main())", "train"]
            words += ["--workspace", workspace.uri, "--name", f"bench-{time.time_ns()}-{number}", "--epochs", "1"]
            words += ["--batch-size", str(BATCH), "--backbone", SMALL.backbone, "--image-size", str(SMALL.image_size)]
            begun = time.perf_counter()
            environment = {**os.environ, "RAY_ADDRESS": address}
            process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env=environment)
            at = next(at for at, line in lines_of(process) if "at step 1" in line)
            times.append(at - begun)
            threading.Thread(target=process.communicate).start()
            process.wait(120)
            begun = time.perf_counter()
            subprocess.run([sys.executable, "-c", "import sscm.training.launch"], check=True)
            imports.append(time.perf_counter() - begun)
    print(f"rounds: {[round(value, 2) for value in times]}")
    return [
        row("sscm train to its first step", statistics.median(times), None, "", "s", "≤ 15"),
        row("of which the imports of a process", statistics.median(imports), None, "", "s"),
    ]


def recovery(workspace: Workspace, rounds: int) -> list[Row]:
    """A worker killed in the middle of an epoch, two raylets beside the head."""
    lost, repeated = [], []
    for number in range(rounds):
        name = f"bench-{time.time_ns()}-{number}"
        with tempfile.TemporaryDirectory() as folder, raylets(1, 3, 3) as (cluster, nodes):
            log = Path(folder) / "log"
            words = ["train", "--workspace", workspace.uri, "--name", name, "--epochs", 6, "--batch-size", BATCH]
            words += ["--backbone", SMALL.backbone, "--image-size", SMALL.image_size, "--workers", 2]
            words += ["--cpus-per-worker", 1]
            with command(cluster, log, *words) as process:
                _wait_for(log, r"epoch   2/6", process)
                time.sleep(1.0)
                next(worker for node in nodes for worker in workers_of(node)).send_signal(signal.SIGKILL)
                died = time.perf_counter()
                found = _wait_for(log, r"at step 1\b[\s\S]*2 workers at step \d+: (\d+) of", process)
                lost.append(time.perf_counter() - died)
                repeated.append(int(found.group(1)))
    print(f"rounds: {[round(value, 1) for value in lost]} s, {repeated} steps")
    return [
        row("from a worker's death to the next step", statistics.median(lost), None, "", "s"),
        row("steps done again", statistics.median(repeated), None, "", "steps"),
    ]


def _wait_for(log: Path, pattern: str, process: subprocess.Popen[bytes]) -> re.Match[str]:
    end = time.monotonic() + 300
    while time.monotonic() < end and process.poll() is None:
        if found := re.search(pattern, log.read_text()):
            return found
        time.sleep(0.05)
    raise RuntimeError(log.read_text()[-3000:])


def link_archive(demo_folder: Path, folder: Path, pairs: int) -> None:
    """The demo's archive, of whose training split some row groups are left."""
    manifest = read_manifest(open_workspace(str(demo_folder)))
    shards = []
    for shard in manifest.shards:
        kept = len(shard.row_groups)
        if shard.split == "train":
            kept = min(kept, -(-pairs // max(shard.row_groups)))
            pairs -= sum(shard.row_groups[:kept])
        groups, complete = shard.row_groups[:kept], shard.complete[:kept]
        if kept:
            shards.append(dataclasses.replace(shard, row_groups=groups, complete=complete, rows=sum(groups)))
    (folder / "archive").mkdir()
    (folder / "archive" / "shards").symlink_to(demo_folder / "archive" / "shards")
    write_manifest(open_workspace(str(folder)), dataclasses.replace(manifest, shards=tuple(shards)))


def main() -> None:
    """Run the parts that are asked for."""
    runs: dict[str, Callable[[Workspace, int], list[Row]]] = dict(
        zip(PARTS, (steps, two_workers, embedding, start, recovery), strict=True)
    )
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--demo", type=Path, default=Path("demo"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--small", action="store_true", help="the demo's encoders instead of resnet18")
    parser.add_argument("--pairs", type=int, default=512, help="pairs of an epoch of step and workers")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    global model
    model = SMALL if arguments.small else ModelConfig()
    if not (arguments.demo / "models" / "LATEST.json").exists():
        demo(DemoConfig(workspace=str(arguments.demo), serve=False))
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="sscm-train-") as folder:
        # Runs go beside a link to the archive, not among those of the demo.
        link_archive(arguments.demo.resolve(), Path(folder), 1_400 if arguments.small else arguments.pairs)
        (Path(folder) / "models").mkdir()
        for found in (arguments.demo / "models").iterdir():
            (Path(folder) / "models" / found.name).symlink_to(found.resolve())
        workspace = open_workspace(folder)
        for part in arguments.only:
            print(f"\n{part}", flush=True)
            rows += runs[part](workspace, arguments.rounds)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
