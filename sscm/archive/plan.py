"""Planning an ingest: which references go into which shard, and the name that the same command has each time."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sscm.archive.schema import SPLITS
from sscm.archive.sources.base import PairRef, Source
from sscm.config import IngestConfig
from sscm.errors import ArchiveError

SHARD_BYTES = 192_000_000
"""Aimed size of a shard: large enough to stream, small enough to hold."""
SHARD_PAIRS = (512, 4096)
"""Fewest and most pairs of a shard, unless the settings say otherwise."""


@dataclass(frozen=True, kw_only=True)
class ShardPlan:
    """What one task reads and where it writes.

    Args:
        number: place in the archive's order.
        file: path of the shard relative to ``archive/``.
        receipt: path of its receipt relative to ``archive/``.
        split: split of all its pairs.
        refs: what to read.
    """

    number: int
    file: str
    receipt: str
    split: str
    refs: tuple[PairRef, ...]


def planned_refs(source: Source) -> Sequence[PairRef]:
    """All references of a source.

    Raises:
        ArchiveError: there are none, two have one key, or a split is unknown.
    """
    refs = source.plan()
    if not refs:
        raise ArchiveError(f"source {source.name} {dict(source.describe())}: no pairs found; expected at least one")
    seen: set[str] = set()
    twice = sorted({ref.key for ref in refs if ref.key in seen or seen.add(ref.key)})  # type: ignore[func-returns-value]
    if twice:
        shown = ", ".join(twice[:5])
        raise ArchiveError(f"{len(twice)} pair ids occur more than once ({shown}); every pair needs an id of its own")
    unknown = sorted({ref.split for ref in refs} - set(SPLITS))
    if unknown:
        raise ArchiveError(f"unknown splits {unknown}; expected {', '.join(SPLITS)}")
    return refs


def archive_identity(source: Source, config: IngestConfig, refs: Sequence[PairRef]) -> str:
    """Hexadecimal name of what is ingested: the same command on the same source has the same one.

    Args:
        source: where the pairs come from.
        config: how they are dealt to shards.
        refs: what is read of it.
    """
    digest = hashlib.sha256()
    about: dict[str, Any] = {
        "source": source.name,
        "settings": dict(source.describe()),
        "modalities": [m.to_json() for m in source.modalities],
        "shards": [config.pairs_per_shard, config.pairs_per_row_group, config.shuffle_seed],
    }
    if config.codec != "none":  # what was written before there was a choice keeps its name
        about["codec"] = config.codec
    digest.update(json.dumps(about, sort_keys=True, default=str).encode())
    for ref in refs:
        digest.update(json.dumps([ref.key, ref.split, dict(ref.args)], sort_keys=True, default=str).encode())
    return digest.hexdigest()


def plan_shards(refs: Sequence[PairRef], source: Source, config: IngestConfig, identity: str) -> tuple[ShardPlan, ...]:
    """Deal references to shards: split by split, mixed by the seed, shards of a split alike in size.

    Args:
        refs: all references.
        source: for the size of its pairs.
        config: pairs a shard and seed.
        identity: hexadecimal name of this archive; part of the file names.
    """
    pair_bytes = sum(group.nbytes for modality in source.modalities for group in modality.groups)
    pairs = config.pairs_per_shard or int(np.clip(SHARD_BYTES // pair_bytes, *SHARD_PAIRS))
    refs_per_shard = max(1, pairs // source.pairs_per_ref)
    plans: list[ShardPlan] = []
    for split in SPLITS:
        members = [ref for ref in refs if ref.split == split]
        order = np.random.default_rng(config.shuffle_seed).permutation(len(members))
        for part in np.array_split(order, math.ceil(len(members) / refs_per_shard)) if len(members) else []:
            number = len(plans)
            name = f"{identity[:12]}-{split}-{number:05d}"
            plans.append(
                ShardPlan(
                    number=number,
                    file=f"shards/{name}.parquet",
                    receipt=f"receipts/{name}.json",
                    split=split,
                    refs=tuple(members[i] for i in part),
                )
            )
    return tuple(plans)
