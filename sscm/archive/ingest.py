"""Ingest: read a source pair by pair on Ray Data, write shards, and commit the archive by its manifest.

One task writes one shard and, after it, a small receipt (rows, checksum, statistics, unusable pairs). A killed ingest
is run again with the same command: shards with a receipt are kept, the rest is written, and the manifest comes last, so
an archive is there as a whole or not at all.

What is new in a source is added in the same way: as shards of its own, beside those that are there, by a manifest that
names them all. Shards never change, so that what was made of an archive (an index, a training) goes on with it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from sscm.archive.held import Held, read_held, require_same_modalities, write_keys
from sscm.archive.manifest import NAME, Manifest, Shard, read_manifest, write_manifest
from sscm.archive.plan import archive_identity, plan_shards, planned_refs
from sscm.archive.sources.base import PairRef, Source
from sscm.archive.statistics import BandStatistics, merge_statistics
from sscm.archive.sweep import sweep
from sscm.archive.writing import Receipt, write_shards
from sscm.config import IngestConfig
from sscm.errors import ArchiveError, ConfigError, ConflictError, TooManyBadPairsError
from sscm.version import code_version
from sscm.workspace import ARCHIVE, Workspace, open_workspace

BAD_PAIRS = "bad_pairs.json"
"""Report of the pairs that could not be used, beside the manifest."""


def ingest(source: Source, config: IngestConfig) -> Manifest:
    """Write a source's pairs as the archive of a workspace, or add those that it does not hold.

    Args:
        source: where the pairs come from.
        config: how the archive is written.

    Returns:
        The manifest, as committed. An archive that this source and these settings made before is returned as it is, and
        one that holds all pairs to be added.

    Raises:
        ArchiveError: the source has no pairs, or two of one id.
        BandMismatchError: pairs of other bands are to be added.
        ConfigError: the workspace holds an archive of something else; or of other modalities, where pairs are added.
        ConflictError: another ingest committed meanwhile; run again.
        TooManyBadPairsError: more than ``max_bad`` of the pairs are unusable; no manifest is written.
        WorkspaceError: the workspace cannot be written.
    """
    workspace = open_workspace(config.workspace)
    workspace.require_writable()
    refs = planned_refs(source)
    present = read_manifest(workspace) if workspace.exists(ARCHIVE, NAME) else None
    if present is not None and config.add:
        manifest = _add(workspace, source, config, refs, present)
    else:
        identity = archive_identity(source, config, refs)
        if present is not None and present.source.get("identity") == identity:
            manifest = present
        else:
            _require_free(workspace, present, config)
            manifest = _make(workspace, source, config, refs, identity)
    sweep(workspace, manifest)
    return manifest


def _make(
    workspace: Workspace, source: Source, config: IngestConfig, refs: Sequence[PairRef], identity: str
) -> Manifest:
    """Write an archive and commit it."""
    receipts = _written(workspace, source, config, refs, identity)
    bad = [entry for receipt in receipts for entry in receipt["bad"]]
    shards = _shards(receipts)
    workspace.write_json(bad, ARCHIVE, BAD_PAIRS)
    _require_few_bad(workspace, config, bad, sum(shard.rows for shard in shards) + len(bad))
    if not shards:
        raise ArchiveError(f"source {source.name}: none of {len(bad)} pairs could be used; {_first(bad)}")
    write_keys(workspace, identity, _keys(receipts))
    manifest = Manifest(
        modalities=source.modalities,
        shards=shards,
        statistics=_merged({}, _train(receipts) or receipts),
        source={"name": source.name, "identity": identity, **source.describe()},
        created=_now(),
        code_version=code_version(),
        simulated=source.simulated,
        bad_pairs=len(bad),
    )
    write_manifest(workspace, manifest)
    return manifest


def _add(
    workspace: Workspace, source: Source, config: IngestConfig, refs: Sequence[PairRef], present: Manifest
) -> Manifest:
    """Write what an archive does not hold beside it, and commit both."""
    require_same_modalities(present, source.modalities, workspace.uri_of(ARCHIVE))
    held = read_held(workspace, present)
    new = held.missing(refs)
    known = len(refs) - len(new)
    if not new:
        _say_nothing_new(known, 0)
        return present
    identity = archive_identity(source, config, new)
    receipts = _written(workspace, source, config, new, identity, held, known)
    found = [entry for receipt in receipts for entry in receipt["bad"]]
    shards = _shards(receipts)
    rows = sum(shard.rows for shard in shards)
    tried = {ref.key for ref in new}
    before = workspace.read_json(ARCHIVE, BAD_PAIRS) if workspace.exists(ARCHIVE, BAD_PAIRS) else []
    bad = [entry for entry in before if entry["pair_id"] not in tried and entry not in found] + found
    _require_few_bad(workspace, config, found, rows + len(found) + known * source.pairs_per_ref, bad)
    if read_manifest(workspace) != present:
        raise ConflictError(
            f"{workspace.uri_of(ARCHIVE)}: another ingest committed meanwhile; run the same command again: it adds "
            "what is missing then"
        )
    if not shards:
        _say_nothing_new(known, len(found))
        if bad == before:
            return present
    write_keys(workspace, identity, _keys(receipts))
    addition = {"name": source.name, "identity": identity, **source.describe(), "rows": rows, "added": _now()}
    manifest = dataclasses.replace(
        present,
        shards=present.shards + shards,
        statistics=_extended(present, receipts),
        created=_now(),
        code_version=code_version(),
        simulated=present.simulated or source.simulated,
        bad_pairs=len(bad),
        additions=(*present.additions, addition) if shards else present.additions,
    )
    workspace.write_json(bad, ARCHIVE, BAD_PAIRS)
    write_manifest(workspace, manifest)
    return manifest


def _written(
    workspace: Workspace,
    source: Source,
    config: IngestConfig,
    refs: Sequence[PairRef],
    identity: str,
    held: Held | None = None,
    known: int = 0,
) -> list[Receipt]:
    """Receipts of all shards, in order; gives up as soon as too many pairs are bad.

    Args:
        workspace: where ``archive/`` is.
        source: where the pairs come from.
        config: how shards are written.
        refs: what to read.
        identity: name of this ingest.
        held: what the archive holds.
        known: references of the source that it holds; they count where bad pairs are counted.
    """
    plans = plan_shards(refs, source, config, identity)
    total = (len(refs) + known) * source.pairs_per_ref
    receipts: dict[int, Receipt] = {}
    bad: list[Mapping[str, str]] = []
    with contextlib.closing(write_shards(workspace, source, config, plans, held.ids if held else ())) as written:
        for number, receipt in written:
            receipts[number] = receipt
            bad += receipt["bad"]
            _require_few_bad(workspace, config, bad, total)
    return [receipts[plan.number] for plan in plans]


def _require_free(workspace: Workspace, present: Manifest | None, config: IngestConfig) -> None:
    if present is not None and not config.replace:
        raise ConfigError(
            f"{workspace.uri_of(ARCHIVE)} holds an archive of {dict(present.source)}; choose another workspace, "
            "or pass --add to add the pairs that it does not hold, or --replace to put this one in its place"
        )


def _require_few_bad(
    workspace: Workspace,
    config: IngestConfig,
    bad: Sequence[Mapping[str, str]],
    total: int,
    listed: Sequence[Mapping[str, str]] | None = None,
) -> None:
    """Check the share of unusable pairs; list them where it is too large."""
    if len(bad) > config.max_bad * total:
        workspace.write_json(bad if listed is None else listed, ARCHIVE, BAD_PAIRS)
        raise TooManyBadPairsError(
            f"{len(bad)} of {total} pairs could not be used, more than --max-bad {config.max_bad:.2%} allows; "
            f"no manifest was written. {_first(bad)} All are listed in {workspace.uri_of(ARCHIVE, BAD_PAIRS)}; "
            "mend them, or allow more"
        )


def _first(bad: Sequence[Mapping[str, str]]) -> str:
    return "".join(f"First: {e['where']}: {e['seen']}; expected {e['expected']}. " for e in bad[:1]).strip()


def _say_nothing_new(known: int, bad: int) -> None:
    unusable = f", and {bad} that are new cannot be used" if bad else ""
    print(f"ingest: the archive holds {known:,} pairs of the source already{unusable}; nothing added", file=sys.stderr)


def _shards(receipts: Iterable[Receipt]) -> tuple[Shard, ...]:
    return tuple(Shard.from_json(receipt["shard"]) for receipt in receipts if receipt["shard"])


def _keys(receipts: Iterable[Receipt]) -> Iterator[str]:
    return (key for receipt in receipts for key in receipt.get("keys", ()))  # receipts of older versions have none


def _train(receipts: Iterable[Receipt]) -> list[Receipt]:
    return [receipt for receipt in receipts if receipt["shard"] and receipt["shard"]["split"] == "train"]


def _merged(statistics: Mapping[str, BandStatistics], receipts: Iterable[Receipt]) -> Mapping[str, BandStatistics]:
    for receipt in receipts:
        found: dict[str, Any] = receipt["statistics"]
        statistics = merge_statistics(statistics, {name: BandStatistics.from_json(v) for name, v in found.items()})
    return statistics


def _extended(present: Manifest, receipts: Sequence[Receipt]) -> Mapping[str, BandStatistics]:
    """Statistics of the train split, old and new; of everything where there is none."""
    train = _train(receipts)
    if any(shard.split == "train" for shard in present.shards):
        return _merged(present.statistics, train)
    return _merged({}, train) if train else _merged(present.statistics, receipts)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
