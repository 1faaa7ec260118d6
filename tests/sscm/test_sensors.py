import numpy as np
import pytest

from sscm.errors import BandMismatchError, ConfigError
from sscm.sensors import Band, BandGroup, Modality, sentinel1, sentinel2, stack_by_name


def test_sentinel_groups_have_the_published_order_and_pixels():
    s1, s2 = sentinel1(), sentinel2()
    assert s1.band_names == ("VV", "VH")
    assert [g.name for g in s2.groups] == ["s2_10m", "s2_20m", "s2_60m"]
    assert s2.band_names == ("B02", "B03", "B04", "B08", "B05", "B06", "B07", "B8A", "B11", "B12", "B01", "B09")
    assert [g.shape for g in s2.groups] == [(4, 120, 120), (6, 60, 60), (2, 20, 20)]
    assert sum(g.nbytes for m in (s1, s2) for g in m.groups) == 4 * 2 * 120**2 + 2 * (
        4 * 120**2 + 6 * 60**2 + 2 * 20**2
    )


def test_json_round_trip():
    for modality in (sentinel1(48), sentinel2(48)):
        assert Modality.from_json(modality.to_json()) == modality


def test_a_patch_that_60_m_pixels_do_not_fill_is_refused():
    with pytest.raises(ConfigError, match="multiple of 6"):
        sentinel2(100)


def test_stack_by_name_orders_by_name_not_by_arrival():
    group = sentinel1(4).groups[0]
    planes = {"VH": np.full((4, 4), 2.0), "VV": np.full((4, 4), 1.0)}
    assert stack_by_name(planes, group, "here")[:, 0, 0].tolist() == [1.0, 2.0]


def test_a_missing_band_names_both_lists():
    with pytest.raises(BandMismatchError, match=r"given bands \['VV'\]; known bands, in this order, \['VV', 'VH'\]"):
        stack_by_name({"VV": np.zeros((4, 4))}, sentinel1(4).groups[0], "here")


def test_the_same_bands_in_another_order_are_a_mismatch():
    known = sentinel1(8)
    group = known.groups[0]
    swapped = BandGroup(name="s1", bands=group.bands[::-1], height=8, width=8, dtype="float32", unit="dB")
    with pytest.raises(BandMismatchError, match="VH"):
        known.require_same_bands(Modality(name="s1", title="S1", groups=(swapped,)), "there")


def test_other_pixels_are_not_a_mismatch():
    sentinel2(120).require_same_bands(sentinel2(264), "there")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "labels"}, "reserved"),
        ({"name": "S1"}, "lower-case"),
        ({"dtype": "complex64"}, "expected one of"),
        ({"bands": ()}, "at least one band"),
        ({"bands": (Band(name="a"), Band(name="a"))}, "each name may occur once"),
    ],
)
def test_group_declarations_that_cannot_work(change, message):
    fields = {"name": "x", "bands": (Band(name="a"),), "height": 4, "width": 4, "dtype": "uint8", "unit": "-"} | change
    with pytest.raises(ConfigError, match=message):
        BandGroup(**fields)
