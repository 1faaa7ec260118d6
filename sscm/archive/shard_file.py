"""Writing one shard: pairs in, a Parquet file and the statistics of its images out."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sscm.archive.manifest import Shard
from sscm.archive.previews import preview_jpeg
from sscm.archive.schema import Pair, decode_group, encode_pairs, shard_schema
from sscm.archive.statistics import BandStatistics, group_statistics, merge_statistics
from sscm.sensors import Modality
from sscm.workspace import ARCHIVE, Workspace


def write_shard(
    workspace: Workspace,
    pairs: Iterable[Pair],
    modalities: Sequence[Modality],
    file: str,
    split: str,
    pairs_per_row_group: int,
    codec: str = "none",
) -> tuple[Shard | None, dict[str, BandStatistics]]:
    """Write one shard whole or not at all, a row group at a time, and gather its statistics on the way.

    Args:
        workspace: where ``archive/`` is.
        pairs: its pairs, all of one split and valid; consumed as a stream. Previews that a pair lacks are drawn.
        modalities: what they are made of.
        file: path relative to ``archive/``.
        split: the split.
        pairs_per_row_group: pairs held in memory at a time.
        codec: how images are stored, of :class:`~sscm.config.IngestConfig`. A Parquet file tells it; readers need not
            know.

    Returns:
        The shard as the manifest names it (None where there was no pair, and so no file), and ``<modality>/<band>`` →
        statistics.

    Raises:
        WorkspaceError: it cannot be written.
    """
    groups: list[int] = []
    complete: list[int] = []
    statistics: dict[str, BandStatistics] = {}

    def produce(path: Path) -> None:
        nonlocal statistics
        schema = shard_schema(modalities)
        with pq.ParquetWriter(path, schema, **writer_options(modalities, codec)) as writer:
            for batch in _batched(pairs, pairs_per_row_group):
                table = encode_pairs([_with_previews(pair, modalities) for pair in batch], modalities)
                writer.write_table(table, row_group_size=len(batch))
                groups.append(len(batch))
                complete.append(sum(all(m.groups[0].name in pair.images for m in modalities) for pair in batch))
                statistics = merge_statistics(statistics, table_statistics(table, modalities))

    iterator = iter(pairs)
    first = next(iterator, None)
    if first is None:
        return None, {}
    pairs = _chain(first, iterator)
    stored = workspace.write_file(produce, ARCHIVE, *file.split("/"))
    shard = Shard(
        file=file,
        split=split,
        rows=sum(groups),
        row_groups=tuple(groups),
        complete=tuple(complete),
        bytes=stored.bytes,
        sha256=stored.sha256,
    )
    return shard, statistics


def writer_options(modalities: Sequence[Modality], codec: str) -> dict[str, Any]:
    """Arguments of ``pyarrow.parquet.ParquetWriter`` for shards of some modalities.

    Args:
        modalities: their images are compressed; other columns are small, and previews are JPEG.
        codec: ``none``, or ``zstd``: level 1 on bytes that are split by their place in an image, which brings the high
            bytes of one pixel of all images together. Higher levels save a hundredth more and write at half the speed
            (``benchmarks/codec.py``).
    """
    options: dict[str, Any] = {"compression": "none", "use_dictionary": False, "write_statistics": False}
    if codec == "zstd":
        images = [group.name for modality in modalities for group in modality.groups]
        options["compression"] = dict.fromkeys(images, "zstd")  # columns that are not named stay as they are
        options["compression_level"] = dict.fromkeys(images, 1)
        options["column_encoding"] = dict.fromkeys(images, "BYTE_STREAM_SPLIT")
    return options


def table_statistics(table: pa.Table, modalities: Sequence[Modality]) -> dict[str, BandStatistics]:
    """``<modality>/<band>`` → statistics of a table's images; rows that lack a modality do not count."""
    result = {}
    for modality in modalities:
        for group in modality.groups:
            images = decode_group(table[group.name].combine_chunks().drop_null(), group)
            for band, value in group_statistics(images, group).items():
                result[f"{modality.name}/{band}"] = value
    return result


def _with_previews(pair: Pair, modalities: Sequence[Modality]) -> Pair:
    drawn = {
        m.name: preview_jpeg(pair.images, m)
        for m in modalities
        if m.name not in pair.previews and m.groups[0].name in pair.images
    }
    return dataclasses.replace(pair, previews={**pair.previews, **drawn}) if drawn else pair


def _batched(pairs: Iterable[Pair], size: int) -> Iterator[list[Pair]]:
    batch: list[Pair] = []
    for pair in pairs:
        batch.append(pair)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _chain(first: Pair, rest: Iterator[Pair]) -> Iterator[Pair]:
    yield first
    yield from rest
