"""What every pair must be before it goes into an archive, whatever source it came from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sscm.archive.schema import SPLITS, Image, Pair
from sscm.errors import PairError
from sscm.sensors import BandGroup, Modality


def validate_pair(pair: Pair, modalities: Sequence[Modality], where: str) -> None:
    """Check that a pair can be stored, trained on and searched for.

    A pair must have an id, a known split and at least one modality; a modality it has must have all its band groups,
    each of the declared shape and dtype, all values finite, and some of them data. A floating-point image of one single
    value counts as no data too: a sensor never measures that, a failed download leaves it.

    Args:
        pair: as a source yielded it.
        modalities: what the source declares.
        where: file or row it came from, for the message; the pair's id where nothing better is known.

    Raises:
        PairError: it cannot be used; names the band group, what was seen and what would be right.
    """

    def bad(place: str, seen: str, expected: str) -> PairError:
        return PairError(f"{where}, {place}" if place else where, seen, expected, pair_id=pair.pair_id or None)

    if not pair.pair_id:
        raise bad("", "an empty pair id", "an id that no other pair has")
    if pair.split not in SPLITS:
        raise bad("", f"split {pair.split!r}", f"one of {', '.join(SPLITS)}")
    names = {modality.name for modality in modalities}
    for name, time in pair.datetimes.items():
        if name not in names:
            raise bad("", f"a time of modality {name!r}", f"one of {sorted(names)}")
        if time.tzinfo is None:
            raise bad("", f"time {time} of {name} without a time zone", "a time with its zone, such as UTC")
    groups = {group.name: group for modality in modalities for group in modality.groups}
    if unknown := sorted(set(pair.images) - set(groups)):
        raise bad("", f"band groups {unknown}", f"only declared ones: {list(groups)}")
    if not pair.images:
        raise bad("", "no image of any modality", f"at least one of {sorted(names)}")
    for modality in modalities:
        missing = [name for name in modality.group_names if name not in pair.images]
        if missing and len(missing) < len(modality.groups):
            raise bad("", f"{modality.name} without its band groups {missing}", "all of a modality's groups, or none")
    for name, image in pair.images.items():
        fault = _fault(image, groups[name])
        if fault is not None:
            raise bad(f"band group {name}", *fault)


def _fault(image: Image, group: BandGroup) -> tuple[str, str] | None:
    """What was seen and what would be right, or None where the image is good."""
    if image.shape != group.shape:
        return f"shape {image.shape}", f"{group.shape} (bands, rows, columns)"
    if image.dtype.newbyteorder("=") != np.dtype(group.dtype):
        return f"dtype {image.dtype.name}", group.dtype
    if image.dtype.kind == "f":
        finite = np.isfinite(image)
        if not finite.all():
            first = group.band_names[int(np.argmin(finite.reshape(len(group.bands), -1).all(axis=1)))]
            return f"{int((~finite).sum())} of {image.size} values NaN or infinite, first in {first}", "finite values"
    if group.nodata is not None and bool((image == group.nodata).all()):
        return f"every pixel is no-data ({group.nodata:g})", "some pixels with data"
    if image.dtype.kind == "f" and image.size > 1 and bool((image == image.flat[0]).all()):
        return f"every pixel of every band is {image.flat[0]:g}", "measured values, which vary"
    return None
