"""GeoTIFFs of one or many bands: told by description, tag or name, decoded without a look at any other file."""

from __future__ import annotations

import numpy as np
import pytest
import rasterio
from rasterio import Affine

from serve.decode_tiff import MAX_DECODED
from serve.upload import Upload, decode_uploads
from sscm.errors import BandMismatchError, QueryError
from sscm.sensors import sentinel1, sentinel2
from tests.plugins.images import pixels_of, single_bands, tiff

S1, S2 = sentinel1(24), sentinel2(24)


def on_one_grid(images):
    """All bands of an image at the finest resolution, as they are stacked for one file: [12, 24, 24]."""
    return np.concatenate(
        [p.repeat(24 // p.shape[1], axis=1).repeat(24 // p.shape[2], axis=2) for p in images.values()]
    )


def refused(files, modality, match, error=QueryError):
    with pytest.raises(error, match=match):
        decode_uploads(files, modality)


@pytest.mark.parametrize(
    "names",
    [
        S2.band_names,
        [name.replace("B0", "B") for name in S2.band_names],
        [f"{name}, central wavelength 1 nm" for name in S2.band_names],
        [band.common_name for group in S2.groups for band in group.bands],
    ],
    ids=["own", "short", "gdal", "common"],
)
@pytest.mark.parametrize("storage", [{}, {"tiled": True, "compress": "deflate"}, {"interleave": "band"}], ids=str)
def test_all_bands_in_one_file_are_as_if_they_came_on_their_own_grids(names, storage):
    images = pixels_of(S2)
    order = np.random.default_rng(2).permutation(12)
    file = tiff(on_one_grid(images)[order], [names[i] for i in order], **storage)
    decoded = decode_uploads([Upload("x.tif", file)], S2)
    for group in S2.groups:
        np.testing.assert_array_equal(decoded[group.name], images[group.name])


@pytest.mark.parametrize("key", ["name", "BAND", "BandName", "band_name", "common_name", "Description"])
def test_bands_are_told_by_tags(key):
    images = pixels_of(S1)["s1"]
    files = [Upload(f"{i}.tif", tiff(images[i : i + 1], tags={key: name})) for i, name in enumerate(("VV", "vh"))]
    np.testing.assert_array_equal(decode_uploads(files[::-1], S1)["s1"], images)


def test_a_file_name_and_a_description_must_agree():
    images = pixels_of(S1)["s1"]
    refused([Upload("x_VH.tif", tiff(images[:1], ("VV",)))], S1, "x_VH.tif: band VH by its file name, VV by its desc")
    files = [Upload("x_VV.tif", tiff(images[:1], ("VV",))), Upload("x_VH.tif", tiff(images[1:], ("band 1",)))]
    np.testing.assert_array_equal(decode_uploads(files, S1)["s1"], images)


def test_names_of_files_never_reach_gdal(tmp_path, monkeypatch):
    images = pixels_of(S1)["s1"]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "VV.tif").write_bytes(tiff(images[1:]))
    (tmp_path / "VV.tif.aux.xml").write_text("<PAMDataset><SRS>EPSG:4326</SRS></PAMDataset>")
    for name in (
        "VV.tif",
        "/vsicurl/http://127.0.0.1:9/VV.tif",
        "GTIFF_DIR:1:VV.tif",
        "../../etc/VV.tif",
        "<VRTDataset> VV",
    ):
        files = [Upload(name, tiff(images[:1])), Upload("VH.tif", tiff(images[1:]))]
        np.testing.assert_array_equal(decode_uploads(files, S1)["s1"], images)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["VV.tif", "VV.tif.aux.xml"]


def test_other_formats_in_a_tiffs_name_are_refused():
    vrt = b"<VRTDataset rasterXSize='24' rasterYSize='24'><SourceFilename>/etc/passwd</SourceFilename></VRTDataset>"
    refused([Upload("VV.tif", vrt)], S1, "which is no TIFF")
    refused([Upload("VV.tif", b"II*\0" + vrt)], S1, "VV.tif: not a whole GeoTIFF")


def test_more_bands_than_there_are_is_refused_before_gdal_makes_them():
    refused(
        [Upload("x.tif", tiff(np.ones((300, 24, 24), np.uint8)))], S1, "given bands .'300 bands'", BandMismatchError
    )
    extra = tiff(np.ones((2, 24, 24), np.float32), ("VV", "angle"))
    refused([Upload("x.tif", extra)], S1, r"given bands \['VV', 'angle'\]; known", BandMismatchError)


def test_many_files_that_are_much_together_are_refused():
    storage = {"tiled": True, "blockxsize": 2048, "blockysize": 2048, "SPARSE_OK": True, "compress": "deflate"}
    place = Affine(10, 0, 4e5, 0, -10, 5e6)
    with rasterio.MemoryFile() as memory:
        with memory.open(driver="GTiff", count=1, height=24, width=24, dtype="float64", transform=place, **storage):
            pass
        sparse = bytes(memory.getbuffer())
    assert len(sparse) < 1000
    files = [Upload(f"{i}_VV.tif", sparse) for i in range(5)]
    refused(files, S1, f"5 files: 167772160 bytes of decoded pixels; expected at most {MAX_DECODED}: cut the image")


def test_a_reprojected_patch_is_resampled_and_its_empty_corners_stay_empty():
    images = {name: np.full(pixels.shape, 4000, np.uint16) for name, pixels in pixels_of(S2).items()}
    one = np.full((12, 31, 28), 4000, np.int16)
    one[:, :8, :6] = -1
    file = tiff(one, S2.band_names, nodata=-1, crs="EPSG:3035", transform=Affine(8, 0.1, 4e6, 0.1, -8, 3e6))
    decoded = decode_uploads([Upload("x.tif", file)], S2)
    for group in S2.groups:
        pixels = decoded[group.name]
        assert set(np.unique(pixels)) == {0, 4000} and (pixels[:, 0, 0] == 0).all()
        assert (pixels[:, group.height // 2 :] == images[group.name][:, group.height // 2 :]).all()


def test_bands_of_several_places_are_refused():
    files = single_bands(pixels_of(S1), S1)
    moved = tiff(pixels_of(S1)["s1"][1:], transform=Affine(10, 0, 4e5 + 240, 0, -10, 5e6))
    refused([files[0], Upload("b_VH.tif", moved)], S1, "footprints differ by 240 units")
    other = tiff(pixels_of(S1)["s1"][1:], crs="EPSG:32633")
    refused([files[0], Upload("b_VH.tif", other)], S1, "coordinate reference systems differ")


def test_real_images_of_another_archive_are_resampled(shared_data):
    for band, modality, least, most in (("B2", sentinel2(), 400, 6000), ("VV", sentinel1(), -35, 5)):
        folder = sorted((shared_data / "ssl4eo-s12").rglob(f"{band}.tif"))[0].parent
        files = [Upload(path.name, path.read_bytes()) for path in sorted(folder.glob("*.tif"))]
        decoded = decode_uploads(files, modality)  # 264 × 264 pixels at 10 m, footprints a part of a coarse pixel apart
        for group in modality.groups:
            with rasterio.open(folder / f"{group.band_names[0].replace('B0', 'B')}.tif") as image:
                original = image.read(1)
            pixels = decoded[group.name]
            assert pixels.shape == group.shape and least < pixels.min() and pixels.max() < most
            assert abs(float(pixels[0].mean()) - float(original.mean())) < 0.01 * abs(float(original.mean()))
