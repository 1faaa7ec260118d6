"""The table of image files: three real data sets against direct reading, tiles, and everything that can be wrong."""

from __future__ import annotations

import csv
import pickle
import re
import warnings
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import rasterio
import shapely
from PIL import Image as PilImage
from rasterio.errors import NotGeoreferencedWarning
from rasterio.transform import Affine
from rasterio.warp import transform_bounds

from sscm.archive.sources.pairs import PairsSource
from sscm.archive.validate import validate_pair
from sscm.config import PairsConfig
from sscm.errors import ArchiveError, ConfigError, PairError

RADAR_AND_COLOUR = """
[radar.groups.radar]
bands = ["VV"]
dtype = "uint8"
unit = "digital number"

[colour.groups.colour]
bands = ["B11", "B08", "B03"]
dtype = "uint8"
unit = "digital number"
nodata = 0
"""


def write_table(folder, rows, name="t.csv"):
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with (folder / name).open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    return folder / name


def source_of(folder, table, toml=RADAR_AND_COLOUR, **options):
    (folder / "m.toml").write_text(toml)
    return PairsSource(PairsConfig(table=str(table), modalities=str(folder / "m.toml"), **options))


def read_all(source):
    pairs, errors = {}, {}
    refs = source.plan()
    source = pickle.loads(pickle.dumps(source))
    for ref in refs:
        try:
            for pair in source.read(ref):
                validate_pair(pair, source.modalities, pair.pair_id)
                assert pair.split == ref.split
                pairs[pair.pair_id] = pair
        except PairError as error:
            assert error.pair_id
            errors[ref.key] = error
    return pairs, errors


def write_tiff(path, pixels, *, names=(), crs="EPSG:32633", left=400_000, metres=10, **options):
    bands, height, width = pixels.shape
    transform = Affine(metres, 0, left, 0, -metres, 5_300_000)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(
            path,
            "w",
            driver="GTiff",
            count=bands,
            height=height,
            width=width,
            dtype=pixels.dtype.name,
            crs=crs,
            transform=transform if crs else Affine.identity(),
            **options,
        ) as file:
            file.write(pixels)
            for number, text in enumerate(names, 1):
                file.set_band_description(number, text)


def noise(*shape, seed=0, dtype="uint8"):
    return np.random.default_rng(seed).integers(1, 255, shape).astype(dtype)


@pytest.fixture
def folder(tmp_path):
    """Two good pairs of 32² pixels without georeference, as PNG and .npy."""
    for number in range(2):
        PilImage.fromarray(noise(32, 32, seed=number)).save(tmp_path / f"radar{number}.png")
        np.save(tmp_path / f"colour{number}.npy", noise(3, 32, 32, seed=10 + number))
    return tmp_path


def good_rows():
    return [
        {"pair_id": f"p{n}", "radar": f"radar{n}.png", "colour": f"colour{n}.npy", "split": "train"} for n in range(2)
    ]


def test_ombria_in_tiles(shared_data, tmp_path):
    root = shared_data / "ombria"
    rows = list(csv.DictReader((root / "index.csv").read_text().splitlines()))[:6]
    table = [
        {
            "pair_id": row["pair_id"],
            "radar": row["s1"],
            "colour": row["s2"],
            "labels": row["weak_labels"].replace(" ", ";"),
            "s2_nodata_fraction": row["s2_nodata_fraction"],
            "split": "test",
        }
        for row in rows
    ]
    source = source_of(tmp_path, write_table(tmp_path, table), root=str(root), tile=128)
    pairs, errors = read_all(source)
    assert source.pairs_per_ref == 4 and not errors
    assert [m.groups[0].shape for m in source.modalities] == [(1, 128, 128), (3, 128, 128)]
    assert len(pairs) == 24
    for row in rows:
        radar = np.asarray(PilImage.open(root / row["s1"]))
        colour = np.moveaxis(np.asarray(PilImage.open(root / row["s2"])), -1, 0)
        for r in range(2):
            for c in range(2):
                pair = pairs[f"{row['pair_id']}_r{r}c{c}"]
                window = np.s_[r * 128 : r * 128 + 128, c * 128 : c * 128 + 128]
                np.testing.assert_array_equal(pair.images["radar"][0], radar[window])
                np.testing.assert_array_equal(pair.images["colour"], colour[(slice(None), *window)])
                assert pair.labels == row["weak_labels"].split()
                assert pair.properties == {"s2_nodata_fraction": row["s2_nodata_fraction"]}
                assert pair.geometry is None and pair.datetimes == {}


