"""Weights from files: bands matched by name, other architectures refused."""

import pytest
import safetensors.torch
import torch

from sscm.archive.statistics import BandStatistics
from sscm.config import ModelConfig
from sscm.errors import BundleError
from sscm.model.bundle import make_encoders
from sscm.model.encoders import make_backbone
from sscm.model.weights import first_convolution, kernels_for, load_backbone_weights
from sscm.sensors import Band, sentinel1, sentinel2

CONFIG = ModelConfig(backbone="resnet10t", dimension=8, image_size=32)
FIRST = "conv1.0.weight"


def encoders_of(*modalities):
    one = BandStatistics(count=1, mean=0.0, m2=1.0, minimum=-1.0, maximum=1.0)
    statistics = {f"{m.name}/{band}": one for m in modalities for band in m.band_names}
    return make_encoders(modalities, statistics, CONFIG)


def write(path, bands, metadata=None, backbone="resnet10t"):
    torch.manual_seed(3)
    state = {k: v.contiguous() for k, v in make_backbone(backbone, bands, 32).state_dict().items()}
    safetensors.torch.save_file({**state, "fc.weight": torch.zeros(2, 2)}, path, metadata)
    return state


def test_an_rgb_file_gives_its_kernels_to_red_green_and_blue(tmp_path):
    given = write(tmp_path / "rgb.safetensors", 3)[FIRST]
    encoders = encoders_of(sentinel1(24), sentinel2(24))
    load_backbone_weights(encoders, tmp_path / "rgb.safetensors")
    modality = encoders["s2"].modality
    bands = [band for group in modality.groups for band in group.bands]
    kernels = encoders["s2"].backbone.state_dict()[FIRST]
    assert kernels.shape[1] == len(bands) == 12
    for channel, name in enumerate(("red", "green", "blue")):
        place = [band.common_name for band in bands].index(name)
        assert torch.allclose(kernels[:, place], given[:, channel] * 3 / 12)
    nir = [band.name for band in bands].index("B08")
    assert torch.allclose(kernels[:, nir], given.mean(dim=1) * 3 / 12)
    radar = encoders["s1"].backbone.state_dict()[FIRST]
    assert torch.allclose(radar, given.mean(dim=1, keepdim=True).expand(-1, 2, -1, -1) * 3 / 2)


def test_a_file_that_names_its_bands_is_matched_by_name_not_by_order(tmp_path):
    given = write(tmp_path / "radar.safetensors", 2, {"bands": "vh, VV"})
    encoders = encoders_of(sentinel1(24))
    load_backbone_weights(encoders, tmp_path / "radar.safetensors")
    names = encoders["s1"].modality.band_names
    state = encoders["s1"].backbone.state_dict()
    for channel, name in enumerate(("VH", "VV")):
        assert torch.equal(state[FIRST][:, names.index(name)], given[FIRST][:, channel])
    assert all(torch.equal(state[key], given[key]) for key in state if key != FIRST)


def test_alike_bands_excite_the_first_layer_as_before():
    kernels = torch.randn(4, 3, 3, 3, dtype=torch.float64)
    bands = [Band(name=f"X{i}") for i in range(5)]
    grey = torch.randn(1, 1, 8, 8, dtype=torch.float64)
    adapted = kernels_for(bands, ["red", "green", "blue"], kernels)
    before = torch.nn.functional.conv2d(grey.expand(1, 3, 8, 8), kernels)
    assert torch.allclose(torch.nn.functional.conv2d(grey.expand(1, 5, 8, 8), adapted), before)


def test_one_channel_is_any_band(tmp_path):
    given = write(tmp_path / "grey.safetensors", 1)[FIRST]
    encoders = encoders_of(sentinel1(24))
    load_backbone_weights(encoders, tmp_path / "grey.safetensors")
    assert torch.allclose(encoders["s1"].backbone.state_dict()[FIRST], given.expand(-1, 2, -1, -1) / 2)


def test_bands_that_the_file_does_not_tell_are_not_guessed(tmp_path):
    write(tmp_path / "many.safetensors", 2)
    with pytest.raises(BundleError, match="2 channels of unknown bands; expected metadata 'bands'"):
        load_backbone_weights(encoders_of(sentinel1(24)), tmp_path / "many.safetensors")
    write(tmp_path / "wrong.safetensors", 2, {"bands": "VV"})
    with pytest.raises(BundleError, match=r"metadata names 1 bands.*have 2"):
        load_backbone_weights(encoders_of(sentinel1(24)), tmp_path / "wrong.safetensors")


def test_another_architecture_and_no_weights_at_all_are_refused(tmp_path):
    write(tmp_path / "other.safetensors", 3, backbone="resnet18")
    with pytest.raises(BundleError, match="not weights of the backbone of s1, a ResNet: missing"):
        load_backbone_weights(encoders_of(sentinel1(24)), tmp_path / "other.safetensors")
    (tmp_path / "text.safetensors").write_text("hello")
    for name in ("text", "absent"):
        with pytest.raises(BundleError, match="expected a safetensors file"):
            load_backbone_weights(encoders_of(sentinel1(24)), tmp_path / f"{name}.safetensors")


@pytest.mark.parametrize(
    ("backbone", "weight"),
    [
        ("resnet18", "conv1.weight"),
        ("vit_tiny_patch16_224", "patch_embed.proj.weight"),
        ("convnext_atto", "stem.0.weight"),
    ],
)
def test_the_first_convolution_of_any_backbone(backbone, weight):
    assert first_convolution(make_backbone(backbone, 5, 32)) == weight
