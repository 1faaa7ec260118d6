"""Shards written on Ray Data: one task a shard, and after it a small receipt, by which a killed ingest goes on."""

from __future__ import annotations

import dataclasses
import json
import pickle
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from sscm import placement, runtime
from sscm.archive.plan import ShardPlan
from sscm.archive.schema import Pair
from sscm.archive.shard_file import write_shard
from sscm.archive.sources.base import PairRef, Source
from sscm.archive.validate import validate_pair
from sscm.config import IngestConfig
from sscm.errors import PairError, SscmError
from sscm.polling import polling
from sscm.progress import Advance, progress
from sscm.workspace import ARCHIVE, Workspace

RECEIPTS = "receipts"
"""Folder of the receipts of an ingest that is not committed, under ``archive/``."""

Receipt = dict[str, Any]
"""What was written: ``shard`` (None where no pair was of use), ``statistics``, ``bad`` pairs, and ``keys``: the
references that were read and yielded pairs of other ids than their keys."""


def write_shards(
    workspace: Workspace, source: Source, config: IngestConfig, plans: Sequence[ShardPlan], held: Iterable[str] = ()
) -> Generator[tuple[int, Receipt], None, None]:
    """Write the shards of some plans, those that have a receipt already excepted.

    Args:
        workspace: where ``archive/`` is.
        source: where the pairs come from.
        config: how shards are written.
        plans: what to write.
        held: ids of pairs that the archive has; they are left out.

    Yields:
        Number of the plan and its receipt, as they come: first those that were there.

    Raises:
        WorkspaceError: a shard cannot be written.
    """
    missing = []
    done = 0
    names = set(workspace.names(ARCHIVE, RECEIPTS))  # one listing, not a look at each
    for plan in plans:
        receipt = _finished(workspace, plan) if plan.receipt.rsplit("/", 1)[-1] in names else None
        if receipt is None:
            missing.append(plan)
        else:
            done += pairs_read(receipt)
            yield plan.number, receipt
    if not missing:
        return
    total = sum(len(plan.refs) for plan in plans) * source.pairs_per_ref
    with runtime.ray_session(), progress("ingest", total) as advance:
        placement.require_node("data")
        advance(done)
        counter: Any = _Counter.remote()  # type: ignore[attr-defined]
        with polling(_Follow(counter, advance)):
            write = _ShardTask(workspace, source, config, counter, ray.put(frozenset(held)))
            items = [{"number": plan.number, "plan": _packed(plan)} for plan in missing]
            dataset = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
                write,
                batch_size=1,
                batch_format="numpy",
                num_cpus=runtime.core_share(),
                label_selector=placement.selector("data"),
            )
            for row in dataset.iter_rows():
                if row["error"]:
                    raise pickle.loads(row["error"])  # written by our own task, never read from storage
                yield int(row["number"]), json.loads(row["receipt"])


def read_refs(source: Source, refs: Iterable[PairRef], bad: list[dict[str, str]]) -> Iterator[tuple[PairRef, Pair]]:
    """Read and check pairs one by one.

    Args:
        source: where they come from.
        refs: what to read.
        bad: gains an entry (``pair_id``, ``where``, ``seen``, ``expected``) for each that cannot be used.

    Yields:
        The reference and a pair of it.
    """
    for ref in refs:
        try:
            for pair in source.read(ref):
                try:
                    validate_pair(pair, source.modalities, pair.pair_id)
                except PairError as error:
                    bad.append(_bad_entry(error, pair.pair_id))
                else:
                    yield ref, pair
        except PairError as error:
            bad.append(_bad_entry(error, ref.key))


def pairs_read(receipt: Receipt) -> int:
    """Pairs that were read for a shard, bad ones too."""
    return (receipt["shard"]["rows"] if receipt["shard"] else 0) + len(receipt["bad"])


class _ShardTask:
    """Reads the pairs of one plan, writes the shard, then its receipt. Pickled to the workers."""

    def __init__(self, workspace: Workspace, source: Source, config: IngestConfig, counter: Any, held: Any) -> None:
        self.workspace = workspace
        self.source = source
        self.config = config
        self.counter = counter
        self.held = held

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        plan = _unpacked(batch["plan"][0])
        receipt: Receipt | None = None
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

    def write(self, plan: ShardPlan) -> Receipt:
        bad: list[dict[str, str]] = []
        keys: set[str] = set()
        pairs = self._new(read_refs(self.source, plan.refs, bad), keys)
        shard, statistics = write_shard(
            self.workspace,
            pairs,
            self.source.modalities,
            plan.file,
            plan.split,
            self.config.pairs_per_row_group,
            self.config.codec,
        )
        receipt = {
            "shard": shard and dataclasses.asdict(shard),
            "statistics": {name: value.to_json() for name, value in statistics.items()},
            "bad": bad,
            "keys": sorted(keys - {entry["pair_id"] for entry in bad}),
        }
        self.workspace.write_json(receipt, ARCHIVE, *plan.receipt.split("/"))
        return receipt

    def _new(self, read: Iterator[tuple[PairRef, Pair]], keys: set[str]) -> Iterator[Pair]:
        """Pairs that the archive does not hold; counts all, and gathers the keys that are no ids."""
        held: frozenset[str] | None = None
        for done, (ref, pair) in enumerate(read, 1):
            if done % 16 == 0:
                self.counter.add.remote(16)
            if pair.pair_id != ref.key:  # references are looked up by their key before; now it is known to be none
                keys.add(ref.key)
                held = ray.get(self.held) if held is None else held
                if pair.pair_id in held:
                    continue
            yield pair


def _packed(plan: ShardPlan) -> bytes:
    """A plan, small enough to hand out those of millions of pairs at once: names repeat, and tuples are quick."""
    refs = [(ref.key, ref.split, ref.args) for ref in plan.refs]
    data = pickle.dumps((dataclasses.replace(plan, refs=()), refs), pickle.HIGHEST_PROTOCOL)
    return len(data).to_bytes(8, "little") + bytes(pa.compress(data, "lz4", asbytes=True))


def _unpacked(packed: bytes) -> ShardPlan:
    size = int.from_bytes(packed[:8], "little")
    plan: ShardPlan
    plan, refs = pickle.loads(pa.decompress(packed[8:], size, "lz4", asbytes=True))  # of our own driver
    return dataclasses.replace(plan, refs=tuple(PairRef(key=key, split=split, args=args) for key, split, args in refs))


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


def _finished(workspace: Workspace, plan: ShardPlan) -> Receipt | None:
    """The receipt of a shard that is written whole, or None."""
    if not workspace.exists(ARCHIVE, *plan.receipt.split("/")):
        return None
    receipt: Receipt = workspace.read_json(ARCHIVE, *plan.receipt.split("/"))
    if receipt["shard"] is None:
        return receipt
    path = (ARCHIVE, *plan.file.split("/"))
    whole = workspace.exists(*path) and workspace.size(*path) == receipt["shard"]["bytes"]
    return receipt if whole else None


def _bad_entry(error: PairError, pair_id: str) -> dict[str, str]:
    return {
        "pair_id": error.pair_id or pair_id,
        "where": error.where,
        "seen": error.seen,
        "expected": error.expected,
    }
