"""Uploads: what is right is decoded to the same pixels; the rest is refused, saying what was seen and what is right."""

from __future__ import annotations

import io
import random
import zipfile

import numpy as np
import pytest
import rasterio
from PIL import Image

from serve.upload import MAX_FILES, Upload, decode_uploads
from sscm.errors import BandMismatchError, QueryError
from sscm.sensors import Band, BandGroup, Modality, sentinel1, sentinel2
from tests.plugins.images import npy, npz, pixels_of, png, single_bands, tiff

S1, S2 = sentinel1(24), sentinel2(24)
GREY = Modality(
    name="grey",
    title="Grey radar",
    groups=(BandGroup(name="grey", bands=(Band(name="VV"),), height=16, width=20, dtype="uint8", unit="DN"),),
)
COLOUR = Modality(
    name="colour",
    title="Optical",
    groups=(
        BandGroup(
            name="colour",
            bands=(Band(name="B11"), Band(name="B08"), Band(name="B03")),
            height=16,
            width=20,
            dtype="uint8",
            unit="digital number",
        ),
    ),
)


def same(decoded, images, modality):
    assert list(decoded) == list(modality.group_names)
    for group in modality.groups:
        assert decoded[group.name].dtype == group.numpy_dtype
        np.testing.assert_array_equal(decoded[group.name], images[group.name])


def refused(files, modality, match, error=QueryError):
    with pytest.raises(error, match=match):
        decode_uploads(files, modality)


@pytest.mark.parametrize("modality", [S1, S2], ids=lambda m: m.name)
def test_one_file_a_band_in_any_order(modality):
    images = pixels_of(modality)
    files = single_bands(images, modality)
    random.Random(1).shuffle(files)
    same(decode_uploads(files, modality), images, modality)


def test_bands_of_one_geotiff_are_told_by_description_not_by_place():
    images = pixels_of(S1)
    file = Upload("x.tiff", tiff(images["s1"][::-1], names=("vh", "VV"), compress="deflate"))
    same(decode_uploads([file], S1), images, S1)


def test_one_geotiff_a_band_group():
    images = pixels_of(S2)
    files = [Upload(f"{g.name}.tif", tiff(images[g.name], g.band_names, g.metres)) for g in S2.groups]
    same(decode_uploads(files, S2), images, S2)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_of_band_groups(save):
    images = pixels_of(S2)
    same(decode_uploads([Upload("x.npz", npz(images, save))], S2), images, S2)


def test_npy_of_a_modality_of_one_group_in_either_byte_order():
    images = pixels_of(S1)
    same(decode_uploads([Upload("x.npy", npy(images["s1"]))], S1), images, S1)
    same(decode_uploads([Upload("x.npy", npy(images["s1"].astype(">f4")))], S1), images, S1)


def test_png_of_8_bit_modalities():
    for modality in (GREY, COLOUR):
        images = pixels_of(modality)
        same(decode_uploads([Upload("x.png", png(images[modality.name]))], modality), images, modality)


def test_a_band_without_a_name_is_only_taken_where_there_is_one_band():
    images = pixels_of(GREY)
    same(decode_uploads([Upload("anything.tif", tiff(images["grey"]))], GREY), images, GREY)
    refused([Upload("x.tif", tiff(pixels_of(S1)["s1"]))], S1, "without a name.*known bands.*VV.*VH", BandMismatchError)


def test_lossless_dtypes_are_taken_and_others_refused():
    images = pixels_of(S2)
    same(decode_uploads([Upload("x.npz", npz({k: v.astype(np.int16) for k, v in images.items()}))], S2), images, S2)
    reflectance = {k: (v / 1e4).astype(np.float32) for k, v in images.items()}
    refused([Upload("x.npz", npz(reflectance))], S2, "dtype float32 .* is not uint16; expected reflectance x 10000")
    negative = {k: -v.astype(np.int16) for k, v in images.items()}
    refused([Upload("x.npz", npz(negative))], S2, "dtype int16 with values -249")
    double = pixels_of(S1)["s1"].astype(np.float64)
    assert decode_uploads([Upload("x.npy", npy(double))], S1)["s1"].dtype == np.float32
    double[0, 0, 0] = 1e300
    refused([Upload("x.npy", npy(double))], S1, "1 of 1152 pixels are NaN or infinite")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_pixels_that_are_not_finite_are_refused(bad):
    pixels = pixels_of(S1)["s1"]
    pixels[1, 3, :2] = bad
    refused([Upload("x.npy", npy(pixels))], S1, "2 of 1152 pixels are NaN or infinite; fill them")


def test_an_image_without_data_is_refused():
    images = {name: np.zeros_like(pixels) for name, pixels in pixels_of(S2).items()}
    refused([Upload("x.npz", npz(images))], S2, "every pixel is 0, no data")


def test_wrong_bands_are_named_with_the_right_ones():
    files = single_bands(pixels_of(S2), S2)
    refused(files[:-1], S2, r"bands \['B09'\] missing.*given.*known bands.*B09", BandMismatchError)
    renamed = [*files[:-1], Upload("patch_B10.tif", files[-1].data)]
    refused(renamed, S2, r"patch_B10.tif.*given bands \['B10'\]", BandMismatchError)
    refused([*files, files[0]], S2, "band B02 was given before")
    images = pixels_of(S2)
    refused([Upload("x.npz", npz({**images, "s1": images["s2_10m"]}))], S2, "given bands.*'s1'", BandMismatchError)
    refused([Upload("x.npz", npz({"s2_10m": images["s2_10m"]}))], S2, "known bands.*s2_20m", BandMismatchError)
    twice = tiff(pixels_of(S1)["s1"], names=("VV", "VV"))
    refused([Upload("x.tif", twice)], S1, "band VV occurs twice")