TERRAMIND = """
[s1]
title = "Sentinel-1 RTC"
[s1.groups.s1]
bands = ["VV", "VH"]
common_names = ["vv", "vh"]
dtype = "float32"
unit = "dB"
pixels = 224

[s2]
title = "Sentinel-2 L2A"
[s2.groups.s2_rgbn]
bands = ["B02", "B03", "B04", "B08"]
file_bands = ["B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12"]
dtype = "uint16"
unit = "reflectance x 10000"
nodata = 0
[s2.groups.s2_swir]
bands = ["B12", "B11"]
file_bands = ["B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12"]
dtype = "uint16"
unit = "reflectance x 10000"
nodata = 0
"""


def test_terramind_multiband_files(shared_data, tmp_path):
    root = shared_data / "terramind"
    names = sorted(path.name for path in (root / "S1RTC").glob("*.tif"))
    table = [
        {"pair_id": n, "s1": f"S1RTC/{n}", "s2_rgbn": f"S2L2A/{n}", "s2_swir": f"S2L2A/{n}", "split": "val"}
        for n in names
    ]
    pairs, errors = read_all(source_of(tmp_path, write_table(tmp_path, table), TERRAMIND, root=str(root)))
    assert sorted(pairs) == names and len(names) == 5 and not errors
    for name, pair in pairs.items():
        assert pair.split == "validation"
        with rasterio.open(root / "S1RTC" / name) as file:
            assert file.dtypes[0] == "float64"
            assert pair.images["s1"].dtype == np.float32
            np.testing.assert_array_equal(pair.images["s1"], file.read().astype("float32"))
            stamp = file.tags()["datetime"]
            bounds = transform_bounds(file.crs, "EPSG:4326", *file.bounds)
        np.testing.assert_allclose(shapely.from_wkb(pair.geometry).bounds, bounds, atol=1e-6)
        assert pair.datetimes == {"s1": datetime.strptime(stamp[:19], "%Y-%m-%dT%H:%M:%S").replace(tzinfo=UTC)}
        with rasterio.open(root / "S2L2A" / name) as file:
            np.testing.assert_array_equal(pair.images["s2_rgbn"], file.read([2, 3, 4, 8]))
            np.testing.assert_array_equal(pair.images["s2_swir"], file.read([12, 11]))
            assert pair.images["s2_rgbn"].dtype == np.uint16


SSL4EO = """
[s1.groups.s1]
bands = ["VV", "VH"]
dtype = "float32"
unit = "dB"
[s2.groups.s2_10m]
bands = ["B02", "B03", "B04", "B08"]
dtype = "uint16"
unit = "reflectance x 10000"
nodata = 0
[s2.groups.s2_20m]
bands = ["B05", "B06", "B07", "B8A", "B11", "B12"]
dtype = "uint16"
unit = "reflectance x 10000"
nodata = 0
[s2.groups.s2_60m]
bands = ["B01", "B09"]
dtype = "uint16"
unit = "reflectance x 10000"
nodata = 0
"""


