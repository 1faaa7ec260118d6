"""What more nodes, more shards and a job cost beside the work itself.

Parts, each by itself with ``--only``:

* ``workers``: seconds of a step with 1, 2 and 4 workers on as many nodes (raylets of this machine), the batch of each
  the same. In the place of a GPU's work a worker sleeps, so that processors of this machine are left for what surrounds
  it: the stream, the message before each step, the exchange of embeddings and gradients, the board. A real, very small
  step follows the sleep, since there must be gradients to exchange;
* ``shards``: a search of one client over 1 to 16 shard deployments of the same few rows, so that nothing but asking and
  merging grows;
* ``job``: ``ray job submit … sscm train`` to its first step, and what the time goes to, on a head of ``ray start``.

Run: ``python benchmarks/scaling.py [--only workers] [--json FILE]``; wants ``wrk`` for shards.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np
from stream import Row, row

from sscm.archive.ingest import ingest
from sscm.archive.sources import SyntheticSource
from sscm.config import IngestConfig, ModelConfig, SyntheticConfig, TrainConfig
from sscm.workspace import open_workspace

PARTS = ("workers", "shards", "job")
ROOT = Path(__file__).resolve().parents[1]
DEVICE_S = 0.25
"""What a worker sleeps in the place of a GPU's step."""
EACH = 16
"""Pairs of a worker's batch."""
WORKERS = (1, 2, 4)
SHARDS = (1, 2, 4, 8, 16)
TINY = ModelConfig(backbone="test_resnet", image_size=32, dimension=16)


def make_archive(folder: Path, pairs: int) -> str:
    """URI of a workspace with a small simulated archive."""
    settings = IngestConfig(workspace=str(folder), pairs_per_shard=256)
    ingest(SyntheticSource(SyntheticConfig(pairs=pairs, pixels=24, validation=0.02, test=0.02)), settings)
    return open_workspace(str(folder)).uri


def with_workers(uri: str, workers: int) -> list[float]:
    """Seconds of a step, of each epoch but the first; in a process of its own, on the cluster of ``RAY_ADDRESS``."""
    from sscm.training import launch

    def sleeping(settings: Any) -> None:
        from sscm.training import loop
        from sscm.training.step import TrainingStep

        class Sleeping(TrainingStep):
            def __call__(self, *arguments: Any) -> Any:
                time.sleep(DEVICE_S)
                return super().__call__(*arguments)

        loop.TrainingStep = Sleeping
        loop.train_worker(settings)

    launch.train_worker = sleeping
    config = TrainConfig(
        workspace=uri,
        name=f"bench-{time.time_ns()}",
        workers=workers,
        cpus_per_worker=1,
        epochs=3,
        batch_size=EACH * workers,
        checkpoint_minutes=60,
        model=TINY,
    )
    history = launch.train(config).record["epochs"][1:]
    return [EACH * workers / float(metrics["pairs_per_s"]) for metrics in history]


def workers(folder: Path, rounds: int) -> list[Row]:
    """Weak scaling."""
    from tests.plugins.raylets import raylets

    uri = make_archive(folder / "archive", 900)
    seconds: dict[int, list[float]] = {count: [] for count in WORKERS}
    for _ in range(rounds):
        for count in WORKERS:
            with raylets(1, *[2] * count) as (cluster, _):
                done = subprocess.run(
                    [sys.executable, __file__, "--run", str(count), "--workspace", uri],
                    env={**os.environ, "RAY_ADDRESS": cluster.address},
                    check=True,
                    stdout=subprocess.PIPE,
                    text=True,
                    timeout=400,
                )
                seconds[count] += json.loads(done.stdout.splitlines()[-1])
    print({count: [round(value, 4) for value in values] for count, values in seconds.items()})
    middle = {count: statistics.median(values) for count, values in seconds.items()}
    rows = []
    for count in WORKERS:
        over = 1000 * (middle[count] - DEVICE_S)
        rows.append(row(f"a step of {count} workers, beside the sleep", over, None, "", "ms"))
        if count > 1:
            ours, peer = count * EACH / middle[count], count * EACH / middle[1]
            rows.append(row(f"{count} workers", ours, peer, f"{count} times one worker", "pairs/s"))
    slope = float(np.polyfit(WORKERS, [1000 * middle[count] for count in WORKERS], 1)[0])
    return [*rows, row("a worker more adds to each step", slope, None, "", "ms")]


