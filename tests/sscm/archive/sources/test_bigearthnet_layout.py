"""Walking BigEarthNet folders, and what patch names tell."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from sscm.archive.sources.bigearthnet_layout import block_of, find_layout, name_time, tile_of


def test_versions_are_told_apart(bigearthnet_v1, bigearthnet_v2, tmp_path):
    for version, write in ((1, bigearthnet_v1), (2, bigearthnet_v2)):
        root = tmp_path / f"v{version}"
        names = write(root, 4)
        layout = find_layout(str(root))
        assert layout.version == version
        assert sorted(layout.s2) == sorted(names)
        assert len(layout.s1) == 4
        for patches in (layout.s1, layout.s2):
            assert all((root / folder / name).is_dir() for name, folder in patches.items())
            assert not any("Reference" in folder for folder in patches.values())


def test_walk_lists_folders_of_patches_but_not_patches(bigearthnet_v1, tmp_path, monkeypatch):
    from sscm.archive.sources import bigearthnet_layout

    bigearthnet_v1(tmp_path, 30)
    listed = []
    real = bigearthnet_layout.entries
    monkeypatch.setattr(bigearthnet_layout, "entries", lambda folder: listed.append(folder) or real(folder))
    find_layout(str(tmp_path))
    assert len(listed) <= 6  # the root twice, two folders of patches, one patch of each


@pytest.mark.parametrize(
    ("name", "time"),
    [
        ("S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP_75_43", datetime(2017, 6, 13, 10, 10, 31, tzinfo=UTC)),
        ("S1A_IW_GRDH_1SDV_20170613T165043_33UUP_70_48", datetime(2017, 6, 13, 16, 50, 43, tzinfo=UTC)),
        ("S2B_MSIL2A_20180204T94161_57_38", None),
        ("S1A_IW_GRDH_1SDV_20171399T165043_33UUP_70_48", None),
    ],
)
def test_name_time(name, time):
    assert name_time(name) == time


def test_tile_and_block():
    assert tile_of("S1A_IW_GRDH_1SDV_20170613T165043_33UUP_70_48") == "33UUP"
    assert tile_of("S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP_75_43") == "33UUP"
    assert tile_of("S2B_MSIL2A_20180204T94161_57_38") is None
    june, july = "S1A_IW_GRDH_1SDV_20170613T165043_33UUP_70_48", "S1B_IW_GRDH_1SDV_20170713T165043_33UUP_79_40"
    assert block_of(june) == block_of(july) == "33UUP_7_4"
    assert block_of("S1A_IW_GRDH_1SDV_20170613T165043_33UUP_80_48") != block_of(june)
