"""Uploaded files → the band groups of one image, with nothing taken on trust.

Files are told apart by their first bytes. Size, dtype and band names are read from headers and compared with what the
modality declares before any pixel is decoded, so that a small file cannot ask for much memory; nothing is unpickled.
"""

from __future__ import annotations

import io
import re
import warnings
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import rasterio
import rasterio.errors
from PIL import Image as PilImage

from sscm.errors import BandMismatchError, QueryError
from sscm.sensors import BandGroup, Modality, stack_by_name

Pixels = npt.NDArray[Any]
T = TypeVar("T")

MAX_FILES = 64
"""Most files of one image: more bands than any sensor here has."""

MAX_BLOCK = 4096
"""Largest side of a TIFF's strips or tiles, pixels: a decoder has room for a whole one, whatever the image's size."""

_NPY = b"\x93NUMPY"
_ZIP = b"PK\x03\x04"
_PNG = b"\x89PNG\r\n\x1a\n"
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_BAND_OF_NAME = re.compile(r"(?:^|[_\-. ])([A-Za-z0-9]+)\.tiff?$", re.IGNORECASE)
_NPY_HEADER = 4096
"""Room for the header of a .npy file, bytes."""


@dataclass(frozen=True)
class Upload:
    """One file as it came.

    Args:
        name: its file name, as the sender calls it.
        data: its content.
    """

    name: str
    data: bytes


def decode_uploads(files: Sequence[Upload], modality: Modality) -> dict[str, Pixels]:
    """Decode one image.

    Args:
        files: GeoTIFFs (bands told by band descriptions, or by a file name that ends in ``_B02.tif``), or one ``.npz``
            with an array a band group, or one ``.npy`` for a modality of one group, or one PNG for an 8-bit modality of
            one group, its channels being the group's bands in order.
        modality: what the image is of.

    Returns:
        Band-group name → pixels [bands, height, width], the group's dtype and size.

    Raises:
        BandMismatchError: bands are missing or unknown; given and known ones are named.
        QueryError: a file is damaged, of another format, size or dtype, or has pixels that are not finite.
    """
    if not files or len(files) > MAX_FILES:
        raise QueryError(f"{len(files)} files; expected 1 to {MAX_FILES}: {_wanted(modality)}")
    first = files[0]
    if all(file.data.startswith(_TIFF) for file in files):
        groups = _read_tiffs(files, modality)
    elif len(files) > 1:
        odd = next(file.name for file in files if not file.data.startswith(_TIFF))
        raise QueryError(f"{odd}: not a TIFF among {len(files)} files; several files must all be GeoTIFFs")
    elif first.data.startswith(_NPY):
        group = _only_group(modality, first.name, "an .npz with one array a band group")
        groups = {group.name: _read_npy(io.BytesIO(first.data), len(first.data), group, first.name)}
    elif first.data.startswith(_ZIP):
        groups = _read_npz(first, modality)
    elif first.data.startswith(_PNG):
        groups = {modality.groups[0].name: _read_png(first, modality)}
    else:
        raise QueryError(
            f"{first.name}: starts with {first.data[:8]!r}, which is no TIFF, .npy, .npz or PNG; {_wanted(modality)}"
        )
    return {group.name: _checked(groups[group.name], group, modality) for group in modality.groups}


def _read_tiffs(files: Sequence[Upload], modality: Modality) -> dict[str, Pixels]:
    known = {alias.casefold(): band.name for g in modality.groups for band in g.bands for alias in _aliases(band)}
    group_of = {name: group for group in modality.groups for name in group.band_names}
    planes: dict[str, Pixels] = {}
    for file in files:
        found = _decoded(file.name, "GeoTIFF", partial(_read_tiff, file, known, group_of))
        for name, plane in found.items():
            if name in planes:
                raise QueryError(f"{file.name}: band {name} was given before; expected each band once")
            planes[name] = plane
    where = f"image of {modality.name}"
    if missing := [name for name in modality.band_names if name not in planes]:
        raise BandMismatchError(planes, modality.band_names, f"{where}, bands {missing} missing")
    return {group.name: stack_by_name(planes, group, where) for group in modality.groups}


def _read_tiff(file: Upload, known: Mapping[str, str], group_of: Mapping[str, BandGroup]) -> dict[str, Pixels]:
    with warnings.catch_warnings(), rasterio.MemoryFile(file.data) as memory:
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)  # where it lies does not matter here
        return _read_bands(memory, file, known, group_of)


def _read_bands(
    memory: Any, file: Upload, known: Mapping[str, str], group_of: Mapping[str, BandGroup]
) -> dict[str, Pixels]:
    with memory.open(driver="GTiff") as image:
        names = [text or image.tags(i).get("name", "") for i, text in enumerate(image.descriptions, start=1)]
        told = _BAND_OF_NAME.search(file.name)
        if image.count == 1:
            if told and told[1].casefold() in known:
                names = [told[1]]
            elif not names[0] and len(group_of) == 1:
                names = list(group_of)
            elif not names[0] and told:
                names = [told[1]]
        if image.count > len(group_of) or any(name.casefold() not in known for name in names):
            shown = [name or "without a name" for name in names[:20]]
            raise BandMismatchError(
                shown,
                group_of,
                f"{file.name} (give each band of a GeoTIFF its name as description, or send one file a band, "
                "its name ending in _BAND.tif)",
            )
        if max(side for block in image.block_shapes for side in block) > MAX_BLOCK:
            raise QueryError(f"{file.name}: blocks of {image.block_shapes[0]} pixels; expected at most {MAX_BLOCK}")
        planes = {}
        for i, name in enumerate((known[name.casefold()] for name in names), start=1):
            group = group_of[name]
            _require_size((image.height, image.width), group, f"{file.name}, band {name}")
            if name in planes:
                raise QueryError(f"{file.name}: band {name} occurs twice; expected each band once")
            planes[name] = image.read(i)
        return planes


