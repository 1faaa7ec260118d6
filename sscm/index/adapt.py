"""Adapting encoders to an archive: a bounded, seeded sample of its pairs, gone through where embedding runs.

The cost does not grow with the archive: at most :data:`SAMPLE_PAIRS` pairs are read and encoded, once for the
centres and, where they are wanted, once before for the statistics. Measured on one core, both passes take 2.2 times as
long as embedding the same pairs: most of the time of a small index, under 1 % for a million pairs. They are read anew
since reading is 1 % of it; held as prepared pixels they would take 3 GB.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import pickle
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import torch

from sscm import placement
from sscm.archive.manifest import Shard, read_manifest
from sscm.archive.order import Piece, pieces_of
from sscm.archive.schema import decode_group
from sscm.archive.windows import read_pieces
from sscm.config import IndexConfig
from sscm.errors import GenerationError, SscmError
from sscm.index.embed import AGAIN, MAX_ATTEMPTS, embedding_session, require_gpu
from sscm.index.generation import AdaptationInfo
from sscm.model.adaptation import MIN_IMAGES, Adaptation, Groups, Kind, adapting, passes
from sscm.model.bundle import Bundle
from sscm.progress import progress
from sscm.sensors import Modality
from sscm.workspace import ARCHIVE, INDEX, Workspace

ADAPTATIONS = "adaptations"
SAMPLE_PAIRS = 4096
"""Most pairs of a sample: the centre of so many unit vectors is off by 1/64 or so, in the root mean square."""
SAMPLE_SEED = 0
WINDOW_PAIRS = 512
"""Pairs of a sample in memory at a time: 140 MB of Sentinel pairs."""
LEAST_BATCH = 16
"""Fewest images whose statistics stand in for the archive's while deeper layers are measured."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Row groups that stand for an archive, and what is estimated on them.

    Args:
        kind: what is adapted to them.
        pieces: the row groups, in the order in which they were drawn.
        pairs: pairs in them.
        seed: of the draw.
        most: how many pairs were asked for.
        digest: hexadecimal SHA-256 of what is in them and how they are used: the same sample of the same shards adapts
            the same model alike.
    """

    kind: Kind
    pieces: tuple[Piece, ...]
    pairs: int
    seed: int
    most: int
    digest: str


def draw_sample(
    shards: Sequence[Shard], kind: Kind, most: int = SAMPLE_PAIRS, seed: int = SAMPLE_SEED
) -> Sample | None:
    """Choose row groups, spread over the shards as evenly as can be.

    Args:
        shards: what is indexed.
        kind: what is to be adapted to them; the same row groups for each.
        most: pairs wanted; exceeded only where the first row group alone does.
        seed: of the choice.

    Returns:
        The sample, the same for the same shards; None where it has too few pairs to adapt to.
    """
    chosen: list[Piece] = []
    pairs = 0
    for piece in _spread(shards, seed):
        if chosen and pairs + piece.rows > most:
            break
        chosen.append(piece)
        pairs += piece.rows
    if pairs < MIN_IMAGES:
        return None
    content = {shard.file: shard.sha256 for shard in shards}
    pieces = [(content[p.file], p.row_group) for p in chosen]
    about = {"format": 2, "kind": kind, "least": MIN_IMAGES, "pieces": pieces}
    digest = hashlib.sha256(json.dumps(about).encode()).hexdigest()
    return Sample(kind=kind, pieces=tuple(chosen), pairs=pairs, seed=seed, most=most, digest=digest)


def _spread(shards: Sequence[Shard], seed: int) -> Iterator[Piece]:
    """One row group of each shard in turn, shards and their row groups shuffled."""
    order = np.random.default_rng(seed).permutation(len(shards))
    for turn in itertools.count():
        left = [i for i in order if turn < len(shards[i].row_groups)]
        if not left:
            return
        for i in left:
            # Drawn anew each turn: an archive has many shards, and a sample seldom takes a second turn.
            row_groups = np.random.default_rng([seed, i]).permutation(len(shards[i].row_groups))
            yield pieces_of([shards[i]])[row_groups[turn]]


@dataclass(frozen=True, kw_only=True)
class SampleBatches:
    """Images of a sample, read anew each time it is gone through; labels and previews are not read.

    Args:
        workspace: where ``archive/`` is.
        modalities: as the archive declares them.
        sample: what to read.
        batch_size: images wanted in a batch; they are shared out evenly, so that a batch has from two thirds to one and
            a half times as many.
    """

    workspace: Workspace
    modalities: Sequence[Modality]
    sample: Sample
    batch_size: int

    def __iter__(self) -> Iterator[Mapping[str, Groups]]:
        columns = [group.name for modality in self.modalities for group in modality.groups]
        windows = -(-self.sample.pairs // WINDOW_PAIRS)
        for window in np.array_split(np.arange(len(self.sample.pieces)), min(windows, len(self.sample.pieces))):
            table = read_pieces(self.workspace, [self.sample.pieces[i] for i in window], columns).combine_chunks()
            for modality in self.modalities:
                yield from self._batches(table, modality)

    def _batches(self, table: pa.Table, modality: Modality) -> Iterator[Mapping[str, Groups]]:
        valid = np.ones(len(table), np.bool_)
        for group in modality.groups:
            valid &= table[group.name].is_valid().to_numpy()
        rows = np.flatnonzero(valid)
        pixels = {group.name: decode_group(table[group.name], group) for group in modality.groups}
        for part in np.array_split(rows, max(1, round(len(rows) / self.batch_size))):
            if len(part):
                yield {modality.name: {name: values[part] for name, values in pixels.items()}}


def run_adaptation(workspace: Workspace, bundle: Bundle, sample: Sample, config: IndexConfig) -> Adaptation:
    """Estimate what adapts a bundle to a sample, as one Ray task with the CPUs or the GPU of an embedding actor.

    Args:
        workspace: where ``archive/`` is.
        bundle: encoders as they were trained, on CPU.
        sample: pairs of the archive, and what is adapted to them.
        config: CPUs or GPU, and batch size.

    Raises:
        BandMismatchError: the archive's bands are not the bundle's.
        IntegrityError: a shard is not what the manifest says.
        BundleError: the model is not of finite weights.
        GenerationError: the task died again and again.
        ConfigError: a GPU is asked for and there is none.
    """
    manifest = read_manifest(workspace)
    bundle.require_bands_of(manifest, workspace.uri_of(ARCHIVE))
    modalities = [manifest.modality(modality.name) for modality in bundle.modalities]
    total = sample.pairs * passes(bundle, sample.kind)
    with embedding_session(config), progress("adapt", total * len(modalities), "images") as advance:
        require_gpu(config)
        task = _estimate.options(
            num_cpus=config.cpus_per_actor,
            num_gpus=1 if config.gpu else 0,
            label_selector=placement.computing(config.gpu),
        )
        try:
            for reference in task.remote(workspace, ray.put(bundle), modalities, sample, config):
                told, value = ray.get(reference)
                if told == "images":
                    advance(value)
                elif told == "error":
                    raise pickle.loads(value)  # written by our own task, never read from storage
                else:
                    return Adaptation.from_bytes(value, "the adaptation")
        except ray.exceptions.RayError as error:
            raise GenerationError(f"adaptation failed: {error}; {AGAIN}") from error
    raise GenerationError(f"adaptation ended without a result; {AGAIN}")


def write_adaptation(workspace: Workspace, adaptation: Adaptation, sample: Sample) -> AdaptationInfo:
    """Write what adapts encoders, before the generation that names it is committed.

    Args:
        workspace: where ``index/`` is.
        adaptation: what to write; writing the same one again changes nothing.
        sample: what it was estimated on.

    Raises:
        WorkspaceError: it cannot be written.
    """
    file = f"{ADAPTATIONS}/{adaptation.fingerprint[:16]}.safetensors"
    stored = workspace.write_bytes(adaptation.to_bytes(), INDEX, *file.split("/"))
    return AdaptationInfo(
        file=file,
        kind=adaptation.kind,
        bytes=stored.bytes,
        sha256=stored.sha256,
        fingerprint=adaptation.fingerprint,
        images=dict(adaptation.images),
        pairs=sample.pairs,
        most=sample.most,
        seed=sample.seed,
        sample=sample.digest,
    )


@ray.remote(max_retries=MAX_ATTEMPTS - 1)  # type: ignore[untyped-decorator]
def _estimate(
    workspace: Workspace, bundle: Bundle, modalities: Sequence[Modality], sample: Sample, config: IndexConfig
) -> Iterator[tuple[str, Any]]:
    """Images done, one batch at a time, then the adaptation or the error that ended it, as bytes."""
    torch.set_num_threads(config.cpus_per_actor)
    try:
        yield "adaptation", (yield from _steps(workspace, bundle, modalities, sample, config)).to_bytes()
    except SscmError as raised:
        yield "error", pickle.dumps(raised)  # as a value: Ray would wrap it in errors of its own


def _steps(
    workspace: Workspace, bundle: Bundle, modalities: Sequence[Modality], sample: Sample, config: IndexConfig
) -> Any:
    batches = SampleBatches(
        workspace=workspace,
        modalities=modalities,
        sample=sample,
        batch_size=max(LEAST_BATCH, config.batch_size),
    )
    steps = adapting(bundle.to("cuda" if config.gpu else "cpu"), batches, sample.kind)
    while True:
        try:
            yield "images", next(steps)
        except StopIteration as end:
            return end.value
