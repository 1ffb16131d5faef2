"""Writing extended XYZ: frame by frame, every number so that it reads back exactly, here and in ASE."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from ase import Atoms
from ase.constraints import FixAtoms, FixCartesian
from ase.stress import voigt_6_to_full_3x3_stress
from numpy.typing import NDArray

from equinet.quotes import quoted, shortened
from equinet.runs.files import replacing

from .frames import SOURCE
from .read.comment import STRUCTURAL
from .read.frame import OF_STRUCTURES, RESULTS
from .read.streams import PACKED
from .read.symbols import ISOTOPES
from .read.values import any_value

PLAIN_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
FILE_NAMES = {"positions": "pos", "numbers": "Z", "charges": "charge"}


def write_frames(path: str | os.PathLike[str], frames: Iterable[Atoms]) -> int:
    """Write frames as extended XYZ, one after the other, packed if the name ends in .gz, .bz2 or .xz.

    Results of the calculator, constraints of single atoms, ``info`` and arrays are written so that :func:`read_frames` and ASE read the same
    values again. The file appears, or is replaced, when the last frame is written.

    Args:
        path: File to make or to replace.
        frames: Structures; an iterator is taken frame by frame.

    Returns:
        Number of frames.

    Raises:
        ValueError: If something cannot be written so that it reads back: a key that the format has itself, an array with too many axes,
            a text with blanks in a column; names the frame and the remedy.
        OSError: If the file cannot be written; the old one is whole.
    """
    count = 0
    with replacing(path) as file, _packed(file, Path(path)) as packed:
        for atoms in frames:
            try:
                packed.write(frame_text(atoms).encode())
            except ValueError as error:
                raise ValueError(f"{os.fspath(path)}, frame {count}: {error}") from error
            count += 1
    return count


@contextmanager
def _packed(file: IO[bytes], path: Path) -> Iterator[IO[bytes]]:
    opener = PACKED.get(path.suffix.lower())
    if opener is None:
        yield file
        return
    with opener(file, "wb") as packed:
        yield packed


def frame_text(atoms: Atoms) -> str:
    """One frame in extended XYZ.

    Raises:
        ValueError: As :func:`write_frames`.
    """
    if not len(atoms):
        raise ValueError("the frame has no atoms; leave it out")
    results = dict(getattr(atoms.calc, "results", {}))
    info = {key: value for key, value in atoms.info.items() if key != SOURCE}
    columns: dict[str, NDArray[Any]] = {"species": np.array(_symbols(atoms)), "pos": atoms.positions}
    arrays = {name: value for name, value in atoms.arrays.items() if name not in ("numbers", "positions")}
    if (mask := _move_mask(atoms)) is not None:
        arrays["move_mask"] = mask
    for name, value in results.items():
        place, what = (info, "info") if name in OF_STRUCTURES or name not in RESULTS else (arrays, "arrays")
        if name in place and not np.array_equal(place[name], value):
            raise ValueError(f"`{name}` is both a result and in `{what}`, with different values; remove one of them")
        place[name] = _stress(name, value)
    for name, array in arrays.items():
        columns[FILE_NAMES.get(name, name)] = np.asarray(array)
    properties = ":".join(
        f"{_column_name(name)}:{_kind(name, array)}:{_width(name, array)}" for name, array in columns.items()
    )
    items = [
        f"Properties={properties}",
        *_items(info, columns),
        f'pbc="{" ".join("FT"[bool(each)] for each in atoms.pbc)}"',
    ]
    if atoms.cell[:].any():
        items.insert(0, f'Lattice="{_numbers(atoms.cell[:].ravel())}"')
    words = [_words(name, array) for name, array in columns.items()]
    return "\n".join([str(len(atoms)), " ".join(items), *map(" ".join, zip(*words)), ""])


def _symbols(atoms: Atoms) -> list[str]:
    """Symbols; hydrogen of the mass of an isotope stays H, as its mass is a column."""
    symbols = atoms.get_chemical_symbols()
    if unknown := [n for n, symbol in enumerate(symbols) if symbol in (*ISOTOPES, "X")]:
        raise ValueError(f"atom {unknown[0]} (from 0) is of no element; remove it")
    return symbols


def _stress(name: str, value: Any) -> Any:
    """A stress as nine numbers, which is the form that every reader knows."""
    return voigt_6_to_full_3x3_stress(value) if name == "stress" and np.shape(value) == (6,) else value


# Columns


def _column_name(name: str) -> str:
    if not name or re.search(r"[\s:=\"'{}\[\]\\]", name):
        raise ValueError(f"the array {quoted(name)} has blanks, colons, quotes or brackets in its name; rename it")
    return name


def _kind(name: str, array: NDArray[Any]) -> str:
    kinds = {"f": "R", "i": "I", "u": "I", "b": "L", "U": "S", "S": "S", "O": "S"}
    if array.dtype.kind not in kinds:
        raise ValueError(
            f"the array `{name}` holds {array.dtype}, which extended XYZ has no column for; convert it to numbers or texts"
        )
    return kinds[array.dtype.kind]


def _width(name: str, array: NDArray[Any]) -> int:
    if array.ndim not in (1, 2) or 0 in array.shape:
        raise ValueError(
            f"the array `{name}` has the shape {array.shape}, and columns of extended XYZ are (atoms,) or (atoms, width); reshape or remove it"
        )
    return array.shape[1] if array.ndim == 2 else 1


def _words(name: str, array: NDArray[Any]) -> list[str]:
    """The words of an array in each row."""
    rows = array.reshape(len(array), -1)
    kind = array.dtype.kind
    if kind == "b":
        return [" ".join("FT"[each] for each in row) for row in rows.tolist()]
    if kind in "fiu":
        return [" ".join(map(repr, row)) for row in rows.astype(np.float64 if kind == "f" else rows.dtype).tolist()]
    for each in (texts := [[str(word) for word in row] for row in rows.tolist()]):
        for word in each:
            if not word or not word.isprintable() or word.split() != [word]:
                raise ValueError(
                    f"the array `{name}` holds {quoted(word)}, and a text of a column must be one word; replace its blanks or remove the array"
                )
    return [" ".join(each) for each in texts]


# Items of the comment


def _items(info: dict[str, Any], columns: dict[str, Any]) -> Iterator[str]:
    taken = {name.lower() for name in (*STRUCTURAL, *columns)}
    for key, value in info.items():
        if not isinstance(key, str) or not key.strip() or not key.isprintable():
            raise ValueError(f"`info` has the key {quoted(key)}, which is no name; rename it")
        if key.lower() in taken:
            raise ValueError(
                f"`info` has the key {shortened(key)!r}, which is the name of another item or column of the frame; rename or remove it"
            )
        taken.add(key.lower())
        yield f"{key if PLAIN_KEY.fullmatch(key) else _quoted(key)}={_value(key, value)}"


def _value(key: str, value: Any) -> str:
    """An item's value so that it reads back as it is."""
    if isinstance(value, (bool, np.bool_)):
        return "FT"[bool(value)]
    if isinstance(value, (int, np.integer)) and abs(int(value)) < 10**18:
        return str(int(value))
    if isinstance(value, (float, np.floating)):
        return repr(float(value))
    if isinstance(value, np.ndarray):
        return _array(key, value)
    if isinstance(value, str) and _reads_back(key, value):
        return value if re.fullmatch(r"[^\s\"'{}\[\]\\=,]+", value) else _quoted(value)
    return _json(key, value)


