"""The nightly refresh: take in what is new, index it, and serve it only where it does as well as what is there."""

from sscm.refresh.launch import Refresh, refresh

__all__ = ["Refresh", "refresh"]
