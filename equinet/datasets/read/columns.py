"""Columns of a frame, as `Properties` of extended XYZ names them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from equinet.quotes import quoted, shortened

from .words import ATOMIC_NUMBER, INTEGER, LOGICAL, REAL, SYMBOL, TEXT

PLAIN = "species:S:1:pos:R:3"  # of a file without `Properties`
MOST_COLUMNS = 100_000
KINDS = {"R": REAL, "I": INTEGER, "L": LOGICAL, "S": TEXT}
# Names of ASE's arrays by those in files.
ARRAYS = {"pos": "positions", "Z": "numbers", "species": "symbols", "charge": "charges"}
WIDTH = re.compile(r"[0-9]{1,20}", re.ASCII)


@dataclass(frozen=True)
class Column:
    """One property: a name and so many columns of a kind."""

    name: str
    kind: int
    width: int

    @property
    def array(self) -> str:
        """Name of its array in ASE's structures."""
        return ARRAYS.get(self.name, self.name)


@dataclass(frozen=True)
class Columns:
    """All properties of a frame, from left to right."""

    text: str
    properties: tuple[Column, ...]

    @property
    def width(self) -> int:
        """Words in a row."""
        return sum(column.width for column in self.properties)

    @property
    def names(self) -> frozenset[str]:
        """Names in the file and in ASE's structures."""
        return frozenset(name for column in self.properties for name in (column.name, column.array))


@lru_cache(256)
def parse_columns(text: str) -> Columns:
    """The columns that a text such as ``species:S:1:pos:R:3`` names.

    Raises:
        ValueError: If it names none, or not so that symbols and positions are known; with the remedy.
    """
    fields = text.split(":")
    if len(fields) % 3:
        raise ValueError(f"`Properties` must be triples name:kind:columns such as {PLAIN}, got {quoted(text)}")
    properties = tuple(_column(*fields[n : n + 3]) for n in range(0, len(fields), 3))
    arrays = [column.array for column in properties]
    for column in properties:
        if arrays.count(column.array) > 1:
            raise ValueError(f"`Properties` names `{shortened(column.name)}` twice; rename one of them")
    if "positions" not in arrays:
        raise ValueError("`Properties` has no positions; name their columns pos:R:3")
    if "symbols" not in arrays and "numbers" not in arrays:
        raise ValueError("`Properties` has neither symbols nor atomic numbers; name the column species:S:1 or Z:I:1")
    columns = Columns(text, properties)
    if columns.width > MOST_COLUMNS:
        raise ValueError(f"`Properties` announces {columns.width} columns, more than {MOST_COLUMNS}; correct it")
    return columns


def _column(name: str, kind: str, width: str) -> Column:
    if not name:
        raise ValueError("`Properties` has a name without letters; give the column a name")
    if kind not in KINDS:
        raise ValueError(f"`Properties`: the kind of `{shortened(name)}` must be R, I, S or L, got {quoted(kind)}")
    if not WIDTH.fullmatch(width) or not int(width):
        raise ValueError(
            f"`Properties`: the columns of `{shortened(name)}` must be a number above 0, got {quoted(width)}"
        )
    column = Column(name, KINDS[kind], int(width))
    wanted = {"positions": ("R", 3), "symbols": ("S", 1), "numbers": ("I", 1)}.get(column.array)
    if wanted is None:
        return column
    if (kind, column.width) != wanted:
        raise ValueError(
            f"`Properties`: `{name}` must be {name}:{wanted[0]}:{wanted[1]}, got {quoted(f'{name}:{kind}:{width}')}"
        )
    return Column(name, {"symbols": SYMBOL, "numbers": ATOMIC_NUMBER}.get(column.array, column.kind), column.width)
