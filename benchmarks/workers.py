"""One worker's step, two workers' steps, and ways of two to exchange gradients, without Ray and its processes.

Two resnet18 at 120 pixels on noise, each worker one process with one thread on one core; two take 64 pairs each of a
batch of 128, and talk through gloo. Ways, in turns, least seconds of the rounds:

* ``one``: one worker with the whole batch; ``half``: one worker with 64 pairs;
* ``apart``: two that do not talk;
* ``silent``: two that share the loss, but do not exchange gradients;
* ``default``: DistributedDataParallel as the project uses it;
* ``view``: gradients live in its buckets, and the graph is the same each step; ``bfloat16``: gradients are exchanged in
  bfloat16; ``bucket``: in one bucket of up to 100 MB;
* ``compile``: one worker with 64 pairs through ``torch.compile`` (wants a C++ compiler).

Run: ``python benchmarks/workers.py [--only one default] [--rounds 2] [--steps 6] [--json FILE]``
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from sscm.runtime import TORCH_ENVIRONMENT

os.environ.update(TORCH_ENVIRONMENT)  # of the processes that are spawned, as a training worker has it

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook

from sscm.archive.statistics import BandStatistics
from sscm.config import ModelConfig, TrainConfig
from sscm.model.bundle import make_encoders
from sscm.sensors import sentinel1, sentinel2
from sscm.training.step import PairEncoders, TrainingStep
from tests.plugins.processes import run_on

WAYS = ("one", "half", "apart", "silent", "default", "view", "bfloat16", "bucket", "compile")
BATCH, PIXELS, WARM_UP = 128, 120, 3
OPTIONS: dict[str, dict[str, Any]] = {
    "view": {"gradient_as_bucket_view": True, "static_graph": True},
    "bucket": {"bucket_cap_mb": 100},
}


def seconds_of(rank: int, way: str, rows: int, steps: int) -> float:
    """Seconds of a step of one worker."""
    modalities = (sentinel1(), sentinel2())
    standard = BandStatistics(count=2, mean=0.0, m2=2.0, minimum=-1.0, maximum=1.0)
    known = {f"{m.name}/{band}": standard for m in modalities for band in m.band_names}
    torch.manual_seed(0)
    encoders = make_encoders(modalities, known, ModelConfig()).to(memory_format=torch.channels_last)
    model: nn.Module = PairEncoders(encoders, False)
    if dist.get_world_size() > 1 and way != "apart":
        model = parallel(model, way)
    config = TrainConfig(batch_size=BATCH)
    step = TrainingStep(encoders, config, 1_000_000, model)
    if way == "compile":
        step.model = torch.compile(model)  # type: ignore[assignment]
    if way == "apart":
        dist.destroy_process_group()
    generator = torch.Generator().manual_seed(rank)
    images = {
        name: torch.randn(rows, encoder.mean.shape[1], PIXELS, PIXELS, generator=generator)  # type: ignore[union-attr,index]
        for name, encoder in encoders.items()
    }
    ids = [f"{rank}-{row}" for row in range(rows)]
    begun = 0.0
    for number in range(WARM_UP + steps):
        if number == WARM_UP:
            begun = time.perf_counter()
        step(images, ids, number, generator)
    seconds = (time.perf_counter() - begun) / steps
    if way == "apart":  # the runner wants to end what it began
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    return seconds


def parallel(model: nn.Module, way: str) -> nn.Module:
    """The encoders of a worker of several."""
    shared = nn.parallel.DistributedDataParallel(model, **OPTIONS.get(way, {}))
    if way == "bfloat16":
        shared.register_comm_hook(None, bf16_compress_hook)  # type: ignore[no-untyped-call]
    if way == "silent":
        shared.register_comm_hook(None, _keep)  # type: ignore[no-untyped-call]
    return shared


def _keep(state: object, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
    done: torch.futures.Future[torch.Tensor] = torch.futures.Future()
    done.set_result(bucket.buffer())
    return done


def main() -> None:
    """Time the ways in turns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=WAYS, default=WAYS)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    found: dict[str, list[float]] = {way: [] for way in arguments.only}
    for _ in range(arguments.rounds):
        for way in arguments.only:
            workers = 1 if way in ("one", "half", "compile") else 2
            rows = BATCH if way == "one" else BATCH // 2
            seconds = run_on(workers, seconds_of, way, rows, arguments.steps)
            found[way].append(workers * rows / max(seconds))
            print(f"{way:10} {found[way][-1]:6.1f} pairs/s", flush=True)
    best = {way: max(rates) for way, rates in found.items()}
    print()
    for way, rate in best.items():
        compared = f"  × {rate / best['half'] / 2:.3f} of twice one worker" if "half" in best else ""
        print(f"{way:10} {rate:6.1f} pairs/s{compared}")
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
