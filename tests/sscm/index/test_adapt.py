"""Adapting to an archive: the sample, the build that carries it through, and the encoders that it leaves to queries."""

import dataclasses
import os
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from sscm.archive.manifest import read_manifest
from sscm.archive.schema import decode_group
from sscm.archive.shard_file import write_shard
from sscm.config import IndexConfig
from sscm.errors import BundleError, GenerationError, IntegrityError
from sscm.index import adapt, build
from sscm.index.adapt import Sample, SampleBatches, draw_sample, run_adaptation
from sscm.index.build import build_index
from sscm.index.encoders import load_encoders, read_adaptation
from sscm.index.generation import open_segments, read_generation
from sscm.model.adaptation import estimate_adaptation
from sscm.model.bundle import save_bundle, untrained


@pytest.fixture
def config(larger, larger_bundle):
    return IndexConfig(workspace=larger.uri, actors=2, cpus_per_actor=1, batch_size=32)


def gap(workspace, generation):
    segments = open_segments(workspace, generation)
    means = [np.concatenate([s.vectors(name) for s in segments]).mean(axis=0) for name in ("s1", "s2")]
    return np.linalg.norm(means[0] - means[1])


def batches_of(workspace, sample, size=32):
    modalities = read_manifest(workspace).modalities
    return SampleBatches(workspace=workspace, modalities=modalities, sample=sample, batch_size=size)


def test_a_sample_is_seeded_and_spread_over_the_shards(larger):
    shards = read_manifest(larger).shards  # 24 + 24 + 8 + 8 + 32 + 32 rows in row groups of 16
    whole = draw_sample(shards, "centre")
    assert whole.pairs == 128 and len(set(whole.pieces)) == len(whole.pieces) == 10
    assert whole == draw_sample(shards, "centre") and whole.digest != draw_sample(shards, "centre", seed=5).digest
    other = draw_sample(shards, "statistics")
    assert other.pieces == whole.pieces and other.digest != whole.digest
    some = draw_sample(shards, "centre", most=88)
    assert some.pairs <= 88 and {piece.file for piece in some.pieces} == {shard.file for shard in shards}
    assert some.pieces == whole.pieces[: len(some.pieces)]
    for few, most in ((shards, 63), (shards[:3], 4096), ([], 4096)):
        assert draw_sample(few, "centre", most) is None
    altered = (dataclasses.replace(shards[0], sha256="0" * 64), *shards[1:])
    assert draw_sample(altered, "centre").digest != whole.digest


def test_batches_are_of_like_size_and_read_anew(larger, monkeypatch):
    monkeypatch.setattr(adapt, "WINDOW_PAIRS", 50)
    asked = []
    read = pq.ParquetFile.read_row_groups

    def spy(self, row_groups, columns):
        asked.extend(columns)
        return read(self, row_groups, columns=columns)

    monkeypatch.setattr(pq.ParquetFile, "read_row_groups", spy)
    batches = batches_of(larger, draw_sample(read_manifest(larger).shards, "statistics"), size=20)
    for _ in range(2):
        sizes = {"s1": [], "s2": []}
        for batch in batches:
            ((name, groups),) = batch.items()
            sizes[name].append(len(next(iter(groups.values()))))
        assert sum(sizes["s1"]) == sum(sizes["s2"]) == 128
        assert 13 <= min(sizes["s1"]) and max(sizes["s1"]) <= 30
    assert set(asked) == {"s1", "s2_10m", "s2_20m", "s2_60m"}


def test_pairs_without_a_modality_are_left_out_of_it(larger, larger_bundle, pair_factory):
    pairs = []
    for number in range(200, 280):
        pair = pair_factory(number, "test")
        kept = {name: image for name, image in pair.images.items() if number % 10 or name != "s1"}
        pairs.append(dataclasses.replace(pair, images=kept))
    shard, _ = write_shard(larger, pairs, larger_bundle.modalities, "shards/odd.parquet", "test", 16)
    found = estimate_adaptation(larger_bundle, batches_of(larger, draw_sample([shard], "centre")), "centre")
    assert found.images == {"s1": 72, "s2": 80}


def test_queries_are_embedded_as_the_archive_s_images(larger, larger_bundle, config, ray_session, monkeypatch, capsys):
    generation = build_index(config)
    assert generation == read_generation(larger)
    assert generation.adaptation.images == {"s1": 128, "s2": 128}
    assert (generation.adaptation.pairs, generation.adaptation.most) == (128, 4096)
    assert larger.names("index", "staging") == []
    assert "adapt: 256 of 256 images" in capsys.readouterr().err

    encoders = load_encoders(larger, generation)
    assert encoders.adapted == generation.adaptation.fingerprint and encoders.fingerprint == larger_bundle.fingerprint
    (segment,) = open_segments(larger, generation)
    for place in (0, 50, 127):
        file, row = (segment.rows[name][place].as_py() for name in ("archive_file", "archive_row"))
        with larger.parquet("archive", *file.split("/")) as shard:
            one = shard.read().slice(row, 1)
        for modality in larger_bundle.modalities:
            image = {group.name: decode_group(one[group.name], group) for group in modality.groups}
            np.testing.assert_allclose(
                encoders.encode(modality.name, image)[0], segment.vectors(modality.name)[place], atol=1e-5
            )

    monkeypatch.setattr(build, "run_adaptation", None)  # nothing is estimated to see that all is there
    assert build_index(config) == generation
    assert "generation 1 already holds these 128 pairs" in capsys.readouterr().err


