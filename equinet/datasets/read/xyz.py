"""Extended XYZ as a stream of frames: batches by machine code, whatever is unusual by Python, the same values either way."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from pathlib import Path

from .batches import CUT, UNUSUAL, Batch, available
from .comment import parse_comment
from .form import form_of
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
        comment = _first_comment(window)
        while True:
            if native and available():
                number = yield from _batches(window, comment, path, number)
            frame = _by_python(window, path, number)
            if frame is None:
                break
            made, comment = frame
            yield made
            number += 1
    if not number:
        raise ValueError(f"{path} holds no frames")


def _first_comment(window: Window) -> bytes:
    """Probable comment of the first frame; nothing is taken from the stream."""
    lines = window.data[window.at :].lstrip().split(b"\n", 2)
    return lines[1].removesuffix(b"\r") if len(lines) > 2 else b""


def _batches(window: Window, last: bytes, path: Path, number: int) -> Generator[Frame, None, int]:
    """Read frames by machine code until one needs Python; gives the number of that frame.

    Args:
        last: Comment of the frame before: the next ones probably look alike.
    """
    while True:
        try:
            form = form_of(last)
        except ValueError:
            return number
        batch = Batch(window, form)
        data = window.data
        for n, (begin, comment, comment_end, count, row, line, matched) in enumerate(batch.records):
            try:
                if matched:
                    cell, pbc, info = batch.told(n)
                else:
                    last = data[comment:comment_end].removesuffix(b"\r")
                    columns, cell, pbc, info = parse_comment(last)
                    if columns.text != form.columns.text:
                        raise ValueError("other columns")
                arrays = batch.arrays(row, count)
            except ValueError:  # the form in Python reads it, or says where and why not
                window.at, window.line = begin, line
                return number
            yield Frame(arrays.pop("numbers"), arrays.pop("positions"), cell, pbc, info, arrays, path, number, line)
            number += 1
        window.at, window.line = batch.at, batch.line
        if batch.stopped == UNUSUAL:
            return number
        if batch.stopped == CUT:
            line_so_far = len(window.data) - window.whole_lines()
            if line_so_far > LONGEST_LINE or not window.more():
                return number


def _by_python(window: Window, path: Path, number: int) -> tuple[Frame, bytes] | None:
    """The next frame by the reference form, and its comment; None at the end of the file.

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
    ), comment
