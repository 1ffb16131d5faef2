"""Structures to predict, as their files have them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

from ase import Atoms

from .frames import SOURCE, labelled, require_elements, require_finite
from .keys import OWN_NAMES
from .read import files_of
from .read.formats import read

ENDINGS = (".xyz", ".extxyz", ".xyz.gz", ".extxyz.gz")


def iter_structures(paths: Iterable[str | os.PathLike[str]]) -> Iterator[Atoms]:
    """Frames of several files, folders or patterns one after the other, in Å, with everything that the files say of them.

    Labels are not looked at, unless the file has units of its own, in which they would be wrong beside positions in Å.

    Raises:
        FileNotFoundError: If a file is not there.
        ValueError: If a file cannot be read, an atom is of no element, or a position or cell is not finite; names file and frame.
    """
    for path in files_of(list(paths)):
        for n, (atoms, own) in enumerate(read(path, OWN_NAMES)):
            atoms.info[SOURCE] = f"{path}, frame {n}"
            if own.units != OWN_NAMES.units:
                yield labelled(atoms, own)
                continue
            require_elements(atoms)
            require_finite(atoms)
            if symbol := getattr(atoms.info.get("spacegroup"), "symbol", None):
                atoms.info["spacegroup"] = str(symbol)  # an object of ASE, which no file of frames has a form for
            yield atoms


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
