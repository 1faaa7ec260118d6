"""Which asset of a STAC item holds which band, and how its numbers become reflectance or backscatter.

Extensions read: eo, raster, sar, and ``bands`` of STAC 1.1; what they were in 1.0 counts too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal
from urllib.parse import urlsplit

import pystac

from sscm.errors import PairError
from sscm.sensors import Modality

Sensor = Literal["s1", "s2"]

ALIASES: Mapping[str, tuple[str, ...]] = {
    "B01": ("coastal",),
    "B02": ("blue",),
    "B03": ("green",),
    "B04": ("red",),
    "B05": ("rededge1", "rededge071"),
    "B06": ("rededge2", "rededge075"),
    "B07": ("rededge3", "rededge078"),
    "B08": ("nir",),
    "B8A": ("nir08",),
    "B09": ("nir09",),
    "B11": ("swir16",),
    "B12": ("swir22",),
}
"""What a band is called besides its own name: the eo extension's common names, and Earth Search's asset keys. Not
``rededge``, which is all three of B05, B06 and B07."""
BASELINE_OFFSET = -0.1
"""Reflectance that processing baselines from 04.00 on want added (BOA_ADD_OFFSET = -1000, Sentinel-2 L2A product
specification), where an item says nothing of scale and offset."""
_BASELINES = ("s2:processing_baseline", "sentinel:processing_baseline", "processing:version")
_PICTURES = {"thumbnail", "overview", "visual", "metadata"}
_ENDINGS = (".tif", ".tiff", ".jp2")


@dataclass(frozen=True, kw_only=True)
class BandAsset:
    """Where a band lies and what its numbers mean.

    Args:
        href: absolute path or URI of the file.
        index: band of the file, from 1.
        scale: factor from stored to physical value; None where the item does not tell.
        offset: added after the scale.
        nodata: the number that marks a pixel without data; None where the item does not tell.
        unit: unit of the physical value; None where the item does not tell.
    """

    href: str
    index: int = 1
    scale: float | None = None
    offset: float | None = None
    nodata: float | None = None
    unit: str | None = None


def sensor_of(item: pystac.Item) -> Sensor | None:
    """Which sensor took an item: by platform, constellation or collection, else by its bands.

    Returns:
        ``s1``, ``s2``, or None for what is neither, for Sentinel-2 below level 2A, and for Sentinel-1 without VV or VH.
    """
    properties = item.properties
    told = " ".join(str(properties.get(name, "")) for name in ("platform", "constellation"))
    text = re.sub(r"[\s_-]", "", f"{told} {item.collection_id or ''}").lower()
    if "sentinel2" in text:
        level = " ".join(str(properties.get(name, "")) for name in ("s2:product_type", "processing:level"))
        return None if re.search("l1c|msi1c", f"{level} {item.collection_id or ''}".lower()) else "s2"
    polarizations = {str(name).upper() for name in properties.get("sar:polarizations") or ("VV", "VH")}
    if "sentinel1" in text:
        return "s1" if {"VV", "VH"} <= polarizations else None
    found = {name for candidate in _candidates(item) for name in candidate.names}
    if {"vv", "vh"} <= found:
        return "s1"
    bands = [{name.lower(), *aliases} for name, aliases in ALIASES.items()]
    return "s2" if all(names & found for names in bands) else None


def find_bands(item: pystac.Item, modality: Modality) -> dict[str, BandAsset]:
    """The asset of every band of a modality.

    A band is found by the asset's key (``B02``, ``b2``, ``B02_10m``, ``vv``), by the name or common name of a band in
    ``bands`` or ``eo:bands``, or by the asset's single polarisation. Of several, files of the band's own resolution
    come first, then files of one band, then GeoTIFF.

    Args:
        item: one with absolute asset hrefs.
        modality: the bands wanted.

    Returns:
        Band name → asset, in the modality's order.

    Raises:
        PairError: a band has no asset; names the item and the assets that it has.
    """
    candidates = list(_candidates(item))
    found: dict[str, BandAsset] = {}
    missing = []
    for group in modality.groups:
        for name in group.band_names:
            wanted = {name.lower(), *ALIASES.get(name, ())}
            matching = [candidate for candidate in candidates if candidate.names & wanted]
            if matching:
                found[name] = min(matching, key=lambda c: c.rank(name.lower(), group.metres)).asset
            else:
                missing.append(name)
    if missing:
        raise PairError(
            f"item {item.id}",
            f"no GeoTIFF or JPEG 2000 asset of {', '.join(missing)}; its assets are {', '.join(item.assets) or 'none'}",
            "an asset a band, named by its key or by the name in bands, eo:bands",
        )
    return found


def with_reflectance(item: pystac.Item, bands: Mapping[str, BandAsset]) -> dict[str, BandAsset]:
    """Sentinel-2 bands with an offset each, so that ``stored × scale + offset`` is reflectance.

    The offset is the item's own; none where a ``…:boa_offset_applied`` property says that the pixels have it already
    (Earth Search lists it nevertheless); and where the item gives neither scale nor offset, that of its baseline.

    Args:
        item: for its properties.
        bands: as :func:`find_bands` gives them.
    """
    if any(key.endswith(":boa_offset_applied") and value is True for key, value in item.properties.items()):
        return {name: replace(band, offset=0.0) for name, band in bands.items()}
    by_baseline = BASELINE_OFFSET if _baseline(item) >= 4 else 0.0
    result = {}
    for name, band in bands.items():
        untold = by_baseline if band.scale is None else 0.0
        result[name] = replace(band, offset=untold if band.offset is None else band.offset)
    return result


def _baseline(item: pystac.Item) -> float:
    """Processing baseline, such as 4.0 or 5.11; 0 where nothing tells it."""
    texts = [str(item.properties.get(name, "")) for name in _BASELINES]
    names = f"{item.id} {item.properties.get('s2:product_uri', '')}"
    for text in (*texts, *re.findall(r"_N(\d{4})(?=_)", names)):
        if digits := re.fullmatch(r"[Nv]?(\d{1,2})\.?(\d\d)", text.strip()):
            return float(f"{digits[1]}.{digits[2]}")
    return 0.0


@dataclass(frozen=True, kw_only=True)
class _Candidate:
    """A band of a file that may be what is looked for."""

    key: str
    names: frozenset[str]
    metres: float | None
    bands: int
    asset: BandAsset

    def rank(self, name: str, metres: float | None) -> tuple[Any, ...]:
        """Less is better."""
        far = 0.0 if self.metres is None or metres is None else abs(self.metres - metres)
        is_tiff = not urlsplit(self.asset.href).path.lower().endswith(".jp2")
        return far, self.bands > 1, _normal(self.key) != name, not is_tiff, self.key, self.asset.index


def _candidates(item: pystac.Item) -> Iterator[_Candidate]:
    for key, asset in item.assets.items():
        kind = (asset.media_type or "").lower()
        is_raster = urlsplit(asset.href).path.lower().endswith(_ENDINGS) or "tiff" in kind or "jp2" in kind
        if not is_raster or _PICTURES & set(asset.roles or ()):
            continue
        about = _band_fields(asset.extra_fields)
        polarizations = asset.extra_fields.get("sar:polarizations") or ()
        for index, band in enumerate(about, 1):
            names = {_normal(str(band[name])) for name in ("name", "common_name") if band.get(name)}
            if len(about) == 1:
                names |= {_normal(key), *(str(p).lower() for p in polarizations if len(polarizations) == 1)}
            suffix = re.search(r"_(\d+)m$", key)
            metres = band.get("spatial_resolution") or band.get("gsd") or (suffix and suffix[1])
            yield _Candidate(
                key=key,
                names=frozenset(names),
                metres=float(metres) if metres else None,
                bands=len(about),
                asset=BandAsset(
                    href=asset.href,
                    index=index,
                    unit=band.get("unit"),
                    **{name: _number(band.get(name), name, item, key) for name in ("scale", "offset", "nodata")},
                ),
            )


def _band_fields(fields: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What is said of each band of a file, prefixes dropped; one band where nothing is said."""
    whole = {key.removeprefix("raster:"): value for key, value in fields.items() if not isinstance(value, list)}
    lists: list[Sequence[Mapping[str, Any]]] = [fields.get(n) or () for n in ("eo:bands", "raster:bands", "bands")]
    merged = [dict(whole) for _ in range(max(1, *map(len, lists)))]
    for bands in lists:
        for band, about in zip(merged, bands, strict=False):
            band.update({key.removeprefix("eo:").removeprefix("raster:"): value for key, value in about.items()})
    return merged


def _normal(name: str) -> str:
    """``B2``, ``b02`` and ``B02_10m`` as ``b02``."""
    plain = re.sub(r"_\d+m$", "", name.strip().lower())
    return re.sub(r"^b(\d)$", r"b0\1", plain)


def _number(value: Any, name: str, item: pystac.Item, key: str) -> float | None:
    """A number, also one of the words ``nan`` and ``-inf`` that the raster extension has for JSON."""
    try:
        return None if value is None else float(value)
    except (TypeError, ValueError) as error:
        raise PairError(f"item {item.id}, asset {key}", f"{name} {value!r}", "a number") from error
