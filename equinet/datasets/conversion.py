"""Conversion of files of frames: every digit, label and entry of a frame comes out as it went in, or the frame is refused."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from ase import Atoms

from .frames import source
from .keys import OWN_NAMES, LabelKeys
from .properties import PROPERTIES
from .read import iter_frames
from .read.streams import PACKED
from .store.database import SUFFIX, Database
from .store.frames import ids_of, is_store, stores_of
from .store.others import write_database, write_trajectory
from .store.writer import write_store
from .writing import constraints_without_form, write_frames

Write = Callable[[str | os.PathLike[str], Iterable[Atoms]], int]
FORMATS: dict[str, tuple[str, Write]] = {
    ".xyz": ("extended XYZ", write_frames),
    ".extxyz": ("extended XYZ", write_frames),
    SUFFIX: ("LMDB, ASE's database for sets larger than memory", write_store),
    ".db": ("SQLite, ASE's database", write_database),
    ".traj": ("ASE's trajectory", write_trajectory),
}


def convert(
    inputs: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    keys: LabelKeys = OWN_NAMES,
    *,
    advance: Callable[[int, int | None], None] = lambda done, total: None,
) -> int:
    """Write the frames of files into one file of another format, labels under ASE's names in eV and Å.

    Frames are checked as for a training and streamed. Labels that had another name have only the new one afterwards; a weight of 1 is not
    written. Until all is written the file has another name.

    Args:
        inputs: Files that :func:`equinet.datasets.read_frames` reads, and stores.
        out: File to make; its suffix says the format, see :func:`format_of`.
        keys: Names of the labels in the files.
        advance: Called with the numbers of frames written and, if it is known, in all.

    Returns:
        Number of frames.

    Raises:
        FileExistsError: If ``out`` is there already.
        FileNotFoundError, ValueError, OSError: If a file cannot be read or written, a label is wrong, or a frame has something that the
            format cannot hold; names file and frame.
    """
    out, write = Path(out), format_of(out)
    if out.exists():
        raise FileExistsError(f"{out} is there already; remove it or choose another name")
    names = [inputs] if isinstance(inputs, (str, os.PathLike)) else list(inputs)
    total = sum(len(ids_of(Database(path))) for path in stores_of(names)) if is_store(names) else None

    def frames() -> Iterator[Atoms]:
        for done, atoms in enumerate(iter_frames(names, keys), start=1):
            if write is write_frames and (lost := constraints_without_form(atoms)):
                raise ValueError(
                    f"{source(atoms)}: has constraints ({', '.join(lost)}), which extended XYZ cannot hold; write a *{SUFFIX} instead"
                )
            yield under_own_names(atoms, keys)
            if done % 100 == 0:
                advance(done, total)

    count = write(out, frames())
    advance(count, count)
    return count


def format_of(path: Path) -> Write:
    """Function that writes the format which the suffix of a file names.

    Raises:
        ValueError: If there is none; names those there are.
    """
    suffix = path.suffix.lower()
    packed = suffix in PACKED
    inner = Path(path.stem).suffix.lower() if packed else suffix
    if inner not in FORMATS or (packed and FORMATS[inner][1] is not write_frames):
        known = ", ".join(f"*{end} ({words})" for end, (words, _) in FORMATS.items())
        raise ValueError(
            f"`out`: {path} has no suffix of a format that keeps all of a frame; there are {known}, and *.xyz.gz"
        )
    return FORMATS[inner][1]


def under_own_names(atoms: Atoms, keys: LabelKeys) -> Atoms:
    """The frame without what its labels were in the file, where that has another name, and without a weight of 1."""
    for row in PROPERTIES.values():
        if row.name in atoms.calc.results and (key := keys.of(row.name)) != row.name:
            atoms.info.pop(key, None)
            if key in atoms.arrays:
                del atoms.arrays[key]
    if keys.weight != "weight":
        atoms.info.pop(keys.weight, None)
    if atoms.info.get("weight") == 1:
        del atoms.info["weight"]
    return atoms
