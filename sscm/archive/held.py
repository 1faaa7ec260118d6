"""What an archive holds already: the ids of its pairs, read from the shards, and the references they were read from.

Ids are the truth. Where a reference yields pairs of other ids than its key (the tiles of a scene), the keys of what was
read are kept beside the manifest, a file an ingest, so that a scene is not read again to find that all of it is there.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from sscm.archive.manifest import Manifest, Shard
from sscm.archive.sources.base import PairRef
from sscm.errors import ConfigError
from sscm.progress import progress
from sscm.sensors import Modality
from sscm.workspace import ARCHIVE, Workspace

KEYS = "keys"
"""Folder of the keys, under ``archive/``."""
_THREADS = 16
"""Shards read at a time: mostly waiting for the storage."""


@dataclass(frozen=True)
class Held:
    """What an archive holds.

    Args:
        ids: of its pairs.
        keys: of references that were read, where they are no ids.
    """

    ids: frozenset[str] = frozenset()
    keys: frozenset[str] = frozenset()

    def missing(self, refs: Sequence[PairRef]) -> list[PairRef]:
        """References that were not read yet, in their order."""
        return [ref for ref in refs if ref.key not in self.ids and ref.key not in self.keys]


def read_held(workspace: Workspace, manifest: Manifest) -> Held:
    """Read what an archive holds: one column of every shard.

    Raises:
        WorkspaceError: a shard is not there or cannot be read.
        IntegrityError: it is cut short.
    """

    def ids_of(shard: Shard) -> list[str]:
        with workspace.parquet(ARCHIVE, *shard.file.split("/")) as file:
            found: list[str] = file.read(columns=["pair_id"], use_threads=False)["pair_id"].to_pylist()
        return found

    ids: set[str] = set()
    shards = manifest.shards
    with ThreadPoolExecutor(_THREADS) as pool, progress("read ids", len(shards), "shards") as advance:
        for found in pool.map(ids_of, shards):
            ids.update(found)
            advance(1)
    names = set(workspace.names(ARCHIVE, KEYS))
    files = [name for name in map(key_file, manifest.identities) if name in names]
    keys = {key for name in files for key in workspace.read_json(ARCHIVE, KEYS, name)}
    return Held(frozenset(ids), frozenset(keys))


def write_keys(workspace: Workspace, identity: str, keys: Iterable[str]) -> None:
    """Keep the keys of what an ingest read; they count once a manifest names the ingest. Nothing where there are none.

    Args:
        workspace: where ``archive/`` is.
        identity: hexadecimal name of the ingest.
        keys: of the references.
    """
    found = sorted(set(keys))
    if found:
        workspace.write_json(found, ARCHIVE, KEYS, key_file(identity))


def key_file(identity: str) -> str:
    """Name of the file with the keys of an ingest."""
    return f"{identity[:12]}.json"


def require_same_modalities(manifest: Manifest, modalities: Sequence[Modality], where: str) -> None:
    """Check that pairs of some modalities can stand beside those of an archive.

    Args:
        manifest: of the archive.
        modalities: of what is to be added.
        where: the archive, for the message.

    Raises:
        ConfigError: other modalities, or pixels of another kind; both are named.
        BandMismatchError: other bands, or another order; both are named.
    """
    known, given = ([modality.name for modality in each] for each in (manifest.modalities, modalities))
    if known != given:
        raise ConfigError(f"{where} has the modalities {known}; the source has {given}: use a workspace of its own")
    for mine, theirs in zip(manifest.modalities, modalities, strict=True):
        mine.require_same_bands(theirs, where)
        for kept, new in zip(mine.groups, theirs.groups, strict=True):
            told = [f"{g.shape} {g.dtype}, {g.unit}, no data {g.nodata}" for g in (kept, new)]
            if told[0] != told[1]:
                raise ConfigError(
                    f"{where} has {kept.name} as {told[0]}; the source has it as {told[1]}: use a workspace of its own"
                )
