"""Writing of ASE's own files of frames: a database of SQLite, a trajectory."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import ase.db
import numpy as np
from ase import Atoms
from ase.db.row import AtomsRow
from ase.io.trajectory import TrajectoryWriter

from equinet.datasets.frames import SOURCE, source
from equinet.runs.files import explaining, whole_file

from .rows import OWN_ARRAYS, row_of

AT_ONCE = 1000  # rows in a transaction


def write_database(path: str | os.PathLike[str], frames: Iterable[Atoms]) -> int:
    """Write frames as rows of ASE's SQLite database, as :func:`.writer.write_store` writes them into a store.

    Args:
        path: File to make, ``*.db``.
        frames: Frames; they are taken one by one and not kept.

    Returns:
        Number of frames.

    Raises:
        OSError, ValueError: If the file cannot be written or a frame cannot be stored; names it.
    """
    count = 0
    with whole_file(path) as partial:
        database = ase.db.connect(str(partial), type="db", append=False, use_lock_file=False)
        batch: list[AtomsRow] = []

        def flush() -> None:
            with database:
                for row in batch:
                    database.write(row, data=row.data)
            batch.clear()

        for count, atoms in enumerate(frames, start=1):  # noqa: B007
            batch.append(AtomsRow(_without_arrays_of_words(row_of(atoms))))
            if len(batch) == AT_ONCE:
                flush()
        flush()
    return count


def _without_arrays_of_words(row: dict[str, Any]) -> dict[str, Any]:
    """The row with lists in their place: ASE writes such arrays into SQLite, but cannot read them again."""
    words = {name for name, value in row["data"].items() if isinstance(value, np.ndarray) and value.dtype.kind == "U"}
    return row | {"data": {name: value.tolist() if name in words else value for name, value in row["data"].items()}}


def write_trajectory(path: str | os.PathLike[str], frames: Iterable[Atoms]) -> int:
    """Write frames as a trajectory of ASE.

    Args:
        path: File to make, ``*.traj``.
        frames: Frames; they are taken one by one and not kept.

    Returns:
        Number of frames.

    Raises:
        OSError, ValueError: If the file cannot be written, or a frame has arrays or entries that a trajectory leaves out; names the frame.
    """
    count = 0
    with whole_file(path) as partial:
        with explaining(path):
            writer = TrajectoryWriter(str(partial), "w")
        with writer:
            for count, atoms in enumerate(frames, start=1):  # noqa: B007
                if other := sorted(set(atoms.arrays) - set(OWN_ARRAYS)):
                    raise ValueError(
                        f"{source(atoms)}: has an array `{other[0]}`, which a trajectory cannot hold; write a *.aselmdb instead"
                    )
                written = atoms.copy()
                written.info.pop(SOURCE, None)
                written.calc = atoms.calc
                with warnings.catch_warnings(record=True) as said, explaining(Path(path)):
                    warnings.simplefilter("always")
                    writer.write(written)
                if said:  # that it leaves something out
                    raise ValueError(f"{source(atoms)}: {said[0].message}; write a *.aselmdb instead")
    return count
