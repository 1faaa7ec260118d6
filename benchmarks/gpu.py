"""Search and training on a GPU, against the plain way of doing the same on the same card.

Every figure is a ratio to a peer in the same run: calls in turn (A B A B …), the median of the rounds. NumPy arrays in,
NumPy arrays out, so that copies and waiting count.

* ``search``: the top 10 among 1,000,000 × 128 (and 10,000,000 × 128) vectors, for 1, 32 and 1,024 queries at a time,
  against ``torch``'s float32 product with ``topk``, and against a bfloat16 product with ``topk(32)`` of which the
  float32 scores are taken. Ours is exact, which is compared with float64 before anything is timed; the recall of the
  peers is shown. Vectors are 2,000 clusters whose 128 directions have falling weights (16 hold 91 % of the energy),
  queries the same kind, moved by a constant, as one sensor's embeddings lie apart from another's;
* ``train``: a step of the joint objective in bfloat16, 256 pairs of 120 pixels, ResNet-18 and ResNet-50, against
  nothing but forward and backward of the encoders; the first loss is compared with that of the CPU in float32.

Run: ``python benchmarks/gpu.py [--only search train] [--rows 1000000 10000000] [--profile] [--json FILE]``
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sscm.archive.statistics import BandStatistics
from sscm.config import ModelConfig, ObjectiveConfig, TrainConfig
from sscm.index.exact import ExactScan
from sscm.index.ranking import rank
from sscm.model.bundle import make_encoders
from sscm.model.encoders import as_tensor, prepared_images
from sscm.model.objective import joint_loss
from sscm.sensors import sentinel1, sentinel2

DIMENSION, K, RERANKED = 128, 10, 32
BATCHES = (1, 32, 1_024)
QUERIES = 4_096
SECONDS = 0.4
"""Of one round of one search."""
SCORE_BYTES = 2**33
"""Scores that a peer holds at a time."""
PIXELS, PAIRS = 120, 256

Search = Callable[[np.ndarray], np.ndarray]


class Rows:
    """Lines of the result, printed as they come."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []

    def add(self, name: str, ours: list[float], peer: list[float], peer_name: str, unit: str, target: float) -> None:
        """A ratio that should be at least, or of seconds at most, a target."""
        ratios = [a / b for a, b in zip(ours, peer, strict=True)]
        ratio = statistics.median(ratios)
        found, other = statistics.median(ours), statistics.median(peer)
        met = ratio <= target if unit == "ms" else ratio >= target
        print(
            f"{name:48} {found:12,.1f} against {other:12,.1f} {unit} of {peer_name:34} ratio {ratio:6.2f} "
            f"({min(ratios):.2f} … {max(ratios):.2f})",
            flush=True,
        )
        self.lines.append(
            {
                "name": name,
                "ours": found,
                "peer": other,
                "peer_name": peer_name,
                "unit": unit,
                "ratio": ratio,
                "target": target,
                "met": met,
            }
        )


def draw(rows: int, seed: int, moved: float = 0.0) -> Tensor:
    """Vectors float32 [rows, 128] on the GPU, unit norm; of the same clusters for every seed."""
    shape = torch.Generator("cuda").manual_seed(0)
    centres = torch.randn(2_000, DIMENSION, device="cuda", generator=shape)
    turn = torch.linalg.qr(torch.randn(DIMENSION, DIMENSION, device="cuda", generator=shape)).Q
    weights = torch.arange(1, DIMENSION + 1, device="cuda") ** -0.9
    apart = F.normalize((torch.randn(1, DIMENSION, device="cuda", generator=shape) * weights) @ turn)
    generator = torch.Generator("cuda").manual_seed(seed)
    made = torch.empty(rows, DIMENSION, device="cuda")
    for part in made.split(2**20):
        cluster = torch.randint(2_000, (len(part),), device="cuda", generator=generator)
        noise = torch.randn(len(part), DIMENSION, device="cuda", generator=generator)
        part.copy_(F.normalize(F.normalize((centres[cluster] + 0.35 * noise) * weights @ turn) + moved * apart))
    return made


