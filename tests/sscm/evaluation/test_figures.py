import dataclasses
import io
import json

import pytest
from rich.console import Console

from sscm.evaluation.figures import TABLE_COLUMNS, short_number
from sscm.evaluation.protocols import METRICS, PROTOCOLS, Direction

CROSS = Direction("s1", "s2")


def printed(evaluation, width=80):
    console = Console(width=width, file=io.StringIO())
    console.print(evaluation.table())
    return console.file.getvalue()


def test_json_is_complete(evaluation):
    about = json.loads(json.dumps(evaluation.to_json(), allow_nan=False))
    assert about["simulated"] is True
    assert about["model"] == {"name": "made", "fingerprint": "f" * 64, "dimension": 16}
    assert about["protocol"]["query_split"] == about["protocol"]["archive_split"] == "test"
    assert about["protocol"]["exclude_self"] is True
    assert len(about["figures"]) == len(evaluation.figures)
    for encoder in ("trained", "untrained", "chance"):
        for direction in ("s1->s1", "s2->s2", "s1->s2", "s2->s1"):
            found = [f for f in about["figures"] if (f["encoder"], f["direction"]) == (encoder, direction)]
            assert {f["query_split"] for f in found} == {f["archive_split"] for f in found} == {"test"}
            assert {f["queries"] for f in found} == {f["archive"] for f in found} == {48}
            assert {("f1_of_means", 10), ("mean_pair_f1", 5), ("mean_average_precision", None)} <= {
                (f["metric"], f["k"]) for f in found
            }
    assert {f["metric"] for f in about["figures"]} <= set(about["metrics"])


def test_table_fits_a_terminal_and_holds_the_figures(evaluation):
    text = printed(evaluation)
    lines = text.splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    assert "…" not in text
    for encoder in ("trained", "untrained", "chance"):
        found = evaluation.figure(encoder, CROSS, "partner_recall", 5)
        assert short_number(found.value, "partner_recall") in text
    assert "split test" in text and "generation 3" in text and "simulated images" in text
    assert "48 queries, 48 images searched in every direction" in " ".join(text.split())


def test_columns_follow_what_was_measured(evaluation):
    names = {name for name, _ in evaluation.columns}
    assert "cover_distance" not in names  # the archive knows no class fractions
    assert [m.name for m in METRICS if m.name in names] == list(dict.fromkeys(name for name, _ in evaluation.columns))
    assert "cover_distance" not in printed(evaluation)
    assert set(evaluation.columns) > {c for c in TABLE_COLUMNS if c[0] != "cover_distance"}


def test_best(evaluation):
    trained = evaluation.figure("trained", CROSS, "partner_recall", 1).value
    assert trained > evaluation.figure("untrained", CROSS, "partner_recall", 1).value
    assert evaluation.best(CROSS, "partner_recall", 1) == trained
    assert evaluation.best(CROSS, "median_rank") == evaluation.figure("trained", CROSS, "median_rank").value
    assert evaluation.best(Direction("s1", "s1"), "median_rank") is None
    gap = evaluation.figure("chance", CROSS, "modality_gap")
    smallest = dataclasses.replace(gap, value=0.0)
    changed = dataclasses.replace(evaluation, figures=tuple(smallest if f == gap else f for f in evaluation.figures))
    assert changed.best(CROSS, "modality_gap") > 0  # chance is no rival there


def test_encoders_of_any_name_stand_between_trained_and_untrained(evaluation):
    others = []
    for name in ("sibling", "another"):
        others += [dataclasses.replace(f, encoder=name) for f in evaluation.figures if f.encoder == "untrained"]
    best = dataclasses.replace(evaluation.figure("trained", CROSS, "mean_pair_f1", 5), encoder="sibling", value=2.0)
    others = [
        best if (f.encoder, f.direction, f.metric, f.k) == ("sibling", CROSS, "mean_pair_f1", 5) else f for f in others
    ]
    changed = dataclasses.replace(evaluation, figures=(*evaluation.figures, *others))
    assert changed.encoders == ("trained", "sibling", "another", "untrained", "chance")
    assert changed.best(CROSS, "mean_pair_f1", 5) == 2.0
    assert "another" in printed(changed)


def test_what_is_no_goal_has_no_best(evaluation):
    assert evaluation.figure("trained", CROSS, "alignment") is not None
    assert evaluation.best(CROSS, "alignment") is None
    assert evaluation.best(Direction("s1", "s1"), "uniformity") is None


@pytest.mark.parametrize("name", list(PROTOCOLS))
def test_tables_of_published_protocols_fit_a_terminal(evaluation, name):
    known = PROTOCOLS[name]
    model = evaluation.figures[0]
    figures = [
        dataclasses.replace(model, encoder=encoder, metric=m.name, k=k, query_modality=query, target_modality=target)
        for encoder in ("trained", "untrained", "chance")
        for query in ("s1", "s2")
        for target in ("s1", "s2")
        for m in METRICS
        for k in known.places(m.name)
    ]
    changed = dataclasses.replace(evaluation, figures=tuple(figures), protocol=known)
    assert changed.table_columns[0] == (known.headline, known.ks[0])
    assert {(known.headline, k) for k in known.ks} <= set(changed.table_columns)
    text = printed(changed)
    assert max(map(len, text.splitlines())) <= 80 and "…" not in text
    assert f"protocol {name}" in text and changed.to_json()["protocol"]["name"] == name


def test_sizes_that_differ_are_told_apart(evaluation):
    fewer = tuple(
        dataclasses.replace(f, queries=7) if f.direction == CROSS else f
        for f in evaluation.figures
        if f.encoder == "trained"
    )
    assert "s1→s2 7 queries, 48 searched" in dataclasses.replace(evaluation, figures=fewer).sizes_text


@pytest.mark.parametrize(
    ("value", "metric", "text"),
    [
        (0.1234, "mean_pair_f1", ".123"),
        (0.0, "partner_recall", ".000"),
        (0.9996, "partner_recall", "1.00"),
        (1.25, "modality_gap", "1.25"),
        (80.5, "median_rank", "80.5"),
        (12345.5, "median_rank", "12346"),
    ],
)
def test_short_numbers(value, metric, text):
    assert short_number(value, metric) == text
