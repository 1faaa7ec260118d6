"""What lies in a BigEarthNet folder: which version it is, and where each patch is, found in one walk."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime

from sscm.archive.sources.folders import Entry, entries, join
from sscm.errors import ArchiveError

_S2_PATCH_V1 = re.compile(r"S2[A-D]_MSIL2A_\d{8}T\d+_\d+_\d+")
_S2_PATCH_V2 = re.compile(r"S2[A-D]_MSIL2A_\d{8}T\d+_N\d{4}_R\d{3}_T\w{5}_\d+_\d+")
_S1_PATCH = re.compile(r"S1[A-D]_IW_GRDH_1SDV_\d{8}T\d+_(\w{5})_(\d+)_(\d+)")
_TIME = re.compile(r"_(\d{8}T\d{6})(?:_|$)")
_DEPTH = 4
"""Folders below the root that are walked: archive, tile or scene, patch, and one that unpacking may have added."""
_BLOCK = 10
"""Patches along the side of a block that stays in one split: 12 km."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Patches of a BigEarthNet folder.

    Args:
        version: 1 or 2.
        s1: Sentinel-1 patch name → folder that holds the patch's folder, relative to the root.
        s2: Sentinel-2 patch name → the same.
    """

    version: int
    s1: dict[str, str] = field(default_factory=dict)
    s2: dict[str, str] = field(default_factory=dict)


def find_layout(root: str) -> Layout:
    """Walk a folder, telling version and sensors by the patches' names and files, whatever the folders are called.

    A version 1 archive has its patches side by side, and Sentinel-2 names without tile; a version 2 archive has them in
    folders by tile and by scene. Reference maps are passed over. Folders of patches are listed, patches are not opened,
    but for one of each folder.

    Raises:
        ArchiveError: no such folder, no patches, patches of one sensor only, or of both versions.
        WorkspaceError: the storage cannot be reached.
    """
    s1: dict[str, str] = {}
    s2_v1: dict[str, str] = {}
    s2_v2: dict[str, str] = {}
    try:
        for folder, name in _patches(root, "", _DEPTH):
            patches = s1 if _S1_PATCH.fullmatch(name) else s2_v2 if _S2_PATCH_V2.fullmatch(name) else s2_v1
            patches.setdefault(name, folder)
        seen = [entry.name for entry in entries(root)]
    except (FileNotFoundError, NotADirectoryError, PermissionError) as error:
        raise ArchiveError(
            f"{root}: {error.strerror or error}; expected the folder that holds the BigEarthNet folders"
        ) from error
    if s2_v1 and s2_v2:
        raise ArchiveError(
            f"{root}: Sentinel-2 patches of both versions, such as {min(s2_v1)} and {min(s2_v2)}; "
            "expected one version: name the folder of one"
        )
    s2 = s2_v1 or s2_v2
    if not s1 or not s2:
        found = f"{len(s1)} Sentinel-1 and {len(s2)} Sentinel-2 patch folders"
        inside = ", ".join(seen[:8]) + (", …" if len(seen) > 8 else "") if seen else "it is empty"
        raise ArchiveError(
            f"{root}: {found} (in it: {inside}); expected both, e.g. BigEarthNet-S1 and BigEarthNet-S2, unpacked"
        )
    return Layout(version=2 if s2_v2 else 1, s1=s1, s2=s2)


def name_time(name: str) -> datetime | None:
    """Acquisition time in a patch name of version 2, UTC; None where the name has none.

    Version 1 drops zeros (``T94161`` is 09:41:56), so its times are read from the JSON files.
    """
    match = _TIME.search(name)
    if match is None:
        return None
    try:
        return datetime.strptime(match[1], "%Y%m%dT%H%M%S").replace(tzinfo=UTC)
    except ValueError:
        return None


def tile_of(name: str) -> str | None:
    """MGRS tile of a patch name, e.g. ``33UUP``; None for a Sentinel-2 name of version 1, which has none."""
    if match := _S1_PATCH.fullmatch(name):
        return match[1]
    return name.split("_")[5].removeprefix("T") if _S2_PATCH_V2.fullmatch(name) else None


def block_of(s1_name: str) -> str:
    """The block of 10 × 10 patches that a patch is part of: neighbours, and one place at several dates, share it."""
    match = _S1_PATCH.fullmatch(s1_name)
    if match is None:
        return s1_name
    return f"{match[1]}_{int(match[2]) // _BLOCK}_{int(match[3]) // _BLOCK}"


def _patches(root: str, folder: str, depth: int) -> Iterator[tuple[str, str]]:
    """``(containing folder, patch name)`` of all patch folders below, images only."""
    names = [entry.name for entry in entries(join(root, folder)) if entry.is_folder]
    patches = [name for name in names if _is_patch(name)]
    if patches and _has_images(entries(join(root, folder, patches[0]))):
        for name in patches:
            yield folder, name
    if depth > 1:
        for name in names:
            if not _is_patch(name):
                yield from _patches(root, f"{folder}/{name}" if folder else name, depth - 1)


def _is_patch(name: str) -> bool:
    return any(pattern.fullmatch(name) for pattern in (_S1_PATCH, _S2_PATCH_V1, _S2_PATCH_V2))


def _has_images(files: list[Entry]) -> bool:
    """Whether a patch folder is of an image: one that holds nothing but a reference map is not."""
    return not files or any(not entry.name.endswith("_reference_map.tif") for entry in files)
