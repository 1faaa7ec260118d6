"""Ingest: read a source pair by pair on Ray Data, write shards, and commit the archive by its manifest.

One task writes one shard and, after it, a small receipt (rows, checksum, statistics, unusable pairs). A killed ingest
is run again with the same command: shards with a receipt are kept, the rest is written, and the manifest comes last, so
an archive is there as a whole or not at all.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import pickle
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import ray

from sscm import runtime
from sscm.archive.manifest import NAME, Manifest, Shard, read_manifest, write_manifest
from sscm.archive.schema import SPLITS, Pair
from sscm.archive.shard_file import write_shard
from sscm.archive.sources.base import PairRef, Source
from sscm.archive.statistics import BandStatistics, merge_statistics
from sscm.archive.validate import validate_pair
from sscm.config import IngestConfig
from sscm.errors import ArchiveError, ConfigError, PairError, SscmError, TooManyBadPairsError
from sscm.polling import polling
from sscm.progress import Advance, progress
from sscm.version import code_version
from sscm.workspace import ARCHIVE, Workspace, open_workspace

BAD_PAIRS = "bad_pairs.json"
"""Report of the pairs that could not be used, beside the manifest."""
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


def ingest(source: Source, config: IngestConfig) -> Manifest:
    """Write a source's pairs as the archive of a workspace.

    Args:
        source: where the pairs come from.
        config: how the archive is written.

    Returns:
        The manifest, as committed. An archive that this source and these settings made before is returned as it is.

    Raises:
        ArchiveError: the source has no pairs, or two of one id.
        ConfigError: the workspace holds an archive of something else.
        TooManyBadPairsError: more than ``max_bad`` of the pairs are unusable; no manifest is written.
        WorkspaceError: the workspace cannot be written.
    """
    workspace = open_workspace(config.workspace)
    workspace.require_writable()
    refs = source.plan()
    if not refs:
        raise ArchiveError(f"source {source.name} {dict(source.describe())}: no pairs found; expected at least one")
    _require_unique(refs)
    identity = _identity(source, config, refs)
    if workspace.exists(ARCHIVE, NAME):
        present = read_manifest(workspace)
        if present.source.get("identity") == identity:
            return present
        if not config.replace:
            raise ConfigError(
                f"{workspace.uri_of(ARCHIVE)} holds an archive of {dict(present.source)}; choose another workspace, "
                "or pass --replace to put this one in its place"
            )
    plans = plan_shards(refs, source, config, identity)
    receipts = _run(workspace, source, config, plans)
    bad = [entry for receipt in receipts for entry in receipt["bad"]]
    rows = sum(receipt["shard"]["rows"] for receipt in receipts if receipt["shard"])
    workspace.write_json(bad, ARCHIVE, BAD_PAIRS)
    _require_few_bad(bad, rows + len(bad), config, workspace)
    if not rows:
        raise ArchiveError(f"source {source.name}: none of {len(bad)} pairs could be used; {_first(bad)}")
    manifest = Manifest(
        modalities=source.modalities,
        shards=tuple(Shard.from_json(receipt["shard"]) for receipt in receipts if receipt["shard"]),
        statistics=_statistics(receipts),
        source={"name": source.name, "identity": identity, **source.describe()},
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        code_version=code_version(),
        simulated=source.simulated,
        bad_pairs=len(bad),
    )
    write_manifest(workspace, manifest)
    _sweep(workspace, manifest)
    return manifest


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


def _run(
    workspace: Workspace, source: Source, config: IngestConfig, plans: Sequence[ShardPlan]
) -> list[dict[str, Any]]:
    """Receipts of all shards, in order: those that are there already, and those that Ray Data now writes."""
    receipts = {plan.number: receipt for plan in plans if (receipt := _finished(workspace, plan))}
    missing = [plan for plan in plans if plan.number not in receipts]
    total = sum(len(plan.refs) for plan in plans) * source.pairs_per_ref
    allowed = config.max_bad * total
    if not missing:
        return [receipts[plan.number] for plan in plans]
    with runtime.ray_session(), progress("ingest", total) as advance:
        advance(sum(_pairs_read(receipt) for receipt in receipts.values()))
        counter: Any = _Counter.remote()  # type: ignore[attr-defined]
        with polling(_Follow(counter, advance)):
            write = _ShardTask(workspace, source, config.pairs_per_row_group, counter)
            dataset = ray.data.from_items(
                [{"number": plan.number, "plan": plan} for plan in missing], override_num_blocks=len(missing)
            ).map_batches(write, batch_size=1, batch_format="numpy", num_cpus=runtime.core_share())
            for row in dataset.iter_rows():
                if row["error"]:
                    raise pickle.loads(row["error"])  # written by our own task, never read from storage
                receipts[int(row["number"])] = json.loads(row["receipt"])
                bad = [entry for receipt in receipts.values() for entry in receipt["bad"]]
                if len(bad) > allowed:
                    workspace.write_json(bad, ARCHIVE, BAD_PAIRS)
                    _require_few_bad(bad, total, config, workspace)
    return [receipts[plan.number] for plan in plans]


class _ShardTask:
    """Reads the pairs of one plan, writes the shard, then its receipt. Pickled to the workers."""

    def __init__(self, workspace: Workspace, source: Source, pairs_per_row_group: int, counter: Any) -> None:
        self.workspace = workspace
        self.source = source
        self.pairs_per_row_group = pairs_per_row_group
        self.counter = counter

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        plan: ShardPlan = batch["plan"][0]
        receipt: dict[str, Any] | None = None
        error = b""
        try:
            receipt = _finished(self.workspace, plan) or self.write(plan)
        except SscmError as raised:
            error = pickle.dumps(raised)  # as a value: Ray would wrap it in errors of its own
        return {
            "number": np.array([plan.number]),
            "receipt": np.array([json.dumps(receipt)]),
            "error": np.array([error], object),
        }

    def write(self, plan: ShardPlan) -> dict[str, Any]:
        bad: list[dict[str, str]] = []
        pairs = self._counted(read_refs(self.source, plan.refs, bad))
        shard, statistics = write_shard(
            self.workspace, pairs, self.source.modalities, plan.file, plan.split, self.pairs_per_row_group
        )
        receipt = {
            "shard": shard and dataclasses.asdict(shard),
            "statistics": {name: value.to_json() for name, value in statistics.items()},
            "bad": bad,
        }
        self.workspace.write_json(receipt, ARCHIVE, *plan.receipt.split("/"))
        return receipt

    def _counted(self, pairs: Iterator[Pair]) -> Iterator[Pair]:
        for done, pair in enumerate(pairs, 1):
            yield pair
            if done % 16 == 0:
                self.counter.add.remote(16)


def read_refs(source: Source, refs: Iterable[PairRef], bad: list[dict[str, str]]) -> Iterator[Pair]:
    """Read and check pairs one by one.

    Args:
        source: where they come from.
        refs: what to read.
        bad: gains an entry (``pair_id``, ``where``, ``seen``, ``expected``) for each that cannot be used.
    """
    for ref in refs:
        try:
            for pair in source.read(ref):
                try:
                    validate_pair(pair, source.modalities, pair.pair_id)
                except PairError as error:
                    bad.append(_bad_entry(error, pair.pair_id))
                else:
                    yield pair
        except PairError as error:
            bad.append(_bad_entry(error, ref.key))


@ray.remote(num_cpus=0)
class _Counter:
    """Counts pairs over all tasks, for the progress bar."""

    def __init__(self) -> None:
        self.total = 0

    def add(self, pairs: int) -> None:
        self.total += pairs

    def value(self) -> int:
        return self.total


class _Follow:
    """Moves a progress bar to what a counter says, each time it is called."""

    def __init__(self, counter: Any, advance: Advance) -> None:
        self._counter = counter
        self._advance = advance
        self._seen = 0

    def __call__(self) -> None:
        value = int(ray.get(self._counter.value.remote(), timeout=5))
        self._advance(value - self._seen)
        self._seen = value


def _finished(workspace: Workspace, plan: ShardPlan) -> dict[str, Any] | None:
    """The receipt of a shard that is written whole, or None."""
    if not workspace.exists(ARCHIVE, *plan.receipt.split("/")):
        return None
    receipt: dict[str, Any] = workspace.read_json(ARCHIVE, *plan.receipt.split("/"))
    if receipt["shard"] is None:
        return receipt
    path = (ARCHIVE, *plan.file.split("/"))
    whole = workspace.exists(*path) and workspace.size(*path) == receipt["shard"]["bytes"]
    return receipt if whole else None


def _require_unique(refs: Sequence[PairRef]) -> None:
    seen: set[str] = set()
    twice = sorted({ref.key for ref in refs if ref.key in seen or seen.add(ref.key)})  # type: ignore[func-returns-value]
    if twice:
        shown = ", ".join(twice[:5])
        raise ArchiveError(f"{len(twice)} pair ids occur more than once ({shown}); every pair needs an id of its own")
    unknown = sorted({ref.split for ref in refs} - set(SPLITS))
    if unknown:
        raise ArchiveError(f"unknown splits {unknown}; expected {', '.join(SPLITS)}")


def _require_few_bad(bad: Sequence[Mapping[str, str]], total: int, config: IngestConfig, workspace: Workspace) -> None:
    if len(bad) > config.max_bad * total:
        raise TooManyBadPairsError(
            f"{len(bad)} of {total} pairs could not be used, more than --max-bad {config.max_bad:.2%} allows; "
            f"no manifest was written. {_first(bad)} All are listed in {workspace.uri_of(ARCHIVE, BAD_PAIRS)}; "
            "mend them, or allow more"
        )


def _first(bad: Sequence[Mapping[str, str]]) -> str:
    return "".join(f"First: {e['where']}: {e['seen']}; expected {e['expected']}. " for e in bad[:1]).strip()


def _bad_entry(error: PairError, pair_id: str) -> dict[str, str]:
    return {
        "pair_id": error.pair_id or pair_id,
        "where": error.where,
        "seen": error.seen,
        "expected": error.expected,
    }


def _identity(source: Source, config: IngestConfig, refs: Sequence[PairRef]) -> str:
    """Hexadecimal name of what is ingested: the same command on the same source has the same one."""
    digest = hashlib.sha256()
    about = {
        "source": source.name,
        "settings": dict(source.describe()),
        "modalities": [m.to_json() for m in source.modalities],
        "shards": [config.pairs_per_shard, config.pairs_per_row_group, config.shuffle_seed],
    }
    digest.update(json.dumps(about, sort_keys=True, default=str).encode())
    for ref in refs:
        digest.update(json.dumps([ref.key, ref.split, dict(ref.args)], sort_keys=True, default=str).encode())
    return digest.hexdigest()


def _statistics(receipts: Sequence[Mapping[str, Any]]) -> dict[str, BandStatistics]:
    """Statistics of the train split, of everything where there is none."""
    written = [receipt for receipt in receipts if receipt["shard"]]
    train = [receipt for receipt in written if receipt["shard"]["split"] == "train"] or written
    merged: dict[str, BandStatistics] = {}
    for receipt in train:
        merged = merge_statistics(merged, {k: BandStatistics.from_json(v) for k, v in receipt["statistics"].items()})
    return merged


def _sweep(workspace: Workspace, manifest: Manifest) -> None:
    """Delete what the committed archive does not need: receipts, and shards of earlier or broken ingests."""
    workspace.delete(ARCHIVE, "receipts")
    kept = {shard.file.rsplit("/", 1)[-1] for shard in manifest.shards}
    for name in workspace.names(ARCHIVE, "shards"):
        if name not in kept:
            workspace.delete(ARCHIVE, "shards", name)


def _pairs_read(receipt: Mapping[str, Any]) -> int:
    return (receipt["shard"]["rows"] if receipt["shard"] else 0) + len(receipt["bad"])
