"""Embeddings of a trained encoder, enlarged to any number of rows: what the search benchmarks search.

The pairs of the demo archive, embedded by the model that `sscm demo` trains, are 2,000. A new pair lies among the
neighbours of one of them: let x_0 be a pair drawn at random, x_1 … x_4, a and b pairs drawn from its 16 nearest by the
optical embedding, w drawn evenly from the simplex of five weights, and z a normal number; the new pair is

    Σ w_i x_i + z/2 · (a - b), scaled to unit norm,

with the same draws for both modalities, so that a pair stays one. Everything is a difference of embeddings that are
neighbours: no direction appears that the encoder does not use, and nothing lies where the archive is empty. `python
benchmarks/enlarge.py` prints what stays of the neighbourhoods.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from sscm.config import DemoConfig
from sscm.demo import demo
from sscm.index.exact import ExactScan
from sscm.index.generation import open_segments, read_generation
from sscm.workspace import open_workspace

NEIGHBOURS, MIXED, SPREAD = 16, 4, 0.5
CHUNK_ROWS = 65_536

Embeddings = dict[str, np.ndarray]


def demo_embeddings(workspace: Path) -> Embeddings:
    """Modality → float32 [2000, d] of the demo's index, pair by pair; the demo is made first where it is not."""
    if not (workspace / "index" / "CURRENT").exists():
        demo(DemoConfig(workspace=str(workspace), serve=False))
    store = open_workspace(str(workspace))
    segments = open_segments(store, read_generation(store))
    return {name: np.concatenate([segment.vectors(name) for segment in segments]) for name in segments[0].modalities}


def enlarge(pairs: Embeddings, rows: int, seed: int) -> Embeddings:
    """As many new pairs as wanted; another seed draws others of the same kind.

    Args:
        pairs: modality → float32 [n, d], unit norm.
        rows: pairs to draw.
        seed: of the draws.
    """
    rng = np.random.default_rng(seed)
    optical = list(pairs.values())[-1]
    count = len(optical)
    similar = optical @ optical.T
    np.fill_diagonal(similar, -np.inf)
    nearest = np.argsort(-similar, axis=1, kind="stable")[:, :NEIGHBOURS]
    made = {name: np.empty((rows, values.shape[1]), np.float32) for name, values in pairs.items()}
    for start in range(0, rows, CHUNK_ROWS):
        n = min(CHUNK_ROWS, rows - start)
        centre = rng.integers(count, size=n)
        others = nearest[centre[:, None], rng.integers(NEIGHBOURS, size=(n, MIXED + 2))]
        weights = rng.dirichlet(np.ones(MIXED + 1), size=n).astype(np.float32)
        along = (SPREAD * rng.standard_normal((n, 1))).astype(np.float32)
        for name, values in pairs.items():
            mixed = weights[:, :1] * values[centre]
            mixed += np.einsum("nm,nmd->nd", weights[:, 1:], values[others[:, :MIXED]])
            mixed += along * (values[others[:, MIXED]] - values[others[:, MIXED + 1]])
            made[name][start : start + n] = mixed / np.linalg.norm(mixed, axis=1, keepdims=True)
    return made


def structure(pairs: Embeddings, neighbours: int = 20) -> dict[str, float]:
    """Numbers that say how the optical embeddings lie among each other, and to the radar ones.

    The dimension of neighbourhoods is the maximum-likelihood estimate of Levina and Bickel (NIPS 2004).
    """
    radar, optical = pairs.values()
    asked = slice(0, 2_000)
    scan = ExactScan(optical)
    scores, _ = scan.search(optical[asked], neighbours + 1)
    distances = np.sqrt(np.maximum(2 - 2 * scores[:, 1:].astype(np.float64), 1e-12))
    logs = np.log(distances[:, -1:] / distances[:, :-1])
    energy = np.linalg.eigvalsh(optical.T.astype(np.float64) @ optical)[::-1]
    share = np.cumsum(energy) / energy.sum()
    _, crossed = scan.search(radar[asked], 10)
    return {
        "dimension of neighbourhoods": float(1 / np.mean(logs.mean(axis=1))),
        "distance to the 1st neighbour": float(np.median(distances[:, 0])),
        "distance to the 10th neighbour": float(np.median(distances[:, 9])),
        "10th / 1st": float(np.median(distances[:, 9] / np.maximum(distances[:, 0], 1e-6))),
        "energy in 16 directions": float(share[15]),
        "energy in 32 directions": float(share[31]),
        "cosine of a pair": float(np.mean(np.einsum("nd,nd->n", radar, optical))),
        "recall@10 of the pair, radar to optical": float(np.mean((crossed == np.arange(len(crossed))[:, None]).any(1))),
    }


def main() -> None:
    """Print what stays of the neighbourhoods."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workspace", type=Path, default=Path("demo"), help="what `sscm demo --no-serve` made")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    real = demo_embeddings(arguments.workspace)
    count = len(next(iter(real.values())))
    table = {  # The first two can be compared; among more rows the nearest are nearer.
        f"the demo's {count:,} pairs": structure(real),
        f"{count:,} new pairs": structure(enlarge(real, count, seed=1)),
        "200,000 new pairs": structure(enlarge(real, 200_000, seed=0)),
    }
    if arguments.json:
        print(json.dumps(table))
        return
    for name in next(iter(table.values())):
        print(f"{name:42}", *(f"{numbers[name]:>10.3f}" for numbers in table.values()))


if __name__ == "__main__":
    main()
