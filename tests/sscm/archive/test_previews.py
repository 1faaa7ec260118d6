"""Previews: small pictures for people, the same whatever way their stretch is found."""

import io

import numpy as np
import pytest
from PIL import Image as PilImage

from sscm.archive import previews
from sscm.archive.previews import PIXELS, preview_jpeg, render
from sscm.sensors import sentinel1, sentinel2


def optical(top, side=24):
    rng = np.random.default_rng(top)
    return {g.name: rng.integers(0, top, g.shape).astype("uint16") for g in sentinel2(side).groups}


@pytest.mark.parametrize("top", [2, 60, 3_000, 65_536])
@pytest.mark.parametrize("count", [1, 2, 101, 4_321])
def test_percentiles_are_those_of_numpy_to_the_last_bit(top, count):
    pixels = np.random.default_rng(count).integers(0, top, count).astype("float32")
    assert previews._percentiles(pixels) == tuple(np.percentile(pixels, previews._STRETCH).tolist())


@pytest.mark.parametrize("top", [2, 3_000, 65_536])
def test_an_optical_picture_is_that_of_plain_percentiles(top, monkeypatch):
    images, modality = optical(top), sentinel2(24)
    picture = render(images, modality)
    monkeypatch.setattr(previews, "_percentiles", lambda pixels: np.percentile(pixels, (1, 98)))
    assert np.array_equal(picture, render(images, modality))
    red, green, blue = (images["s2_10m"][row] for row in (2, 1, 0))
    nothing = (red == 0) | (green == 0) | (blue == 0)
    assert not picture[nothing].any()


def test_pictures_of_both_sensors_are_small_jpegs():
    rng = np.random.default_rng(0)
    radar = {"s1": rng.normal(-12, 4, sentinel1(264).groups[0].shape).astype("float32")}
    for images, modality in ((radar, sentinel1(264)), (optical(3_000, 264), sentinel2(264))):
        picture = PilImage.open(io.BytesIO(preview_jpeg(images, modality)))
        assert picture.size == (PIXELS, PIXELS) and picture.format == "JPEG"


def test_an_image_without_data_is_black():
    images = {g.name: np.zeros(g.shape, "uint16") for g in sentinel2(24).groups}
    assert not render(images, sentinel2(24)).any()