def in_float32(vectors: Tensor) -> Search:
    """The plain way: all scores, and their largest."""
    step = max(1, SCORE_BYTES // (4 * len(vectors)))

    def search(queries: np.ndarray) -> np.ndarray:
        asked = torch.from_numpy(queries).cuda()
        return torch.cat([(part @ vectors.T).topk(K).indices for part in asked.split(step)]).cpu().numpy()

    return search


def in_bfloat16(vectors: Tensor) -> Search:
    """All scores in bfloat16, the 32 largest once more in float32."""
    narrow = vectors.bfloat16()
    step = max(1, SCORE_BYTES // (2 * len(vectors)))

    def search(queries: np.ndarray) -> np.ndarray:
        found = []
        for part in torch.from_numpy(queries).cuda().split(step):
            rows = (part.bfloat16() @ narrow.T).topk(RERANKED).indices
            scores = torch.bmm(vectors[rows], part[:, :, None])[:, :, 0]
            found.append(rows.gather(1, scores.topk(K).indices))
        return torch.cat(found).cpu().numpy()

    return search


def truth_of(held: Tensor, vectors: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """The true rows: the largest products in float64, ordered as answers are."""
    asked = torch.from_numpy(queries).cuda().double()
    scores, rows = [], []
    for start in range(0, len(held), 2**20):
        best = (asked @ held[start : start + 2**20].double().T).topk(2 * K)
        scores.append(best.values)
        rows.append(best.indices + start)
    best = torch.cat(scores, 1).topk(2 * K).indices
    candidates = torch.cat(rows, 1).gather(1, best).cpu().numpy()
    owners = np.repeat(np.arange(len(queries)), 2 * K)
    return rank(vectors, queries, owners, candidates.ravel(), K)[1]


def rates(searches: dict[str, Search], queries: np.ndarray, batch: int, rounds: int = 5) -> dict[str, list[float]]:
    """Queries a second of each search, round by round, in turn."""
    found: dict[str, list[float]] = {name: [] for name in searches}
    place = 0
    for _ in range(2):
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


def profiled(name: str, work: Callable[[], Any]) -> None:
    """What the GPU and the host do in ten rounds."""
    from torch.profiler import ProfilerActivity, profile

    work()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as found:
        for _ in range(10):
            work()
        torch.cuda.synchronize()
    print(f"{name}, ten times:")
    averages = found.key_averages()
    print(averages.table(sort_by="self_cuda_time_total", row_limit=14, max_name_column_width=60))
    print(averages.table(sort_by="self_cpu_time_total", row_limit=10, max_name_column_width=60), flush=True)


def search(report: Rows, count: int, profile: bool) -> None:
    """Search among so many vectors."""
    held = draw(count, 1)
    vectors = held.cpu().numpy()
    start = time.perf_counter()
    scan = ExactScan(vectors, device="cuda")
    print(
        f"{count:,} vectors: codes of {scan.form.codes.shape[1]} bytes made in {time.perf_counter() - start:.1f} s",
        flush=True,
    )
    queries = draw(QUERIES, 2, moved=0.75).cpu().numpy()
    truth = truth_of(held, vectors, queries[:256])
    peers = {"float32 product and topk": in_float32(held), "bfloat16, 32 scored again": in_bfloat16(held)}
    for batch in BATCHES:
        found = np.concatenate([scan.search(queries[s : s + batch], K)[1] for s in range(0, 256, batch)])[:256]
        np.testing.assert_array_equal(found, truth)
    for name, peer in peers.items():
        same = (peer(queries[:256])[:, :, None] == truth[:, None]).any(2).mean()
        print(f"recall@10 of {name}: {same:.4f}")
    for batch in BATCHES:
        before = dataclasses.replace(scan.counts)
        done = rates({"ours": lambda q: scan.search(q, K)[1], **peers}, queries, batch)
        for name in peers:
            report.add(f"{count:,} rows, {batch} at a time", done["ours"], done[name], name, "queries/s", 1.0)
        asked = scan.counts.queries - before.queries
        print(
            f"  {(scan.counts.widened - before.widened) / asked:.3f} of the queries looked at more, "
            f"{(scan.counts.scored - before.scored) / asked:.0f} rows scored a query"
        )
        if profile:
            profiled(f"{batch} queries at a time", lambda b=batch: scan.search(queries[:b], K))  # type: ignore[misc]


def encoders_of(backbone: str) -> nn.ModuleDict:
    """Two encoders for Sentinel-1 and Sentinel-2 patches of 120 pixels."""
    modalities = (sentinel1(PIXELS), sentinel2(PIXELS))
    standard = BandStatistics(count=2, mean=1_000.0, m2=2e6, minimum=0.0, maximum=4_000.0)
    torch.manual_seed(0)
    known = {f"{m.name}/{band}": standard for m in modalities for band in m.band_names}
    return make_encoders(modalities, known, ModelConfig(backbone=backbone, image_size=PIXELS))


def train(report: Rows, backbone: str, profile: bool) -> None:
    """Steps of one backbone."""
    from sscm.training.step import PairEncoders, TrainingStep

    plain = encoders_of(backbone)
    objective = ObjectiveConfig(isp_warmup=0.0)
    rng = np.random.default_rng(0)
    batch = {
        group.name: as_tensor(rng.uniform(0, 3_000, (PAIRS, *group.shape)).astype(group.dtype))
        for encoder in plain.values()
        for group in encoder.modality.groups  # type: ignore[union-attr]
    }
    ids = [f"pair_{number}" for number in range(PAIRS)]
    images = {name: prepared_images(encoder, batch) for name, encoder in plain.items()}  # type: ignore[arg-type]
    with torch.no_grad():
        wanted = joint_loss(PairEncoders(copy.deepcopy(plain).train(), False)(images), objective).detached()
    encoders = copy.deepcopy(plain).cuda().to(memory_format=torch.channels_last)
    given = {name: pixels.cuda() for name, pixels in images.items()}
    first = TrainingStep(copy.deepcopy(encoders), TrainConfig(augment=False, objective=objective), 1_000)
    found = first(given, ids, 0, torch.Generator().manual_seed(0)).detached().cpu()
    print(f"{backbone}: losses {found.tolist()} on the GPU in bfloat16, {wanted.tolist()} on the CPU in float32")
    assert torch.isfinite(found).all()
    torch.testing.assert_close(found, wanted, rtol=0.02, atol=0.02)
    del first
    step = TrainingStep(encoders, TrainConfig(objective=objective), 1_000_000)
    alone = PairEncoders(copy.deepcopy(encoders), True).train()
    laid_out = {name: pixels.contiguous(memory_format=torch.channels_last) for name, pixels in given.items()}
    generator = torch.Generator().manual_seed(0)

    def bare() -> None:
        alone.zero_grad(set_to_none=True)
        torch.stack(list(alone(laid_out).values())).sum().backward()  # type: ignore[no-untyped-call]

    def whole() -> None:
        step(given, ids, 0, generator)

    def from_host() -> None:
        pixels = {name: prepared_images(encoder, batch) for name, encoder in encoders.items()}  # type: ignore[arg-type]
        step(pixels, ids, 0, generator)

    taken: dict[str, list[float]] = {"bare": [], "whole": [], "host": []}
    peak = 0
    for number in range(6):
        for name, run in (("bare", bare), ("whole", whole), ("host", from_host)):
            if name == "whole" and number:
                torch.cuda.reset_peak_memory_stats()
            torch.cuda.synchronize()
            begun = time.perf_counter()
            for _ in range(5 if number else 3):
                run()
            torch.cuda.synchronize()
            if number:
                taken[name].append((time.perf_counter() - begun) / 5 * 1e3)
            if name == "whole":
                peak = torch.cuda.max_memory_allocated()
    step.check()
    report.add(f"step, {backbone}, {PAIRS} pairs", taken["whole"], taken["bare"], "forward and backward", "ms", 1.15)
    report.add(f"step from host arrays, {backbone}", taken["host"], taken["whole"], "prepared images", "ms", 1.15)
    print(
        f"  {PAIRS / statistics.median(taken['whole']) * 1e3:,.0f} pairs/s, from host arrays "
        f"{PAIRS / statistics.median(taken['host']) * 1e3:,.0f}; peak memory {peak / 2**30:.1f} GiB, "
        "with the peer's copy of the encoders"
    )
    if profile:
        profiled(f"a step of {backbone}", whole)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=("search", "train"), default=("search", "train"))
    parser.add_argument("--rows", nargs="+", type=int, default=(1_000_000, 10_000_000))
    parser.add_argument(
        "--profile", action="store_true", help="also print what the time of a search and of a step goes to"
    )
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print("no GPU here: nothing measured")
        return
    print(torch.cuda.get_device_name(), "torch", torch.__version__)
    report = Rows()
    if "train" in arguments.only:
        for backbone in ("resnet18", "resnet50"):
            train(report, backbone, arguments.profile)
    if "search" in arguments.only:
        for count in arguments.rows:
            search(report, count, arguments.profile)
            torch.cuda.empty_cache()
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(report.lines, indent=1) + "\n")


if __name__ == "__main__":
    main()
