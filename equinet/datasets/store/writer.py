"""Writing of a store: rows in transactions, under another name until all are there."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from ase import Atoms

from equinet.runs.files import explaining, whole_file

from .database import METADATA, NEXT, SUFFIX, Writer, lmdb_module
from .rows import encoded, row_of

UNITS = {"energy": "eV", "length": "Ang", "forces": "eV/Ang", "stress": "eV/Ang^3"}


def write_store(path: str | os.PathLike[str], frames: Iterable[Atoms]) -> int:
    """Write frames into a new store, one row each; ASE and packages built on it read it as a database.

    Args:
        path: File to make, ``*.aselmdb``.
        frames: Frames with labels in eV and Å as results of their calculators; they are taken one by one and not kept.

    Returns:
        Number of frames.

    Raises:
        FileExistsError: If the file is there already.
        OSError, ValueError: If it cannot be written, a frame cannot be stored, or lmdb is not installed.
    """
    lmdb_module()
    path, count = Path(path), 0
    if path.suffix.lower() != SUFFIX:
        raise ValueError(f"{path} must end in {SUFFIX}, by which ASE and others know it")
    if path.exists():
        raise FileExistsError(f"{path} is there already; remove it or choose another name")
    with whole_file(path) as partial:
        with explaining(path):
            writer = Writer(partial)
        try:
            for count, atoms in enumerate(frames, start=1):
                row = encoded(row_of(atoms))
                with explaining(path):
                    writer.put(str(count).encode(), row)
            with explaining(path):
                writer.put(NEXT, encoded(count + 1))
                writer.put(METADATA, encoded({"units": UNITS}))
                writer.finish()
        finally:
            writer.close()
    return count
