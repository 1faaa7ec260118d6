"""Archives of image pairs: shards named by a manifest.

Here is what an archive is. :mod:`sscm.archive.ingest` writes one on Ray Data, :mod:`sscm.archive.sources` is where
pairs come from, :mod:`sscm.archive.stream` is how training reads them.
"""

from sscm.archive.manifest import Manifest, Shard, read_manifest
from sscm.archive.schema import Pair
from sscm.archive.statistics import BandStatistics

__all__ = ["BandStatistics", "Manifest", "Pair", "Shard", "read_manifest"]