def ssl4eo_rows(root):
    for s1, s2 in zip(
        sorted((root / "s1" / "0000200").iterdir()), sorted((root / "s2a" / "0000200").iterdir()), strict=True
    ):
        groups = {
            "s1": [s1 / "VV.tif", s1 / "VH.tif"],
            "s2_10m": [s2 / f"B{b}.tif" for b in (2, 3, 4, 8)],
            "s2_20m": [s2 / f"B{b}.tif" for b in (5, 6, 7, "8A", 11, 12)],
            "s2_60m": [s2 / f"B{b}.tif" for b in (1, 9)],
        }
        times = {"s1_datetime": s1.name.split("_")[4], "s2_datetime": s2.name.split("_")[0]}
        yield s2.name, groups, times


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_ssl4eo_one_file_a_band(shared_data, tmp_path, kind):
    rows = list(ssl4eo_rows(shared_data / "ssl4eo-s12"))
    if kind == "csv":
        cells = [
            {"pair_id": n, **{g: " ; ".join(map(str, f)) for g, f in groups.items()}, **times}
            for n, groups, times in rows
        ]
        table = write_table(tmp_path, cells)
    else:
        cells = [
            {"pair_id": n, **{g: list(map(str, f)) for g, f in groups.items()}, **times} for n, groups, times in rows
        ]
        table = tmp_path / "t.parquet"
        pq.write_table(pa.Table.from_pylist(cells), table)
    source = source_of(tmp_path, table, SSL4EO)
    pairs, errors = read_all(source)
    assert len(pairs) == 2 and not errors
    assert [g.shape for m in source.modalities for g in m.groups] == [
        (2, 264, 264),
        (4, 264, 264),
        (6, 132, 132),
        (2, 44, 44),
    ]
    for name, groups, times in rows:
        pair = pairs[name]
        for group, paths in groups.items():
            for plane, path in zip(pair.images[group], paths, strict=True):
                with rasterio.open(path) as file:
                    np.testing.assert_array_equal(plane, file.read(1))
        with rasterio.open(groups["s1"][0]) as file:
            np.testing.assert_allclose(shapely.from_wkb(pair.geometry).bounds, file.bounds, atol=1e-9)
        for modality in ("s1", "s2"):
            expected = datetime.strptime(times[f"{modality}_datetime"], "%Y%m%dT%H%M%S").replace(tzinfo=UTC)
            assert pair.datetimes[modality] == expected


def test_ssl4eo_tiles_are_whole_pixels_of_every_group(shared_data, tmp_path):
    rows = list(ssl4eo_rows(shared_data / "ssl4eo-s12"))[:1]
    table = write_table(
        tmp_path, [{"pair_id": "p", **{g: ";".join(map(str, f)) for g, f in groups.items()}} for _, groups, _ in rows]
    )
    source = source_of(tmp_path, table, SSL4EO, tile=66)
    pairs, errors = read_all(source)
    assert len(pairs) == source.pairs_per_ref == 16 and not errors
    assert [g.shape[1:] for m in source.modalities for g in m.groups] == [(66, 66), (66, 66), (33, 33), (11, 11)]
    groups = rows[0][1]
    for name, pair in pairs.items():
        r, c = int(name[3]), int(name[5])
        for group, side in (("s1", 66), ("s2_20m", 33), ("s2_60m", 11)):
            with rasterio.open(groups[group][1]) as file:
                window = rasterio.windows.Window(c * side, r * side, side, side)
                np.testing.assert_array_equal(pair.images[group][1], file.read(1, window=window))
        with rasterio.open(groups["s1"][0]) as file, warnings.catch_warnings():
            warnings.simplefilter("ignore", PendingDeprecationWarning)  # rasterio 1.4 uses what affine 3.1 deprecates
            bounds = file.window_bounds(rasterio.windows.Window(c * 66, r * 66, 66, 66))
        np.testing.assert_allclose(shapely.from_wkb(pair.geometry).bounds, bounds, atol=1e-9)
    with pytest.raises(ConfigError, match=r"tile = 64: band group s2_60m .* 10\.6667 × 10\.6667 of its pixels"):
        source_of(tmp_path, table, SSL4EO, tile=64).plan()
    with pytest.raises(ConfigError, match="tile = 300: images have 264 × 264 pixels"):
        source_of(tmp_path, table, SSL4EO, tile=300).plan()


def test_tiles_of_a_projected_image_have_their_own_footprints_and_edges_are_dropped(tmp_path):
    write_tiff(tmp_path / "r.tif", noise(1, 70, 100))
    write_tiff(tmp_path / "c.tif", noise(3, 70, 100, seed=1))
    table = write_table(tmp_path, [{"pair_id": "p", "radar": "r.tif", "colour": "c.tif"}])
    pairs, errors = read_all(source_of(tmp_path, table, tile=32))
    assert not errors
    assert sorted(pairs) == [f"p_r{r}c{c}" for r in range(2) for c in range(3)]
    for name, pair in pairs.items():
        r, c = int(name[3]), int(name[5])
        left, top = 400_000 + 320 * c, 5_300_000 - 320 * r
        bounds = transform_bounds("EPSG:32633", "EPSG:4326", left, top - 320, left + 320, top)
        np.testing.assert_allclose(shapely.from_wkb(pair.geometry).bounds, bounds, atol=1e-6)


