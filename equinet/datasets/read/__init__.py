"""Reading frames from files: extended XYZ by a scanner of our own, npz, HDF5, databases, and whatever else ASE reads."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from ase import Atoms

from equinet.datasets.frames import SOURCE, labelled, not_finite
from equinet.datasets.keys import OWN_NAMES, LabelKeys
from equinet.graph.elements import no_element

from .formats import read
from .paths import Names, files_of

__all__ = ["files_of", "iter_frames", "read_frames", "read_structure"]


def read_frames(paths: Names, keys: LabelKeys = OWN_NAMES) -> list[Atoms]:
    """Read every frame of files, folders and patterns, in any known format, also packed (.gz, .bz2, .xz).

    The labels end up, checked, as raw results of a ``SinglePointCalculator`` under ASE's own names, whatever they are
    called in the file; :func:`find_labels` gives them back.

    Args:
        paths: File, folder or pattern such as ``dir/*.xyz``, or several of them.
        keys: Names, units and signs of the labels in the files.

    Raises:
        FileNotFoundError: If a file is not there.
        ValueError: If a file cannot be read or is empty, or a label has the wrong shape or is not finite; names the file,
            the frame (counted from 0), in text the line (from 1), and the remedy. Also if an atom is of no element, or a position or cell is
            not finite.
    """
    return list(iter_frames(paths, keys))


def iter_frames(paths: Names, keys: LabelKeys = OWN_NAMES) -> Iterator[Atoms]:
    """Stream what :func:`read_frames` reads, without holding a file or the frames in memory.

    Args:
        paths: File, folder or pattern, or several of them.
        keys: Names, units and signs of the labels in the files.

    Raises:
        FileNotFoundError, ValueError: As :func:`read_frames`, when the frame is reached.
    """
    for path in files_of(paths):
        for number, (atoms, own) in enumerate(read(path, keys)):
            atoms.info[SOURCE] = f"{path}, frame {number}"
            yield labelled(atoms, own)


def read_structure(path: str | os.PathLike[str]) -> Atoms:
    """The last structure of a file, any format that is known, in Å, without its labels.

    Raises:
        FileNotFoundError, ValueError: If there is no such file, it cannot be read, or the structure has an atom of no element, or a
            position or cell that is not finite.
    """
    (file,) = files_of(Path(path))[-1:]
    atoms, number = None, -1
    for number, (atoms, _) in enumerate(read(file, OWN_NAMES)):  # noqa: B007
        pass
    if atoms is None:
        raise ValueError(f"{file} holds no frames")
    if reason := no_element(atoms.numbers.tolist()) or not_finite(atoms):
        raise ValueError(f"{file}, frame {number}: {reason}; correct the frame")
    atoms.calc = None
    return atoms
