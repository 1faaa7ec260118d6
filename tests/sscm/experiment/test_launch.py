"""Experiments on Ray: what is missing is run, once; killed and failed trials."""

import dataclasses
import os
import signal

import pytest

from sscm.archive.manifest import read_manifest
from sscm.config import ExperimentConfig
from sscm.errors import ArchiveError, ConfigError, ManifestError
from sscm.experiment import pool
from sscm.experiment.board import Display
from sscm.experiment.launch import run_experiment
from sscm.experiment.spec import parse_experiment
from sscm.experiment.trials import plan_trials

pytestmark = pytest.mark.usefixtures("ray_session")

FOLDER = ("experiments", "small")


def contents(workspace):
    return {name: workspace.read_bytes(*FOLDER, "trials", name) for name in workspace.names(*FOLDER, "trials")}


def run(experiment, workspace, at_once=2):
    return run_experiment(experiment, ExperimentConfig(workspace=workspace.uri, trials_at_once=at_once))


def test_nothing_is_trained_twice(archive, values, monkeypatch):
    """Interrupted after some trials, then with one seed more: results that are there stay as they are."""
    shown = Display.finished

    def interrupt(display, trial, text):
        shown(display, trial, text)
        if trial.kind == "train":
            raise KeyboardInterrupt

    values["seeds"] = [0]
    monkeypatch.setattr(Display, "finished", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(parse_experiment(values, "f"), archive, at_once=1)
    monkeypatch.setattr(Display, "finished", shown)
    interrupted = contents(archive)
    assert 0 < len(interrupted) < 5

    results = run(parse_experiment(values, "f"), archive)
    once = contents(archive)
    assert len(once) == 5 and interrupted.items() <= once.items()
    assert results.missing == []
    assert [row.name for row in results.rows] == [
        "NT-Xent", "joint", "joint, centred", "untrained", "untrained, centred", "mean spectrum",
        "mean spectrum, statistics adapted", "chance",
    ]  # fmt: skip

    values["seeds"] = [0, 1]
    results = run(parse_experiment(values, "f"), archive)
    twice = contents(archive)
    assert len(twice) == 9 and once.items() <= twice.items()
    assert results.rows[0].seeds == (0, 1)
    assert b"NT-Xent" in archive.read_bytes(*FOLDER, "table.md")
    assert archive.read_bytes(*FOLDER, "plot.png").startswith(b"\x89PNG")
    assert archive.read_json(*FOLDER, "table.json")["rows"][0]["seeds"] == [0, 1]

    monkeypatch.setattr("sscm.experiment.launch.run_trials", None)  # nothing is left to run
    assert run(parse_experiment(values, "f"), archive).rows == results.rows


def test_a_killed_trial_is_begun_again(archive, values, monkeypatch):
    values |= {
        "seeds": [0],
        "runs": values["runs"][:1],
        "baselines": dict.fromkeys(("chance", "untrained", "spectrum"), False),
    }
    values["runs"][0]["epochs"] = 20
    killed = []

    def kill(display, running, states):
        for trial in running:
            state = states.get(trial.key)
            if state and not killed:
                killed.append(state.process)
                os.kill(state.process, signal.SIGKILL)

    monkeypatch.setattr(Display, "show", kill)
    results = run(parse_experiment(values, "f"), archive)
    assert len(killed) == 1
    assert results.missing == []
    assert results.rows[0].seeds == (0,)


def test_a_trial_that_is_always_killed_fails_alone(archive, values, monkeypatch):
    values |= {"seeds": [0], "baselines": {"untrained": False, "spectrum": False}}
    values["runs"][0]["epochs"] = 50
    doomed = next(t for t in plan_trials(parse_experiment(values, "f"), read_manifest(archive)) if t.row == "NT-Xent")
    killed = set()

    def kill(display, running, states):
        state = states.get(doomed.key)
        if state and state.process not in killed:
            killed.add(state.process)
            os.kill(state.process, signal.SIGKILL)

    monkeypatch.setattr(Display, "show", kill)
    results = run(parse_experiment(values, "f"), archive)
    assert len(killed) == pool.ATTEMPTS
    (missing,) = results.missing
    assert missing.startswith("NT-Xent, seed 0: its process was killed 3 times")
    assert {row.name: row.seeds for row in results.rows} == {
        "NT-Xent": (), "joint": (0,), "joint, centred": (0,), "chance": (0,),
    }  # fmt: skip


def test_a_failed_trial_is_named(archive, values):
    values |= {"seeds": [0], "baselines": {"untrained": False, "spectrum": False, "chance": False}}
    values["runs"][0]["batch_size"] = 128
    results = run(parse_experiment(values, "f"), archive)
    (missing,) = results.missing
    assert "NT-Xent, seed 0: Config error: 96 training pairs do not fill one batch of 128" in missing
    assert b"missing: NT-Xent, seed 0" in archive.read_bytes(*FOLDER, "table.md")


def test_a_trial_past_its_deadline_is_ended(archive, values):
    values |= {
        "seeds": [0],
        "hours_per_trial": 1 / 3600,
        "baselines": dict.fromkeys(("untrained", "spectrum", "chance"), False),
    }
    values["runs"] = [{"name": "long", "epochs": 100_000}]
    (missing,) = run(parse_experiment(values, "f"), archive).missing
    assert "ended after hours_per_trial" in missing


def test_what_cannot_run_is_told_before_anything_does(archive, workspace, experiment, tmp_path):
    with pytest.raises(ConfigError, match="memory_gb = 1e-06 allows less"):
        run(dataclasses.replace(experiment, memory_gb=1e-6), archive)
    with pytest.raises(ArchiveError, match="split train has 96 pairs, expected 7"):
        run(dataclasses.replace(experiment, expect=dataclasses.replace(experiment.expect, train=7)), archive)
    empty = dataclasses.replace(workspace, uri=f"file://{tmp_path}/empty")
    with pytest.raises(ManifestError, match=r"no \[ingest\] table"):
        run(experiment, empty)
    assert not archive.exists(*FOLDER)


def test_the_archive_is_made_where_there_is_none(workspace, values):
    values |= {"seeds": [0], "ingest": {"synthetic": {"pairs": 60, "pixels": 24, "test": 0.4}}}
    values |= {"runs": [], "baselines": {"untrained": False, "spectrum": False}}
    values["runs"] = [{"name": "joint", "batch_size": 8}]
    results = run(parse_experiment(values, "f"), workspace)
    assert results.missing == []
    assert read_manifest(workspace).simulated
    assert "(simulated)" in results.header["data"]
