"""Formats that ASE reads: unpacked, each frame with its results, units as ASE converts them."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ase.io
from ase import Atoms
from ase.io.formats import UnknownFileTypeError, filetype, ioformats

from equinet.datasets.keys import LabelKeys
from equinet.quotes import shortened

from .required import require_units, with_units
from .streams import unpacked
from .vasp import UNCONVERGED, unconverged_outcar, unconverged_xml

Read = Iterator[tuple[Atoms, LabelKeys]]
# ASE would take the first for Bohr and Hartree, and the others for units of its choice.
WITHOUT_UNITS = {
    "lammps-data": "a data file of LAMMPS",
    "lammps-dump-text": "a dump of LAMMPS",
    "lammps-dump-binary": "a dump of LAMMPS",
    "cp2k-dcd": "a trajectory of CP2K",
    "gpumd": "an input of GPUMD",
}
UNCONVERGED_IN: dict[str, Callable[[Path], list[bool]]] = {"vasp-out": unconverged_outcar, "vasp-xml": unconverged_xml}
READ_HERE = "extended XYZ, npz, HDF5 and databases (*.db, *.aselmdb)"


def read_other(path: Path, keys: LabelKeys) -> Read | str:
    """Frames of a file in a format of ASE's; or ``"xyz"`` if it is extended XYZ under another name.

    Raises:
        ValueError: If the format is unknown or has no units, or the file cannot be read; names the file.
    """
    with unpacked(path) as plain:
        form = _format(plain, path)
    if form in ("extxyz", "xyz"):
        return "xyz"
    if form in WITHOUT_UNITS:
        require_units(path, WITHOUT_UNITS[form], keys)
        return _frames(path, form, keys)
    return _frames(path, form, with_units(keys))


def _format(plain: Path, path: Path) -> str:
    if plain.stat().st_size == 0:
        raise ValueError(f"{path} holds no frames: it is empty")
    try:
        form = str(filetype(str(plain)))
        if form in ioformats and ioformats[form].can_read:
            return form
    except UnknownFileTypeError:
        pass
    except Exception as error:  # any byte may stand there
        raise ValueError(f"{path} cannot be read: {type(error).__name__}: {shortened(str(error), 200)}") from error
    raise ValueError(
        f"{path} cannot be read: its format is not known. Known are {READ_HERE} and, by ASE, OUTCAR, vasprun.xml, POSCAR, traj, cif, outputs of many codes and more, all "
        "also packed (.gz, .bz2, .xz). Rename it with the usual ending, or convert it to extended XYZ"
    )


def _frames(path: Path, form: str, keys: LabelKeys) -> Read:
    with unpacked(path) as plain:
        flags = UNCONVERGED_IN[form](plain) if form in UNCONVERGED_IN else []
        if form == "vasp-xml" and b"</modeling>" not in _end(plain):
            logging.getLogger("equinet").warning("%s breaks off; its complete ionic steps are read", path)
        try:
            read = ase.io.iread(plain, index=":", format=form, **_arguments(form))
            for atoms, unconverged in itertools.zip_longest(_all(read), flags, fillvalue=None):
                if atoms is None:  # a step that was not finished
                    break
                if unconverged:
                    atoms.info[UNCONVERGED] = True
                yield atoms, keys
        except GeneratorExit:
            raise
        except Exception as error:  # ASE's readers raise almost anything; the user needs the file's name
            raise ValueError(
                f"{path} cannot be read as {form}: {type(error).__name__}: {shortened(str(error), 400)}; is it complete?"
            ) from error


def _all(read: Any) -> Iterator[Atoms]:
    for each in read:
        yield from each if isinstance(each, list) else [each]


def _arguments(form: str) -> dict[str, Any]:
    return {"units": "metal"} if form == "lammps-data" else {}  # eV and Å: numbers as they are


def _end(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 200))
        return file.read()
