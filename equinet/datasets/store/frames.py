"""Frames of stores as one sequence: read when asked for, in any order, by any process."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import overload

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from equinet.datasets.frames import OWN_NAMES, SOURCE, LabelKeys, labelled

from .database import DELETED, METADATA, NEXT, SUFFIX, Database
from .rows import atoms_of, decoded

UNITS_OF_SCHNETPACK = "_property_unit_dict"


def is_store(paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> bool:
    """True if frames are to be streamed from there: all names, which may be patterns, end in ``.aselmdb``.

    Raises:
        ValueError: If some do and others do not.
    """
    names = [str(path) for path in ([paths] if isinstance(paths, (str, os.PathLike)) else paths)]
    ends = [name.lower().endswith(SUFFIX) for name in names]
    if any(ends) and not all(ends):
        raise ValueError(
            f"{names[ends.index(True)]} is streamed from disk, and {names[ends.index(False)]} would be read into memory; bring all into one "
            f"store: equinet data convert {' '.join(names)} all{SUFFIX}"
        )
    return all(ends)


def stores_of(paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> list[Path]:
    """Files that names and patterns such as ``dir/*.aselmdb`` mean, those of a pattern in the order of their names.

    Raises:
        FileNotFoundError: If a pattern fits no file.
    """
    found: list[Path] = []
    for name in [paths] if isinstance(paths, (str, os.PathLike)) else paths:
        name = os.fspath(name)
        if os.path.exists(name) or not glob.has_magic(name):
            found.append(Path(name))
        elif files := sorted(glob.glob(name, recursive=True)):
            found += map(Path, files)
        else:
            raise FileNotFoundError(f"no file fits the pattern {name}")
    return found


class StoredFrames(Sequence[Atoms]):
    """Checked frames of one or several stores, as :func:`equinet.datasets.read_frames` gives them, each read when asked for.

    It can be pickled and inherited by other processes, each of which opens the files for itself.

    Args:
        paths: File, pattern or several of them.
        keys: Names of the labels; ASE's own by default.

    Raises:
        FileNotFoundError, ValueError: If a file is not there, is no store, is damaged, or holds no frames. Reading a frame raises a
            ValueError with file and frame if it is damaged or a label is wrong.
    """

    def __init__(
        self, paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]], keys: LabelKeys = OWN_NAMES
    ) -> None:
        self.keys = keys
        self.files = [Database(path) for path in stores_of(paths)]
        for file in self.files:
            _require_own_units(file)
        self.ids = [ids_of(file) for file in self.files]
        self.ends = np.cumsum([len(ids) for ids in self.ids])

    def __len__(self) -> int:
        return int(self.ends[-1])

    @overload
    def __getitem__(self, index: int) -> Atoms: ...
    @overload
    def __getitem__(self, index: slice) -> list[Atoms]: ...

    def __getitem__(self, index: int | slice) -> Atoms | list[Atoms]:
        if isinstance(index, slice):
            return [self[n] for n in range(*index.indices(len(self)))]
        count = len(self)
        if not -count <= index < count:
            raise IndexError(f"there is no frame {index} in {count}")
        index %= count
        of_file = int(np.searchsorted(self.ends, index, side="right"))
        file, ids = self.files[of_file], self.ids[of_file]
        number = index - (int(self.ends[of_file]) - len(ids))
        place = f"{file.path}, frame {number}"
        content = file.get(str(ids[number]).encode())
        if content is None:
            raise ValueError(f"{place}: there is no row {ids[number]}; make or fetch the file again")
        try:
            row = decoded(content)
        except ValueError as error:
            raise ValueError(f"{place}: row {ids[number]} {error}; make or fetch the file again") from error
        try:
            atoms = atoms_of(row)
        except Exception as error:  # rows of other programs may lack anything
            raise ValueError(f"{place}: row {ids[number]} is no frame: {type(error).__name__}: {error}") from error
        atoms.info[SOURCE] = place
        return labelled(atoms, self.keys)

    def __iter__(self) -> Iterator[Atoms]:
        return (self[n] for n in range(len(self)))


def ids_of(file: Database) -> range | NDArray[np.int64]:
    """Numbers of the rows that are there.

    Raises:
        ValueError: If there are none, or the file is no database.
    """
    try:
        found = [decoded(content) if (content := file.get(key)) else None for key in (NEXT, DELETED)]
        last, deleted = int(found[0] or 1), found[1] or []
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"{file.path} is no database of ASE: its list of rows {error}; make or fetch it again"
        ) from error
    ids = range(1, last) if not deleted else np.setdiff1d(np.arange(1, last), np.array(deleted, dtype=np.int64))
    if len(ids) == 0:
        raise ValueError(f"{file.path} holds no frames")
    return ids


def _require_own_units(file: Database) -> None:
    stored = file.get(METADATA)
    try:
        has_others = stored is not None and UNITS_OF_SCHNETPACK in (decoded(stored) or {})
    except (ValueError, TypeError) as error:
        raise ValueError(f"{file.path} is no database of ASE: its metadata {error}; make or fetch it again") from error
    if has_others:
        raise ValueError(
            f"{file.path} has units of its own ({UNITS_OF_SCHNETPACK}); bring it into eV and Å first: equinet data convert {file.path} "
            f"NEW{SUFFIX}"
        )
