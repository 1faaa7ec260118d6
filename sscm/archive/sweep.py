"""Deleting what a committed archive does not need, and what no index needs either."""

from __future__ import annotations

import sys

from sscm.archive.held import KEYS, key_file
from sscm.archive.manifest import Manifest
from sscm.archive.writing import RECEIPTS
from sscm.errors import GenerationError, IntegrityError
from sscm.index.generation import generation_numbers, read_generation
from sscm.workspace import ARCHIVE, Workspace

SHARDS = "shards"


def sweep(workspace: Workspace, manifest: Manifest) -> None:
    """Delete receipts, and shards of earlier or broken ingests that no generation of the index names.

    An index keeps no pictures: previews of its pairs are read from the shards that they were embedded from. Shards of a
    replaced archive go with the ingest after the last generation that names them (``sscm index gc``).

    Args:
        workspace: where ``archive/`` is.
        manifest: of the archive, as committed.
    """
    workspace.delete(ARCHIVE, RECEIPTS)
    keys = {key_file(identity) for identity in manifest.identities}
    for name in workspace.names(ARCHIVE, KEYS):
        if name not in keys:
            workspace.delete(ARCHIVE, KEYS, name)
    kept = {shard.file.rsplit("/", 1)[-1] for shard in manifest.shards}
    others = [name for name in workspace.names(ARCHIVE, SHARDS) if name not in kept]
    if not others:
        return
    indexed = _indexed(workspace)
    if indexed is None:
        print("ingest: the index cannot be read; no shard of an earlier archive was deleted", file=sys.stderr)
        return
    for name in others:
        if f"{SHARDS}/{name}" not in indexed:
            workspace.delete(ARCHIVE, SHARDS, name)
    in_use = sum(f"{SHARDS}/{name}" in indexed for name in others)
    if in_use:
        print(
            f"ingest: {in_use} shards of an earlier archive stay, since the index shows pictures from them; run "
            "`sscm index`, `sscm index gc`, and then this command again to free their space",
            file=sys.stderr,
        )


def _indexed(workspace: Workspace) -> set[str] | None:
    """Shards that some generation of the index names; None where one cannot be read."""
    try:
        generations = [read_generation(workspace, number) for number in generation_numbers(workspace)]
    except (GenerationError, IntegrityError):
        return None
    return {file for generation in generations for file in generation.sources}