def test_arrays_of_other_bands_are_refused_and_the_right_ones_named():
    refused(
        [Upload("x.npy", npy(np.ones((3, 24, 24), np.float32)))], S1, r"\[3, 24, 24\]; expected .*: bands VV, VH in"
    )
    refused([Upload("x.npy", npy(np.ones((24, 24), np.float32)))], S1, r"shape \[24, 24\]; expected \[2, 24, 24\]")


def test_sizes_out_of_bounds_are_refused_and_the_right_one_is_named():
    limits = "expected 24 × 24 at 10 m, or what can be resampled to that: 6 to 96 rows and 6 to 96 columns"
    large = np.ones((2, 97, 96), np.float32)
    refused([Upload("x.tif", tiff(large, names=("VV", "VH")))], S1, f"band VV: 97 × 96 pixels; {limits}")
    refused([Upload("x.npy", npy(large))], S1, f"x.npy: 97 × 96 pixels; {limits}")
    refused([Upload("x.npz", npz({"s1": large[:, :5, :5]}))], S1, f"x.npz, s1: 5 × 5 pixels; {limits}")
    refused([Upload("x.png", png(np.ones((1, 65, 20), np.uint8)))], GREY, "65 × 20 pixels; expected 16 × 20, or")
    refused(
        [Upload("x.npy", npy(np.ones((2, 60, 24), np.float32)))], S1, "60 × 24 pixels; .* of about these proportions"
    )


def test_pngs_of_other_kinds_are_refused():
    kinds = {"RGBA": "RGB and alpha of 8", "P": "palette of 1", "I;16": "grey of 16", "L": "grey of 8"}
    for mode, kind in kinds.items():
        buffer = io.BytesIO()
        Image.new(mode, (20, 16)).save(buffer, "PNG")
        expected = f"{kind} bits; expected 3 channels of 8 bits: B11, B08, B03"
        refused([Upload("x.png", buffer.getvalue())], COLOUR, expected)
    refused([Upload("x.png", buffer.getvalue())], S1, "a PNG has 8 bits a pixel; expected Sentinel-1")
    refused([Upload("x.png", buffer.getvalue())], S2, "one array, but s2 has band groups")


class Evil:
    def __reduce__(self):
        return (open, ("/tmp/evil", "w"))


def test_pickles_are_never_loaded():
    objects = np.array([Evil()] * 4, dtype=object)
    refused([Upload("x.npy", npy(objects, allow_pickle=True))], S1, "dtype .O; expected numbers")
    refused([Upload("x.npz", npz({"s1": objects}))], S1, "dtype .O; expected numbers")
    disguised = npy(objects, allow_pickle=True).replace(b"'|O'", b"'<f4'").replace(b"(4,)", b"(2, 24, 24)")
    refused([Upload("x.npy", disguised)], S1, "cut short|not a whole")


def test_what_is_no_image_is_refused():
    refused([Upload("notes.txt", b"hello world")], S1, r"notes.txt: starts with b'hello wo', which is no TIFF")
    refused([Upload("empty.tif", b"")], S1, "which is no TIFF")
    refused([], S1, "0 files; expected 1 to")
    refused([Upload("x", b"")] * (MAX_FILES + 1), S1, "65 files")
    mixed = [Upload("a_VV.tif", tiff(pixels_of(S1)["s1"][:1])), Upload("b.npy", npy(np.zeros(3)))]
    refused(mixed, S1, "b.npy: not a TIFF among 2 files")
    vrt = b"II*\0<VRTDataset rasterXSize='24'><SourceFilename>/etc/passwd</SourceFilename></VRTDataset>"
    refused([Upload("x_VV.tif", vrt)], S1, "not a whole GeoTIFF")


def test_a_small_file_cannot_ask_for_much_memory():
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("s1.npy", npy(np.zeros((2, 24, 24), np.float32)) + bytes(50_000_000))
    assert len(bomb.getvalue()) < 100_000
    refused([Upload("x.npz", bomb.getvalue())], S1, "s1 is of 50")
    header = npy(np.zeros((2, 24, 24), np.float32)).replace(b"(2, 24, 24)", b"(2, 99999, 99999)")
    refused([Upload("x.npy", header)], S1, "99999 × 99999 pixels; expected")
    huge = tiff(np.ones((1, 24, 24), np.float32), tiled=True, blockxsize=8192, blockysize=8192, sparse_ok=True)
    refused([Upload("x_VV.tif", huge)], S1, "blocks of")


def test_a_truncated_geotiff_is_refused():
    data = tiff(pixels_of(S1)["s1"], names=("VV", "VH"))
    refused([Upload("x.tif", data[: len(data) // 2])], S1, "x.tif: not a whole GeoTIFF")


def test_real_patches_of_both_versions_decode(shared_data):
    for root in ("bigearthnet-v1", "bigearthnet-v2"):
        for modality, some in ((sentinel1(), "*_VV.tif"), (sentinel2(), "*_B02.tif")):
            found = sorted((shared_data / root).rglob(some))
            assert found, f"no {some} in {root}"
            folder = found[0].parent
            paths = [p for name in modality.band_names for p in folder.glob(f"*_{name}.tif")]
            decoded = decode_uploads([Upload(p.name, p.read_bytes()) for p in paths], modality)
            for group in modality.groups:
                with rasterio.open(next(folder.glob(f"*_{group.band_names[-1]}.tif"))) as image:
                    np.testing.assert_array_equal(decoded[group.name][-1], image.read(1))
