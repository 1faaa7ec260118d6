"""What a training tells Prometheus: when, and that a node's agent shows it as the dashboards ask for it."""

import time

import httpx
import pytest
import ray
import ray.data
import torch
from prometheus_client.parser import text_string_to_metric_families

from sscm.training import metrics
from tests.plugins.queries import asked

EPOCH = {
    "epoch": 3,
    "loss": 1.0,
    "lr": 1e-3,
    "pairs_per_s": 250.0,
    "data_wait_fraction": 0.05,
    "skipped_pairs": 2,
    "workers": 2,
    "validation": {"s1->s2": {"recall@1": 0.1, "recall@10": 0.4, "median_rank": 9.0, "pairs": 100.0}},
}


class Told:
    """In the place of Ray's gauges and counters."""

    values: dict

    def __init__(self, name, description, tag_keys):
        self.name = name

    def set(self, value, tags):
        Told.values[self.name, *sorted(tags.items())] = value

    def inc(self, value, tags):
        key = (self.name, *sorted(tags.items()))
        Told.values[key] = Told.values.get(key, 0) + value


@pytest.fixture
def told(monkeypatch):
    Told.values = {}
    monkeypatch.setattr(metrics, "Counter", Told)
    monkeypatch.setattr(metrics, "Gauge", Told)
    return Told.values


def test_steps_are_told_now_and_then_and_no_pair_is_lost(told, monkeypatch):
    now = 1000.0
    monkeypatch.setattr(metrics.time, "monotonic", lambda: now)
    training = metrics.TrainingMetrics("a")
    training.step(1, torch.tensor([4.0, 3.0, 2.0, -1.0]), 256)
    assert told["sscm_training_pairs", ("run", "a")] == 256
    assert told["sscm_training_loss", ("loss", "isp"), ("run", "a")] == -1
    for step in range(2, 12):
        training.step(step, torch.zeros(4), 256)
    assert told["sscm_training_step", ("run", "a")] == 1
    now += metrics.PUBLISH_S
    training.step(12, torch.zeros(4), 256)
    assert told["sscm_training_pairs", ("run", "a")] == 12 * 256
    assert (told["sscm_training_step", ("run", "a")], told["sscm_training_loss", ("loss", "loss"), ("run", "a")]) == (
        12,
        0,
    )


def test_an_epoch_is_told_with_what_was_not_told_of_its_steps(told):
    training = metrics.TrainingMetrics("a")
    for step in range(1, 4):
        training.step(step, torch.zeros(4), 10)
    training.epoch(EPOCH)
    assert told["sscm_training_pairs", ("run", "a")] == 30
    assert told["sscm_training_epoch", ("run", "a")] == 3
    assert told["sscm_training_recall", ("direction", "s1->s2"), ("k", "10"), ("run", "a")] == 0.4
    assert told["sscm_training_learning_rate", ("run", "a")] == 1e-3
    training.epoch({"epoch": 4})  # of an archive without a validation split, by another version
    assert told["sscm_training_epoch", ("run", "a")] == 4


def missing(wanted, **labels):
    """Those of some series that a node's agent does not show within a minute; labels are those of the samples meant."""
    node = ray.nodes()[0]
    agent = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    end = time.monotonic() + 60
    while wanted and time.monotonic() < end:
        time.sleep(1)
        text = httpx.get(agent, timeout=10).text
        samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
        seen = {s.name: {"instance", *s.labels} for s in samples if labels.items() <= s.labels.items()}
        wanted = {series for series in wanted if not series.labels <= seen.get(series.metric, set())}
    return wanted


def test_a_nodes_agent_shows_what_dashboards_and_alerts_ask_for(ray_session):
    training = metrics.TrainingMetrics("live")
    training.step(1, torch.tensor([4.0, 3.0, 2.0, -1.0]), 256)
    training.epoch(EPOCH)
    wanted = {series for _, series in asked("ray_sscm_training_")}
    assert len({series.metric for series in wanted}) == 10
    assert not missing(wanted, run="live")


def test_ray_tells_what_dashboards_and_alerts_ask_it_for(ray_session):
    ray.data.range(8, override_num_blocks=4).map_batches(lambda batch: batch).materialize()
    of_gpus = () if torch.cuda.is_available() else ("ray_node_gpus_utilization", "ray_node_gram_used")
    wanted = {series for _, series in asked("ray_") if not series.metric.startswith(("ray_sscm_", *of_gpus))}
    assert {series.metric.split("_")[1] for series in wanted} == {"data", "node", "object"}
    assert not missing(wanted)
