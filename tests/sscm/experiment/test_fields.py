"""Settings from nested tables."""

import pytest

from sscm.config import EvaluateConfig, TrainConfig
from sscm.errors import ConfigError
from sscm.experiment.fields import build, flatten, merge


def test_nested_tables_become_nested_classes():
    config = build(TrainConfig, {"lr": 1, "model": {"image_size": 64}, "objective": {"kind": "vicreg"}}, "f")
    assert config.lr == 1.0 and isinstance(config.lr, float)
    assert config.model.image_size == 64
    assert config.objective.kind == "vicreg"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epoch": 1}, r"f: unknown 'epoch'; known are workspace, .*epochs"),
        ({"model": {"size": 1}}, r"f.model: unknown 'size'; known are backbone"),
        ({"model": 3}, r"f.model = 3; expected a table"),
        ({"epochs": "3"}, r"f.epochs = '3'; expected int"),
        ({"epochs": True}, r"f.epochs = True; expected int"),
        ({"epochs": 0}, r"f: epochs = 0; expected at least 1"),
        ({"objective": {"kind": "triplet"}}, r"f.objective.kind = 'triplet'; expected one of 'joint'"),
        ({"objective": {"temperature": 0}}, r"f.objective: temperature = 0"),
        ({"micro_batch": "all"}, r"f.micro_batch = 'all'; expected"),
    ],
)
def test_what_does_not_fit_is_named(values, message):
    with pytest.raises(ConfigError, match=message):
        build(TrainConfig, values, "f")


def test_paths_and_none():
    assert build(EvaluateConfig, {"json": "a.json"}, "f").json.name == "a.json"


def test_merge_goes_into_tables_and_leaves_its_arguments():
    base, over = {"a": 1, "t": {"x": 1, "y": 2}}, {"t": {"y": 3}, "b": 4}
    assert merge(base, over) == {"a": 1, "t": {"x": 1, "y": 3}, "b": 4}
    assert base == {"a": 1, "t": {"x": 1, "y": 2}}


def test_flatten():
    assert flatten({"a": 1, "t": {"x": {"z": 2}}}) == {"a": 1, "t.x.z": 2}
