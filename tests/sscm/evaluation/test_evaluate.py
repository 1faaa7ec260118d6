import dataclasses
import json

import numpy as np
import pytest

from sscm.archive.manifest import read_manifest
from sscm.archive.schema import decode_group
from sscm.config import EvaluateConfig, IndexConfig, ModelConfig
from sscm.errors import ConfigError, GenerationError
from sscm.evaluation import geometry, metrics
from sscm.evaluation.evaluate import evaluate
from sscm.evaluation.protocols import Direction
from sscm.index.adapt import SampleBatches, draw_sample
from sscm.index.build import build_index
from sscm.index.generation import open_segments, read_generation
from sscm.model.adaptation import adapt, estimate_adaptation
from sscm.model.bundle import make_bundle, make_encoders, save_bundle, untrained
from sscm.workspace import open_workspace


@pytest.fixture(scope="module")
def indexed(tmp_path_factory, archive_factory, ray_session):
    """A workspace with archive, model (its weights drawn, not trained) and index."""
    workspace = open_workspace(str(tmp_path_factory.mktemp("indexed")))
    manifest = archive_factory(workspace, 32, 20, 40)
    config = ModelConfig(backbone="resnet10t", dimension=16, image_size=32)
    bundle = make_bundle(
        "drawn",
        config=config,
        modalities=manifest.modalities,
        statistics=manifest.statistics,
        encoders=make_encoders(manifest.modalities, manifest.statistics, config),
        split="train",
        simulated=True,
        record={"config": {}, "epochs": []},
    )
    save_bundle(workspace, bundle)
    build_index(IndexConfig(workspace=workspace.uri))
    return workspace, bundle


def test_figures_of_the_index(indexed, tmp_path):
    workspace, bundle = indexed
    path = tmp_path / "figures.json"
    picture = tmp_path / "gallery.png"
    evaluation = evaluate(
        EvaluateConfig(workspace=workspace.uri, seed=1, json=path, report=tmp_path / "page.html", gallery=picture)
    )
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert evaluation.encoders == ("trained", "untrained", "chance")
    assert (evaluation.model, evaluation.fingerprint, evaluation.simulated) == ("drawn", bundle.fingerprint, True)

    (segment,) = open_segments(workspace, read_generation(workspace))
    test = np.array(segment.rows["split"].to_pylist()) == "test"
    ranks = metrics.partner_ranks(segment.vectors("s1")[test], segment.vectors("s2")[test])
    found = evaluation.figure("trained", Direction("s1", "s2"), "partner_recall", 5)
    assert (found.value, found.queries, found.archive) == (metrics.recall_at(ranks, 5), 40, 40)

    assert json.loads(path.read_text()) == evaluation.to_json()
    assert evaluation.report == tmp_path / "page.html"
    assert "Sentinel-1 → Sentinel-2" in evaluation.report.read_text()


def test_the_untrained_encoder_is_the_seeds(indexed, tmp_path):
    workspace, bundle = indexed
    evaluation = evaluate(EvaluateConfig(workspace=workspace.uri, seed=2, report=tmp_path / "page.html"))
    manifest = read_manifest(workspace)
    # Adapted as the index's own encoders are, on the same pairs.
    sample = draw_sample(manifest.shards, "centre")
    batches = SampleBatches(workspace=workspace, modalities=manifest.modalities, sample=sample, batch_size=64)
    fresh = untrained(bundle, 2)
    fresh = adapt(fresh, estimate_adaptation(fresh, batches, "centre"))
    told = "encoders adapted, without labels, to 92 pairs of the index: embeddings centred"
    assert told in evaluation.notes
    images = {}
    for m in manifest.modalities:
        vectors = []
        for shard in manifest.of_split("test"):
            with workspace.parquet("archive", *shard.file.split("/")) as file:
                table = file.read(columns=list(m.group_names))
            vectors.append(fresh.encode(m.name, {g.name: decode_group(table[g.name], g) for g in m.groups}))
        images[m.name] = np.concatenate(vectors)
    expected = geometry.modality_gap(images["s1"], images["s2"])
    found = evaluation.figure("untrained", Direction("s1", "s2"), "modality_gap")
    assert found.value == pytest.approx(expected, abs=1e-4)
    assert found.value < 0.3
    assert found.value != evaluation.figure("trained", Direction("s1", "s2"), "modality_gap").value


