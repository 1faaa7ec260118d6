"""Which band an uploaded file, or a band of it, is: told by the names that people and programs give."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from sscm.errors import QueryError
from sscm.sensors import Modality

_WORD = re.compile(r"[A-Za-z0-9]+")
_ENDING = re.compile(r"\.[A-Za-z0-9]{1,5}$")
_RESOLUTION = re.compile(r"\d{1,3}m", re.IGNORECASE)
_NUMBERED = re.compile(r"b0*(\d{1,2}a?)")
"""Sentinel-2's names, with and without a leading zero: ``B02``, ``B2``, ``B8A``."""

MAX_NAME = 200
"""Characters of a name that are looked at; a description may be of any length."""


class BandNames:
    """The bands of a modality, found in what files call them.

    Names are looked through for words that are a band: ``S2A_..._75_43_B02.tif``,
    ``T33UVR_20180601T100031_B02_10m.tif``, ``s1a-iw-grd-vv-20170613t165043.tiff``, ``Sigma0_VH_db``,
    ``B4, central wavelength 665 nm``. Upper and lower case are the same. The sensor's names go before the common ones,
    which count only as a whole, or at the end of a file's name: ``Red Edge 1`` is not red, nor is ``red_sea_B02.tif``.

    Args:
        modality: the bands that there are.
    """

    def __init__(self, modality: Modality) -> None:
        bands = [band for group in modality.groups for band in group.bands]
        self._own = {_folded(band.name): band.name for band in bands}
        self._common = {_folded(band.common_name): band.name for band in bands if band.common_name}

    def of_file(self, name: str) -> str | None:
        """The band that a file is named after, or None.

        Raises:
            QueryError: it is named after several.
        """
        words = [_folded(_stem(name)), *_words(_stem(name))]
        found = _only(self._own, words, f"{name[:MAX_NAME]}: its name")
        return found or self._common.get(words[-1])

    def find(self, texts: Iterable[str], where: str) -> str | None:
        """The band that the first of some texts which speaks of one speaks of, or None.

        Args:
            texts: descriptions, values of tags.
            where: whose they are, for the message.

        Raises:
            QueryError: a text speaks of several.
        """
        for text in texts:
            whole = _folded(text)
            if found := _only(self._own, [whole, *_words(text)], where) or self._common.get(whole):
                return found
        return None


def last_word(name: str) -> str:
    """The word at the end of a file's name, where its band usually stands; ``""`` where there is none."""
    return next(iter(reversed(_WORD.findall(_stem(name)[-MAX_NAME:]))), "")


def _stem(name: str) -> str:
    return _ENDING.sub("", re.split(r"[/\\]", name)[-1])


def _only(known: Mapping[str, str], words: Iterable[str], where: str) -> str | None:
    found = list(dict.fromkeys(known[word] for word in words if word in known))
    if len(found) > 1:
        raise QueryError(f"{where} speaks of the bands {found}; expected one")
    return found[0] if found else None


def _words(text: str) -> list[str]:
    return [_folded(word) for word in _WORD.findall(text[-MAX_NAME:]) if not _RESOLUTION.fullmatch(word)]


def _folded(name: str) -> str:
    low = name.strip().casefold()
    numbered = _NUMBERED.fullmatch(low)
    return f"b{numbered[1]}" if numbered else low
