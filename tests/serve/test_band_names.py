"""Names of files and bands as archives and programs give them → bands."""

from __future__ import annotations

import pytest

from serve.band_names import BandNames, last_word
from sscm.errors import QueryError
from sscm.sensors import sentinel1, sentinel2

S1, S2 = BandNames(sentinel1()), BandNames(sentinel2())


@pytest.mark.parametrize(
    ("name", "band"),
    [
        ("S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP_75_43_B02.tif", "B02"),  # BigEarthNet
        ("T33UVR_20180601T100031_B8A_20m.tif", "B8A"),  # Sentinel-2 SAFE
        ("T33UVR_20180601T100031_B02_10m.jp2.tif", "B02"),
        ("HLS.S30.T33UUP.2018152T100031.v2.0.B09.tif", "B09"),
        ("B2.tif", "B02"),  # SSL4EO-S12
        ("b11.TIFF", "B11"),
        ("folder/with_B03/patch_B04.tif", "B04"),
        ("C:\\with_B03\\patch-B05.tif", "B05"),
        ("red_sea_B02.tif", "B02"),
        ("patch_swir16.tif", "B11"),
        ("nir_10m.tif", "B08"),
        ("red_sea.tif", None),
        ("S2B_T33UVR.tif", None),
        ("patch_B10.tif", None),
        (".tif", None),
        ("", None),
    ],
)
def test_file_names_of_optical_bands(name, band):
    assert S2.of_file(name) == band


@pytest.mark.parametrize(
    ("name", "band"),
    [
        ("VV.tif", "VV"),
        ("S1A_IW_GRDH_1SDV_20170613T165043_33UUP_70_48_VH.tif", "VH"),
        ("s1a-iw-grd-vv-20170613t165043-20170613t165108-017011-01c56f-001.tiff", "VV"),
        ("S1A_IW_GRDH_1SDV_20170613T165043.tif", None),
    ],
)
def test_file_names_of_radar_bands(name, band):
    assert S1.of_file(name) == band


@pytest.mark.parametrize(
    ("texts", "band"),
    [
        (["B4, central wavelength 665 nm"], "B04"),  # GDAL's Sentinel-2 driver
        (["B8A"], "B8A"),
        (["nir08"], "B8A"),
        (["Red"], "B04"),
        (["bands", "", "B12"], "B12"),  # the first text that says something
        (["Red Edge 1"], None),  # not red
        (["x" * 100_000], None),
        ([], None),
    ],
)
def test_descriptions(texts, band):
    assert S2.find(texts, "x.tif") == band


def test_descriptions_of_radar_bands():
    assert S1.find(["Sigma0_VH_db"], "x.tif") == "VH"
    assert S1.find(["Gamma0_VV"], "x.tif") == "VV"


def test_a_name_that_speaks_of_several_bands_is_refused():
    with pytest.raises(QueryError, match=r"x_VV_VH.tif: its name speaks of the bands \['VV', 'VH'\]; expected one"):
        S1.of_file("x_VV_VH.tif")
    with pytest.raises(QueryError, match="band 1 speaks of the bands"):
        S1.find(["VV/VH"], "x.tif, band 1")


def test_the_last_word_of_a_name_is_shown_where_it_is_no_band():
    assert last_word("a/patch_75_B10.tif") == "B10"
    assert last_word("__.tif") == ""
