"""The rows that a filter lets through, with what makes their scans fast."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

SPARSE = 16
"""Where a filter passes less than one row in so many, its rows' codes are gathered at once."""
DENSE = 0.75
"""Where it passes no larger share, they are gathered once :data:`GATHER_QUERIES` were asked with it; else it masks."""
GATHER_QUERIES = 8

Bitmap = npt.NDArray[np.bool_]


class Passing:
    """Rows that may answer, with their codes once that pays: kept with a filter that many queries share.

    Args:
        bitmap: bool [n], not changed afterwards.
    """

    def __init__(self, bitmap: Bitmap) -> None:
        self.bitmap = bitmap
        self.count = int(np.count_nonzero(bitmap))
        self._asked = 0
        self._places: Tensor | None = None
        self._mask: Tensor | None = None
        self._codes: Tensor | None = None
        self._source: Tensor | None = None
        self._bits: npt.NDArray[np.uint8] | None = None

    @property
    def bytes(self) -> int:
        """Memory that it holds."""
        held = self.bitmap.nbytes
        apart = self._mask if self._mask is not None and self._mask.device.type != "cpu" else None
        return held + sum(t.numel() * t.element_size() for t in (self._places, self._codes, apart) if t is not None)

    def places(self, device: torch.device) -> Tensor:
        """The rows, int64 [count]."""
        if self._places is None or self._places.device != device:
            self._places = torch.from_numpy(np.flatnonzero(self.bitmap)).to(device)
        return self._places

    def mask(self, device: torch.device) -> Tensor:
        """The bitmap, bool [n]; on the CPU the same memory."""
        if self._mask is None or self._mask.device != device:
            self._mask = torch.from_numpy(self.bitmap).to(device)
        return self._mask

    @property
    def bits(self) -> npt.NDArray[np.uint8]:
        """The bitmap, eight rows a byte, the first one lowest."""
        if self._bits is None:
            self._bits = np.packbits(self.bitmap, bitorder="little")
        return self._bits

    def gathered(self, codes: Tensor, queries: int) -> Tensor | None:
        """Codes of the rows; None while a mask is cheaper, which so many queries more may change."""
        self._asked += queries
        if self._source is not codes:  # of another scan, or none yet
            self._source, self._codes = codes, None
        few = self.count * SPARSE < len(codes)
        if self._codes is None and (few or (self.count <= DENSE * len(codes) and self._asked >= GATHER_QUERIES)):
            self._codes = codes.index_select(0, self.places(codes.device))
        return self._codes
