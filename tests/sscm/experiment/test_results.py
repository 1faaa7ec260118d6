"""Rows of an experiment."""

import statistics

import pytest

from sscm.experiment.results import Column, table_columns

RECALL = Column("s1->s2", "partner_recall", 10)
GAP = Column("s1–s2", "modality_gap", None)


def test_rows_are_runs_then_baselines(results):
    assert [row.name for row in results.rows] == ["NT-Xent", "joint", "joint, centred", "chance"]


def test_means_and_spreads_over_seeds(results):
    row = results.rows[0]
    assert row.values[RECALL] == pytest.approx((0.5, 0.51, 0.52))
    assert row.mean(RECALL) == pytest.approx(0.51)
    assert row.spread(RECALL) == pytest.approx(statistics.stdev([0.5, 0.51, 0.52]))
    assert row.train_seconds == (10.0, 11.0, 12.0)


def test_a_gap_stands_once(results):
    assert len(results.rows[0].values[GAP]) == 3
    assert [c for c in table_columns(["s1", "s2"]) if c.metric == "modality_gap"] == [GAP]


def test_adapted_rows_have_figures_of_their_own(results):
    assert results.rows[2].mean(RECALL) == pytest.approx(results.rows[1].mean(RECALL) + 0.1)


def test_what_is_missing_is_named(results):
    assert results.missing == ["joint, seed 2: memory was short", "joint, centred, seed 2: memory was short"]
    assert results.rows[1].seeds == (0, 1)


def test_the_best_row(results):
    assert results.best(RECALL).name == "joint, centred"
    assert results.best(GAP).name == "joint, centred"
    assert results.best(Column("s1->s2", "precision", 5)) is None


def test_json_holds_every_value(results):
    value = results.to_json()
    figure = next(f for f in value["rows"][0]["figures"] if f["direction"] == "s1->s2" and f["k"] == 10)
    assert figure["values"] == pytest.approx([0.5, 0.51, 0.52])
    assert figure["higher_is_better"]
    assert value["missing"] == results.missing
