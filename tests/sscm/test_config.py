import pytest

from sscm.config import ModelConfig, ObjectiveConfig, PairsConfig, ServeConfig, SyntheticConfig, TrainConfig
from sscm.errors import ConfigError


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TrainConfig(epochs=0), "epochs = 0"),
        (lambda: TrainConfig(batch_size=3, workers=2), "at least two pairs a worker"),
        (lambda: TrainConfig(workers=2, min_workers=3), "min_workers = 3; expected 1 to 2"),
        (lambda: TrainConfig(checkpoint_minutes=0), "checkpoint_minutes"),
        (lambda: TrainConfig(resume=True), "--resume --name NAME"),
        (lambda: ObjectiveConfig(w_mim=0), "collapsing"),
        (lambda: ObjectiveConfig(temperature=0), "more than 0"),
        (lambda: ModelConfig(image_size=8), "at least 16"),
        (lambda: TrainConfig(crop=0), "a share above 0"),
        (lambda: TrainConfig(crop=0.5, augment=False), "without augmentation"),
        (lambda: SyntheticConfig(pixels=100), "multiple of 6"),
        (lambda: SyntheticConfig(validation=0.5, test=0.5), "leave some for training"),
        (lambda: PairsConfig(table="t", modalities="m", tile=2), "at least 8"),
        (lambda: ServeConfig(port=70000), "0 to 65535"),
    ],
)
def test_settings_that_cannot_work_say_so(make, message):
    with pytest.raises(ConfigError, match=message):
        make()
