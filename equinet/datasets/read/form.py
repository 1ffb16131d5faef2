"""Form of a comment: what stays the same from frame to frame, and where its numbers and texts are.

Most files have one comment again and again with other values in it. Machine code compares the rest, and reads the values.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .columns import Columns
from .comment import CLOSED, NOTHING, OPEN, Cell, Periodic, has_volume, parse_comment
from .items import USUAL
from .scanner import LITERAL, QUOTED, REALS, WORD
from .values import SPECIAL, is_usual_real, value_of


@dataclass(frozen=True)
class Value:
    """An item whose value changes.

    Attributes:
        key: Its name.
        first: Where its numbers begin among all numbers of the comment, or which of the texts it is.
        count: Its numbers; 0 for a text.
    """

    key: str
    first: int
    count: int


@dataclass(frozen=True)
class Form:
    """A comment taken apart.

    Attributes:
        columns: Columns of the atoms, part of what stays the same.
        periodic: Periodicity, too.
        lattice: The cell's place among the numbers, if there is one.
        values: All other items.
        pieces: For machine code: kind, bytes that stay the same, numbers, and whether these must have a point.
        reals: Numbers in all.
        texts: Texts in all.
    """

    columns: Columns
    periodic: Periodic
    lattice: int | None
    values: tuple[Value, ...]
    pieces: tuple[tuple[int, bytes, int, bool], ...]
    reals: int
    texts: int

    def info(self, data: bytes, numbers: list[float], row: NDArray[np.float64], places: list[int]) -> dict[str, Any]:
        """Items of one comment by name.

        Args:
            data: Bytes of the file.
            numbers: Numbers of the comment.
            row: The same as an array.
            places: Where each text begins and ends in ``data``.

        Raises:
            ValueError: As :func:`value_of`.
        """
        found: dict[str, Any] = {}
        for value in self.values:
            key, first, count = value.key, value.first, value.count
            if count == 1:
                found[key] = numbers[first]
            elif count:
                array = row[first : first + count]
                found[key] = array.reshape(3, 3).T if count == 9 and key in SPECIAL else array
            else:
                found[key] = value_of(key, data[places[2 * first] : places[2 * first + 1]].decode())
        return found

    def cell(self, numbers: list[float], row: NDArray[np.float64]) -> Cell:
        """Cell of one comment, (3, 3).

        Raises:
            ValueError: If its vectors do not span one.
        """
        if self.lattice is None:
            return NOTHING
        if not has_volume(numbers[self.lattice : self.lattice + 9]):
            raise ValueError("the vectors do not span a cell")
        return row[self.lattice : self.lattice + 9].reshape(3, 3)


@lru_cache(16)
def form_of(comment: bytes) -> Form:
    """Form of a comment that has been read; one that no comment has if there is more to it than words and quotes."""
    columns, _, periodic, _ = parse_comment(comment)
    text = comment.decode()
    matches = list(USUAL.finditer(text))
    whole = "".join(match[0] for match in matches) == text and text.isascii() and text.isprintable()
    if not whole or periodic not in (OPEN, CLOSED):
        return Form(columns, periodic, None, (), ((LITERAL, b"\n", 0, False),), 0, 0)
    pieces: list[tuple[int, bytes, int, bool]] = []
    values: list[Value] = []
    lattice: int | None = None
    reals = texts = 0
    for match in matches:
        key, word = match[1], match[2]
        quoted, inside = word[0] == '"', word.strip('"')
        low = key.lower()
        if low in ("properties", "pbc"):
            pieces.append((LITERAL, match[0].encode(), 0, False))
            continue
        pieces.append((LITERAL, text[match.start() : match.start(2) + quoted].encode(), 0, False))
        words = inside.split()
        if low == "lattice" or (words and all(is_usual_real(each) for each in words) and key != "uid"):
            pieces.append((REALS, b"", len(words), low != "lattice"))
            lattice = reals if low == "lattice" else lattice
            if low != "lattice":
                values.append(Value(key, reals, len(words)))
            reals += len(words)
        else:
            pieces.append((QUOTED if quoted else WORD, b"", 0, False))
            values.append(Value(key, texts, 0))
            texts += 1
        pieces.append(
            (
                LITERAL,
                text[match.end(2) - quoted : match.end()].rstrip().encode()
                if match is matches[-1]
                else text[match.end(2) - quoted : match.end()].encode(),
                0,
                False,
            )
        )
    return Form(columns, periodic, lattice, tuple(values), tuple(pieces), reals, texts)
