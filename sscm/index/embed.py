"""Embedding an archive: shards stream through a pool of Ray Data actors that hold the encoders."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pickle
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
import torch

from sscm import placement, runtime
from sscm.archive.manifest import Shard, read_manifest
from sscm.archive.schema import decode_group
from sscm.config import IndexConfig
from sscm.errors import ConfigError, GenerationError, IntegrityError, SscmError
from sscm.index.segment import Vectors, join_embeddings, rows_schema, split_embeddings
from sscm.model.bundle import Bundle
from sscm.progress import Advance
from sscm.sensors import Modality
from sscm.storage_errors import storage_errors
from sscm.workspace import ARCHIVE, Workspace

MAX_ATTEMPTS = 3
"""Times that a shard is begun: Ray restarts dead actors for ever, and a shard that exhausts the memory kills each."""

AGAIN = (
    "run the same command again, with fewer --actors or a smaller --batch-size if memory was short: "
    "it goes on where it stopped"
)


@dataclass(frozen=True, kw_only=True, eq=False)
class EmbeddedShard:
    """One archive shard, embedded.

    Args:
        file: the shard, relative to ``archive/``.
        rows: table of :func:`~sscm.index.segment.rows_schema`, in the shard's order.
        vectors: modality → float32 [n, d], unit norm; zeros where the pair lacks the modality.
    """

    file: str
    rows: pa.Table
    vectors: dict[str, Vectors]

    def to_parquet(self) -> bytes:
        """A Parquet file of rows and embeddings, as ``rows.parquet`` of a segment."""
        sink = pa.BufferOutputStream()
        pq.write_table(join_embeddings(self.rows, self.vectors), sink, compression="none")
        return bytes(sink.getvalue())

    @classmethod
    def from_parquet(cls, file: str, data: bytes, modalities: Sequence[str]) -> EmbeddedShard:
        """Read what :meth:`to_parquet` wrote."""
        rows, vectors = split_embeddings(pq.read_table(pa.BufferReader(data)), modalities)
        return cls(file=file, rows=rows, vectors=vectors)


def embed_shards(
    workspace: Workspace,
    bundle: Bundle,
    shards: Sequence[Shard],
    config: IndexConfig,
    progress: Advance | None = None,
) -> Iterator[EmbeddedShard]:
    """Embed shards of an archive and hand them back; nothing is written.

    Args:
        workspace: where ``archive/`` is.
        bundle: encoders, on CPU.
        shards: what to embed.
        config: actors, their CPUs or GPU, and batch size.
        progress: called with the pairs done since the last call.

    Yields:
        Each shard once, in the order in which they are done.

    Raises:
        BandMismatchError: the archive's bands are not the bundle's.
        IntegrityError: a shard is not what the manifest says.
        GenerationError: an embedding is not finite, or actors died again and again.
        ConfigError: a GPU is asked for and there is none.
    """
    names = [modality.name for modality in bundle.modalities]
    for row in run_embedding(workspace, bundle, shards, config):
        if progress is not None:
            progress(row["rows"])
        yield EmbeddedShard.from_parquet(row["file"], row["part"], names)


def run_embedding(
    workspace: Workspace,
    bundle: Bundle,
    shards: Sequence[Shard],
    config: IndexConfig,
    staging: Mapping[str, tuple[str, ...]] | None = None,
) -> Iterator[dict[str, Any]]:
    """Embed shards on a pool of actors.

    Args:
        workspace: where ``archive/`` is.
        bundle: encoders, on CPU.
        shards: what to embed.
        config: actors, their CPUs or GPU, and batch size.
        staging: shard file → path in the workspace that the actor writes the embedded shard to; None to have it back.

    Yields:
        ``file`` and ``rows`` of each shard as it is done, and ``part``: its Parquet file, empty where it was staged.

    Raises:
        SscmError: see :func:`embed_shards`; WorkspaceError where staging cannot be written.
    """
    if not shards:
        return
    manifest = read_manifest(workspace)
    bundle.require_bands_of(manifest, workspace.uri_of(ARCHIVE))
    modalities = [manifest.modality(modality.name) for modality in bundle.modalities]
    with embedding_session(config):
        require_gpu(config)
        attempts = _Attempts.remote(MAX_ATTEMPTS)  # type: ignore[attr-defined]
        embedder = (workspace, ray.put(bundle), modalities, config, staging, attempts)
        try:
            for row in _dataset(embedder, shards, config).iter_rows():
                if row["error"]:
                    raise pickle.loads(row["error"])  # written by our own actor, never read from storage
                yield row
        except ray.exceptions.RayError as error:
            raise GenerationError(f"embedding failed: {error}; {AGAIN}") from error


def embed_shard(
    workspace: Workspace, bundle: Bundle, shard: Shard, modalities: Sequence[Modality], batch_size: int
) -> EmbeddedShard:
    """Embed one shard in this process.

    Args:
        workspace: where ``archive/`` is.
        bundle: encoders, on the device that is to work.
        shard: what to embed.
        modalities: the bundle's modalities as the archive declares them.
        batch_size: pairs at a time.

    Raises:
        IntegrityError: the file is not what the manifest says.
        GenerationError: an embedding is not finite.
    """
    names = [modality.name for modality in modalities]
    path = (ARCHIVE, *shard.file.split("/"))
    where = workspace.uri_of(*path)
    if workspace.size(*path) != shard.bytes:
        raise IntegrityError(
            f"{where} has {workspace.size(*path)} bytes; the manifest says {shard.bytes}; restore it, or ingest again"
        )
    vectors = {name: np.zeros((shard.rows, bundle.dimension), np.float32) for name in names}
    present = {name: np.zeros(shard.rows, np.bool_) for name in names}
    light = [c for c in rows_schema(names).names if not c.startswith(("has_", "archive_"))]
    images = [group.name for modality in modalities for group in modality.groups]
    parts = []
    start = 0
    for batch in _batches(workspace, path, batch_size, [*light, *images]):
        for modality in modalities:
            valid = np.ones(len(batch), np.bool_)
            for group in modality.groups:
                valid &= batch[group.name].is_valid().to_numpy(zero_copy_only=False)
            rows = start + np.flatnonzero(valid)
            if len(rows):
                mask = pa.array(valid)
                groups = {g.name: decode_group(batch[g.name].filter(mask), g) for g in modality.groups}
                vectors[modality.name][rows] = bundle.encode(modality.name, groups)
                present[modality.name][rows] = True
        parts.append(batch.select(light))
        start += len(batch)
    for name in names:
        finite = np.isfinite(vectors[name]).all(axis=1)
        if not finite.all():
            raise GenerationError(
                f"{where}, row {int(np.argmin(finite))}: the embedding of {name} is not finite; the model "
                f"{bundle.name} diverged, or the image has values that no sensor gives: validate the archive"
            )
    table = pa.Table.from_batches(parts)
    for name in names:
        table = table.append_column(f"has_{name}", pa.array(present[name]))
    table = table.append_column("archive_file", pa.array([shard.file] * shard.rows, pa.string()))
    table = table.append_column("archive_row", pa.array(np.arange(shard.rows)))
    schema = rows_schema(names)
    return EmbeddedShard(file=shard.file, rows=table.select(schema.names).cast(schema), vectors=vectors)


def _batches(
    workspace: Workspace, path: tuple[str, ...], batch_size: int, columns: Sequence[str]
) -> Iterator[pa.RecordBatch]:
    """Rows of a shard, the columns named only; previews, for one, stay on disk."""
    with workspace.parquet(*path) as file, storage_errors("read", workspace.uri_of(*path)):
        try:
            yield from file.iter_batches(batch_size, columns=list(columns))
        except (pa.ArrowInvalid, OSError) as error:
            raise IntegrityError(f"{workspace.uri_of(*path)} cannot be decoded ({error}); ingest it again") from error


@ray.remote(num_cpus=0, max_restarts=MAX_ATTEMPTS)
class _Attempts:
    """Counts how often each shard was begun."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._begun: Counter[str] = Counter()

    def begin(self, file: str) -> bool:
        """Whether the shard may be tried once more."""
        self._begun[file] += 1
        return self._begun[file] <= self._most


