"""Finding images over HTTP: a Ray Serve application over one index generation.

:mod:`serve.app` composes and starts it; here are the shapes of its requests.
"""

from serve.api import Filters, HttpProblem

__all__ = ["Filters", "HttpProblem"]
