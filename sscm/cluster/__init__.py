"""Looking after a cluster: :func:`check_cluster` finds out before a run what it would trip over."""

from sscm.cluster.check import Check, check_cluster

__all__ = ["Check", "check_cluster"]