def test_tiles_without_data_are_left_out(tmp_path):
    colour = noise(3, 64, 64, seed=1)
    colour[:, :32, :32] = 0
    np.save(tmp_path / "c0.npy", colour)
    np.save(tmp_path / "c1.npy", np.zeros_like(colour))
    np.save(tmp_path / "r.npy", noise(64, 64))
    rows = [{"pair_id": f"p{n}", "radar": "r.npy", "colour": f"c{n}.npy"} for n in range(2)]
    pairs, errors = read_all(source_of(tmp_path, write_table(tmp_path, rows), tile=32))
    assert sorted(pairs) == ["p0_r0c1", "p0_r1c0", "p0_r1c1"]
    assert "no data in any of 2 × 2 tiles" in errors["p1"].seen and "row 3" in errors["p1"].where


def test_images_of_several_sizes_in_tiles_and_groups_of_other_extent(tmp_path):
    for name, side in (("a", 32), ("b", 64), ("c", 96), ("d", 16)):
        np.save(tmp_path / f"r{name}.npy", noise(side, side))
        np.save(tmp_path / f"c{name}.npy", noise(3, side, side))
    rows = [{"pair_id": n, "radar": f"r{n}.npy", "colour": f"c{n}.npy"} for n in "abd"]
    rows.append({"pair_id": "x", "radar": "rb.npy", "colour": "cc.npy"})
    pairs, errors = read_all(source_of(tmp_path, write_table(tmp_path, rows), tile=32))
    assert len(pairs) == 1 + 4
    assert "radar: 64 × 64 pixels; colour: 96 × 96 pixels" in errors["x"].seen
    assert "radar: 16 × 16 pixels" in errors["d"].seen and "a tile is radar: 32 × 32" in errors["d"].expected


def test_a_pair_may_lack_a_modality_but_not_a_part_of_it(folder):
    rows = good_rows()
    rows[0]["colour"] = ""
    pairs, errors = read_all(source_of(folder, write_table(folder, rows)))
    assert not errors
    assert sorted(pairs["p0"].images) == ["radar"] and sorted(pairs["p1"].images) == ["colour", "radar"]
    rows[0]["radar"] = " "
    pairs, errors = read_all(source_of(folder, write_table(folder, rows)))
    assert "no image of any modality" in errors["p0"].seen and "t.csv, row 2" in errors["p0"].where


def test_times_labels_properties_geometry_and_splits(folder):
    rows = [
        {**row, "split": split, "labels": labels, "radar_datetime": "2020-01-02 03:04:05+01:00", "cloud": "7"}
        for row, split, labels in zip(good_rows(), ("VAL", ""), ("a | b;c", ""), strict=True)
    ]
    rows[0]["geometry"] = "POLYGON ((1 2, 3 2, 3 4, 1 2))"
    pairs, errors = read_all(source_of(folder, write_table(folder, rows)))
    assert not errors
    assert pairs["p0"].split == "validation" and pairs["p1"].split in ("train", "validation", "test")
    assert pairs["p0"].labels == ["a", "b", "c"] and pairs["p1"].labels is None
    assert pairs["p0"].datetimes == {"radar": datetime(2020, 1, 2, 2, 4, 5, tzinfo=UTC)}
    assert pairs["p0"].properties == {"cloud": "7"}
    assert shapely.from_wkb(pairs["p0"].geometry).bounds == (1, 2, 3, 4) and pairs["p1"].geometry is None
    rows[0] |= {"geometry": "POLYGON (("}
    rows[1] |= {"radar_datetime": "yesterday"}
    _, errors = read_all(source_of(folder, write_table(folder, rows)))
    assert "geometry" in errors["p0"].seen and "WKT" in errors["p0"].expected
    assert "time 'yesterday'" in errors["p1"].seen and "column radar_datetime" in errors["p1"].where


def test_settings_that_change_pixels_are_part_of_the_description(folder):
    table = write_table(folder, good_rows())
    first = source_of(folder, table).describe()
    turned = RADAR_AND_COLOUR.replace("nodata", 'file_bands = ["B03", "B08", "B11"]\nnodata')
    assert source_of(folder, table, turned).describe() != first
    pairs, _ = read_all(source_of(folder, table, turned))
    np.testing.assert_array_equal(pairs["p0"].images["colour"], np.load(folder / "colour0.npy")[::-1])


def spoil_missing_file(folder, rows):
    rows[0]["radar"] = "gone.png"
    return "gone.png", "no such file", "an image file"


