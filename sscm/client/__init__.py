"""Asking the HTTP service from Python.

:class:`Client` waits for its answers, :class:`AsyncClient` is awaited; what they send and how answers are read is in
one place, :mod:`sscm.client.requests`. :mod:`sscm.client.terminal` is what ``sscm search`` does.
"""

from sscm.client.about import Embedding, Index, Model, Readiness, Reload
from sscm.client.answers import Answers, Hit, Item, Page, Problem
from sscm.client.asynchronous import AsyncClient
from sscm.client.query import Example, Filters, Query
from sscm.client.synchronous import Client

__all__ = [
    "Answers",
    "AsyncClient",
    "Client",
    "Embedding",
    "Example",
    "Filters",
    "Hit",
    "Index",
    "Item",
    "Model",
    "Page",
    "Problem",
    "Query",
    "Readiness",
    "Reload",
]
