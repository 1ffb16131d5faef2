"""Structures to predict, as their files have them, and extended XYZ files of predicted ones."""

from __future__ import annotations

import gzip
import io
import os
from collections.abc import Iterable, Iterator
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
            if symbol := getattr(atoms.info.get("spacegroup"), "symbol", None):
                atoms.info["spacegroup"] = str(symbol)  # an object of ASE, which no file of frames has a form for
            yield atoms


def write_frames(path: str | os.PathLike[str], frames: Iterable[Atoms]) -> int:
    """Write frames with their labels, ``info`` and arrays as extended XYZ, one after the other, gzipped if the name ends in .gz.

    Args:
        path: File to make or to replace; it appears, whole, when the last frame is written.
        frames: Structures; an iterator is taken frame by frame.

    Returns:
        Number of frames.

    Raises:
        OSError: If the file cannot be written; names it and the remedy. The old one is whole.
    """
    count = 0
    with replacing(path) as file:
        packed = gzip.GzipFile(fileobj=file, mode="wb", mtime=0) if os.fspath(path).endswith(".gz") else None
        text = io.TextIOWrapper(packed or file, encoding="utf-8", newline="\n", write_through=True)
        try:
            for atoms in frames:
                written = atoms.copy()
                written.calc = atoms.calc
                written.info.pop(SOURCE, None)
                try:
                    write_xyz(text, written)
                except OSError as error:
                    raise explained(error, path) from error
                count += 1
            text.flush()
        finally:
            text.detach()
            if packed is not None:
                packed.close()
    return count


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