def test_the_gap_falls_and_not_adapted_is_another_generation(larger, config, embedded):
    adapted = build_index(config)
    plain = build_index(dataclasses.replace(config, adapt="none"))
    assert (adapted.number, plain.number, plain.adaptation) == (1, 2, None)
    assert adapted.adaptation.kind == "centre" and not read_adaptation(larger, adapted).statistics
    assert load_encoders(larger, plain).adapted is None and read_adaptation(larger, plain) is None
    assert gap(larger, adapted) < 0.02 < gap(larger, plain)
    again = build_index(config)
    assert again.number == 3 and again.adaptation == adapted.adaptation and again.segments == adapted.segments
    statistics = build_index(dataclasses.replace(config, adapt="statistics"))
    assert statistics.number == 4 and statistics.adaptation.kind == "statistics"
    assert read_adaptation(larger, statistics).statistics and gap(larger, statistics) < 0.02
    test = build_index(dataclasses.replace(config, splits=("test",)))
    assert test.rows == test.adaptation.pairs == 64 and test.adaptation.fingerprint != adapted.adaptation.fingerprint


def test_a_killed_build_goes_on_with_the_same_adaptation(larger, config, embedded, monkeypatch):
    run = build.run_embedding

    def killed(*args):
        for row in run(*args):
            yield row
            if len(embedded) == 2:
                raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(build, "run_embedding", killed)
        with pytest.raises(KeyboardInterrupt):
            build_index(config)
    (folder, file) = larger.names("index", "staging")
    staged = Path(larger.path_of("index", "staging", file)).read_bytes()
    assert len(larger.names("index", "staging", folder)) == 2
    with monkeypatch.context() as patch:
        patch.setattr(build, "run_adaptation", None)
        generation = build_index(config)
    assert len(embedded) == len(set(embedded)) == 6
    assert Path(larger.path_of("index", *generation.adaptation.file.split("/"))).read_bytes() == staged
    assert larger.names("index", "staging") == []


def test_an_adaptation_staged_by_half_is_estimated_again(larger, larger_bundle, config, embedded):
    sample = draw_sample(read_manifest(larger).shards, "centre")
    larger.write_bytes(
        b"half", "index", "staging", f"{larger_bundle.fingerprint[:12]}-{sample.digest[:12]}.safetensors"
    )
    assert build_index(config).adaptation.images == {"s1": 128, "s2": 128}


def test_too_few_pairs_are_embedded_as_trained(archive, small_bundle, embedded, capsys):
    generation = build_index(IndexConfig(workspace=archive.uri))
    assert generation.adaptation is None
    assert "encoders of s1, s2 are not adapted to the archive" in capsys.readouterr().err
    build_index(IndexConfig(workspace=archive.uri, adapt="none"))
    assert "not adapted" not in capsys.readouterr().err


def test_an_altered_or_lost_adaptation(larger, config, embedded):
    generation = build_index(config)
    path = Path(larger.path_of("index", *generation.adaptation.file.split("/")))
    content = path.read_bytes()
    altered = bytearray(content)
    altered[-1] ^= 1
    path.write_bytes(altered)
    with pytest.raises(IntegrityError, match=rf"{path.name} was altered"):
        load_encoders(larger, generation)
    path.unlink()
    with pytest.raises(IntegrityError, match=rf"{path.name} is missing; restore it, or run `sscm index` again"):
        load_encoders(larger, generation)
    assert build_index(config).number == 2
    assert path.read_bytes() == content
    assert load_encoders(larger, generation).adapted == generation.adaptation.fingerprint


def test_another_model_of_that_name(larger, larger_bundle, config, embedded):
    generation = build_index(config)
    save_bundle(larger, dataclasses.replace(untrained(larger_bundle, 4), name="small"))
    with pytest.raises(GenerationError, match=rf"was made with {larger_bundle.fingerprint[:12]}; build the index anew"):
        load_encoders(larger, generation)


def test_errors_of_the_task_arrive_as_they_are(larger, larger_bundle, config, ray_session):
    here = os.getpid()

    class Dying(Sample):
        def __getattribute__(self, name):
            if name == "pieces" and os.getpid() != here:
                os._exit(1)
            return super().__getattribute__(name)

    sample = draw_sample(read_manifest(larger).shards, "centre")
    with pytest.raises(GenerationError, match=r"(?s)adaptation failed: .*run the same command again"):
        run_adaptation(larger, larger_bundle, Dying(**vars(sample)), config)
    larger_bundle.encoders["s1"].head.bias.data[0] = float("nan")
    with pytest.raises(BundleError, match="not finite: it diverged"):
        run_adaptation(larger, larger_bundle, sample, config)
