"""What a trial does."""

import dataclasses

import pytest
import torch

from sscm.archive.manifest import read_manifest
from sscm.errors import ConfigError
from sscm.evaluation.protocols import Protocol
from sscm.experiment.measuring import Setting, run_trial, train_in_memory
from sscm.experiment.prepared import prepare
from sscm.experiment.trials import plan_trials
from sscm.model.bundle import make_encoders


@pytest.fixture
def setting(archive):
    protocol = Protocol(query_split="test", archive_split="test")
    return Setting(workspace=archive, manifest=read_manifest(archive), protocol=protocol)


@pytest.fixture
def trials(experiment, setting):
    return {trial.row: trial for trial in plan_trials(experiment, setting.manifest) if trial.seed == 0}


def gap_of(evaluation):
    return next(figure["value"] for figure in evaluation["figures"] if figure["metric"] == "modality_gap")


def nothing(*_):
    pass


def test_a_training_is_measured_without_and_with_adaptation(trials, setting):
    trial = dataclasses.replace(trials["joint"], adapt=("none", "centre", "statistics"))
    searched = Protocol(query_split="train", archive_split="train")  # the one split with enough images to adapt to
    setting = dataclasses.replace(setting, protocol=searched)
    prepared = prepare(setting.workspace, setting.manifest, trial.config.model, None)
    epochs = []
    result = run_trial(trial, setting, prepared, lambda *told: epochs.append(told))
    assert [each["adapt"] for each in result["evaluations"]] == ["none", "centre", "statistics"]
    metrics = {f["metric"] for f in result["evaluations"][0]["figures"]}
    assert {"partner_recall", "mean_pair_f1", "modality_gap"} <= metrics
    assert (result["train_pairs"], len(result["losses"])) == (96, 1)
    assert epochs == [(1, result["losses"][0])]  # trained once
    gaps = [gap_of(each) for each in result["evaluations"]]
    assert max(gaps[1:]) < 0.02 < gaps[0]


def test_the_same_seed_trains_the_same(trials, setting):
    trial = trials["NT-Xent"]
    prepared = prepare(setting.workspace, setting.manifest, trial.config.model, 64)
    first, second = (run_trial(trial, setting, prepared, nothing) for _ in range(2))
    assert first["losses"] == second["losses"]


@pytest.mark.parametrize("row", ["chance", "mean spectrum", "untrained"])
def test_baselines_need_no_training_pairs(trials, setting, row):
    result = run_trial(trials[row], setting, None, nothing)
    figures = {(f["direction"], f["metric"], f["k"]): f["value"] for f in result["evaluations"][0]["figures"]}
    assert {"s1->s2", "s2->s1", "s1->s1", "s2->s2"} == {direction for direction, _, _ in figures}
    if row == "chance":
        assert figures["s1->s2", "partner_recall", 10] == 10 / 48
    if row == "mean spectrum":
        assert figures["s1->s2", "partner_recall", 10] > 0.5
    assert result["train_seconds"] == 0


def test_an_adapted_spectrum_is_standardised_by_the_archive(trials, setting):
    plain, changed = run_trial(trials["mean spectrum"], setting, None, nothing)["evaluations"]
    assert (plain["adapt"], changed["adapt"]) == ("none", "statistics")
    assert gap_of(changed) < gap_of(plain)


def test_too_few_pairs_for_a_batch(trials, setting):
    config = trials["joint"].config
    prepared = prepare(setting.workspace, setting.manifest, config.model, 8)
    encoders = make_encoders(setting.manifest.modalities, setting.manifest.statistics, config.model)
    with pytest.raises(ConfigError, match="8 training pairs do not fill one batch of 32"):
        train_in_memory(encoders, config, prepared, nothing)


def test_an_epoch_sees_each_pair_at_most_once(trials, setting, monkeypatch):
    seen = []

    class Step:
        def __init__(self, *_):
            pass

        def __call__(self, images, pair_ids, step, generator):
            seen.append((step, pair_ids))
            return type("Losses", (), {"total": torch.zeros(())})()

    monkeypatch.setattr("sscm.experiment.measuring.TrainingStep", Step)
    config = trials["joint"].config
    prepared = prepare(setting.workspace, setting.manifest, config.model, 80)
    encoders = make_encoders(setting.manifest.modalities, setting.manifest.statistics, config.model)
    train_in_memory(encoders, config, prepared, nothing)
    assert [step for step, _ in seen] == [0, 1]
    assert len({each for _, ids in seen for each in ids}) == 64
