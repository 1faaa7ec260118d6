"""Declarations of modalities: what is read, and what is refused by name."""

from __future__ import annotations

import pytest

from sscm.archive.sources.declaration import read_declaration
from sscm.errors import ConfigError

GOOD = """
[s1]
title = "Sentinel-1"
[s1.groups.s1]
bands = ["VV", "VH"]
common_names = ["vv", ""]
file_bands = ["VH", "angle", "VV"]
dtype = "float32"
unit = "dB"
pixels = [264, 132]
nodata = -9999
metres = 10
[s2.groups.fine]
bands = ["B04"]
dtype = "uint16"
unit = "reflectance x 10000"
"""


def read(tmp_path, text):
    (tmp_path / "m.toml").write_text(text)
    return read_declaration(str(tmp_path / "m.toml"))


def test_all_keys(tmp_path):
    s1, s2 = read(tmp_path, GOOD)
    assert (s1.name, s1.title, s2.name, s2.title) == ("s1", "Sentinel-1", "s2", "s2")
    (group,) = s1.groups
    assert group.file_bands == ("VH", "angle", "VV") and group.pixels == (264, 132)
    assert [band.common_name for band in group.group.bands] == ["vv", None]
    assert (group.group.nodata, group.group.metres, group.group.unit) == (-9999.0, 10.0, "dB")
    assert s2.groups[0].pixels is None and s2.groups[0].file_bands == ("B04",)
    modality = s1.sized({"s1": (66, 33)})
    assert modality.groups[0].shape == (2, 66, 33) and modality.band_names == ("VV", "VH")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (GOOD, "", "it declares no modality"),
        (GOOD, "[s1", "not a TOML file"),
        (GOOD, "[s1]\ntitle = 'x'", r"\[s1\]: no band groups; expected \[s1.groups.NAME\]"),
        ("[s1]\n", "[s1]\ncolour = 1\n", r"\[s1\]: unknown keys \['colour'\]; known ones are title, groups"),
        ("nodata", "no_data", r"\[s1.groups.s1\]: unknown keys \['no_data'\]"),
        ('unit = "dB"\n', "", r"\[s1.groups.s1\]: no unit; expected bands, dtype, unit"),
        ('dtype = "float32"', 'dtype = "float16"', "dtype 'float16'; expected one of uint8"),
        ('["VV", "VH"]', '["VV", "VV"]', "each name may occur once"),
        ('["VV", "VH"]', '"VV"', "bands = 'VV'; expected a list of names"),
        ('["VH", "angle", "VV"]', '["VH", "angle"]', r"file_bands \['VH', 'angle'\]; expected each of \['VV', 'VH'\]"),
        ('["vv", ""]', '["vv"]', "1 common_names for 2 bands"),
        ("[264, 132]", "0", "pixels = 0; expected a whole number"),
        ("[264, 132]", "[1, 2, 3]", r"pixels = \[1, 2, 3\]"),
        ("-9999", "nan", "nodata = nan; expected a number"),
        ("-9999", '"none"', "nodata = 'none'; expected a number"),
        ("s2.groups.fine", "s2.groups.s1", r"band groups \['s1', 's1'\]; expected each name once"),
        ("s2.groups.fine", "s2.groups.split", "band group name 'split'"),
        ("s2.groups.fine", "s2.groups.s1_datetime", "have the names of columns of times"),
        ("s2.groups.fine", "S2.groups.fine", "modality name 'S2'"),
    ],
)
def test_refused(tmp_path, old, new, message):
    assert old in GOOD
    with pytest.raises(ConfigError, match=message) as caught:
        read(tmp_path, GOOD.replace(old, new))
    assert "m.toml" in str(caught.value)


def test_no_such_file(tmp_path):
    with pytest.raises(ConfigError, match=r"none.toml: no such file"):
        read_declaration(str(tmp_path / "none.toml"))