class _Embedder:
    """Holds the encoders and embeds shard after shard. One Ray actor."""

    def __init__(
        self,
        workspace: Workspace,
        bundle: ray.ObjectRef,
        modalities: Sequence[Modality],
        config: IndexConfig,
        staging: Mapping[str, tuple[str, ...]] | None,
        attempts: Any,
    ) -> None:
        self.workspace = workspace
        self.bundle: Bundle = ray.get(bundle).to("cuda" if config.gpu else "cpu")
        self.modalities = modalities
        self.config = config
        self.staging = staging
        self.attempts = attempts

    def __call__(self, batch: Mapping[str, Any]) -> pa.Table:
        shard = Shard.from_json(json.loads(str(batch["shard"][0])))
        part = error = b""
        try:
            if not ray.get(self.attempts.begin.remote(shard.file), timeout=60):
                raise GenerationError(f"embedding {shard.file} ended its actor again and again; {AGAIN}")
            part = self.embed(shard)
        except SscmError as raised:
            error = pickle.dumps(raised)  # as a value: Ray would wrap it in errors of its own
        return pa.table(
            {
                "file": [shard.file],
                "rows": [shard.rows],
                "part": pa.array([part], pa.large_binary()),
                "error": pa.array([error], pa.binary()),
            }
        )

    def embed(self, shard: Shard) -> bytes:
        """The embedded shard as a Parquet file; empty where it is staged instead."""
        # Here, not in __init__: OpenMP keeps the number of threads for each calling thread, and Ray may call from any.
        torch.set_num_threads(self.config.cpus_per_actor)
        embedded = embed_shard(self.workspace, self.bundle, shard, self.modalities, self.config.batch_size)
        part = embedded.to_parquet()
        if self.staging is None:
            return part
        self.workspace.write_bytes(part, *self.staging[shard.file])
        return b""


