"""What runs on a GPU gives what the CPU gives: exact search, embeddings, a training step. Skipped without CUDA."""

import copy

import numpy as np
import pytest
import torch

from sscm.archive.statistics import BandStatistics
from sscm.config import ModelConfig, ObjectiveConfig, TrainConfig
from sscm.index import choosing, exact
from sscm.index.exact import ExactScan
from sscm.index.passing import Passing
from sscm.index.product import int8_product, int8_works
from sscm.index.scan_form import make_scan_form
from sscm.model.bundle import make_bundle, make_encoders
from sscm.sensors import sentinel1, sentinel2

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA")

PIXELS = 60


def unit(rows, dimension, seed=0):
    values = np.random.default_rng(seed).standard_normal((rows, dimension))
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)


def trained_like(rows, dimension, seed=0):
    """Clusters in few strong directions, as a trained encoder's embeddings lie."""
    rng = np.random.default_rng(9)
    turn = np.linalg.qr(rng.standard_normal((dimension, dimension)))[0]
    centres = rng.standard_normal((50, dimension))
    rng = np.random.default_rng(seed)
    values = centres[rng.integers(50, size=rows)] + 0.35 * rng.standard_normal((rows, dimension))
    values = values / np.arange(1, dimension + 1) ** 0.9 @ turn
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)


def brute_force(vectors, queries, k, allowed=None):
    """Every product in float64, rounded to float32; sorted by score, then by row."""
    wide = vectors.astype(np.float64)
    places = np.arange(len(vectors)) if allowed is None else np.flatnonzero(allowed)
    scores, rows = [], []
    for query in queries:
        found = (wide[places] * query.astype(np.float64)).sum(axis=1).astype(np.float32)
        order = np.lexsort((places, -found))[:k]
        scores.append(found[order])
        rows.append(places[order])
    return np.array(scores, np.float32), np.array(rows, np.int64)


def same(found, wanted):
    np.testing.assert_array_equal(found[1], wanted[1])
    np.testing.assert_array_equal(found[0], wanted[0])


@pytest.fixture(params=["kernels", "general"])
def scan_of(request, monkeypatch):
    """Makes a scan on the GPU: by kernels, and as on the CPU."""

    def make(vectors):
        scan = ExactScan(vectors, device="cuda")
        assert scan._has_kernels
        scan._has_kernels = request.param == "kernels"
        return scan

    return make


@pytest.fixture
def no_direct(monkeypatch):
    """Few rows are scanned, too."""
    monkeypatch.setattr(exact, "DIRECT_ROWS", 0)


@pytest.mark.parametrize("rows", [1, 7, 64, 1000])
@pytest.mark.parametrize(("queries", "width"), [(1, 16), (17, 48), (32, 64), (33, 144)])
def test_integer_products(queries, rows, width):
    generator = torch.Generator().manual_seed(queries)
    left = torch.randint(-127, 128, (queries, width), generator=generator, dtype=torch.int8)
    right = torch.randint(-127, 128, (rows, width), generator=generator, dtype=torch.int8)
    out = torch.empty(queries, rows, dtype=torch.int32, device="cuda")
    int8_product(left.cuda(), right.cuda(), out)
    assert torch.equal(out.cpu(), left.int() @ right.int().T)
    assert int8_works("cuda")


@pytest.mark.parametrize("k", [1, 10, 100, 1000])
@pytest.mark.parametrize("share", [None, 0.9, 0.05])
def test_equals_brute_force(scan_of, no_direct, k, share):
    vectors, queries = trained_like(20_011, 128), trained_like(9, 128, 1)
    allowed = None if share is None else np.random.default_rng(2).random(len(vectors)) < share
    same(scan_of(vectors).search(queries, k, allowed), brute_force(vectors, queries, k, allowed))


@pytest.mark.parametrize("batch", [1, 2, 16, 17, 33, 128, 300])
def test_any_batch(scan_of, batch):
    vectors, queries = trained_like(30_001, 64), trained_like(batch, 64, 1)
    same(scan_of(vectors).search(queries, 10), brute_force(vectors, queries, 10))


@pytest.mark.parametrize("rows", [1, 63, 65, 4_096, 4_097, 8_191])
def test_any_number_of_rows(scan_of, rows):
    vectors, queries = unit(rows, 24), unit(5, 24, 1)
    same(scan_of(vectors).search(queries, 7), brute_force(vectors, queries, 7))


def test_more_answers_than_rows(scan_of):
    vectors, queries = unit(417, 16), unit(3, 16, 1)
    same(scan_of(vectors).search(queries, 1000), brute_force(vectors, queries, 417))


def test_duplicates_come_in_the_order_of_their_rows(scan_of, no_direct):
    vectors = np.repeat(unit(200, 16), 40, axis=0)[np.random.default_rng(3).permutation(8_000)]
    same(scan_of(vectors).search(vectors[:5], 25), brute_force(vectors, vectors[:5], 25))


def test_near_ties_are_told_apart_as_float64_does(scan_of, no_direct):
    base = unit(1, 64)[0]
    vectors = np.tile(base, (3_000, 1))
    rng = np.random.default_rng(4)
    for row in range(3_000):
        place = rng.integers(64)
        vectors[row, place] = np.nextafter(vectors[row, place], np.float32(rng.choice([-1, 1])))
    queries = np.stack([base, unit(1, 64, seed=5)[0]])
    same(scan_of(vectors).search(queries, 50), brute_force(vectors, queries, 50))


