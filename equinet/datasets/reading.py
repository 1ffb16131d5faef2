"""Reading frames from files: extended XYZ, also gzipped, and whatever else ASE reads."""

from __future__ import annotations

import gzip
import io
import itertools
import os
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import ase.io
from ase import Atoms
from ase.io.extxyz import key_val_str_to_dict
from ase.io.formats import filetype

from equinet.graph.elements import no_element
from equinet.quotes import shortened

from .frames import SOURCE, labelled, not_finite
from .keys import OWN_NAMES, LabelKeys

WIDTHS = re.compile(r":[A-Za-z]:(\d+)")  # of columns, in the `Properties` of extended XYZ
STRESS_AS_WRITTEN = "equinet_stress_as_written"  # in atoms.info while a file is read


def read_frames(
    paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    keys: LabelKeys = OWN_NAMES,
) -> list[Atoms]:
    """Read every frame of one or several files (extended XYZ, also gzipped, or anything ASE reads).

    The labels end up, checked, as raw results of a ``SinglePointCalculator`` under ASE's own names, whatever they are
    called in the file; :func:`find_labels` gives them back.

    Args:
        paths: File or files.
        keys: Names of the labels in the file.

    Raises:
        FileNotFoundError: If a file is not there.
        ValueError: If a file cannot be read or is empty, or a label has the wrong shape or is not finite; names the file,
            the frame (counted from 0) and the remedy. Also if an atom is of no element, or a position or cell is not finite.
    """
    frames = []
    for path in [paths] if isinstance(paths, (str, os.PathLike)) else paths:
        for n, atoms in enumerate(_read(Path(path))):
            atoms.info[SOURCE] = f"{path}, frame {n}"
            frames.append(labelled(atoms, keys))
    return frames


def _read(path: Path) -> list[Atoms]:
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        if path.suffix.lower() == ".gz":  # ASE seeks in the compressed stream, which is tens of times slower than this
            text = io.StringIO(gzip.decompress(path.read_bytes()).decode())
            form = _format(path.with_suffix(""))
            if form:
                _refuse_what_has_no_end(text)
                text.seek(0)
            frames = ase.io.read(text, index=":", format=form, **READING.get(form, {}))
        else:
            form = _format(path)
            if form:
                with path.open(errors="replace") as file:
                    _refuse_what_has_no_end(file)
            frames = ase.io.read(path, index=":", format=form, **READING.get(form, {}))
    except Exception as error:  # ASE's readers raise almost anything; the user needs the file's name
        raise ValueError(f"{path} cannot be read: {type(error).__name__}: {shortened(str(error), 400)}") from error
    if not frames:
        raise ValueError(f"{path} holds no frames")
    frames = frames if isinstance(frames, list) else [frames]
    for atoms in frames:
        if (stress := atoms.info.pop(STRESS_AS_WRITTEN, None)) is not None:
            atoms.calc.results["stress"] = stress
    return frames


def _with_stress_as_written(comment: str) -> dict[str, Any]:
    """The items of a frame's comment line, as ASE reads them, and a stress once more: of that ASE keeps one triangle only."""
    items: dict[str, Any] = key_val_str_to_dict(comment)
    return {**items, STRESS_AS_WRITTEN: items["stress"]} if "stress" in items else items


# Arguments of ASE's readers by format.
READING: dict[str | None, dict[str, Any]] = {"extxyz": {"properties_parser": _with_stress_as_written}}


def _refuse_what_has_no_end(lines: Iterable[str]) -> None:
    """Refuse extended XYZ that announces more atoms than it has lines, or more columns than a line can have; ASE counts up to them.

    What is wrong in another way is left to ASE.

    Raises:
        ValueError: Names the frame, and what it announces.
    """
    ahead = iter(lines)
    for n, line in enumerate(ahead):
        try:
            count = int(line)
        except ValueError:
            return
        comment = next(ahead, "")
        rows = itertools.islice(ahead, min(max(count, 0), sys.maxsize))
        first = next(rows, None)
        columns = sum(int(width[:20]) for width in WIDTHS.findall(comment))
        if first is not None and columns > len(first):
            raise ValueError(
                f"frame {n} announces {columns} columns in its `Properties`, and its atoms have fewer; correct it"
            )
        held = sum(1 for _ in rows) + (first is not None)
        if held < count:
            raise ValueError(
                f"frame {n} announces {line.strip()[:40]} atoms, and only {held} lines follow; was the file cut short? Fetch it again, or correct the number"
            )


def read_structure(path: str | os.PathLike[str]) -> Atoms:
    """The last structure of a file, any format ASE reads, without its labels.

    Raises:
        FileNotFoundError, ValueError: If there is no such file, it cannot be read, or the structure has an atom of no element, or a
            position or cell that is not finite.
    """
    frames = _read(Path(path))
    atoms = frames[-1]
    if reason := no_element(atoms.numbers.tolist()) or not_finite(atoms):
        raise ValueError(f"{path}, frame {len(frames) - 1}: {reason}; correct the frame")
    atoms.calc = None
    return atoms


def _format(path: Path) -> str | None:
    """ "extxyz", or None for a file that ASE is to know by itself."""
    if path.suffix.lower() in (".xyz", ".extxyz") or (path.is_file() and filetype(str(path)) == "extxyz"):
        return "extxyz"
    return None