def _read_npz(file: Upload, modality: Modality) -> dict[str, Pixels]:
    def read() -> dict[str, Pixels]:
        with zipfile.ZipFile(io.BytesIO(file.data)) as archive:
            entries = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            if sorted(entries) != sorted(modality.group_names) or len(archive.infolist()) != len(entries):
                where = f"{file.name} (arrays of an .npz are named after the band groups)"
                raise BandMismatchError([name[:40] for name in list(entries)[:20]], modality.group_names, where)
            arrays = {}
            for group in modality.groups:
                info = entries[group.name]
                room = int(np.prod(group.shape)) * 8 + _NPY_HEADER  # no dtype is wider than 8 bytes
                if info.file_size > room:
                    raise QueryError(f"{file.name}: {group.name} is of {info.file_size} bytes; {_wanted(modality)}")
                with archive.open(info) as stream:
                    content = stream.read(room + 1)  # a header may lie about the size
                arrays[group.name] = _read_npy(io.BytesIO(content), len(content), group, f"{file.name}, {group.name}")
            return arrays

    return _decoded(file.name, ".npz file", read)


def _read_npy(stream: io.BytesIO, size: int, group: BandGroup, where: str) -> Pixels:
    def read() -> Pixels:
        version = np.lib.format.read_magic(stream)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = header(stream, max_header_size=_NPY_HEADER)
        if dtype.hasobject or dtype.kind not in "iuf":
            raise QueryError(f"{where}: dtype {dtype}; expected numbers: {group.dtype} {list(group.shape)}")
        if shape != group.shape:
            raise QueryError(
                f"{where}: shape {list(shape)}; expected {list(group.shape)}: bands {', '.join(group.band_names)} in "
                "this order, then rows and columns"
            )
        if size - stream.tell() < int(np.prod(shape)) * dtype.itemsize:
            raise QueryError(f"{where}: cut short after {size} bytes; send the whole file")
        stream.seek(0)
        return np.asarray(np.lib.format.read_array(stream, allow_pickle=False))

    return _decoded(where, ".npy file", read)


def _read_png(file: Upload, modality: Modality) -> Pixels:
    group = _only_group(modality, file.name, "GeoTIFFs or an .npz")
    if group.dtype != "uint8":
        raise QueryError(f"{file.name}: a PNG has 8 bits a pixel; {_wanted(modality)}")

    def read() -> Pixels:
        with PilImage.open(io.BytesIO(file.data), formats=["PNG"]) as picture:
            _require_size((picture.height, picture.width), group, file.name)
            if picture.mode not in ("L", "RGB") or len(picture.getbands()) != len(group.bands):
                raise QueryError(
                    f"{file.name}: channels {'+'.join(picture.getbands())} of mode {picture.mode}; expected "
                    f"{len(group.bands)} of 8 bits: {', '.join(group.band_names)}"
                )
            pixels = np.asarray(picture)
        return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)

    return _decoded(file.name, "PNG", read)


def _checked(pixels: Pixels, group: BandGroup, modality: Modality) -> Pixels:
    """Pixels in the group's dtype, if they can be that without loss; all finite, not all without data."""
    where = f"image of {modality.name}, {group.name}"
    target = group.numpy_dtype
    if pixels.dtype != target:
        limits = None if target.kind == "f" else np.iinfo(target)
        fits = limits is None or (
            pixels.dtype.kind in "iu" and int(pixels.min()) >= limits.min and int(pixels.max()) <= limits.max
        )
        if pixels.dtype.kind not in "iuf" or not fits:
            raise QueryError(
                f"{where}: dtype {pixels.dtype} with values {pixels.min()} to {pixels.max()} is not {group.dtype}; "
                f"expected {group.unit} as {group.dtype}"
            )
    if group.nodata is not None and bool((pixels == group.nodata).all()):
        raise QueryError(f"{where}: every pixel is {group.nodata:g}, no data; there is nothing to search by")
    with np.errstate(over="ignore"):
        result = np.ascontiguousarray(pixels, target)
    if target.kind == "f" and (bad := int(np.count_nonzero(~np.isfinite(result)))):
        raise QueryError(f"{where}: {bad} of {result.size} pixels are NaN or infinite; fill them before asking")
    return result


def _decoded(where: str, kind: str, read: Callable[[], T]) -> T:
    """What a reader returns; whatever it trips over is a damaged file."""
    try:
        return read()
    except (QueryError, BandMismatchError):
        raise
    except Exception as error:  # decoders raise what they like on hostile bytes: struct.error, zlib.error, SyntaxError
        raise QueryError(f"{where}: not a whole {kind} ({str(error)[:200]}); send the file again") from error


def _require_size(size: tuple[int, int], group: BandGroup, where: str) -> None:
    if size != (group.height, group.width):
        raise QueryError(
            f"{where}: {size[0]} × {size[1]} pixels; expected {group.height} × {group.width}"
            + (f" at {group.metres:g} m" if group.metres else "")
        )


def _only_group(modality: Modality, where: str, instead: str) -> BandGroup:
    if len(modality.groups) > 1:
        raise QueryError(
            f"{where}: one array, but {modality.name} has band groups {list(modality.group_names)}; send {instead}"
        )
    return modality.groups[0]


def _aliases(band: Any) -> tuple[str, ...]:
    return (band.name, band.common_name) if band.common_name else (band.name,)


def _wanted(modality: Modality) -> str:
    groups = [f"{g.name} ({', '.join(g.band_names)}) {g.height} × {g.width} {g.dtype}" for g in modality.groups]
    return f"expected {modality.title}: {'; '.join(groups)}"
