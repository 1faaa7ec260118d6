"""Archives of image pairs: shards named by a manifest, how they are written, and how training streams them."""

from sscm.archive.ingest import ingest
from sscm.archive.manifest import Manifest, Shard, read_manifest
from sscm.archive.schema import Pair
from sscm.archive.statistics import BandStatistics
from sscm.archive.stream import StreamPlan, stream_batches

__all__ = [
    "BandStatistics",
    "Manifest",
    "Pair",
    "Shard",
    "StreamPlan",
    "ingest",
    "read_manifest",
    "stream_batches",
]
