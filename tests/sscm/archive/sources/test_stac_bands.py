"""Bands by the names that providers give them, and what their numbers mean; items in the layout of real catalogues."""

from __future__ import annotations

import pystac
import pytest

from sscm.archive.sources.stac_bands import find_bands, sensor_of, with_reflectance
from sscm.errors import PairError
from sscm.sensors import sentinel1, sentinel2
from tests.plugins.stac import METRES, TAKEN, make_item

SQUARE = {"type": "Polygon", "coordinates": [[[13, 47], [14, 47], [14, 48], [13, 48], [13, 47]]]}
BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12")
EARTH_SEARCH = (
    "coastal", "blue", "green", "red", "rededge1", "rededge2", "rededge3", "nir", "nir08", "nir09", "swir16", "swir22",
)  # fmt: skip


def item_with(assets, collection="sentinel-2-l2a", **properties):
    item = make_item("an-item", SQUARE, TAKEN, collection, properties)
    for key, (href, fields) in assets.items():
        item.add_asset(key, pystac.Asset(href, extra_fields=fields))
    return item


def planetary_computer():
    assets = {band: (f"https://host/{band}.tif?sig=1", {"gsd": 10, "eo:bands": [{"name": band}]}) for band in BANDS}
    visual = {"eo:bands": [{"name": "B04"}, {"name": "B03"}, {"name": "B02"}]}
    return item_with({"visual": ("https://host/visual.tif", visual), **assets})


def earth_search():
    assets = {}
    for name in EARTH_SEARCH:
        common = "rededge" if name.startswith("rededge") else name
        fields = {
            "eo:bands": [{"name": name, "common_name": common}],
            "raster:bands": [{"scale": 1e-4, "offset": -0.1}],
        }
        assets[f"{name}-jp2"] = (f"s3://bucket/{name}.jp2", fields)
        assets[name] = (f"https://host/{name}.tif", fields)
    return item_with(assets)


def copernicus():
    """STAC 1.1; every band at 10, 20 and 60 m that it is delivered at."""
    assets = {}
    for band, metres in [(b, m) for b in BANDS for m in (60, 20, 10)]:
        if metres == 10 and band not in ("B02", "B03", "B04", "B08"):
            continue
        if (metres == 20 and band in ("B08", "B09")) or (metres == 60 and band == "B08"):
            continue
        about = {"bands": [{"name": band}], "gsd": metres, "nodata": 0, "raster:scale": 1e-4, "raster:offset": -0.1}
        assets[f"{band}_{metres}m"] = (f"s3://eodata/{band}_{metres}m.jp2", about)
    return item_with(assets, "sentinel-2-l2a", **{"processing:level": "L2"})


@pytest.mark.parametrize(
    ("item", "hrefs"),
    [
        (planetary_computer(), [f"https://host/{band}.tif?sig=1" for band in BANDS]),
        (earth_search(), [f"https://host/{name}.tif" for name in EARTH_SEARCH]),
        (
            copernicus(),
            [f"s3://eodata/{band}_{METRES[band]}m.jp2" for band in BANDS],
        ),
        (item_with({f"b{n}": (f"{n}.tif", {}) for n in (*range(1, 10), 11, 12, "8a")}), None),
    ],
    ids=["planetary-computer", "earth-search", "copernicus", "short-names"],
)
def test_sentinel2_bands_by_name(item, hrefs):
    found = find_bands(item, sentinel2())
    assert set(found) == set(BANDS)
    wanted = hrefs or [f"{band.lower().removeprefix('b').removeprefix('0')}.tif" for band in BANDS]
    assert [found[band].href for band in BANDS] == wanted


def test_sentinel1_bands_by_name():
    rtc = item_with({"vh": ("vh.tif", {"raster:bands": [{"nodata": "nan", "unit": "dB"}]}), "vv": ("vv.tiff", {})})
    found = find_bands(rtc, sentinel1())
    assert (found["VV"].href, found["VH"].href, found["VH"].unit) == ("vv.tiff", "vh.tif", "dB")
    assert found["VH"].nodata != found["VH"].nodata
    by_polarization = {f"asset{n}": (f"{p}.tif", {"sar:polarizations": [p]}) for n, p in enumerate(("VH", "VV"))}
    assert find_bands(item_with(by_polarization), sentinel1())["VV"].href == "VV.tif"
    stacked = find_bands(item_with({"data": ("both.tif", {"bands": [{"name": "VH"}, {"name": "VV"}]})}), sentinel1())
    assert (stacked["VV"].index, stacked["VH"].index) == (2, 1)


def test_missing_bands_are_named_with_what_is_there():
    item = item_with({"B02": ("B02.tif", {}), "preview": ("p.png", {}), "meta": ("m.xml", {})})
    with pytest.raises(PairError, match=r"item an-item: no .* asset of B03, .*B09; its assets are B02, preview, meta"):
        find_bands(item, sentinel2())
    with pytest.raises(PairError, match="asset vv: scale 'ten'; expected a number"):
        find_bands(item_with({"vv": ("vv.tif", {"raster:bands": [{"scale": "ten"}]})}), sentinel1())


def test_offset_of_reflectance():
    def offset(item):
        return {band.offset for band in with_reflectance(item, find_bands(item, sentinel2())).values()}

    told, untold = earth_search(), planetary_computer()
    assert offset(told) == {-0.1}
    told.properties["earthsearch:boa_offset_applied"] = True
    assert offset(told) == {0.0}
    told.properties["earthsearch:boa_offset_applied"] = False
    assert offset(told) == {-0.1}
    assert offset(copernicus()) == {-0.1}
    for baseline, expected in (("03.01", 0.0), ("04.00", -0.1), ("05.11", -0.1), ("N0500", -0.1)):
        untold.properties["s2:processing_baseline"] = baseline
        assert offset(untold) == {expected}
    del untold.properties["s2:processing_baseline"]
    assert offset(untold) == {0.0}
    untold.id = "S2A_MSIL2A_20220602T100031_N0400_R122_T33UUP_20220603T000000"
    assert offset(untold) == {-0.1}


@pytest.mark.parametrize(
    ("item", "sensor"),
    [
        (planetary_computer(), "s2"),
        (item_with({}, "anything", platform="Sentinel-2B"), "s2"),
        (item_with({}, "sentinel-2-l1c"), None),
        (item_with({}, "sentinel-2-c1-l2a"), "s2"),
        (item_with({}, "s2", constellation="sentinel-2", **{"s2:product_type": "S2MSI1C"}), None),
        (item_with({}, "sentinel-1-rtc"), "s1"),
        (item_with({}, "x", platform="SENTINEL-1A", **{"sar:polarizations": ["VV", "VH"]}), "s1"),
        (item_with({}, "x", platform="SENTINEL-1A", **{"sar:polarizations": ["HH", "HV"]}), None),
        (item_with({"vv": ("vv.tif", {}), "vh": ("vh.tif", {})}, "mine"), "s1"),
        (item_with({band: (f"{band}.tif", {}) for band in BANDS}, "mine"), "s2"),
        (item_with({"B02": ("B02.tif", {})}, "landsat-c2-l2", platform="landsat-8"), None),
    ],
)
def test_sensor_of_an_item(item, sensor):
    assert sensor_of(item) == sensor
