"""numpy's ``.npz`` as of rMD17, MD17 and sGDML: arrays over frames."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from ase import Atoms

from equinet.datasets.keys import LabelKeys
from equinet.quotes import shortened

from .required import require_units, said_units, with_units
from .streams import unpacked
from .tabular import frames_of


def read_npz(path: Path, keys: LabelKeys) -> Iterator[tuple[Atoms, LabelKeys]]:
    """Frames of a ``.npz`` file; the arrays are in memory meanwhile.

    Units are those that are asked for, or those that sGDML writes beside (``e_unit``, ``r_unit``).

    Raises:
        ValueError: If it cannot be read, has no units or lacks an array; names the file.
    """
    try:
        with unpacked(path) as plain, np.load(plain, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (ValueError, OSError, EOFError, KeyError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path} cannot be read: {type(error).__name__}: {shortened(str(error), 200)}") from error
    if {"e_unit", "r_unit"} <= arrays.keys():
        energy, length = (str(arrays[name].item()) for name in ("e_unit", "r_unit"))
        keys = with_units(keys, said_units(path, energy=energy, length=length))
    else:
        require_units(path, "a `.npz` file", keys, hint="kcal/mol and Ang in rMD17")
    try:
        for atoms in frames_of(arrays, keys):
            yield atoms, keys
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
