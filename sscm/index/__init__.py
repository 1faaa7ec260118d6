"""The index: immutable segments of embeddings, committed as generations, searched exactly."""

from sscm.index.build import build_index
from sscm.index.embed import EmbeddedShard, embed_shards
from sscm.index.exact import ExactScan
from sscm.index.filters import Filter
from sscm.index.generation import Generation, SegmentInfo, open_segments, read_generation
from sscm.index.search import Hit, IndexReader
from sscm.index.segment import Segment

__all__ = [
    "EmbeddedShard",
    "ExactScan",
    "Filter",
    "Generation",
    "Hit",
    "IndexReader",
    "Segment",
    "SegmentInfo",
    "build_index",
    "embed_shards",
    "open_segments",
    "read_generation",
]
