"""Which trials there are, and when a result is used again."""

import dataclasses

import pytest

from sscm.archive.manifest import read_manifest
from sscm.errors import ConfigError
from sscm.experiment.spec import parse_experiment
from sscm.experiment.trials import plan_trials, read_result, write_result


@pytest.fixture
def manifest(archive):
    return read_manifest(archive)


def keys(experiment, manifest):
    return {(trial.row, trial.seed): trial.key for trial in plan_trials(experiment, manifest)}


def test_rows_and_seeds(experiment, manifest):
    trials = plan_trials(experiment, manifest)
    assert [(t.row, t.seed) for t in trials] == [
        ("chance", 0), ("mean spectrum", 0), ("untrained", 0), ("NT-Xent", 0), ("joint", 0),
        ("chance", 1), ("untrained", 1), ("NT-Xent", 1), ("joint", 1),
    ]  # fmt: skip
    assert len({t.key for t in trials}) == len(trials)
    assert all(t.config.seed == t.seed for t in trials if t.config)
    assert {t.adapt for t in trials if t.row == "untrained"} == {("none", "centre")}


def test_kinds_of_adaptation_share_a_trial_and_a_spectrum_knows_one(values, experiment, manifest):
    values["runs"][0]["adapt"] = ["statistics", "centre"]
    trials = {trial.row: trial for trial in plan_trials(parse_experiment(values, "f"), manifest) if not trial.seed}
    assert {row: trial.adapt for row, trial in trials.items()} == {
        "chance": ("none",),
        "mean spectrum": ("none", "statistics"),
        "untrained": ("none", "centre", "statistics"),
        "NT-Xent": ("statistics", "centre"),
        "joint": ("none", "centre"),
    }
    assert trials["mean spectrum"].key == keys(experiment, manifest)["mean spectrum", 0]


def test_each_architecture_has_its_untrained_row(values, manifest):
    values["runs"].append({"name": "small", "model": {"dimension": 8}})
    rows = {trial.row for trial in plan_trials(parse_experiment(values, "f"), manifest) if trial.kind == "untrained"}
    assert rows == {"untrained (NT-Xent)", "untrained (small)"}


def test_more_seeds_runs_and_other_names_leave_the_keys(values, experiment, manifest):
    before = keys(experiment, manifest)
    values["seeds"] = [2, 0, 1]
    values["runs"].append({"name": "more", "lr": 1e-4})
    after = keys(parse_experiment(values, "f"), manifest)
    assert {row: after[row] for row in before if row != ("mean spectrum", 0)}.items() <= after.items()
    assert all(after[row] == key for row, key in before.items() if row in after)
    values["runs"][0]["name"] = "InfoNCE"
    assert keys(parse_experiment(values, "f"), manifest)["InfoNCE", 0] == before["NT-Xent", 0]


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"cpus_per_worker": 2}, True),
        ({"epochs": 2}, False),
        ({"augment": False}, False),
        ({"objective": {"temperature": 0.2}}, False),
        ({"model": {"dimension": 8}}, False),
    ],
)
def test_settings_that_matter_change_the_key(values, experiment, manifest, change, same):
    values["runs"][1] |= change
    after = keys(parse_experiment(values, "f"), manifest)
    assert (after["joint", 0] == keys(experiment, manifest)["joint", 0]) is same
    assert after["NT-Xent", 0] == keys(experiment, manifest)["NT-Xent", 0]


def test_other_data_and_splits_change_every_key(experiment, manifest):
    before = keys(experiment, manifest)
    shards = (dataclasses.replace(manifest.shards[0], sha256="0"), *manifest.shards[1:])
    assert not set(keys(experiment, dataclasses.replace(manifest, shards=shards)).values()) & set(before.values())
    other = dataclasses.replace(experiment, query_split="validation")
    assert not set(keys(other, manifest).values()) & set(before.values())


def test_a_sample_changes_what_learns_of_it(experiment, manifest):
    before, after = keys(experiment, manifest), keys(dataclasses.replace(experiment, pairs=64), manifest)
    changed = {row for row, _ in before} - {row for (row, seed), key in before.items() if after[row, seed] == key}
    assert changed == {"NT-Xent", "joint", "mean spectrum"}


def test_weights_count_by_content(values, manifest, tmp_path):
    values["defaults"]["model"]["weights"] = str(tmp_path / "w")
    (tmp_path / "w").write_bytes(b"1")
    before = keys(parse_experiment(values, "f"), manifest)
    (tmp_path / "w").write_bytes(b"2")
    assert keys(parse_experiment(values, "f"), manifest)["joint", 0] != before["joint", 0]
    (tmp_path / "w").unlink()
    with pytest.raises(ConfigError, match=r"weights = .*expected a file"):
        keys(parse_experiment(values, "f"), manifest)


def test_results(workspace):
    assert read_result(workspace, "small", "k") is None
    write_result(workspace, "small", "k", {"seed": 1})
    assert read_result(workspace, "small", "k") == {"seed": 1}