def _reads_back(key: str, text: str) -> bool:
    try:
        return bool(text) and text.isprintable() and any_value(key, text) == text and text == text.strip()
    except ValueError:
        return False


def _array(key: str, array: NDArray[Any]) -> str:
    if key in ("stress", "virial") and array.shape == (3, 3):
        return f'"{_numbers(array.T.ravel())}"'  # in the order of Fortran, as ASE has it for these two
    if (
        array.ndim == 1
        and len(array) > 1
        and array.dtype.kind in "if"
        and not (len(array) == 9 and key in ("stress", "virial"))
    ):
        return f'"{_numbers(array)}"'
    return _json(key, array.tolist())


def _numbers(array: NDArray[Any]) -> str:
    return " ".join(map(repr, array.tolist()))


def _json(key: str, value: Any) -> str:
    try:
        return _quoted("_JSON " + json.dumps(value, default=_plain))
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(
            f"`info` holds `{shortened(key)}`, which extended XYZ has no form for ({error}); convert it to numbers or texts"
        ) from None


def _plain(value: Any) -> Any:
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    raise TypeError(type(value).__name__)


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


# Constraints


def constraints_without_form(atoms: Atoms) -> list[str]:
    """Kinds of constraints of a frame that extended XYZ has no form for."""
    return sorted({type(each).__name__ for each in atoms.constraints if not isinstance(each, (FixAtoms, FixCartesian))})


def _move_mask(atoms: Atoms) -> NDArray[np.bool_] | None:
    """Atoms, or directions, that may move, as ASE writes them; None if all may."""
    mask = np.ones((len(atoms), 3), dtype=bool)
    for constraint in atoms.constraints:
        if isinstance(constraint, FixAtoms):
            mask[constraint.index] = False
        elif isinstance(constraint, FixCartesian):
            mask[constraint.index] &= ~np.asarray(constraint.mask)
    if left := constraints_without_form(atoms):
        logging.getLogger("equinet").warning("extended XYZ has no form for %s; written without", ", ".join(left))
    if mask.all():
        return None
    return mask[:, 0] if (mask == mask[:, :1]).all() else mask
