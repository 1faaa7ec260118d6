"""What Prometheus and Grafana are given: promtool's word, and that every query asks for something that there is."""

import json
import re
import shutil
import subprocess
from itertools import combinations
from pathlib import Path

import pytest
import ray
import yaml

from serve import metrics
from sscm.training import metrics as training_metrics
from tests.plugins.queries import CLUSTER, DASHBOARDS, OF_RAY, Series, queries, series_of

PROMETHEUS = CLUSTER / "prometheus"
RAYS_OWN = Path(ray.__file__).parent / "dashboard/modules/metrics/dashboards"
EVERYWHERE = {"instance", "job", "WorkerId", "NodeAddress"}
"""Labels of all that Ray's agents tell, or that Prometheus adds."""
OF_ITSELF = {"up", "ALERTS"}
"""Metrics that Prometheus makes."""


class Declared:
    """In the place of a metric of Ray or of ``prometheus_client``: notes that it was declared."""

    def __init__(self, suffixes):
        self.suffixes, self.labels = suffixes, {}

    def __call__(self, name, *args, description="", tag_keys=(), boundaries=None, **kwargs):
        for suffix, more in self.suffixes.items():
            self.labels[f"{OF_RAY}{name}{suffix}"] = {*tag_keys, *more}
        return self


@pytest.fixture(scope="module")
def declared():
    """Metric, as Ray's agents tell it → labels, of all that service and training declare."""
    counter, gauge = Declared({"_total": ()}), Declared({"": ()})
    histogram = Declared({"_bucket": ("le",), "_count": (), "_sum": ()})
    with pytest.MonkeyPatch.context() as patch:
        for module in (metrics.ray_metrics, training_metrics):
            for name, stand_in in (("Counter", counter), ("Gauge", gauge), ("Histogram", histogram)):
                patch.setattr(module, name, stand_in, raising=False)
        patch.setattr(metrics.ray, "is_initialized", lambda: True)
        metrics.GatewayMetrics("any")
        training_metrics.TrainingMetrics("any")
    return counter.labels | gauge.labels | histogram.labels


@pytest.fixture(scope="module")
def of_ray():
    """Metrics that Ray's own dashboards, in its wheel, ask for."""
    text = "".join(path.read_text() for path in RAYS_OWN.glob("*_panels.py"))
    return set(re.findall(r"\bray_\w+", text))


@pytest.fixture(scope="module")
def promtool():
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("no promtool: it is in Debian's package prometheus, and .ci/run brings it")

    def run(*arguments):
        done = subprocess.run([found, *map(str, arguments)], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr

    return run


@pytest.mark.parametrize("query", queries(), ids=lambda query: query.where)
def test_a_query_is_one_and_asks_for_what_is_told(query, declared, of_ray):
    for series in series_of(query.text):
        if series.metric.startswith(f"{OF_RAY}sscm_"):
            assert series.metric in declared, f"{series.metric} is told by nobody"
            assert series.labels <= declared[series.metric] | EVERYWHERE, series
        else:
            assert series.metric in of_ray | OF_ITSELF, f"{series.metric} is not what Ray tells"


def test_everything_that_is_told_is_shown(declared):
    shown = {series.metric for query in queries() for series in series_of(query.text)}
    missing = {name for name in declared if name not in shown and not name.endswith(("_count", "_sum"))}
    assert missing == {"ray_sscm_batch_size_bucket"}, "its mean is shown"


def test_what_a_query_asks_for_is_found_in_all_its_parts():
    text = 'sum by (le, a) (rate(x_bucket{b="1"}[5m])) / on (c) (-max_over_time(y{d=~".*"}[5m:1m])) > 0'
    assert series_of(text) == [Series("x_bucket", frozenset({"le", "a", "b"})), Series("y", frozenset({"d"}))]
    with pytest.raises(ValueError, match="unclosed"):
        series_of("sum(rate(x[5m])")


def test_promtool_finds_no_fault(promtool):
    promtool("check", "rules", PROMETHEUS / "alerts.yml")
    promtool("check", "config", PROMETHEUS / "prometheus.yml")


def test_alerts_fire_when_they_are_to_and_only_then(promtool):
    promtool("test", "rules", PROMETHEUS / "alerts_test.yml")


def test_every_alert_is_seen_firing_and_tells_a_remedy():
    rules = [
        rule for group in yaml.safe_load((PROMETHEUS / "alerts.yml").read_text())["groups"] for rule in group["rules"]
    ]
    text = (PROMETHEUS / "alerts_test.yml").read_text()
    for rule in rules:
        assert f'alertname="{rule["alert"]}"' in text, rule["alert"]
        assert {"summary", "remedy"} == rule["annotations"].keys()
        assert rule["labels"]["severity"] in ("page", "ticket")


def test_the_configuration_for_kubernetes_is_one_but_for_the_discovery(promtool, tmp_path):
    """Debian's promtool is built without Kubernetes' discovery; a fixed target stands in its place."""
    config = yaml.safe_load((PROMETHEUS / "kubernetes.yml").read_text())
    for job in config["scrape_configs"]:
        assert job.pop("kubernetes_sd_configs") == [{"role": "pod", "namespaces": {"names": ["sscm"]}}]
        job["static_configs"] = [{"targets": ["127.0.0.1:8080"]}]
    shutil.copy(PROMETHEUS / "alerts.yml", tmp_path)
    (tmp_path / "kubernetes.yml").write_text(yaml.safe_dump(config))
    promtool("check", "config", tmp_path / "kubernetes.yml")


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_a_dashboard_is_whole_and_its_panels_have_room(path):
    dashboard = json.loads(path.read_text())
    assert dashboard["uid"] == f"sscm-{path.stem}" and dashboard["title"] and dashboard["schemaVersion"] >= 36
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        place = panel["gridPos"]
        assert 0 <= place["x"] and place["x"] + place["w"] <= 24 and place["h"] >= 1
        if panel["type"] == "row":
            continue
        assert panel["title"] and panel["type"] in ("timeseries", "stat") and panel["targets"]
        assert panel["fieldConfig"]["defaults"]["unit"]
        for target in panel["targets"]:
            assert target["datasource"]["uid"] == "${datasource}" and target["legendFormat"]
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
    for one, other in combinations([panel["gridPos"] for panel in panels], 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        above = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or above, (one, other)
    known = {variable["name"] for variable in dashboard["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)", json.dumps([panel.get("targets") for panel in panels])))
    assert used - {"__all"} <= known
    assert known == used | {"datasource"}


def test_what_is_provisioned_is_there():
    (provider,) = yaml.safe_load((CLUSTER / "grafana/provisioning/dashboards/sscm.yml").read_text())["providers"]
    assert (CLUSTER.parent / provider["options"]["path"]).is_dir()
    (source,) = yaml.safe_load((CLUSTER / "grafana/provisioning/datasources/prometheus.yml").read_text())["datasources"]
    assert source["type"] == "prometheus"
