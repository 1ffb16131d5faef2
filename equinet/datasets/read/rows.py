"""Rows of the atoms of a frame, in plain Python: the form that every complaint comes of."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from equinet.graph.elements import HEAVIEST
from equinet.quotes import quoted

from .columns import PLAIN, Column, Columns
from .items import NOT_UTF8, BadItem, require_text
from .places import Place
from .symbols import ISOTOPES, atomic_number
from .values import integer, logical, real
from .words import ATOMIC_NUMBER, INTEGER, LOGICAL, REAL, SYMBOL, TEXT

Arrays = dict[str, NDArray[Any]]
MOST_ATOMS = 10**9
COUNT = re.compile(rb"\s*\+?([0-9]{1,30})\s*")


def _atomic_number(word: str) -> int:
    number = integer(word)
    if not 1 <= number <= HEAVIEST:
        raise ValueError(f"there is no element with atomic number {number}, elements have 1 to {HEAVIEST}")
    return number


CONVERT: dict[int, Callable[[str], Any]] = {
    REAL: real,
    INTEGER: integer,
    LOGICAL: logical,
    TEXT: str,
    SYMBOL: str,
    ATOMIC_NUMBER: _atomic_number,
}
TYPES = {REAL: np.float64, INTEGER: np.int64, LOGICAL: np.bool_, TEXT: np.str_, ATOMIC_NUMBER: np.int64}


def read_count(line: bytes, place: Place) -> int:
    """Number of atoms in the first line of a frame.

    Raises:
        ValueError: If it is none, or no atoms are announced.
    """
    found = COUNT.fullmatch(line)
    if found is None:
        text = line.decode(errors="replace").strip()
        raise place.error(f"here a frame begins, with its number of atoms, but there is {quoted(text)}{_hint(text)}")
    count = int(found[1])
    if not 1 <= count <= MOST_ATOMS:
        told = "no atoms" if not count else f"{found[1].decode()} atoms, more than any frame has"
        raise place.error(f"the frame announces {told}; correct the number or remove the frame")
    return count


def _hint(text: str) -> str:
    if text.startswith("VEC"):
        return '; write the cell as Lattice="ax ay az bx by bz cx cy cz" into the comment line instead of VEC lines'
    if len(text.split()) > 1:
        return "; does the frame before have more atoms than it announces? Correct its number of atoms"
    return "; correct or remove it"


class Rows:
    """Rows of a frame, collected one after the other.

    Args:
        columns: Columns of the frame.
        announced: True if the frame has `Properties`.
    """

    def __init__(self, columns: Columns, announced: bool) -> None:
        self.columns, self.announced = columns, announced
        self._values: list[list[Any]] = [[] for _ in columns.properties]
        self.count = 0

    def add(self, line: bytes, place: Place) -> None:
        """Read one more row.

        Raises:
            ValueError: If it does not have the words that the columns announce; names place, column and remedy.
        """
        try:
            text = line.decode()
            if not text.isprintable():
                require_text(text)
        except UnicodeDecodeError as error:
            raise place.at(column=error.start + 1).error(NOT_UTF8) from None
        except BadItem as error:
            raise place.at(column=error.column).error(str(error)) from None
        words = text.split()
        if len(words) != self.columns.width:
            raise place.error(self._complaint(words))
        at = 0
        # What is left of ASCII without _ is read alike by Python and by the grammar of numbers.
        plain = text.isascii() and "_" not in text
        for column, values in zip(self.columns.properties, self._values):
            mine = words[at : at + column.width]
            try:
                values += list(map(float if plain and column.kind == REAL else CONVERT[column.kind], mine))
            except ValueError:
                values += self._one_by_one(column, text, at, place)
            at += column.width
        self.count += 1

    def _one_by_one(self, column: Column, text: str, first: int, place: Place) -> list[Any]:
        found = []
        for n, word in enumerate(re.finditer(r"\S+", text)):
            if not first <= n < first + column.width:
                continue
            try:
                found.append(CONVERT[column.kind](word[0]))
            except ValueError as error:
                at = place.at(column=word.start() + 1)
                raise at.error(f"`{column.name}` of atom {self.count} (from 0): {error}") from None
        return found

    def _complaint(self, words: list[str]) -> str:
        atom, wanted = f"atom {self.count} (from 0)", self.columns.width
        if not words:
            return f"the line of {atom} is blank; remove it, or correct the number of atoms"
        if len(words) == 1 and words[0].isdigit():
            return f"here {atom} should be, but another frame seems to begin; was the one before cut short? Fetch it again, or correct its number of atoms"
        if self.announced:
            return (
                f"{atom} has {len(words)} column(s), but `Properties` names {wanted}; correct the line or `Properties`"
            )
        return (
            f"{atom} has {len(words)} column(s), but without `Properties` there are {wanted}; "
            f"name all of them in the comment line, as in Properties={PLAIN}:forces:R:3"
        )

    def arrays(self, place: Place) -> Arrays:
        """Arrays by name in the file: (atoms,) or (atoms, width); ``numbers`` and, of isotopes, ``masses`` besides.

        Args:
            place: Place of the line of the first atom.

        Raises:
            ValueError: If a symbol is none of an element, a position is not finite, or symbols and atomic numbers disagree.
        """
        found: Arrays = {}
        numbers: NDArray[Any] | None = None
        for column, values in zip(self.columns.properties, self._values):
            if column.kind == SYMBOL:
                numbers = _elements(values, column, place)
                if any(symbol in ISOTOPES for symbol in values):
                    found["isotopes"] = np.array([ISOTOPES.get(symbol, math.nan) for symbol in values])
                continue
            array: NDArray[Any] = np.array(values, TYPES[column.kind])
            found[column.array] = array if column.width == 1 else array.reshape(-1, column.width)
        told = found.setdefault("numbers", numbers) if numbers is not None else found["numbers"]
        if numbers is not None and (differ := np.flatnonzero(told != numbers)).size:
            raise _of_atom(place, int(differ[0])).error(
                "symbol and atomic number are of different elements; correct one of them"
            )
        for atom in np.flatnonzero(~np.isfinite(found["positions"]).all(axis=1)):
            position = found["positions"][atom]
            raise _of_atom(place, int(atom)).error(
                f"the position of atom {atom} is not finite: {position}; correct or remove the frame"
            )
        return found


def _of_atom(place: Place, atom: int) -> Place:
    return place.at(line=(place.line or 0) + atom)


def _elements(symbols: list[str], column: Column, place: Place) -> NDArray[np.int64]:
    found = []
    for atom, symbol in enumerate(symbols):
        try:
            found.append(atomic_number(symbol))
        except ValueError as error:
            raise _of_atom(place, atom).error(f"`{column.name}` of atom {atom} (from 0): {error}") from None
    return np.array(found, np.int64)
