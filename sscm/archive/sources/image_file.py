"""Image files: GeoTIFF with its georeference, PNG, and ``.npy`` without pickles, read whole or a few rows at a time."""

from __future__ import annotations

import contextlib
import io
import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import rasterio
from PIL import Image as PilImage
from rasterio.errors import NotGeoreferencedWarning, RasterioError, RasterioIOError

from sscm.archive.schema import Image
from sscm.archive.sources.folders import local_path, read_bytes
from sscm.archive.sources.plain_tiff import LARGEST, PlainTiff, read_plain_tiff
from sscm.errors import PairError

FORMATS = "GeoTIFF (.tif, .tiff), PNG (.png) or NumPy (.npy)"
_REFERENCES: dict[bytes, Any] = {}  # what GDAL made of the reference systems of plain GeoTIFFs, a few in an archive
_PNG_DEPTH, _PNG_COLOUR = 24, 25  # bytes of the header chunk: bits a sample, and colour type (0 is grey)


@dataclass(frozen=True, kw_only=True)
class ImageFile:
    """An open image file.

    Args:
        path: where it lies.
        bands: bands in it.
        height: rows, pixels.
        width: columns, pixels.
        read: ``read(first, last)`` → pixels [bands, last − first, width] in the file's own dtype. Raises PairError
            where the file is cut short or damaged.
        alpha: whether the last band says how opaque a pixel is.
        descriptions: what the file calls its bands, None where it does not say.
        nodata: the value that the file marks as no data, or None.
        crs: coordinate reference system (``rasterio.crs.CRS``), or None.
        transform: affine transform from (column, row) to the CRS, or None.
        time: when the image was taken, where the file says so in its tag ``datetime``.
    """

    path: str
    bands: int
    height: int
    width: int
    read: Callable[[int, int], Image]
    alpha: bool = False
    descriptions: tuple[str | None, ...] = ()
    nodata: float | None = None
    crs: Any = None
    transform: Any = None
    time: datetime | None = None

    @property
    def size(self) -> tuple[int, int]:
        """``(height, width)`` in pixels."""
        return self.height, self.width


@contextlib.contextmanager
def open_image(path: str, *, georeference: bool = True) -> Iterator[ImageFile]:
    """Open an image file by its ending.

    Args:
        path: local path or URI.
        georeference: whether its place on Earth is wanted; finding it out takes longer than reading a small image.

    Raises:
        PairError: no such file, another format, cut short or damaged.
        WorkspaceError: the storage cannot be reached.
    """
    ending = os.path.splitext(path)[1].lower()
    local = local_path(path)
    if local is not None and not os.path.isfile(local):
        raise PairError(path, "no such file", "an image file")
    if ending in (".tif", ".tiff"):
        with _open_geotiff(path, georeference) as image:
            yield image
    elif ending == ".png":
        yield _open_png(path)
    elif ending == ".npy":
        yield _open_npy(path)
    else:
        raise PairError(path, f"a file that ends in {ending!r}", FORMATS)


def as_dtype(pixels: Image, dtype: str, where: str) -> Image:
    """Pixels in the dtype that was declared, if nothing is lost.

    Allowed are casts that keep every value, whatever the two types (int16 without negatives to uint16, whole float32
    numbers to uint8), and float64 to float32, which rounds to 24 bits: what sensors measure has fewer.

    Args:
        pixels: any shape, the file's dtype.
        dtype: numpy name of the dtype wanted.
        where: file, for the message.

    Returns:
        The same values; the same array where it has the dtype already.

    Raises:
        PairError: some values have no equal in the dtype.
    """
    if pixels.dtype == np.dtype(dtype):
        return pixels
    if pixels.dtype.kind not in "biuf":
        raise PairError(where, f"{pixels.dtype} pixels", dtype)
    with np.errstate(invalid="ignore", over="ignore"):
        result = pixels.astype(dtype)
        if pixels.dtype.kind == "f" and dtype == "float32" and pixels.dtype.itemsize == 8:
            lost = np.isfinite(pixels) & ~np.isfinite(result)
        else:
            lost = (result.astype(pixels.dtype) != pixels) & ~(_nan(pixels) & _nan(result))
            if pixels.dtype.kind in "iu" and np.dtype(dtype).kind in "iu":
                lost |= (result < 0) != (pixels < 0)  # a wrapped sign survives the way back
    if lost.any():
        example = pixels[lost].flat[0]
        raise PairError(
            where,
            f"{pixels.dtype.name} pixels, {int(lost.sum())} of them without an equal in {dtype} (first: {example:g})",
            f"{dtype}, or values that fit it; declare the dtype that the files have",
        )
    return result


def require_declared_nodata(image: ImageFile, pixels: Image, nodata: float | None) -> None:
    """Check that pixels which the file marks as no data are known as such to the archive.

    Args:
        image: the file.
        pixels: what was read from it, its own dtype.
        nodata: the value declared for the band group, or None.

    Raises:
        PairError: the file marks another value as no data, and some pixels have it.
    """
    if image.nodata is None or image.nodata == nodata or np.isnan(image.nodata):
        return  # NaN is refused for itself
    count = int((pixels == image.nodata).sum())
    if count:
        raise PairError(
            image.path,
            f"{count} pixels with {image.nodata:g}, which the file marks as no data",
            f"no data marked by {'nothing' if nodata is None else format(nodata, 'g')}, as declared",
        )