def shards(folder: Path, rounds: int) -> list[Row]:
    """Scatter and gather."""
    from enlarge import demo_embeddings, enlarge
    from under_load import load, make_index, scripts, service

    if shutil.which("wrk") is None:
        raise SystemExit("wrk is missing; Debian's package of that name has it")
    real = demo_embeddings(Path("demo"))
    make_index(folder / "index", enlarge(real, 4_096, seed=0))
    lua = scripts(folder, enlarge(real, 2_000, seed=1)["s1"])["ours"]
    p50: dict[int, list[float]] = {count: [] for count in SHARDS}
    p99: dict[int, list[float]] = {count: [] for count in SHARDS}
    for _ in range(rounds):
        for count in SHARDS:
            with service(folder / "index", "--threads", "1", "--shards", str(count)) as url:
                load(f"{url}/v1/search", 1, 2, lua)
                found = load(f"{url}/v1/search", 1, 6, lua)
                if found.failed:
                    raise SystemExit(f"{found.failed} answers of {count} shards were errors")
                p50[count].append(found.p50)
                p99[count].append(found.p99)
    print({count: [round(value, 3) for value in values] for count, values in p50.items()})
    middle = {count: statistics.median(values) for count, values in p50.items()}
    rows = []
    for count in SHARDS:
        peer = None if count == 1 else middle[1]
        rows.append(row(f"{count} shards, one client: p50", middle[count], peer, "one shard" if peer else "", "ms"))
        rows.append(row(f"{count} shards, one client: p99", statistics.median(p99[count]), None, "", "ms"))
    slope = float(np.polyfit(SHARDS, [middle[count] for count in SHARDS], 1)[0])
    return [*rows, row("a shard more adds", slope, None, "", "ms")]


def job(folder: Path, rounds: int) -> list[Row]:
    """From the submission of a training to its first step."""
    from ray.job_submission import JobStatus, JobSubmissionClient

    from tests.plugins.job_head import job_head

    uri = make_archive(folder / "archive", 400)
    phases: dict[str, list[float]] = {}
    with job_head(8, folder) as (address, _, session):
        client = JobSubmissionClient(address)
        logs = session / "session_latest" / "logs"
        for number in range(rounds + 1):
            name = f"bench-{number}"
            words = f"sscm train --workspace {uri} --name {name} --epochs 1 --batch-size 16 --cpus-per-worker 1"
            words += f" --backbone {TINY.backbone} --image-size {TINY.image_size} --dimension {TINY.dimension}"
            begun = time.time()
            told = client.submit_job(entrypoint=words, runtime_env={"working_dir": str(ROOT), "excludes": EXCLUDED})
            taken = time.time()
            first = _first_step(logs / f"job-driver-{told}.log")
            while client.get_job_status(told) in (JobStatus.PENDING, JobStatus.RUNNING):
                time.sleep(0.2)
            if client.get_job_status(told) != JobStatus.SUCCEEDED:
                raise SystemExit(client.get_job_logs(told)[-2000:])
            if number == 0:  # the code is uploaded once, and files are read for the first time
                print(f"the first submission took {first - begun:.1f} s to its first step")
                continue
            settings = Path(open_workspace(uri).path_of("runs", name, "settings.json")).stat().st_mtime
            started, group = _controller(logs)
            marks = {
                "the code packed, compared and the job taken": taken - begun,
                "a process for it started": client.get_job_info(told).start_time / 1000 - taken,
                "imports, the archive's manifest, the checks": settings - client.get_job_info(told).start_time / 1000,
                "Ray Train's controller": started - settings,
                "the workers and what they import": group - started,
                "encoders, the stream's first batch, a step": first - group,
                "from the submission to the first step": first - begun,
            }
            for what, seconds in marks.items():
                phases.setdefault(what, []).append(seconds)
    print({what: [round(value, 2) for value in values] for what, values in phases.items()})
    return [row(what, statistics.median(values), None, "", "s") for what, values in phases.items()]


EXCLUDED = ["demo", "build", ".venv", ".git", "*.png"]
"""Of the working directory: what no node needs."""


def _first_step(log: Path) -> float:
    """When a job says that its workers are at the first step."""
    end = time.monotonic() + 120
    while time.monotonic() < end:
        if log.exists() and "at step 1\n" in log.read_text():
            return time.time()
        time.sleep(0.02)
    raise SystemExit(f"no first step: {log.read_text() if log.exists() else log}")


def _controller(logs: Path) -> tuple[float, float]:
    """When the last run's controller asked for its workers, and when they were there."""
    newest = max((logs / "train").glob("ray-train-sys-controller*"), key=lambda path: path.stat().st_mtime)
    lines = [json.loads(line) for line in newest.read_text().splitlines() if line.startswith("{")]

    def at(what: str) -> float:
        told = next(line["asctime"] for line in lines if what in line["message"])
        moment, thousandths = told.split(",")
        return time.mktime(time.strptime(moment, "%Y-%m-%d %H:%M:%S")) + int(thousandths) / 1000

    return at("Attempting to start training worker group"), at("Started training worker group")


def main() -> None:
    """Run the parts that are asked for."""
    runs: dict[str, Callable[[Path, int], list[Row]]] = dict(zip(PARTS, (workers, shards, job), strict=True))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--run", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--workspace", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run:
        print(json.dumps(with_workers(arguments.workspace, arguments.run)))
        return
    rows: list[Row] = []
    for part in arguments.only:
        print(f"\n{part}", flush=True)
        with tempfile.TemporaryDirectory(prefix="sscm-scaling-") as folder:
            rows += runs[part](Path(folder), arguments.rounds)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
