"""Formats by the names of files."""

from __future__ import annotations

import fnmatch
from pathlib import Path

from .streams import Window, name_inside, opened

XYZ = (".xyz", ".extxyz")
# Readers of our own by ending, besides extended XYZ.
OWN = {".npz": "npz", ".h5": "hdf5", ".hdf5": "hdf5", ".aselmdb": "database", ".lmdb": "database", ".db": "database"}
# Names that ASE's readers are chosen by, of files that hold structures.
OTHERS = (
    "*outcar*", "*vasp*.xml", "*poscar*", "*contcar*", "*.vasp", "*xdatcar*", "*.traj", "*.cif", "*.pdb", "*.json", "*.castep", "*.cell",
    "*.geom", "*.md", "*.pwo", "*.pwi", "aims.out", "*.in", "*.gen", "*.xsf", "*.res", "*.cfg", "*.gpw", "*.log", "*.out", "*.data", "*.orca",
)  # fmt: skip


def own_format(path: Path) -> str | None:
    """Reader of our own that a file's ending asks for: ``xyz``, ``npz``, ``hdf5``, ``database`` or ``runner``; None if there is none."""
    name = Path(name_inside(path).lower())
    if name.suffix in XYZ:
        return "xyz"
    if name.suffix == ".data" and _begins_with(path, "begin"):
        return "runner"
    return OWN.get(name.suffix)


def is_known(path: Path) -> bool:
    """True if a file's name says that it holds structures."""
    name = name_inside(path).lower()
    return Path(name).suffix in (*XYZ, *OWN) or any(fnmatch.fnmatch(name, pattern) for pattern in OTHERS)


def _begins_with(path: Path, word: str) -> bool:
    if not path.is_file():
        return False
    with opened(path) as file:
        window = Window(file, path)
        while (line := window.next_line()) is not None and (not line.strip() or line.lstrip().startswith(b"#")):
            pass
        return line is not None and line.split()[0].lower() == word.encode()
