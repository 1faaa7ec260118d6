"""Is this the archive that an experiment is about? Counts, and every name of a published list, before anything runs."""

from __future__ import annotations

from collections.abc import Mapping

from sscm.archive.ingest import BAD_PAIRS
from sscm.archive.manifest import Manifest
from sscm.archive.sources.bigearthnet_splits import read_splits
from sscm.archive.sources.folders import absolute
from sscm.errors import ArchiveError
from sscm.experiment.spec import Expectation
from sscm.experiment.trials import EXPERIMENTS
from sscm.workspace import ARCHIVE, Workspace

MISSING = "missing_pairs.json"
"""Names of the lists that the archive does not have, beside the results."""
NAME_PROPERTIES = ("s1_name", "s2_name")
"""Properties that hold a pair's names in its source, besides its id."""
ABSENT = "not in the source, or in another split"
"""Why a name is missing that ingest did not name."""
_SHOWN = 3


def require_expected(workspace: Workspace, manifest: Manifest, expect: Expectation, name: str) -> None:
    """Check an archive against what an experiment expects of it.

    Args:
        workspace: where the archive is.
        manifest: what it holds.
        expect: counts and lists.
        name: of the experiment; names that are missing go into its folder.

    Raises:
        ArchiveError: a count differs, or a listed name is missing or in another split. Counts and the first names are
            in the message, all names in the file that it names.
    """
    trouble = []
    have = manifest.rows_by_split
    for split, wanted in (("train", expect.train), ("validation", expect.validation), ("test", expect.test)):
        if wanted is not None and have[split] != wanted:
            trouble.append(f"split {split} has {have[split]:,} pairs, expected {wanted:,}")
    if expect.lists is not None:
        listed = read_splits(absolute(expect.lists))
        missing = missing_names(listed, names_by_split(workspace, manifest))
        workspace.delete(EXPERIMENTS, name, MISSING)
        if missing:
            reasons = _bad_pairs(workspace, manifest)
            told = [{"name": each, "split": listed[each], "why": reasons.get(each, ABSENT)} for each in missing]
            workspace.write_json(told, EXPERIMENTS, name, MISSING)
            where = workspace.uri_of(EXPERIMENTS, name, MISSING)
            trouble.append(
                f"{len(missing):,} of {len(listed):,} names of {expect.lists} are not in their split "
                f"({', '.join(missing[:_SHOWN])}{', …' if len(missing) > _SHOWN else ''}; all in {where})"
            )
    if trouble:
        raise ArchiveError(
            f"{workspace.uri_of(ARCHIVE)} is not the archive of experiment {name}: {'; '.join(trouble)}. Ingest it "
            "from the whole source, or change [expect] and know that the figures are not comparable"
        )


def names_by_split(workspace: Workspace, manifest: Manifest) -> dict[str, str]:
    """Every name of every pair, its id and those of its source → its split."""
    found = {}
    for shard in manifest.shards:
        with workspace.parquet(ARCHIVE, *shard.file.split("/")) as file:
            table = file.read(columns=["pair_id", "properties"])
        for pair_id, properties in zip(table["pair_id"].to_pylist(), table["properties"].to_pylist(), strict=True):
            known = dict(properties or ())
            for each in (pair_id, *(known[key] for key in NAME_PROPERTIES if key in known)):
                found[each] = shard.split
    return found


def missing_names(listed: Mapping[str, str], present: Mapping[str, str]) -> list[str]:
    """Names that are listed and not present in their split, in the order of the lists."""
    return [name for name, split in listed.items() if present.get(name) != split]


def _bad_pairs(workspace: Workspace, manifest: Manifest) -> dict[str, str]:
    """Pair → why ingest could not use it."""
    if not manifest.bad_pairs or not workspace.exists(ARCHIVE, BAD_PAIRS):
        return {}
    return {bad["pair_id"]: f"{bad['where']}: {bad['seen']}" for bad in workspace.read_json(ARCHIVE, BAD_PAIRS)}
