"""What a training step costs beside the encoders, and what gradient caching costs beside none.

Two rows, each the median ratio of runs in turn (A B A B …) on the same images, in CPU seconds of one thread, which
other load on the machine distorts least:

* a whole step (check of the pixels, augmentation, forward, the joint objective, backward, AdamW) against nothing but
  forward and backward of the two encoders;
* a step with gradient caching, 64 pairs in memory at a time, against the same step with all 256: one more forward
  pass, a third of forward and backward, is expected.

Run: ``python benchmarks/step.py [--rounds 7] [--batch 256] [--json FILE]``
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sscm.archive.statistics import BandStatistics
from sscm.config import ModelConfig, ObjectiveConfig, TrainConfig
from sscm.model.bundle import make_encoders
from sscm.sensors import sentinel1, sentinel2
from sscm.training.step import TrainingStep

PIXELS = 64
MICRO_BATCH = 64
STEP_TARGET, CACHE_TARGET = 1.15, 1.4
STEPS = 1_000_000
"""Of the schedule, so that the learning rate hardly moves."""


def encoders_of(norm: str = "batch") -> nn.ModuleDict:
    """Two resnet10t for Sentinel-1 and Sentinel-2 patches of 64 pixels."""
    modalities = (sentinel1(60), sentinel2(60))
    standard = BandStatistics(count=2, mean=0.0, m2=2.0, minimum=-1.0, maximum=1.0)
    torch.manual_seed(0)
    config = ModelConfig(backbone="resnet10t", image_size=PIXELS, norm=norm)  # type: ignore[arg-type]
    statistics_of = {f"{m.name}/{band}": standard for m in modalities for band in m.band_names}
    return make_encoders(modalities, statistics_of, config).to(memory_format=torch.channels_last)


def images_of(encoders: nn.ModuleDict, rows: int) -> dict[str, Tensor]:
    """Prepared images: noise, since their content costs nothing."""
    return {
        name: torch.randn(rows, encoder.mean.shape[1], PIXELS, PIXELS)  # type: ignore[union-attr,index]
        for name, encoder in encoders.items()
    }


def step_of(encoders: nn.ModuleDict, rows: int, micro_batch: int | None) -> TrainingStep:
    """A training step with every default, neighbours counting from the first step."""
    objective = ObjectiveConfig(isp_warmup=0.0)
    return TrainingStep(encoders, TrainConfig(batch_size=rows, micro_batch=micro_batch, objective=objective), STEPS)


def require_equal_gradients() -> None:
    """Caching must change the gradient no more than rounding does; with group norm, which knows no batch.

    Raises:
        AssertionError: it does.
    """
    plain = encoders_of("group")
    cached = copy.deepcopy(plain)
    images = images_of(plain, 16)
    for encoders, micro_batch in ((plain, None), (cached, 4)):
        step_of(encoders, 16, micro_batch)(images, [str(i) for i in range(16)], 0, torch.Generator().manual_seed(0))
    first, second = (
        torch.cat([p.grad.flatten() for p in encoders.parameters() if p.grad is not None])
        for encoders in (plain, cached)
    )
    error = float((first - second).norm() / first.norm())
    if error > 1e-3:
        raise AssertionError(f"gradients with and without caching differ by {error:.2e}; expected at most 1e-3")


def in_turn(ours: Callable[[], Any], peer: Callable[[], Any], rounds: int) -> tuple[list[float], list[float]]:
    """CPU seconds of each, run alternately after one round that does not count."""
    taken: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds + 1):
        for seconds, run in zip(taken, (ours, peer), strict=True):
            begun = time.process_time()
            run()
            if number:
                seconds.append(time.process_time() - begun)
    return taken


def row(name: str, peer_name: str, taken: tuple[list[float], list[float]], target: float) -> dict[str, Any]:
    """One line of the result; the ratio is the median of those of neighbouring runs."""
    ratios = [a / b for a, b in zip(*taken, strict=True)]
    ratio = statistics.median(ratios)
    print(
        f"{name}: {statistics.median(taken[0]):.2f} CPU s against {statistics.median(taken[1]):.2f} of {peer_name}, "
        f"ratio {ratio:.3f} ({min(ratios):.3f} … {max(ratios):.3f}), target at most {target}"
    )
    return {
        "name": name,
        "ours": statistics.median(taken[0]),
        "peer": statistics.median(taken[1]),
        "peer_name": peer_name,
        "unit": "CPU s",
        "ratio": ratio,
        "target": target,
        "met": ratio <= target,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    require_equal_gradients()

    encoders = encoders_of()
    images = images_of(encoders, arguments.batch)
    pair_ids = [f"pair_{number}" for number in range(arguments.batch)]
    generator = torch.Generator().manual_seed(0)
    plain, cached = (step_of(encoders, arguments.batch, micro_batch) for micro_batch in (None, MICRO_BATCH))
    laid_out = {name: pixels.contiguous(memory_format=torch.channels_last) for name, pixels in images.items()}

    def bare() -> None:
        encoders.train()
        encoders.zero_grad(set_to_none=True)
        embeddings = [encoders[name](pixels) for name, pixels in laid_out.items()]
        torch.stack(embeddings).sum().backward()  # type: ignore[no-untyped-call]

    rows = [
        row(
            f"training step, {arguments.batch} pairs, resnet10t, {PIXELS} px",
            "forward and backward of the encoders",
            in_turn(lambda: plain(images, pair_ids, 0, generator), bare, arguments.rounds),
            STEP_TARGET,
        ),
        row(
            f"gradient caching, {MICRO_BATCH} of {arguments.batch} pairs at a time",
            "the step without it",
            in_turn(
                lambda: cached(images, pair_ids, 0, generator),
                lambda: plain(images, pair_ids, 0, generator),
                arguments.rounds,
            ),
            CACHE_TARGET,
        ),
    ]
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
