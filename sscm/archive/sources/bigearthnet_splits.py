"""Split files of BigEarthNet version 1: which patch is in which split."""

from __future__ import annotations

import csv

from sscm.archive.schema import SPLITS
from sscm.archive.sources.folders import entries, join, read_bytes
from sscm.errors import ArchiveError

_NAMES = {"train": "train", "training": "train", "val": "validation", "validation": "validation", "test": "test"}


def read_splits(path: str) -> dict[str, str]:
    """Patch name → split.

    Args:
        path: a CSV with a column of patch names and a column of splits, with or without a header, or a folder with the
            lists ``train``, ``val`` (or ``validation``) and ``test`` (``.csv`` or ``.txt``): a patch name a line, or,
            as in published lists of pairs, several names of one pair with commas between.

    Raises:
        ArchiveError: no such file, no split in it, or one patch in two splits.
    """
    try:
        lists = {
            _NAMES[stem]: entry.name
            for entry in entries(path)
            if (stem := entry.name.rsplit(".", 1)[0].lower()) in _NAMES and entry.name.endswith((".csv", ".txt"))
        }
    except NotADirectoryError:
        return _read_table(path)
    except FileNotFoundError as error:
        raise ArchiveError(f"{path}: no such file or folder; expected a CSV of patch and split") from error
    if not lists:
        raise ArchiveError(f"{path}: no lists in this folder; expected train.csv, val.csv and test.csv")
    splits: dict[str, str] = {}
    for split, name in lists.items():
        for row in _rows(join(path, name)):
            for patch in row:
                _add(splits, patch, split, join(path, name))
    return splits


def _read_table(path: str) -> dict[str, str]:
    rows = _rows(path)
    if not rows:
        raise ArchiveError(f"{path}: it is empty; expected a CSV of patch and split")
    header = [cell.lower() for cell in rows[0]]
    if "split" in header:
        column = header.index("split")
        rows = rows[1:]
    else:
        column = next((i for i, cell in enumerate(header) if cell in _NAMES), -1)
    if column < 0 or len(header) < 2:
        raise ArchiveError(
            f"{path}: first line {','.join(rows[0])!r}; expected two columns, a patch name and one of "
            f"{', '.join(SPLITS)}, or a folder with a list a split"
        )
    splits: dict[str, str] = {}
    for number, row in enumerate(rows, 1):
        split = _NAMES.get(row[column].lower()) if column < len(row) else None
        if split is None:
            raise ArchiveError(f"{path}, row {number}: {','.join(row)!r}; expected one of {', '.join(SPLITS)}")
        for index, patch in enumerate(row):
            if index != column:
                _add(splits, patch, split, path)
    return splits


def _add(splits: dict[str, str], patch: str, split: str, where: str) -> None:
    if splits.setdefault(patch, split) != split:
        raise ArchiveError(f"{where}: {patch} is in {splits[patch]} and in {split}; expected each patch in one split")


def _rows(path: str) -> list[list[str]]:
    try:
        text = read_bytes(path).decode("utf-8-sig")
    except (FileNotFoundError, UnicodeDecodeError) as error:
        raise ArchiveError(f"{path}: it cannot be read as text ({error}); expected a CSV of patch and split") from error
    stripped = ([cell.strip() for cell in row] for row in csv.reader(text.splitlines()))
    return [row for row in stripped if any(row)]
