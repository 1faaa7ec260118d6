"""Experiment files."""

import pytest

from sscm.config import SyntheticConfig
from sscm.errors import ConfigError
from sscm.experiment.spec import parse_experiment, read_experiment


def test_runs_have_the_defaults_and_what_differs(experiment):
    plain, joint = experiment.runs
    assert (plain.config.objective.w_mde, joint.config.objective.w_mde) == (0.0, 0.1)
    assert plain.config.model == joint.config.model
    assert plain.differs == {"objective": {"w_mde": 0.0, "w_isp": 0.0}}
    assert (plain.adapt, joint.adapt) == (("none",), ("none", "centre"))
    assert experiment.seeds == (0, 1)
    assert experiment.baselines.spectrum and experiment.source is None


def test_an_adaptation_alone_or_several(values):
    values["runs"][0]["adapt"] = "statistics"
    values["runs"][1]["adapt"] = ["none", "centre", "statistics"]
    plain, joint = parse_experiment(values, "f").runs
    assert (plain.adapt, joint.adapt) == (("statistics",), ("none", "centre", "statistics"))


def test_a_source_and_expectations(values, monkeypatch):
    monkeypatch.setenv("LISTS", "/data/lists")
    values |= {"ingest": {"synthetic": {"pairs": 60}}, "expect": {"train": 42, "lists": "${LISTS}/x"}}
    experiment = parse_experiment(values, "f")
    assert experiment.source == SyntheticConfig(pairs=60)
    assert (experiment.expect.train, experiment.expect.lists) == (42, "/data/lists/x")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": [0]}, "f: unknown 'seed'; known are name, seeds"),
        ({"seeds": []}, r"seeds = \[\]; expected some"),
        ({"seeds": [1, 1]}, "expected each once"),
        ({"name": "a/b"}, "name = 'a/b'; expected letters"),
        ({"query_split": "dev"}, "f.query_split = 'dev'; expected one of"),
        ({"runs": []}, "expected at least one"),
        ({"runs": [{"objective": {}}]}, r"runs\[0\]: name missing"),
        ({"runs": [{"name": "a"}, {"name": "a"}]}, "a name occurs twice"),
        ({"runs": [{"name": "a", "adapt": "yes"}]}, r"runs\[0\].adapt\[0\] = 'yes'; expected one of 'none', 'centre'"),
        ({"runs": [{"name": "a", "adapt": [False, True]}]}, r"adapt\[0\] = False; expected one of 'none', 'centre'"),
        ({"runs": [{"name": "a", "seed": 3}]}, r"runs\[0\]: seed cannot be set for a run"),
        ({"runs": [{"name": "a", "loss": {}}]}, r"runs\[0\]: unknown 'loss'; known are epochs"),
        ({"runs": {"name": "a"}}, "runs is no list of tables"),
        ({"defaults": {"workers": 2}}, "workers cannot be set"),
        ({"defaults": 3}, r"defaults is no table"),
        ({"ingest": {"tapes": {}}}, "ingest: unknown 'tapes'; known are synthetic, bigearthnet, pairs, stac"),
        ({"ingest": {"bigearthnet": {"root": "${NO_SUCH_VARIABLE}"}}}, "set the environment variable NO_SUCH_VARIABLE"),
        ({"baselines": {"random": True}}, "baselines: unknown 'random'; known are chance, untrained, spectrum"),
        ({"memory_gb": 0}, "memory_gb = 0"),
    ],
)
def test_what_cannot_work_is_named(values, change, message):
    with pytest.raises(ConfigError, match=message):
        parse_experiment(values | change, "f")


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(ConfigError, match="No such file"):
        read_experiment(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("name = ")
    with pytest.raises(ConfigError, match="not TOML"):
        read_experiment(tmp_path / "bad.toml")