def parse_time(text: str, where: str) -> datetime:
    """An ISO 8601 time; one without a zone is UTC.

    Raises:
        PairError: it is none.
    """
    try:
        time = datetime.fromisoformat(text.strip())
    except ValueError as error:
        raise PairError(where, f"time {text!r}", "ISO 8601, such as 2017-06-13T10:10:31Z") from error
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)


@contextlib.contextmanager
def _open_geotiff(path: str, georeference: bool) -> Iterator[ImageFile]:
    with _faults(path):
        local = local_path(path)
        data = read_bytes(path) if local is None else _small(local)
    plain = read_plain_tiff(data, georeference) if data is not None else None
    if plain is not None and (plain.reference is None or plain.reference in _REFERENCES):
        yield _from_plain(path, plain)
        return
    options = {} if georeference else {"GEOREF_SOURCES": "NONE"}
    with contextlib.ExitStack() as stack:
        with _faults(path), warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            if local is None:
                memory = stack.enter_context(rasterio.MemoryFile(data, ext=".tif"))
                file = stack.enter_context(memory.open(driver="GTiff", **options))
            else:
                # without this GDAL lists the folder of each file, and a folder of patches is long
                with rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR"):
                    file = stack.enter_context(rasterio.open(local, driver="GTiff", **options))
            placed = georeference and file.crs is not None and not file.transform.is_identity
            time = file.tags().get("datetime") if georeference else None
            if placed and plain is not None and plain.reference is not None:
                _REFERENCES[plain.reference] = file.crs

        def read(first: int, last: int) -> Image:
            with _faults(path):
                rows: Image = file.read(window=((first, last), (0, file.width)))
                return rows

        yield ImageFile(
            path=path,
            bands=file.count,
            height=file.height,
            width=file.width,
            read=read,
            alpha=file.colorinterp[-1].name == "alpha",
            descriptions=tuple(file.descriptions),
            nodata=file.nodata,
            crs=file.crs if placed else None,
            transform=file.transform if placed else None,
            time=None if time is None else parse_time(time, path),
        )


def _small(path: str) -> bytes | None:
    """A local file's content; None where it is too large to be read whole."""
    with open(path, "rb") as file:
        return file.read() if os.fstat(file.fileno()).st_size <= LARGEST else None


def _from_plain(path: str, plain: PlainTiff) -> ImageFile:
    crs = None if plain.reference is None else _REFERENCES[plain.reference]
    return _from_array(path, plain.pixels, nodata=plain.nodata, crs=crs, transform=plain.transform)


def _open_png(path: str) -> ImageFile:
    with _faults(path):
        data = read_bytes(path)
        if data[_PNG_DEPTH : _PNG_DEPTH + 1] == b"\x10" and data[_PNG_COLOUR : _PNG_COLOUR + 1] != b"\0":
            raise PairError(path, "a colour PNG of 16 bits, which would be read as 8", "a GeoTIFF, or one PNG a band")
        with PilImage.open(io.BytesIO(data), formats=("PNG",)) as picture:
            mode = {"P": "RGB", "1": "L"}.get(picture.mode)
            pixels = np.asarray(picture.convert(mode) if mode else picture)
        alpha = picture.mode in ("LA", "RGBA")
    bands = pixels[np.newaxis] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0)
    return _from_array(path, bands, alpha=alpha)


def _open_npy(path: str) -> ImageFile:
    local = local_path(path)
    with _faults(path):
        if local is not None:
            pixels = np.load(local, mmap_mode="r", allow_pickle=False)  # a strip of a large image costs its own bytes
        else:
            pixels = np.load(io.BytesIO(read_bytes(path)), allow_pickle=False)
    if not isinstance(pixels, np.ndarray) or pixels.ndim not in (2, 3):
        raise PairError(path, f"shape {getattr(pixels, 'shape', None)}", "(rows, columns) or (bands, rows, columns)")
    return _from_array(path, pixels[np.newaxis] if pixels.ndim == 2 else pixels)


def _from_array(path: str, pixels: Image, **known: Any) -> ImageFile:
    bands, height, width = pixels.shape
    native = pixels.dtype.newbyteorder("=")
    return ImageFile(
        path=path,
        bands=bands,
        height=height,
        width=width,
        descriptions=(None,) * bands,
        read=lambda first, last: np.ascontiguousarray(pixels[:, first:last], native),
        **known,
    )


@contextlib.contextmanager
def _faults(path: str) -> Iterator[None]:
    """Turn what a decoder raises at a missing, truncated or foreign file into a PairError."""
    try:
        yield
    except FileNotFoundError as error:
        raise PairError(path, "no such file", "an image file") from error
    except (RasterioError, OSError, ValueError, EOFError, SyntaxError, PilImage.DecompressionBombError) as error:
        cause = error.__cause__ if isinstance(error, RasterioIOError) and error.__cause__ is not None else error
        raise PairError(path, f"it cannot be read ({cause})", "a whole, undamaged image file") from error


def _nan(values: Image) -> Any:
    return np.isnan(values) if values.dtype.kind == "f" else np.zeros(values.shape, bool)
