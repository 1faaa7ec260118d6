"""Image files of pixels, as people upload them."""

from __future__ import annotations

import io

import numpy as np
import rasterio
from PIL import Image
from rasterio import Affine

from serve.upload import Upload


def pixels_of(modality, seed=0):
    """Random pixels of every band group, none without data."""
    rng = np.random.default_rng(seed)
    images = {}
    for group in modality.groups:
        values = rng.normal(-14, 4, group.shape) if group.dtype == "float32" else rng.integers(1, 250, group.shape)
        images[group.name] = values.astype(group.numpy_dtype)
    return images


def tiff(pixels, names=(), metres=10, tags=None, **profile):
    """A GeoTIFF of pixels [bands, height, width] with band descriptions; ``tags`` are the first band's."""
    buffer = rasterio.MemoryFile()
    place = {"crs": "EPSG:32634", "transform": Affine(metres, 0, 4e5, 0, -metres, 5e6)}
    settings = {"driver": "GTiff", **place, **profile}
    count, height, width = pixels.shape
    with buffer.open(count=count, height=height, width=width, dtype=pixels.dtype, **settings) as image:
        image.write(pixels)
        for band, name in enumerate(names, start=1):
            image.set_band_description(band, name)
        image.update_tags(1, **(tags or {}))
    return bytes(buffer.getbuffer())


def npy(array, **how):
    """An ``.npy`` file."""
    buffer = io.BytesIO()
    np.save(buffer, array, **how)
    return buffer.getvalue()


def npz(arrays, save=np.savez):
    """An ``.npz`` file."""
    buffer = io.BytesIO()
    save(buffer, **arrays)
    return buffer.getvalue()


def png(pixels):
    """A PNG of pixels uint8 [1 or 3, height, width]."""
    buffer = io.BytesIO()
    Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def single_bands(images, modality):
    """One GeoTIFF a band, on the grid of its group."""
    return [
        Upload(f"patch_{name}.tif", tiff(images[group.name][i : i + 1], metres=group.metres))
        for group in modality.groups
        for i, name in enumerate(group.band_names)
    ]
