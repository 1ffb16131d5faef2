"""Writing of extended XYZ with all digits, frame by frame, also packed; what the format cannot hold is refused, not rounded or left out."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, Any

import numpy as np
from ase import Atoms
from ase.constraints import FixAtoms
from ase.data import chemical_symbols
from ase.io.extxyz import key_val_dict_to_str, key_val_str_to_dict
from numpy.typing import NDArray

from equinet.datasets.frames import SOURCE, source
from equinet.quotes import quoted
from equinet.runs.files import explaining, whole_file

PACKED: dict[str, Callable[..., IO[Any]]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
CODES = {"f": "R", "i": "I", "u": "I", "b": "L", "U": "S"}
OTHERWISE = "which extended XYZ cannot hold; write a *.aselmdb instead, or remove it from the frame"


def write_text(path: str | os.PathLike[str], frames: Iterable[Atoms]) -> int:
    """Write frames as extended XYZ: numbers with as many digits as they have, labels of the calculator under ASE's names.

    Args:
        path: File to make, ``*.xyz`` or ``*.extxyz``, packed if ``.gz``, ``.bz2`` or ``.xz`` follows.
        frames: Frames; they are taken one by one and not kept.

    Returns:
        Number of frames.

    Raises:
        OSError, ValueError: If the file cannot be written, or a frame has something that the format cannot hold; names the frame and the entry.
    """
    path, count = Path(path), 0
    with whole_file(path) as partial:
        with explaining(path):
            file = PACKED.get(path.suffix.lower(), open)(partial, "wt", encoding="utf-8", newline="\n")
        with file:
            for count, atoms in enumerate(frames, start=1):  # noqa: B007
                text = text_of(atoms)
                with explaining(path):
                    file.write(text)
            with explaining(path):
                file.flush()
    return count


def text_of(atoms: Atoms) -> str:
    """Lines of one frame.

    Raises:
        ValueError: As :func:`write_text`.
    """
    results = dict(atoms.calc.results) if atoms.calc is not None else {}
    per_atom = {
        name: value
        for name, value in results.items()
        if np.ndim(value) and len(value) == len(atoms) and name != "stress"
    }
    info = {name: value for name, value in atoms.info.items() if name != SOURCE}
    of_frame = {
        name: _full(value) if name == "stress" else value for name, value in results.items() if name not in per_atom
    }
    arrays = {name: value for name, value in atoms.arrays.items() if name not in ("numbers", "positions")}
    if twice := sorted((info.keys() & of_frame.keys()) | (arrays.keys() & per_atom.keys())):
        raise ValueError(
            f"{source(atoms)}: has `{twice[0]}` twice, as a label and as another value; rename one of them"
        )
    columns = {"pos": atoms.positions, **per_atom, **arrays, **_constraints(atoms)}
    kinds = ["species:S:1"]
    cells: list[Iterable[str]] = [[chemical_symbols[z] for z in atoms.numbers]]
    for name, values in columns.items():
        array = np.asarray(values)
        if array.ndim > 2 or array.dtype.kind not in CODES or any(sign in name for sign in ' ":='):
            raise ValueError(
                f"{source(atoms)}: `{name}` is an array of {array.dtype} of shape {array.shape}, {OTHERWISE}"
            )
        wide = array.reshape(len(atoms), -1)
        kinds.append(f"{name}:{CODES[array.dtype.kind]}:{wide.shape[1]}")
        cells += [_cells(atoms, name, column) for column in wide.T]
    comment = _comment(atoms, {**of_frame, **info}, ":".join(kinds))
    return "\n".join([str(len(atoms)), comment, *map(" ".join, zip(*cells)), ""])


def _comment(atoms: Atoms, values: dict[str, Any], properties: str) -> str:
    lattice = " ".join(map(repr, atoms.cell[:].ravel().tolist()))
    periodic = " ".join("FT"[int(each)] for each in atoms.pbc)
    written = key_val_dict_to_str({name: _plain(value) for name, value in values.items()})
    again = key_val_str_to_dict(written)
    for name, value in values.items():
        if name not in again or not _same(value, again[name]) or name.lower() in ("lattice", "properties", "pbc"):
            raise ValueError(f"{source(atoms)}: `{name}` is {quoted(value)}, {OTHERWISE}")
    cell = f'Lattice="{lattice}" ' if atoms.cell.any() else ""
    return f'{cell}Properties={properties} pbc="{periodic}" {written}'.rstrip()


def _plain(value: Any) -> Any:
    """Numbers of numpy as Python's, and matrices row by row, as other readers than ASE expect a stress."""
    if isinstance(value, np.generic):
        return value.item()
    return value


def _same(value: Any, again: Any) -> bool:
    if isinstance(value, str) or isinstance(again, str):
        return bool(isinstance(value, str) and isinstance(again, str) and value == again)
    try:
        one, other = np.asarray(value), np.asarray(again)
        return one.shape == other.shape and bool(
            np.array_equal(one, other, equal_nan=one.dtype.kind == other.dtype.kind == "f")
        )
    except (TypeError, ValueError):
        return bool(value == again)


def _cells(atoms: Atoms, name: str, column: NDArray[Any]) -> Iterable[str]:
    if column.dtype.kind == "b":
        return ["FT"[int(each)] for each in column]
    if column.dtype.kind == "U":
        if any(not word or word.split() != [word] for word in column.tolist()):
            raise ValueError(f"{source(atoms)}: `{name}` has words with spaces or none, {OTHERWISE}")
        return column.tolist()
    return map(repr, column.tolist())


def _full(stress: Any) -> NDArray[np.float64]:
    """A stress as 3 x 3, of ASE's xx yy zz yz xz xy."""
    array = np.asarray(stress, dtype=np.float64)
    return array[[0, 5, 4, 5, 1, 3, 4, 3, 2]].reshape(3, 3) if array.shape == (6,) else array


def _constraints(atoms: Atoms) -> dict[str, NDArray[np.bool_]]:
    """ASE's column of atoms that may move."""
    if not atoms.constraints:
        return {}
    if not all(isinstance(each, FixAtoms) for each in atoms.constraints):
        kinds = ", ".join(sorted({type(each).__name__ for each in atoms.constraints}))
        raise ValueError(f"{source(atoms)}: has constraints ({kinds}), {OTHERWISE}")
    moving = np.ones(len(atoms), dtype=bool)
    for each in atoms.constraints:
        moving[each.index] = False
    return {"move_mask": moving}
