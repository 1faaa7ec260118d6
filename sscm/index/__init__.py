"""The index: immutable segments of embeddings, committed as generations, searched exactly.

Here is what reads and names an index and costs nothing to import. :mod:`sscm.index.build` makes one on Ray,
:mod:`sscm.index.search` searches it with torch.
"""

from sscm.index.filters import Filter
from sscm.index.generation import Generation, SegmentInfo, open_segments, read_generation
from sscm.index.segment import Segment

__all__ = ["Filter", "Generation", "Segment", "SegmentInfo", "open_segments", "read_generation"]