def _dataset(embedder: tuple[Any, ...], shards: Sequence[Shard], config: IndexConfig) -> Any:
    items = [{"shard": json.dumps(dataclasses.asdict(shard))} for shard in shards]
    return ray.data.from_items(items, override_num_blocks=len(shards)).map_batches(
        _Embedder,
        fn_constructor_args=embedder,
        batch_size=1,
        batch_format="numpy",
        compute=ray.data.ActorPoolStrategy(size=min(config.actors, len(shards))),
        num_cpus=config.cpus_per_actor,
        num_gpus=1 if config.gpu else 0,
        label_selector=placement.computing(config.gpu),
        runtime_env={"env_vars": {"OMP_NUM_THREADS": str(config.cpus_per_actor), **runtime.TORCH_ENVIRONMENT}},
    )


def embedding_session(config: IndexConfig) -> contextlib.AbstractContextManager[None]:
    """A Ray with room for the actors; the one that is there already, where there is one."""
    claimed = config.actors * config.cpus_per_actor
    return runtime.ray_session(max(os.cpu_count() or 1, runtime.LOCAL_CPUS, claimed))


def require_gpu(config: IndexConfig) -> None:
    """Check that there may be a GPU where one is asked for.

    Raises:
        ConfigError: Ray runs on this machine alone, and sees none.
    """
    # A cluster may still start GPU nodes; a Ray on this machine alone has what it has.
    if config.gpu and not os.environ.get("RAY_ADDRESS") and ray.cluster_resources().get("GPU", 0) < 1:
        raise ConfigError("a GPU is asked for, and Ray sees none on this machine; run without --gpu")