def test_other_splits_without_the_untrained_encoder(indexed):
    workspace, _ = indexed
    evaluation = evaluate(EvaluateConfig(workspace=workspace.uri, query_split="validation", untrained=False))
    assert evaluation.encoders == ("trained", "chance")
    found = {(f.query_split, f.archive_split, f.queries, f.archive): f.metric for f in evaluation.figures}
    assert set(found) == {
        ("validation", "test", 20, 40),
        ("validation", "validation", 20, 20),
        ("test", "test", 40, 40),
    }
    assert found["validation", "validation", 20, 20] == "alignment" and found["test", "test", 40, 40] == "uniformity"
    assert evaluation.sizes_text == "20 queries, 40 images searched in every direction"
    assert any("partner recall left out" in note for note in evaluation.notes)
    assert workspace.exists("report.html")  # where a local workspace has it by default
    assert str(evaluation.report) == workspace.path_of("report.html")


@pytest.mark.parametrize(
    ("name", "splits", "metric", "ks"),
    [
        ("csmae", ("validation", "test", 20, 40), "f1_of_means", [10]),
        ("jepa", ("test", "test", 40, 40), "mean_pair_f1", [5]),
        ("mueller", ("train", "test", 32, 40), "f1_at_rank", [8, 16, 32]),
    ],
)
def test_published_protocols(indexed, tmp_path, name, splits, metric, ks):
    workspace, _ = indexed
    path, page = tmp_path / "figures.json", tmp_path / "page.html"
    evaluation = evaluate(
        EvaluateConfig(workspace=workspace.uri, protocol=name, untrained=False, json=path, report=page)
    )
    found = [f for f in evaluation.figures if (f.encoder, f.metric) == ("trained", metric)]
    assert [f.k for f in found if f.direction == Direction("s1", "s2")] == ks
    assert {(f.query_split, f.archive_split, f.queries, f.archive) for f in found} == {splits}
    assert {f.own_pair_excluded for f in found} == {name == "jepa"}
    about = json.loads(path.read_text())["protocol"]
    assert (about["name"], about["query_split"], about["archive_split"]) == (name, *splits[:2])
    words = page.read_text()
    spoken = metric.replace("_", " ").replace("f1", "F1")
    assert f"protocol {name} (" in words and f"{spoken}@{ks[0]} of {splits[2]} queries" in words
    if name == "mueller":
        assert any("40 images to find, too few for k = 64, 128, 256, 512, 1000" in note for note in evaluation.notes)


def test_a_protocol_and_other_splits_contradict(indexed):
    workspace, _ = indexed
    with pytest.raises(
        ConfigError, match="query_split = 'test' with protocol 'csmae', whose query_split is 'validatio"
    ):
        evaluate(EvaluateConfig(workspace=workspace.uri, protocol="csmae", query_split="test"))


def test_no_index(archive):
    with pytest.raises(GenerationError, match="sscm index"):
        evaluate(EvaluateConfig(workspace=archive.uri))


def test_another_model_of_that_name(indexed):
    workspace, bundle = indexed
    other = dataclasses.replace(untrained(bundle, 9), name="drawn")
    save_bundle(workspace, other)
    try:
        with pytest.raises(GenerationError) as caught:
            evaluate(EvaluateConfig(workspace=workspace.uri))
        assert bundle.fingerprint[:12] in str(caught.value) and other.fingerprint[:12] in str(caught.value)
        assert "sscm index" in str(caught.value)
    finally:
        save_bundle(workspace, bundle)
