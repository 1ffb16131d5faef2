"""The reader of each format."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from ase import Atoms

from equinet.datasets.keys import LabelKeys

from .databases import read_database
from .hdf5 import read_hdf5
from .known import own_format
from .npz import read_npz
from .others import read_other
from .required import require_units
from .runner import read_runner
from .xyz import iter_xyz

Read = Iterator[tuple[Atoms, LabelKeys]]


def read_xyz(path: Path, keys: LabelKeys) -> Read:
    """Frames of extended XYZ, in the units that are asked for.

    Raises:
        ValueError: If they come from CP2K, whose comments are ``i = 1, E = -17.2``, and no units are asked for.
    """
    for frame in iter_xyz(path):
        if "E" in frame.info and "i" in frame.info:
            require_units(path, "XYZ as CP2K writes it (i = ..., E = ...)", keys, hint="Hartree and Ang")
        yield frame.atoms(), keys


OWN: dict[str, Callable[[Path, LabelKeys], Read]] = {
    "xyz": read_xyz,
    "npz": read_npz,
    "hdf5": read_hdf5,
    "database": read_database,
    "runner": read_runner,
}


def read(path: Path, keys: LabelKeys) -> Read:
    """Frames of a file as they stand there, each with the names and units of its labels.

    Raises:
        ValueError: If it cannot be read or holds no frames; names the file and, where it can be, frame, line and remedy.
    """
    form = own_format(path)
    found = read_other(path, keys) if form is None else OWN[form](path, keys)
    empty = True
    for each in read_xyz(path, keys) if isinstance(found, str) else found:
        empty = False
        yield each
    if empty:
        raise ValueError(f"{path} holds no frames")
