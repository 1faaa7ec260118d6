"""Metrics under ``prometheus_client``'s names, kept by this process and, inside Ray, by Ray as well.

Each metric counts in two places:

* in a ``prometheus_client`` registry of this process. ``GET /metrics`` of a gateway shows it: requests, latency by
  stage and batch sizes as that one gateway saw them. Behind a load balancer with several gateways a scrape sees
  whichever replica it reaches; ``sscm_gateway_info`` names it. With one gateway, the default, it is the whole truth.
* in ``ray.util.metrics``, where there is a Ray. Every node's agent exports these under the same names with ``ray_`` in
  front, for all replicas, each labelled with its ``WorkerId``; that is what a cluster's Prometheus scrapes (Ray writes
  the addresses to ``prom_metrics_service_discovery.json`` in its temporary folder).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import prometheus_client
import ray
from ray.util import metrics as ray_metrics

from serve.messages import ShardAnswer

CONTENT_TYPE = prometheus_client.CONTENT_TYPE_LATEST
LATENCY_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Bounds of latency histograms, seconds: from an empty request to the default deadline."""
BATCH = (1, 2, 4, 8, 16, 32, 64, 128)
"""Bounds of batch-size histograms."""


class Counter:
    """A number that only rises.

    Args:
        name: as in ``prometheus_client``, without ``_total``.
        documentation: one line of help.
        labelnames: names of its labels.
        registry: of this process.
    """

    def __init__(
        self, name: str, documentation: str, labelnames: Sequence[str], registry: prometheus_client.CollectorRegistry
    ) -> None:
        self._labelnames = tuple(labelnames)
        self._local = prometheus_client.Counter(name, documentation, self._labelnames, registry=registry)
        self._children: dict[tuple[str, ...], prometheus_client.Counter] = {}
        self._untold: dict[tuple[str, ...], float] = {}
        self._ray: Any = None
        if ray.is_initialized():
            self._ray = ray_metrics.Counter(name, description=documentation, tag_keys=self._labelnames)

    def inc(self, *labels: str, amount: float = 1.0) -> None:
        """Raise it; label values in the order of the names. Event loop only."""
        child = self._children.get(labels)
        if child is None:
            child = self._children[labels] = self._local.labels(*labels) if labels else self._local
        child.inc(amount)
        self._untold[labels] = self._untold.get(labels, 0.0) + amount

    def push(self) -> None:
        """Tell Ray what was counted since the last time, which costs less than telling it each time."""
        untold, self._untold = self._untold, {}
        if self._ray is None:
            return
        for labels, amount in untold.items():
            if amount > 0:  # Ray refuses to add nothing
                self._ray.inc(amount, tags=dict(zip(self._labelnames, labels, strict=True)))


class Histogram:
    """How often values fell below each of some bounds.

    Args:
        name: as in ``prometheus_client``, with its unit.
        documentation: one line of help.
        labelnames: names of its labels.
        buckets: upper bounds, rising, above 0.
        registry: of this process.
    """

    def __init__(
        self,
        name: str,
        documentation: str,
        labelnames: Sequence[str],
        buckets: Sequence[float],
        registry: prometheus_client.CollectorRegistry,
    ) -> None:
        self._labelnames = tuple(labelnames)
        self._local = prometheus_client.Histogram(
            name, documentation, self._labelnames, buckets=buckets, registry=registry
        )
        self._children: dict[tuple[str, ...], tuple[prometheus_client.Histogram, dict[str, str]]] = {}
        self._ray: Any = None
        if ray.is_initialized():
            self._ray = ray_metrics.Histogram(
                name, description=documentation, boundaries=list(buckets), tag_keys=self._labelnames
            )

    def observe(self, value: float, *labels: str) -> None:
        """Count a value; label values in the order of the names."""
        found = self._children.get(labels)
        if found is None:
            tags = dict(zip(self._labelnames, labels, strict=True))
            found = self._children[labels] = self._local.labels(*labels), tags
        child, tags = found
        child.observe(value)
        if self._ray is not None:
            self._ray.observe(value, tags=tags)