def spoil_truncated_tiff(folder, rows):
    write_tiff(folder / "c.tif", noise(3, 32, 32))
    data = (folder / "c.tif").read_bytes()
    (folder / "c.tif").write_bytes(data[: len(data) // 2])
    rows[0]["colour"] = "c.tif"
    return "c.tif", "cannot be read", "undamaged"


def spoil_truncated_png(folder, rows):
    data = (folder / "radar0.png").read_bytes()
    (folder / "radar0.png").write_bytes(data[: len(data) // 2])
    return "radar0.png", "cannot be read", "undamaged"


def spoil_truncated_npy(folder, rows):
    data = (folder / "colour0.npy").read_bytes()
    (folder / "colour0.npy").write_bytes(data[: len(data) // 2])
    return "colour0.npy", "cannot be read", "undamaged"


def spoil_pickle(folder, rows):
    np.save(folder / "colour0.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    return "colour0.npy", "cannot be read", "undamaged"


def spoil_missing_band(folder, rows):
    np.save(folder / "colour0.npy", noise(2, 32, 32))
    return "colour0.npy", "2 bands", "3 bands: B11, B08, B03"


def spoil_size(folder, rows):
    np.save(folder / "colour0.npy", noise(3, 32, 31))
    return "colour0.npy", "32 × 31 pixels", "32 × 32 pixels for band group colour"


def spoil_dtype(folder, rows):
    np.save(folder / "colour0.npy", np.full((3, 32, 32), 300, "uint16"))
    return "colour0.npy", "uint16 pixels, 1024 of them without an equal in uint8 (first: 300)", "uint8"


def spoil_format(folder, rows):
    (folder / "radar0.jpg").write_bytes(b"")
    rows[0]["radar"] = "radar0.jpg"
    return "radar0.jpg", "ends in '.jpg'", "GeoTIFF (.tif, .tiff), PNG (.png) or NumPy (.npy)"


def spoil_band_names(folder, rows):
    write_tiff(folder / "c.tif", noise(3, 32, 32), names=("B03", "B08", "B11"))
    rows[0]["colour"] = "c.tif"
    return "c.tif", "['B03', 'B08', 'B11']", "['B11', 'B08', 'B03']"


def spoil_no_data(folder, rows):
    np.save(folder / "colour0.npy", np.zeros((3, 32, 32), "uint8"))
    return "p0, band group colour", "every pixel is no-data (0)", "some pixels with data"


def spoil_colours(folder, rows):
    PilImage.fromarray(noise(32, 32, 3)).save(folder / "radar0.png")
    return "radar0.png", "3 bands that differ", "1 band, or equal ones"


def spoil_transparent(folder, rows):
    PilImage.fromarray(noise(32, 32, 4)).save(folder / "c.png")
    rows[0]["colour"] = "c.png"
    return "c.png", "transparent pixels", "opaque"


def spoil_marked_nodata(folder, rows):
    write_tiff(folder / "c.tif", np.clip(noise(3, 32, 32), 0, 200), nodata=200)
    rows[0]["colour"] = "c.tif"
    return "c.tif", "pixels with 200, which the file marks as no data", "no data marked by 0, as declared"


@pytest.mark.parametrize(
    "spoil",
    [value for name, value in list(globals().items()) if name.startswith("spoil_")],
)
def test_bad_images(folder, spoil):
    rows = good_rows()
    where, seen, expected = spoil(folder, rows)
    sized = re.sub(r"(bands = .*)", r"\1\npixels = 32", RADAR_AND_COLOUR)
    pairs, errors = read_all(source_of(folder, write_table(folder, rows), sized))
    assert list(pairs) == ["p1"] and list(errors) == ["p0"]
    assert where in errors["p0"].where
    assert seen in errors["p0"].seen and expected in errors["p0"].expected


def test_grey_as_colour_and_opaque_alpha_and_useless_band_names_are_taken(folder):
    grey = noise(32, 32, seed=5)
    PilImage.fromarray(np.dstack([grey] * 3)).save(folder / "radar0.png")
    opaque = np.dstack([noise(32, 32, 3, seed=6), np.full((32, 32), 255, "uint8")])
    PilImage.fromarray(opaque).save(folder / "c0.png")
    PilImage.fromarray(np.dstack([grey, np.full_like(grey, 255)])).save(folder / "radar1.png")
    write_tiff(folder / "c1.tif", noise(3, 32, 32), names=("bands", "bands", "bands"))
    rows = good_rows()
    rows[0]["colour"], rows[1]["colour"] = "c0.png", "c1.tif"
    pairs, errors = read_all(source_of(folder, write_table(folder, rows)))
    assert not errors
    for pair in pairs.values():
        np.testing.assert_array_equal(pair.images["radar"][0], grey)
    np.testing.assert_array_equal(pairs["p0"].images["colour"], np.moveaxis(opaque[..., :3], -1, 0))


def test_nan_is_refused(tmp_path):
    pixels = np.random.default_rng(0).normal(-12, 3, (2, 16, 16))
    np.save(tmp_path / "good.npy", pixels)
    pixels[1, 3, 3] = np.nan
    np.save(tmp_path / "bad.npy", pixels)
    toml = '[s1.groups.s1]\nbands = ["VV", "VH"]\ndtype = "float32"\nunit = "dB"\n'
    rows = [{"pair_id": n, "s1": f"{n}.npy"} for n in ("good", "bad")]
    pairs, errors = read_all(source_of(tmp_path, write_table(tmp_path, rows), toml))
    assert list(pairs) == ["good"]
    assert "1 of 512 values NaN or infinite, first in VH" in errors["bad"].seen


def test_two_rows_of_one_id_and_ragged_rows(folder):
    rows = good_rows()
    table = write_table(folder, [*rows, rows[0], {**rows[1], "pair_id": ""}])
    with table.open("a") as file:
        file.write("p9,radar0.png\np10,radar0.png,colour0.npy,train,more\n")
    pairs, errors = read_all(source_of(folder, table))
    assert sorted(pairs) == ["p0", "p1"] and len(errors) == 4
    seen = {error.where.rsplit(", ", 1)[1]: str(error) for error in errors.values()}
    assert "pair_id p0 as in row 2" in seen["row 4"] and "each pair_id once" in seen["row 4"]
    assert "an empty pair_id" in seen["row 5"]
    assert "2 cells; expected 4" in seen["row 6"] and "5 cells; expected 4" in seen["row 7"]


def test_unusable_tables(folder):
    with pytest.raises(ArchiveError, match="no such file; expected a CSV or Parquet table"):
        source_of(folder, folder / "none.csv").plan()
    (folder / "t.csv").write_text("")
    with pytest.raises(ArchiveError, match="no rows"):
        source_of(folder, folder / "t.csv").plan()
    (folder / "t.parquet").write_bytes(b"PAR1")
    with pytest.raises(ArchiveError, match="cannot be read as a table"):
        source_of(folder, folder / "t.parquet").plan()
    (folder / "t.xlsx").write_bytes(b"PK")
    with pytest.raises(ArchiveError, match=r"ends in \.csv or \.parquet"):
        source_of(folder, folder / "t.xlsx").plan()
    rows = good_rows()
    for row in rows:
        del row["colour"]
    with pytest.raises(ArchiveError, match=r"columns \['pair_id', 'radar', 'split'\]; expected also \['colour'\]"):
        source_of(folder, write_table(folder, rows)).plan()
    with pytest.raises(ArchiveError, match="row 2: split 'dev'; expected one of train, validation, test"):
        source_of(folder, write_table(folder, [{**good_rows()[0], "split": "dev"}])).plan()
    with pytest.raises(ArchiveError, match=r"no image of band groups \['colour'\] opens .*gone\.npy: no such file"):
        source_of(folder, write_table(folder, [{**good_rows()[0], "colour": "gone.npy"}])).plan()


def test_a_large_image_is_read_a_row_of_tiles_at_a_time(tmp_path, monkeypatch):
    from sscm.archive.sources.band_files import BandFiles

    write_tiff(tmp_path / "r.tif", noise(1, 64, 64))
    write_tiff(tmp_path / "c.tif", noise(3, 64, 64))
    table = write_table(tmp_path, [{"pair_id": "p", "radar": "r.tif", "colour": "c.tif"}])
    asked = []
    real = BandFiles.read
    monkeypatch.setattr(BandFiles, "read", lambda self, a, b: asked.append((a, b)) or real(self, a, b))
    source = source_of(tmp_path, table, tile=16)
    (ref,) = source.plan()
    tiles = source.read(ref)
    next(tiles)
    assert asked == [(0, 16), (0, 16)]
    assert len(list(tiles)) == 15 and len(asked) == 8
