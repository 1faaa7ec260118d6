"""Find satellite images across sensors: self-supervised cross-modal retrieval of radar and optical images.

The packages, in the order in which data flows: :mod:`sscm.archive` (sources, shards, stream), :mod:`sscm.training`,
:mod:`sscm.model`, :mod:`sscm.index`, :mod:`sscm.evaluation`; the HTTP service is the package ``serve``. Nothing here
knows about HTTP but :mod:`sscm.client`.
"""

from sscm.version import code_version

__all__ = ["__version__"]

__version__ = code_version()