class Gauge:
    """A number that rises and falls, asked for when it is shown.

    Args:
        name: as in ``prometheus_client``.
        documentation: one line of help.
        registry: of this process.
    """

    def __init__(self, name: str, documentation: str, registry: prometheus_client.CollectorRegistry) -> None:
        self._local = prometheus_client.Gauge(name, documentation, registry=registry)
        self._ray: Any = ray_metrics.Gauge(name, description=documentation) if ray.is_initialized() else None
        self._value: Callable[[], float] = lambda: 0.0

    def show(self, value: Callable[[], float]) -> None:
        """Show what a function returns."""
        self._value = value
        self._local.set_function(value)

    def push(self) -> None:
        """Tell Ray, which does not ask."""
        if self._ray is not None:
            self._ray.set(self._value())


class Stage:
    """A block whose time is counted; one that fails counts too.

    Args:
        histogram: where it is counted.
        name: its label.
    """

    def __init__(self, histogram: Histogram, name: str) -> None:
        self._histogram, self._name = histogram, name

    def __enter__(self) -> None:
        self._start = time.perf_counter()

    def __exit__(self, *failure: object) -> None:
        self._histogram.observe(time.perf_counter() - self._start, self._name)


class GatewayMetrics:
    """What a gateway counts.

    Args:
        replica: name of this gateway among its like.
    """

    def __init__(self, replica: str) -> None:
        self.registry = prometheus_client.CollectorRegistry()
        self.requests = Counter("sscm_requests", "HTTP requests answered", ("route", "status"), self.registry)
        self.latency = Histogram(
            "sscm_request_seconds", "Time of a request in the gateway", ("route",), LATENCY_S, self.registry
        )
        self.stages = Histogram(
            "sscm_stage_seconds",
            "Time of one stage: decode, encode, fan-out (what shards take in all), scan (a batch's search), merge",
            ("stage",),
            LATENCY_S,
            self.registry,
        )
        self.batches = Histogram(
            "sscm_batch_size",
            "Queries in the batch that a query was answered in, by stage; counted once a query",
            ("stage",),
            BATCH,
            self.registry,
        )
        self.scans = Counter(
            "sscm_scans",
            "Scans of codes for queries: one a segment, but for segments of few rows that may answer",
            (),
            self.registry,
        )
        self.widened = Counter(
            "sscm_widened_scans",
            "Those that looked at more rows than at first until the answer was proven; as a share of sscm_scans, how "
            "hard queries are",
            (),
            self.registry,
        )
        self.shard_errors = Counter(
            "sscm_shard_errors", "Calls of a shard that no replica answered", ("shard", "status"), self.registry
        )
        self.generation = Gauge("sscm_generation", "Index generation that is served", self.registry)
        self.waiting = Gauge("sscm_waiting_queries", "Queries that wait in a gateway for their batch", self.registry)
        self.in_flight = Gauge("sscm_in_flight_requests", "Requests that a gateway has in hand", self.registry)
        self.items = Counter("sscm_items", "Items in answers of shards", (), self.registry)
        self.made_items = Counter(
            "sscm_made_items", "Those that a shard did not have as JSON from an earlier answer", (), self.registry
        )
        self._counters = [value for value in vars(self).values() if isinstance(value, Counter)]
        about = prometheus_client.Gauge(
            "sscm_gateway_info", "The gateway that shows this page", ("replica",), registry=self.registry
        )
        about.labels(replica).set(1)

    def answered(self, answer: ShardAnswer, batch: int) -> None:
        """Count a shard's answer to a query, which was in a batch of so many."""
        self.batches.observe(batch, "search")
        self.stages.observe(answer.seconds, "scan")
        if answer.hits:
            self.items.inc(amount=len(answer.hits))
        if answer.made:
            self.made_items.inc(amount=answer.made)
        if answer.scans:
            self.scans.inc(amount=answer.scans)
        if answer.widened:
            self.widened.inc(amount=answer.widened)

    def push(self) -> None:
        """Tell Ray what was counted, and how gauges stand."""
        for gauge in (self.generation, self.waiting, self.in_flight):
            gauge.push()
        for counter in self._counters:
            counter.push()

    def stage(self, name: str) -> Stage:
        """Time a block as one stage of a request; one that fails counts too."""
        return Stage(self.stages, name)

    def text(self) -> bytes:
        """Everything counted by this process, in Prometheus' text format (:data:`CONTENT_TYPE`)."""
        return prometheus_client.generate_latest(self.registry)
