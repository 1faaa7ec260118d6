"""Partner recall on the validation split, after each epoch."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from sscm.archive.order import Piece, pieces_of
from sscm.archive.schema import decode_group
from sscm.archive.windows import read_pieces, stream_columns
from sscm.evaluation.metrics import partner_ranks, recall_at
from sscm.model.encoders import Encoder, as_tensor
from sscm.training.job import WorkerJob

VALIDATION_PAIRS = 1000
"""Most pairs of the validation split that are embedded after each epoch."""


@torch.inference_mode()
def validate(encoders: nn.ModuleDict, job: WorkerJob, rank: int, workers: int) -> dict[str, dict[str, float]]:
    """Partner recall between modalities on the first pairs of the validation split; every worker embeds its share.

    Returns:
        ``<query>-><target>`` → ``recall@1``, ``recall@5``, ``recall@10``, ``median_rank``, ``pairs``; empty where the
        archive has no validation split, or no pair of it has finite embeddings.
    """
    shards = [shard for shard in job.manifest.shards if shard.split == "validation"]
    pieces: Sequence[Piece] = pieces_of(shards)
    before = itertools.accumulate((piece.rows for piece in pieces), initial=0)
    pieces = [piece for piece, start in zip(pieces, before, strict=False) if start < VALIDATION_PAIRS]
    if not pieces:
        return {}
    encoders.eval()
    names = [m.name for m in job.manifest.modalities]
    mine: dict[str, list[Any]] = {name: [] for name in names}
    for piece in pieces[rank::workers]:
        table = read_pieces(job.workspace, [piece], stream_columns(job.manifest.modalities)).drop_null()
        for m in job.manifest.modalities:
            groups = {g.name: as_tensor(decode_group(table[g.name], g)) for g in m.groups}
            pixels = cast(Encoder, encoders[m.name]).prepare(groups)
            pixels = pixels.contiguous(memory_format=torch.channels_last)
            with torch.autocast(pixels.device.type, torch.bfloat16, enabled=pixels.device.type == "cuda"):
                mine[m.name].append(encoders[m.name](pixels).float().cpu().numpy())
    everyone: list[Any] = [mine]
    if workers > 1:
        everyone = [None] * workers
        dist.all_gather_object(everyone, mine)
    joined = {name: np.concatenate([part for worker in everyone for part in worker[name]]) for name in names}
    finite = np.logical_and.reduce([np.isfinite(rows).all(axis=1) for rows in joined.values()])
    joined = {name: rows[finite] for name, rows in joined.items()}  # a broken image makes no embedding
    if not finite.any():
        return {}
    result = {}
    for query, target in itertools.permutations(names, 2):
        ranks = partner_ranks(joined[query], joined[target])
        result[f"{query}->{target}"] = {
            **{f"recall@{k}": recall_at(ranks, k) for k in (1, 5, 10)},
            "median_rank": float(np.median(ranks)),
            "pairs": float(len(ranks)),
        }
    return result
