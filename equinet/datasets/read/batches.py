"""Many frames of extended XYZ at once, by machine code."""

from __future__ import annotations

import logging
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import machine
from .comment import Cell, Periodic
from .form import Form
from .scanner import CUT, LITERAL, PIECE, REALS, RECORD, UNUSUAL, scanner, tables
from .streams import Window
from .words import LOGICAL, REAL, SYMBOL, TEXT

MOST_FRAMES = 4096  # in a batch

__all__ = ["CUT", "UNUSUAL", "Batch", "available"]


@cache
def available() -> bool:
    """True if machine code can be made here; says once if it cannot."""
    if machine.missing is not None:
        logging.getLogger("equinet").warning(
            "extended XYZ is read by Python, about a tenth as fast as it can be: %s; `pip install llvmlite`",
            machine.missing,
        )
    return machine.missing is None


class Batch:
    """Frames that machine code read on the assumption that all have the same columns.

    Args:
        window: Bytes, from the beginning of a frame.
        form: Form of the comments that is assumed, with its columns.

    Attributes:
        records: For each frame where it begins, where its comment begins and ends, its atoms, first row, and line; see :mod:`.scanner`.
        stopped: Why it stopped after them: FULL, CUT for a frame that is not all in the window, UNUSUAL for one to be read by Python.
        at: Where it stopped.
        line: Line there.
    """

    def __init__(self, window: Window, form: Form) -> None:
        columns = form.columns
        end = window.whole_lines()
        rows = (end - window.at) // (2 * columns.width) + 1  # a word and what ends it
        self._data, self._columns, self._form = window.data, columns, form
        self._blocks = [_block(column.kind, rows, column.width) for column in columns.properties]
        table = np.array(
            [entry for column, block in zip(columns.properties, self._blocks) for entry in _entries(column, block)],
            np.int64,
        )
        records, stop = np.empty((MOST_FRAMES, RECORD), np.int64), np.empty(3, np.int64)
        data = np.frombuffer(window.data, np.uint8)
        frames = min((end - window.at) // (2 * columns.width + 3) + 1, MOST_FRAMES)
        self._reals, self._places = np.empty((frames, form.reals)), np.empty((frames, 2 * form.texts), np.int64)
        pieces, _literals = self._pieces()
        powers, symbols, letters = tables()
        count = scanner()(
            data.ctypes.data, window.at, end, window.line, table.ctypes.data, len(table), rows,
            records.ctypes.data, frames, stop.ctypes.data, pieces.ctypes.data, len(pieces),
            powers.ctypes.data, symbols.ctypes.data, letters.ctypes.data,
        )  # fmt: skip
        self.records: list[list[int]] = records[:count].tolist()
        self.stopped, self.at, self.line = stop.tolist()
        self._names = [column.array if column.kind != SYMBOL else "numbers" for column in columns.properties]
        self._usual = {column.kind for column in columns.properties} <= {REAL, SYMBOL}

    def _pieces(self) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
        """The form as machine code takes it, and the bytes that it points to."""
        form = self._form
        literals = np.frombuffer(b"".join(literal for _, literal, _, _ in form.pieces) or b"-", np.uint8)
        table, at, real, text = [], literals.ctypes.data, self._reals.ctypes.data, self._places.ctypes.data
        for kind, literal, count, pointed in form.pieces:
            if kind == LITERAL:
                table.append((kind, at, len(literal), 0, 0))
                at += len(literal)
            elif kind == REALS:
                table.append((kind, real, count, form.reals, pointed))
                real += 8 * count
            else:
                table.append((kind, text, 0, 2 * form.texts, 0))
                text += 16
        return np.array(table, np.int64).reshape(-1, PIECE), literals

    def told(self, frame: int) -> tuple[Cell, Periodic, dict[str, Any]]:
        """Cell, periodicity and items of a comment that has the form.

        Raises:
            ValueError: If something is wrong with them.
        """
        form, row = self._form, self._reals[frame]
        numbers, places = row.tolist(), self._places[frame].tolist()
        return form.cell(numbers, row), form.periodic, form.info(self._data, numbers, row, places)

    def arrays(self, first: int, count: int) -> dict[str, NDArray[Any]]:
        """Arrays of a frame by name, as :meth:`.rows.Rows.arrays`.

        Raises:
            ValueError: If symbols and atomic numbers disagree.
        """
        end = first + count
        if self._usual:
            return {name: block[first:end] for name, block in zip(self._names, self._blocks)}
        found: dict[str, NDArray[Any]] = {}
        for name, column, block in zip(self._names, self._columns.properties, self._blocks):
            part = block[first:end]
            if column.kind == TEXT:
                part = self._texts(part, column.width)
            if name in found and not np.array_equal(found[name], part):
                raise ValueError("symbols and atomic numbers disagree")
            found[name] = part
        return found

    def _texts(self, places: NDArray[np.int64], width: int) -> NDArray[np.str_]:
        texts = [self._data[begin:end].decode() for begin, end in places.reshape(-1, 2).tolist()]
        return np.array(texts) if width == 1 else np.array(texts).reshape(-1, width)


def _block(kind: int, rows: int, width: int) -> NDArray[Any]:
    """Memory for the values of a property; pages that nothing is written to cost nothing."""
    words = 2 * width if kind == TEXT else width  # a text is known by where it begins and ends
    dtype = {REAL: np.float64, LOGICAL: np.bool_}.get(kind, np.int64)
    return np.empty(rows if words == 1 else (rows, words), dtype)


def _entries(column: Any, block: NDArray[Any]) -> list[tuple[int, int, int]]:
    """For each column of a property its kind, the address of its first value, and the step to the next row."""
    step = column.width
    size = block.itemsize * (2 if column.kind == TEXT else 1)
    return [(column.kind, block.ctypes.data + n * size, step) for n in range(column.width)]
