"""Partner recall after an epoch, in one process: images that make no embedding do not count."""

import pytest
import torch

from sscm.archive.manifest import read_manifest
from sscm.config import ModelConfig, TrainConfig
from sscm.model.bundle import make_encoders
from sscm.training.job import WorkerJob
from sscm.training.validate import validate


@pytest.mark.parametrize("diverged", [False, True])
def test_encoders_that_diverged_have_no_figures(archive, diverged):
    manifest = read_manifest(archive)
    config = TrainConfig(model=ModelConfig(backbone="resnet10t", dimension=8, image_size=32))
    encoders = make_encoders(manifest.modalities, manifest.statistics, config.model)
    if diverged:
        with torch.no_grad():
            encoders["s1"].head.weight.fill_(torch.nan)
    found = validate(encoders, WorkerJob(workspace=archive, manifest=manifest, config=config), rank=0, workers=1)
    assert found == {} if diverged else {figures["pairs"] for figures in found.values()} == {32.0}
