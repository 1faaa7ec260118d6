"""The queries of dashboards and alerts, and the series that they ask for."""

import json
from pathlib import Path
from typing import NamedTuple

import promql_parser
import yaml

CLUSTER = Path(__file__).resolve().parents[2] / "cluster"
DASHBOARDS = sorted((CLUSTER / "grafana/dashboards").glob("*.json"))
ALERTS = CLUSTER / "prometheus/alerts.yml"
OF_RAY = "ray_"
"""What Ray puts before the names of what is told to it."""


class Query(NamedTuple):
    """One query, and where it stands."""

    where: str
    text: str


class Series(NamedTuple):
    """What a query asks for: a metric, and the labels that are to be there."""

    metric: str
    labels: frozenset[str]


def queries():
    """All of them."""
    found = []
    for path in DASHBOARDS:
        dashboard = json.loads(path.read_text())
        for panel in dashboard["panels"]:
            found += [Query(f"{path.name}: {panel['title']}", t["expr"]) for t in panel.get("targets", ())]
        for variable in dashboard["templating"]["list"]:
            if variable["type"] == "query":
                metric, label = variable["query"].removeprefix("label_values(").removesuffix(")").split(", ")
                found.append(Query(f"{path.name}: ${variable['name']}", f"count by ({label}) ({metric})"))
    for group in yaml.safe_load(ALERTS.read_text())["groups"]:
        found += [Query(f"{ALERTS.name}: {rule['alert']}", rule["expr"]) for rule in group["rules"]]
    return found


def series_of(text):
    """The series of a query; labels are those it chooses and groups by. Raises ValueError where it is none."""
    found = []

    def walk(node, labels):
        if isinstance(node, promql_parser.VectorSelector):
            chosen = {matcher.name for matcher in node.matchers.matchers}
            found.append(Series(node.name, frozenset(labels | chosen)))
        elif isinstance(node, promql_parser.MatrixSelector):
            walk(node.vector_selector, labels)
        elif isinstance(node, promql_parser.AggregateExpr):
            walk(node.expr, labels | set(node.modifier.labels if node.modifier else ()))
        elif isinstance(node, promql_parser.Call):
            for argument in node.args:
                walk(argument, labels)
        elif isinstance(node, promql_parser.BinaryExpr):
            walk(node.lhs, labels)
            walk(node.rhs, labels)
        elif isinstance(node, promql_parser.ParenExpr | promql_parser.UnaryExpr | promql_parser.SubqueryExpr):
            walk(node.expr, labels)

    walk(promql_parser.parse(text), set())
    return found


def asked(prefix):
    """Series of all queries whose metrics begin so, each with where it stands."""
    return [(q.where, s) for q in queries() for s in series_of(q.text) if s.metric.startswith(prefix)]