def test_vectors_and_queries_of_any_length(scan_of, no_direct):
    rng = np.random.default_rng(6)
    vectors = (rng.standard_normal((9_000, 32)) * 10.0 ** rng.integers(-3, 4, (9_000, 1))).astype(np.float32)
    queries = (rng.standard_normal((4, 32)) * 100).astype(np.float32)
    same(scan_of(vectors).search(queries, 20), brute_force(vectors, queries, 20))


@pytest.mark.parametrize("share", [0.02, 0.3, 0.7, 0.9])
def test_a_filter_asked_with_again_and_again_answers_the_same(scan_of, no_direct, share):
    vectors, queries = trained_like(12_345, 48), trained_like(30, 48, 1)
    bitmap = np.random.default_rng(4).random(len(vectors)) < share
    passing, scan = Passing(bitmap), scan_of(vectors)
    for start in range(0, 30, 3):
        part = queries[start : start + 3]
        same(scan.search(part, 5, passing), brute_force(vectors, part, 5, bitmap))
    assert (scan.search(queries, 5, Passing(bitmap))[1] == ExactScan(vectors).search(queries, 5, bitmap)[1]).all()


def test_small_chunks(scan_of, no_direct, monkeypatch):
    monkeypatch.setattr(exact, "HELD_SCORES", 6_000)
    monkeypatch.setattr(choosing, "COLUMNS", 20)
    vectors, queries = trained_like(5_003, 32), trained_like(11, 32, 1)
    same(scan_of(vectors).search(queries, 60), brute_force(vectors, queries, 60))


@pytest.fixture
def tf32():
    """Float32 products in fewer bits, as a training in the same process may ask for."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    yield
    torch.set_float32_matmul_precision(before)


def test_tf32_changes_nothing(scan_of, no_direct, tf32):
    vectors, queries = trained_like(8_000, 128), trained_like(20, 128, 1)
    same(scan_of(vectors).search(queries, 30), brute_force(vectors, queries, 30))
    same(scan_of(vectors[:900]).search(queries, 200), brute_force(vectors[:900], queries, 200))


def test_a_form_of_the_cpu_serves_the_gpu(no_direct):
    vectors, queries = trained_like(6_000, 128), trained_like(3, 128, 1)
    scan = ExactScan(vectors, form=make_scan_form(vectors), device="cuda")
    same(scan.search(queries, 10), ExactScan(vectors).search(queries, 10))
    assert scan.counts.queries == 3 and scan.counts.scored > 0


@pytest.fixture(scope="module")
def bundle():
    """An untrained model of small patches."""
    torch.manual_seed(0)
    modalities = (sentinel1(PIXELS), sentinel2(PIXELS))
    standard = BandStatistics(count=2, mean=0.0, m2=2.0, minimum=-1.0, maximum=1.0)
    known = {f"{m.name}/{band}": standard for m in modalities for band in m.band_names}
    config = ModelConfig(backbone="resnet18", dimension=128, image_size=PIXELS)
    return make_bundle(
        "small",
        config=config,
        modalities=modalities,
        statistics=known,
        encoders=make_encoders(modalities, known, config),
        split="train",
        simulated=True,
        record={},
    )


def test_embeddings_are_those_of_the_cpu(bundle):
    rng = np.random.default_rng(0)
    for modality in bundle.modalities:
        groups = {
            group.name: rng.uniform(0, 5, (8, len(group.bands), group.height, group.width)).astype(group.dtype)
            for group in modality.groups
        }
        wanted = bundle.encode(modality.name, groups)
        moved = copy.deepcopy(bundle).to("cuda")
        found = moved.encode(modality.name, groups)
        assert found.dtype == np.float32
        np.testing.assert_allclose((found * wanted).sum(1), 1, atol=1e-3)


@pytest.mark.parametrize("micro_batch", [None, 16])
def test_a_training_step_is_that_of_the_cpu(bundle, micro_batch):
    from sscm.training.step import TrainingStep

    config = TrainConfig(
        batch_size=48, micro_batch=micro_batch, augment=False, objective=ObjectiveConfig(isp_warmup=0.0)
    )
    generator = torch.Generator().manual_seed(1)
    images = {
        name: torch.randn(48, encoder.mean.shape[1], PIXELS, PIXELS, generator=generator)
        for name, encoder in bundle.encoders.items()
    }
    images["s1"][5, 0, 3, 3] = torch.nan
    losses, gradients = {}, {}
    for device in ("cpu", "cuda"):
        encoders = copy.deepcopy(bundle.encoders).to(device)
        step = TrainingStep(encoders, config, 10)
        given = {name: pixels.to(device) for name, pixels in images.items()}
        losses[device] = step(given, [str(i) for i in range(48)], 0, torch.Generator().manual_seed(2)).detached().cpu()
        gradients[device] = torch.cat([p.grad.flatten().cpu() for p in encoders.parameters() if p.grad is not None])
        step.check()
        assert step.skipped == 1
    assert torch.isfinite(losses["cuda"]).all()
    torch.testing.assert_close(losses["cuda"], losses["cpu"], rtol=0.02, atol=0.02)  # bfloat16 has 8 bits
    assert torch.cosine_similarity(gradients["cpu"], gradients["cuda"], dim=0) > 0.9


def test_augmentation_draws_the_same_on_any_device():
    from sscm.model.augment import augment

    pixels = {"s1": torch.randn(9, 2, 32, 32), "s2": torch.randn(9, 4, 32, 32)}
    wanted = augment(pixels, 0.5, torch.Generator().manual_seed(3))
    found = augment({name: p.cuda() for name, p in pixels.items()}, 0.5, torch.Generator().manual_seed(3))
    for name in pixels:
        torch.testing.assert_close(found[name].cpu(), wanted[name], rtol=0, atol=1e-4)
