"""What of an index is exported: which of its rows, and under which names their columns."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from sscm.archive.schema import SPLITS
from sscm.errors import ConfigError
from sscm.index.generation import Generation
from sscm.index.property_columns import SOURCE
from sscm.index.segment import rows_schema


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Which rows and columns of an index are exported.

    Args:
        modalities: names of those whose embeddings are, in the order of the index.
        splits: whose pairs are.
    """

    modalities: tuple[str, ...]
    splits: tuple[str, ...]

    @classmethod
    def of(cls, generation: Generation, modalities: Sequence[str] | None, splits: Sequence[str] | None) -> Choice:
        """Of some modalities and splits; of all where None.

        Raises:
            ConfigError: an unknown modality; those there are, are named.
        """
        for name in modalities or ():
            if name not in generation.modalities:
                raise ConfigError(f"unknown modality {name!r}; the index has {list(generation.modalities)}")
        return cls(
            modalities=tuple(name for name in generation.modalities if modalities is None or name in modalities),
            splits=SPLITS if splits is None else tuple(split for split in SPLITS if split in splits),
        )

    def kept(self, table: pa.Table) -> pa.Table:
        """The rows of these splits that have any of these modalities."""
        wanted = pc.is_in(table["split"], value_set=pa.array(self.splits))
        present = functools.reduce(pc.or_, (table[f"has_{name}"] for name in self.modalities))
        return table.filter(pc.and_(wanted, present))

    def columns_of(self, properties: Iterable[str]) -> dict[str, str]:
        """Column → the property in it: of its own name, unless that is taken; readers such as DuckDB ignore case."""
        taken = {name.casefold() for name in (*rows_schema(self.modalities).names, *self.embeddings)}
        names = {}
        for name in sorted(properties):
            column = name if name.casefold() not in taken else f"{SOURCE}{name}"
            while column.casefold() in taken:
                column += "_"
            taken.add(column.casefold())
            names[column] = name
        return names

    @property
    def embeddings(self) -> tuple[str, ...]:
        """Names of the columns of embeddings."""
        return tuple(f"embedding_{name}" for name in self.modalities)

    def schema(self, properties: Mapping[str, str], dimension: int) -> pa.Schema:
        """Of an export: rows with properties as columns of their own, and embeddings last."""
        fields = [column for column in rows_schema(self.modalities) if column.name != "properties"]
        fields += [pa.field(name, pa.string()) for name in properties]
        vector = pa.list_(pa.field("element", pa.float32()), dimension)
        return pa.schema([*fields, *(pa.field(name, vector) for name in self.embeddings)])
