"""The files of one band group of one pair: checked against the declaration, read by band name."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from sscm.archive.schema import Image
from sscm.archive.sources.declaration import GroupDeclaration
from sscm.archive.sources.image_file import ImageFile, as_dtype, require_declared_nodata
from sscm.errors import PairError


@dataclass(frozen=True, kw_only=True)
class BandFiles:
    """Open files that together hold the bands of a group.

    Args:
        declared: the group, and the order of the bands in the files.
        files: one file of many bands, or several, in order.
        channels: how many bands are taken from each.
    """

    declared: GroupDeclaration
    files: tuple[ImageFile, ...]
    channels: tuple[int, ...]

    @classmethod
    def of(
        cls,
        files: Sequence[ImageFile],
        declared: GroupDeclaration,
        size: tuple[int, int] | None,
        known: Collection[str],
    ) -> BandFiles:
        """Check files against a declaration.

        Args:
            files: open files, in the order of the table's cell.
            declared: what they should be.
            size: rows and columns that each must have; None: those of the first.
            known: lower-case names of all bands declared anywhere. A file that names its bands otherwise ("band 1")
                says nothing about their order.

        Raises:
            PairError: wrong size, wrong number of bands, or bands that the files name in another order.
        """
        expected = size or files[0].size
        for image in files:
            if image.size != expected:
                seen = f"{image.height} × {image.width} pixels"
                right = f"{expected[0]} × {expected[1]} pixels for band group {declared.group.name}"
                raise PairError(image.path, seen, right)
        bands = declared.file_bands
        wanted = 1 if len(files) == len(bands) else len(bands) if len(files) == 1 else None
        channels = tuple(_channels(image, wanted) for image in files)
        where = files[0].path if len(files) == 1 else f"{files[0].path} and {len(files) - 1} more"
        if sum(channels) != len(bands):
            raise PairError(where, f"{sum(channels)} bands", f"{len(bands)} bands: {', '.join(bands)}")
        named = [
            text or "" for image, count in zip(files, channels, strict=True) for text in image.descriptions[:count]
        ]
        if any(text.casefold() in known for text in named) and any(
            text and text.casefold() != band.casefold() for text, band in zip(named, bands, strict=True)
        ):
            right = f"{list(bands)}, as declared; where the files have another order, file_bands declares it"
            raise PairError(where, f"bands that the file names {named}", right)
        return cls(declared=declared, files=tuple(files), channels=channels)

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns of the files, pixels."""
        return self.files[0].size

    def read(self, first: int, last: int) -> Image:
        """Rows of all bands.

        Args:
            first: first row.
            last: row after the last.

        Returns:
            Pixels [bands, last − first, width] in the group's band order and dtype.

        Raises:
            PairError: a file is damaged, a value does not fit the dtype, or a channel that was to be left out differs.
        """
        group = self.declared.group
        planes = {}
        names = iter(self.declared.file_bands)
        for image, count in zip(self.files, self.channels, strict=True):
            pixels = image.read(first, last)
            _require_nothing_lost(image, pixels, count)
            for index in range(count):
                name = next(names)
                if name in group.band_names:
                    require_declared_nodata(image, pixels[index], group.nodata)
                    planes[name] = as_dtype(pixels[index], group.dtype, image.path)
        return np.stack([planes[name] for name in group.band_names])


def _channels(image: ImageFile, wanted: int | None) -> int:
    """Bands to take: not an alpha channel that nobody declared, and one where grey was declared and colours came."""
    if wanted is None:
        return image.bands
    if image.alpha and image.bands == wanted + 1:
        return wanted
    return 1 if wanted == 1 and image.bands - image.alpha == 3 else image.bands


def _require_nothing_lost(image: ImageFile, pixels: Image, count: int) -> None:
    """Check that the channels which are left out say nothing: alpha is opaque, colours are equal."""
    if count == image.bands:
        return
    if image.alpha and bool((pixels[-1] != np.iinfo(pixels.dtype).max).any()):
        raise PairError(image.path, "transparent pixels", "an opaque picture, or its alpha channel declared as a band")
    colours = pixels[: image.bands - image.alpha]
    if count == 1 and bool((colours[1:] != colours[:1]).any()):
        raise PairError(image.path, f"{len(colours)} bands that differ", "1 band, or equal ones")
