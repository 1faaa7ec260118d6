"""The recipes in the repository are experiment files, and BEN-14K's takes the published lists."""

from pathlib import Path

import pytest

from sscm.archive.sources import BigEarthNetSource
from sscm.archive.sources.bigearthnet_splits import read_splits
from sscm.config import BigEarthNetConfig
from sscm.experiment.spec import read_experiment

RECIPES = Path(__file__).resolve().parents[3] / "recipes"
ROWS = ["NT-Xent", "NT-Xent + L_MDE", "NT-Xent + L_ISP", "joint", "Barlow Twins", "VICReg"]


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.toml")), ids=lambda path: path.stem)
def test_recipes_say_what_is_compared(path, monkeypatch):
    monkeypatch.setenv("BIGEARTHNET", "/data")
    monkeypatch.setenv("BEN14K_SPLIT", "/lists")
    experiment = read_experiment(path)
    assert experiment.name == path.stem
    if path.stem in ("choices", "group-norm"):  # vary one run, on an archive whose baselines another recipe has
        return
    assert set(ROWS) <= {run.name for run in experiment.runs}
    assert len(experiment.seeds) >= 3
    assert experiment.baselines.chance and experiment.baselines.untrained and experiment.baselines.spectrum


def test_ben14k_expects_the_published_lists(shared_data, monkeypatch):
    monkeypatch.setenv("BIGEARTHNET", "/data")
    monkeypatch.setenv("BEN14K_SPLIT", str(shared_data / "ben14k-split"))
    expect = read_experiment(RECIPES / "ben14k.toml").expect
    listed = [split for name, split in read_splits(str(expect.lists)).items() if name.startswith("S2")]
    assert (expect.train, expect.validation, expect.test) == tuple(
        listed.count(split) for split in ("train", "validation", "test")
    )


def test_ingest_takes_lists_of_pairs(bigearthnet_v1, tmp_path):
    """Lists as published, Sentinel-2 then Sentinel-1 a line: they are taken, absent patches passed over."""
    s2_names = bigearthnet_v1(tmp_path / "root", 4)
    partner = {
        folder.name.rsplit("_", 2)[1:][0] + "_" + folder.name.rsplit("_", 1)[1]: folder.name
        for folder in (tmp_path / "root" / "BigEarthNet-S1-v1.0").iterdir()
    }
    lists = tmp_path / "lists"
    lists.mkdir()
    pairs = [f"{name},{partner['_'.join(name.rsplit('_', 2)[1:])]}" for name in s2_names]
    absent = "S2B_MSIL2A_20170719T094029_42_85,S1B_IW_GRDH_1SDV_20170719T045324_34TCS_42_85"
    (lists / "train.csv").write_text(f"{pairs[0]}\n{pairs[1]}\n")
    (lists / "val.csv").write_text(f"{absent}\n")
    (lists / "test.csv").write_text(f"{pairs[2]}\n")
    source = BigEarthNetSource(BigEarthNetConfig(root=str(tmp_path / "root"), split_file=str(lists)))
    assert {ref.key: ref.split for ref in source.plan()} == dict(
        zip(s2_names, ("train", "train", "test"), strict=False)
    )
