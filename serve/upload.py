"""Uploaded files → the band groups of one image, with nothing taken on trust.

Files are told apart by their first bytes. Sizes, pixel types and band names are read from headers and compared with
what the modality declares before any pixel is decoded, so that a small file cannot ask for much memory; nothing is
unpickled, and no file but those that came is opened.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from serve.decode_array import NPY, ZIP, read_npy, read_npz
from serve.decode_png import PNG, read_png
from serve.decode_tiff import read_tiffs
from serve.extent import require_one_place
from serve.plane import Pixels, Plane
from serve.resample import as_group
from serve.tiff_header import MAGICS
from sscm.errors import QueryError
from sscm.sensors import BandGroup, Modality

MAX_FILES = 64
"""Most files of one image: more bands than any sensor here has."""


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
        files: GeoTIFFs of one or several bands each (told by their descriptions, tags or file names), or one ``.npz``
            with an array a band group, or one ``.npy`` for a modality of one group, or one PNG for an 8-bit modality of
            one group, its channels being the group's bands in order. Images of other sizes than the modality declares
            are resampled, within the limits of :mod:`serve.extent`.
        modality: what the image is of.

    Returns:
        Band-group name → pixels [bands, height, width], the group's dtype and size.

    Raises:
        BandMismatchError: bands are missing or unknown; given and known ones are named.
        QueryError: a file is damaged, of another format, size or dtype, bands show different places, or pixels have no
            data where the modality knows no such thing.
    """
    if not files or len(files) > MAX_FILES:
        raise QueryError(f"{len(files)} files; expected 1 to {MAX_FILES}: {_wanted(modality)}")
    planes = {plane.band: plane for plane in _planes(files, modality)}
    require_one_place(list(planes.values()), modality)
    return {g.name: as_group([planes[band] for band in g.band_names], g, modality) for g in modality.groups}


def _planes(files: Sequence[Upload], modality: Modality) -> list[Plane]:
    """Each band of the image, once."""
    name, data = files[0].name, files[0].data
    if all(file.data.startswith(MAGICS) for file in files):
        return read_tiffs([(file.name, file.data) for file in files], modality)
    if len(files) > 1:
        odd = next(file.name for file in files if not file.data.startswith(MAGICS))
        raise QueryError(f"{odd}: not a TIFF among {len(files)} files; several files must all be GeoTIFFs")
    if data.startswith(NPY):
        return read_npy(name, data, _only_group(modality, name, "an .npz with one array a band group"), modality)
    if data.startswith(ZIP):
        return read_npz(name, data, modality)
    if data.startswith(PNG):
        group = _only_group(modality, name, "GeoTIFFs or an .npz")
        if group.dtype != "uint8":
            raise QueryError(f"{name}: a PNG has 8 bits a pixel; {_wanted(modality)}")
        return read_png(name, data, group, modality)
    raise QueryError(f"{name}: starts with {data[:8]!r}, which is no TIFF, .npy, .npz or PNG; {_wanted(modality)}")


def _only_group(modality: Modality, where: str, instead: str) -> BandGroup:
    if len(modality.groups) > 1:
        raise QueryError(
            f"{where}: one array, but {modality.name} has band groups {list(modality.group_names)}; send {instead}"
        )
    return modality.groups[0]


def _wanted(modality: Modality) -> str:
    groups = [f"{g.name} ({', '.join(g.band_names)}) {g.height} × {g.width} {g.dtype}" for g in modality.groups]
    return f"expected {modality.title}: {'; '.join(groups)}"
