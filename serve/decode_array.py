"""NumPy files → planes: ``.npy`` and ``.npz``, read without NumPy's own reader, so that nothing can be unpickled."""

from __future__ import annotations

import io
import re
import struct
import zipfile

import numpy as np

from serve.extent import FACTOR, require_size
from serve.plane import Pixels, Plane, decoded
from sscm.errors import BandMismatchError, QueryError
from sscm.sensors import BandGroup, Modality

NPY = b"\x93NUMPY"
ZIP = b"PK\x03\x04"

MAX_ENTRIES = 64
"""Arrays of an ``.npz``: more band groups than any sensor here has."""

_HEADER = re.compile(
    rb"\{\s*'descr':\s*(?P<dtype>'[^']{1,16}'|\[.*\]),\s*'fortran_order':\s*(?P<fortran>True|False),"
    rb"\s*'shape':\s*\((?P<shape>[\d, ]*)\),?\s*\}\s*",
    re.DOTALL,
)
"""The header as NumPy and all other writers write it: a Python literal, which is matched here and never evaluated."""
_DTYPE = re.compile(r"[<>|=]?[iuf][1248]")
_MAX_HEADER = 4096
_DIRECTORY_END = b"PK\x05\x06"
_DIRECTORY_END_64 = b"PK\x06\x07"
_MAX_DIRECTORY = 1 << 16


def read_npy(name: str, data: bytes, group: BandGroup, modality: Modality) -> list[Plane]:
    """Read a band group from an ``.npy`` file.

    Args:
        name: the file's name, for messages.
        data: its content: an array [bands, height, width] of numbers, the bands in the group's order.
        group: the band group.
        modality: what the image is of.

    Raises:
        QueryError: damaged, of other bands, no numbers, or of a size that is not taken.
    """
    pixels = decoded(name, ".npy file", lambda: _array(data, group, modality, name))
    return [
        Plane(band=band, pixels=plane, where=f"{name}, band {band}")
        for band, plane in zip(group.band_names, pixels, strict=True)
    ]


def read_npz(name: str, data: bytes, modality: Modality) -> list[Plane]:
    """Read an ``.npz`` file with one array a band group, named after it.

    Args:
        name: the file's name, for messages.
        data: its content.
        modality: what the image is of.

    Raises:
        BandMismatchError: arrays of other names.
        QueryError: damaged, or an array of it is what :func:`read_npy` refuses.
    """
    arrays = decoded(name, ".npz file", lambda: _entries(name, data, modality))
    return [
        plane for group in modality.groups for plane in read_npy(*arrays[group.name], group=group, modality=modality)
    ]


def _entries(name: str, data: bytes, modality: Modality) -> dict[str, tuple[str, bytes]]:
    """Band group → name for messages, and content of its ``.npy`` file."""
    _require_small_directory(name, data)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        infos = archive.infolist()
        found = {info.filename.removesuffix(".npy"): info for info in infos}
        if sorted(found) != sorted(modality.group_names) or len(infos) != len(found):
            where = f"{name} (arrays of an .npz are named after the band groups)"
            raise BandMismatchError([entry[:40] for entry in list(found)[:20]], modality.group_names, where)
        contents = {}
        for group in modality.groups:
            info = found[group.name]
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # others decode without a bound
                raise QueryError(
                    f"{name}: {group.name} is compressed by method {info.compress_type}; expected none or deflate, as "
                    "numpy.savez and savez_compressed write"
                )
            # no dtype is wider than 8 bytes
            room = len(group.bands) * modality.height * modality.width * FACTOR**2 * 8 + _MAX_HEADER
            if info.file_size > room:
                raise QueryError(
                    f"{name}: {group.name} is of {info.file_size} bytes; expected {group.dtype} {list(group.shape)}, "
                    f"and at most {room} bytes"
                )
            with archive.open(info) as stream:
                contents[group.name] = (f"{name}, {group.name}", stream.read(room + 1))  # a header may lie about size
        return contents


def _require_small_directory(name: str, data: bytes) -> None:
    """Check the ZIP's table of contents, of which each of a million entries would become an object."""
    at = data.rfind(_DIRECTORY_END)
    (entries, size) = struct.unpack_from("<HI", data, at + 10) if at >= 0 else (0, 0)
    if _DIRECTORY_END_64 in data[max(at - 20, 0) : max(at, 0)] or entries > MAX_ENTRIES or size > _MAX_DIRECTORY:
        raise QueryError(f"{name}: {entries} arrays listed in {size} bytes; expected one a band group")


def _array(data: bytes, group: BandGroup, modality: Modality, where: str) -> Pixels:
    major = data[len(NPY)]
    length, start = struct.unpack_from("<H", data, 8)[0], 10
    if major != 1:
        length, start = struct.unpack_from("<I", data, 8)[0], 12
    if length > _MAX_HEADER:
        raise ValueError(f"a header of {length} bytes")
    header = _HEADER.fullmatch(data[start : start + length])
    if header is None:
        raise ValueError("a header of another form")
    descr = header["dtype"].decode("ascii").strip("'")
    right = f"{group.dtype} {list(group.shape)}"
    if not _DTYPE.fullmatch(descr) or descr.endswith(("f1", "i16")):
        raise QueryError(f"{where}: dtype {descr[:40]}; expected numbers: {right}")
    shape = tuple(int(side) for side in header["shape"].decode("ascii").split(",") if side.strip())
    if len(shape) != 3 or shape[0] != len(group.bands):
        raise QueryError(
            f"{where}: shape {list(shape)}; expected {list(group.shape)}: bands {', '.join(group.band_names)} in this "
            "order, then rows and columns"
        )
    require_size(shape[1:], group, modality, where)
    dtype = np.dtype(descr)
    count = shape[0] * shape[1] * shape[2]
    if len(data) - start - length < count * dtype.itemsize:
        raise QueryError(f"{where}: cut short after {len(data)} bytes; send the whole file")
    flat = np.frombuffer(data, dtype, count, start + length).astype(dtype.newbyteorder("="))
    if header["fortran"] == b"True":
        return flat.reshape(shape[::-1]).transpose(2, 1, 0)
    return flat.reshape(shape)
