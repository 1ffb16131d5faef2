"""Extended XYZ as a stream of frames: batches by machine code, whatever is unusual by Python, the same values either way."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from .batches import CUT, UNUSUAL, Batch, available
from .columns import Columns
from .comment import parse_comment
from .frame import Frame, with_isotopes
from .places import Place
from .rows import Arrays, Rows, read_count
from .streams import LONGEST_LINE, Window, opened


def iter_xyz(path: str | os.PathLike[str], *, native: bool = True) -> Iterator[Frame]:
    """Stream the frames of an extended-XYZ file, plain or packed; a chunk of the file is in memory at a time.

    Args:
        path: The file.
        native: False reads everything by the reference form in Python.

    Raises:
        ValueError: If the file is not extended XYZ, or breaks off; names file, frame (from 0), line (from 1) and remedy.
    """
    path = Path(path)
    number = 0
    with opened(path) as file:
        window = Window(file, path)
        columns: Columns | None = None
        while True:
            if native and columns is not None and available():
                number, columns = yield from _batch(window, columns, path, number)
            frame = _by_python(window, path, number)
            if frame is None:
                break
            made, columns = frame
            yield made
            number += 1
    if not number:
        raise ValueError(f"{path} holds no frames")


def _batch(window: Window, columns: Columns, path: Path, number: int) -> Iterator[Frame]:
    """Read frames by machine code until one needs Python. Gives the number of the next frame, and the columns."""
    while True:
        batch = Batch(window, columns)
        data = window.data
        for begin, comment, comment_end, count, row, line in batch.records:
            try:
                told, cell, pbc, info = parse_comment(data[comment:comment_end].removesuffix(b"\r"))
            except ValueError:  # the form in Python says where
                told = None
            arrays = batch.arrays(row, count) if told is columns and count else {}
            if not arrays:
                window.at, window.line = begin, line
                break
            yield Frame(arrays.pop("numbers"), arrays.pop("positions"), cell, pbc, info, arrays, path, number, line)
            number += 1
        else:
            window.at, window.line = batch.at, batch.line
            if batch.stopped == UNUSUAL:
                return number, columns
            if batch.stopped == CUT:
                line_so_far = len(window.data) - window.whole_lines()
                if line_so_far > LONGEST_LINE or not window.more():
                    return number, columns
            continue
        return number, columns


def _by_python(window: Window, path: Path, number: int) -> tuple[Frame, Columns] | None:
    """The next frame by the reference form, or None at the end of the file.

    Raises:
        ValueError: Whatever is wrong with it.
    """
    while (line := window.next_line(number)) is not None and not line.strip():
        pass
    if line is None:
        return None
    place = Place(path, number, window.line - 1)
    count = read_count(line, place)
    comment = window.next_line(number)
    if comment is None:
        raise place.error(f"the file ends after the number of atoms, {count}; was it cut short? Fetch it again")
    try:
        columns, cell, pbc, info = parse_comment(comment)
    except ValueError as error:
        raise Place(path, number, window.line - 1, getattr(error, "column", None)).error(str(error)) from None
    rows = Rows(columns, b"roperties" in comment)
    for _ in range(count):
        row = window.next_line(number)
        if row is None:
            raise place.error(
                f"the frame announces {count} atoms, and only {rows.count} lines follow; was the file cut short? Fetch it again, or correct the number"
            )
        try:
            rows.add(row, place.at(line=window.line - 1))
        except ValueError as error:
            if window.is_over():
                raise ValueError(f"{error}. The file ends there: was it cut short? Fetch it again") from None
            raise
    arrays: Arrays = rows.arrays(place.at(line=(place.line or 0) + 2))
    with_isotopes(arrays, arrays["numbers"])
    return Frame(
        arrays.pop("numbers"), arrays.pop("positions"), cell, pbc, info, arrays, path, number, place.line or 0
    ), columns
