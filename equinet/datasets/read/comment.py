"""Comment line of a frame: cell, periodicity, columns, and all other items by name."""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from equinet.quotes import quoted, shortened

from .columns import PLAIN, Columns, parse_columns
from .items import NOT_UTF8, BadItem, items_of, require_text
from .values import LOGICALS, SEPARATORS, real, value_of

STRUCTURAL = {"lattice": "Lattice", "properties": "Properties", "pbc": "pbc"}
# Keys that other programs have for a cell.
CELLS = (
    "cell",
    "box",
    "unit_cell",
    "unitcell",
    "cell_vectors",
    "lattice_vectors",
    "lattice_vector",
    "latvec",
    "supercell",
)
THINNEST = 1e-12  # volume of a cell whose vectors all have length 1

Cell = NDArray[np.float64]
Periodic = tuple[bool, bool, bool]
OPEN: Periodic = (False, False, False)
CLOSED: Periodic = (True, True, True)


@dataclass(frozen=True)
class Keys:
    """Positions in a comment of the keys that make the structure, and of all others."""

    lattice: int | None
    properties: int | None
    pbc: int | None
    others: tuple[tuple[int, str], ...]


def parse_comment(line: bytes) -> tuple[Columns, Cell, Periodic, dict[str, Any]]:
    """Columns, cell (3, 3) in the file's unit, periodicity and all other items of a comment line.

    Without `pbc` a cell is periodic in all directions, as ASE reads it; without `Lattice` nothing is.

    Raises:
        ValueError: If an item cannot be read, a key comes twice, or the cell is none; with the remedy. A :class:`BadItem` knows the column.
    """
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        raise BadItem(NOT_UTF8, error.start) from None
    if not text.isprintable():
        require_text(text)
    keys, values = items_of(text)
    where = _keys(keys)
    columns = _columns(keys, PLAIN if where.properties is None else values[where.properties])
    periodic = None if where.pbc is None else _periodic(values[where.pbc])
    cell, periodic = _cell(None if where.lattice is None else values[where.lattice], periodic)
    return columns, cell, periodic, {key: value_of(key, values[n]) for n, key in where.others}


@lru_cache(256)
def _keys(keys: tuple[str, ...]) -> Keys:
    found: dict[str, int] = {}
    others: dict[str, tuple[int, str]] = {}
    for n, key in enumerate(keys):
        low = key.lower()
        if low in found or low in others:
            first = keys[found[low] if low in found else others[low][0]]
            also = "" if first == key else f" (`{shortened(first)}` and `{shortened(key)}`)"
            raise ValueError(f"the key `{shortened(first)}` comes twice{also}; remove or rename one")
        if low in STRUCTURAL:
            found[low] = n
        else:
            others[low] = (n, key)
    if "lattice" not in found:
        for key in others:
            if key in CELLS or difflib.get_close_matches(key, ["lattice"], cutoff=0.8):
                raise ValueError(
                    f'the comment has `{shortened(others[key][1])}` and no `Lattice`; if it is the cell, write Lattice="ax ay az bx by bz cx cy cz", '
                    "otherwise rename the key"
                )
    return Keys(found.get("lattice"), found.get("properties"), found.get("pbc"), tuple(others.values()))


@lru_cache(256)
def _columns(keys: tuple[str, ...], text: str) -> Columns:
    """The columns; refuses a key that has the name of one, as one of both would be lost."""
    columns = parse_columns(text)
    for key in keys:
        if key in columns.names:
            raise ValueError(
                f"`{shortened(key)}` is both a key of the comment and a column of the atoms; rename one of them"
            )
    return columns


@lru_cache(64)
def _periodic(text: str) -> Periodic:
    words = [word for word in SEPARATORS.split(text) if word]
    truths = [LOGICALS[word] for word in words if word in LOGICALS]
    if len(words) not in (1, 3) or len(truths) != len(words):
        raise ValueError(f'`pbc` must be three of T and F, as in pbc="T T F", got {quoted(text)}')
    first, second, third = truths if len(truths) == 3 else 3 * truths
    return first, second, third


@lru_cache(64)
def _cell(text: str | None, periodic: Periodic | None) -> tuple[Cell, Periodic]:
    """The cell, read only, as frames share it, and the periodicity."""
    if text is None:
        if periodic is not None and any(periodic):
            raise ValueError(
                '`pbc` has a T, but there is no `Lattice`; add Lattice="ax ay az bx by bz cx cy cz", or set pbc="F F F"'
            )
        return NOTHING, OPEN
    words = [word for word in SEPARATORS.split(text) if word]
    try:
        numbers = [real(word) for word in words]
    except ValueError as error:
        raise ValueError(
            f"`Lattice`: {error}; it must be nine numbers in quotes, the vectors one after the other"
        ) from None
    if len(numbers) != 9:
        raise ValueError(
            f'`Lattice` has {len(numbers)} number(s) and must have nine in quotes: Lattice="ax ay az bx by bz cx cy cz"'
        )
    cell = np.array(numbers).reshape(3, 3)
    if not all(map(math.isfinite, numbers)):
        raise ValueError(f"the cell is not finite: {cell.tolist()}; correct the frame")
    directions = CLOSED if periodic is None else periodic
    if not (has_volume(numbers) if directions == CLOSED else _spans(cell[np.array(directions)])):
        told = (
            "without `pbc` it is periodic in all directions"
            if periodic is None
            else f'pbc="{" ".join("FT"[t] for t in directions)}"'
        )
        raise ValueError(f"the vectors of `Lattice` do not span a cell ({told}): {cell.tolist()}; correct it or `pbc`")
    cell.setflags(write=False)
    return cell, directions


NOTHING: Cell = np.zeros((3, 3))
NOTHING.setflags(write=False)


def has_volume(n: list[float]) -> bool:
    """True if nine numbers, three vectors, are independent: :func:`_spans` in a tenth of the time."""
    volume = (
        n[0] * (n[4] * n[8] - n[5] * n[7]) + n[1] * (n[5] * n[6] - n[3] * n[8]) + n[2] * (n[3] * n[7] - n[4] * n[6])
    )
    box = math.hypot(*n[:3]) * math.hypot(*n[3:6]) * math.hypot(*n[6:])
    return box < math.inf and abs(volume) > THINNEST * box


def _spans(vectors: Cell) -> bool:
    """True if vectors are independent of each other."""
    if not len(vectors):
        return True
    lengths = [math.hypot(*vector) for vector in vectors.tolist()]
    if not all(0 < length < math.inf for length in lengths):
        return False
    unit = vectors / np.array(lengths)[:, None]
    return float(np.linalg.svd(unit, compute_uv=False).min()) > THINNEST
