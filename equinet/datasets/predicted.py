"""Structures to predict, as their files have them, and extended XYZ files of predicted ones."""

from __future__ import annotations

import gzip
import io
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ase import Atoms
from ase.io.extxyz import write_xyz

from equinet.runs.files import explained, replacing

from .frames import SOURCE, require_elements, require_finite
from .reading import _read

ENDINGS = (".xyz", ".extxyz", ".xyz.gz", ".extxyz.gz")


def iter_structures(paths: Iterable[str | os.PathLike[str]]) -> Iterator[Atoms]:
    """Frames of several files one after the other, with everything that the files say of them; labels are not looked at.

    Raises:
        FileNotFoundError: If a file is not there.
        ValueError: If a file cannot be read, an atom is of no element, or a position or cell is not finite; names file and frame.
    """
    for path in paths:
        for n, atoms in enumerate(_read(Path(path))):
            atoms.info[SOURCE] = f"{path}, frame {n}"
            require_elements(atoms)
            require_finite(atoms)
            yield atoms


class FrameWriter:
    """Writes frames one after the other in extended XYZ; made by :func:`frame_writer`."""

    def __init__(self, text: io.TextIOBase, path: str | os.PathLike[str]) -> None:
        self._text, self._path = text, path

    def write(self, atoms: Atoms) -> None:
        """Append a frame with its labels, ``info`` and arrays.

        Raises:
            OSError: If it cannot be written; names the file and the remedy.
        """
        written = atoms.copy()
        written.calc = atoms.calc
        written.info.pop(SOURCE, None)
        try:
            write_xyz(self._text, written)
        except OSError as error:
            raise explained(error, self._path) from error


@contextmanager
def frame_writer(path: str | os.PathLike[str]) -> Iterator[FrameWriter]:
    """Open an extended XYZ file for frames; it is in place, whole, when the block ends without an error.

    Args:
        path: File to make or to replace, ``*.xyz`` or ``*.extxyz``, or either with ``.gz``.

    Raises:
        ValueError: If the name has another ending.
    """
    require_ending(path)
    with replacing(path) as file:
        packed = gzip.GzipFile(fileobj=file, mode="wb", mtime=0) if str(path).endswith(".gz") else None
        text = io.TextIOWrapper(packed or file, encoding="utf-8", newline="\n", write_through=True)
        try:
            yield FrameWriter(text, path)
            text.flush()
        finally:
            text.detach()
            if packed is not None:
                packed.close()


def require_ending(path: str | os.PathLike[str]) -> None:
    """Refuse a file whose ending is not one of extended XYZ.

    Raises:
        ValueError: Names the endings.
    """
    if not os.fspath(path).endswith(ENDINGS):
        raise ValueError(
            f"`out` must end in {', '.join(ENDINGS)}, got {os.fspath(path)}: predictions are arrays of their own, which other formats "
            "do not hold"
        )
