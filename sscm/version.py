"""The version of the code, as artifacts record it."""

from __future__ import annotations

from importlib.metadata import version


def code_version() -> str:
    """Version of the installed distribution, e.g. ``0.1.0``."""
    return version("sscm")
