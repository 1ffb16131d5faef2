"""Names of data as users write them: files, folders, patterns, ``~``."""

from __future__ import annotations

import difflib
import glob
import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path

from .known import is_known

Names = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


def files_of(names: Names) -> list[Path]:
    """All files that names stand for: a file itself, a pattern such as ``dir/*.xyz``, the files of a folder in natural order.

    Files of a folder whose ending is unknown are named in the log of ``equinet``, and not read.

    Args:
        names: One or several of them; ``~`` is the home folder.

    Raises:
        FileNotFoundError: If there is no such file, or no file fits a pattern; names what is there.
        ValueError: If a folder holds nothing that can be read.
    """
    found: list[Path] = []
    for name in [names] if isinstance(names, (str, os.PathLike)) else names:
        path = Path(name).expanduser()
        if path.is_dir():
            found += _of_folder(path)
        elif path.exists() or not glob.has_magic(str(path)):
            found.append(_existing(path))
        else:
            found += _matching(path)
    return found


def natural_order(path: Path) -> list[tuple[int, int, str]]:
    """Key that sorts ``run2`` before ``run10``."""
    parts = re.split(r"([0-9]+)", str(path))
    return [(0, int(part), "") if part.isdecimal() and part.isascii() else (1, 0, part) for part in parts]


def _existing(path: Path) -> Path:
    if path.is_file():
        return path
    if path.exists():
        raise ValueError(f"{path} is neither a file nor a folder")
    raise FileNotFoundError(f"there is no file {path}{_nearest(path)}")


def _nearest(path: Path) -> str:
    folder = path.parent
    if not folder.is_dir():
        while not folder.exists():
            folder = folder.parent
        return f"; there is no folder {path.parent}, only {folder.resolve()}"
    names = {each.name.lower(): each.name for each in _listed(folder)}
    near = difflib.get_close_matches(path.name.lower(), names, n=1, cutoff=0.6)
    return f"; did you mean {folder / names[near[0]]}?" if near else ""


def _listed(folder: Path) -> list[Path]:
    try:
        return sorted((each for each in folder.iterdir() if not each.name.startswith(".")), key=natural_order)
    except OSError as error:
        raise ValueError(f"the folder {folder} cannot be read: {error.strerror}") from error


def _matching(pattern: Path) -> list[Path]:
    found = sorted((Path(each) for each in glob.glob(str(pattern), recursive=True)), key=natural_order)
    files = [each for each in found if each.is_file()]
    for folder in (each for each in found if each.is_dir()):
        files += _of_folder(folder)
    if not files:
        raise FileNotFoundError(f"no file fits the pattern {pattern}{_beside(pattern)}")
    return files


def _beside(pattern: Path) -> str:
    folder = pattern.parent
    while glob.has_magic(str(folder)):
        folder = folder.parent
    if not folder.is_dir():
        return f"; there is no folder {folder}"
    names = [each.name for each in _listed(folder)]
    return f"; {folder} holds {', '.join(names[:5]) or 'nothing'}{', ...' if len(names) > 5 else ''}"


def _of_folder(folder: Path) -> list[Path]:
    listed = _listed(folder)
    known = [path for path in listed if path.is_file() and is_known(path)]
    left = [path.name for path in listed if path not in known]
    told = f"{', '.join(left[:10])}{f' and {len(left) - 10} more' if len(left) > 10 else ''}"
    if not known:
        raise ValueError(
            f"the folder {folder} holds no file of a known ending, but {told or 'nothing'}; name the files or a pattern such as {folder}/*.xyz"
        )
    if left:
        logging.getLogger("equinet").warning(
            "not read from the folder %s, as their endings are unknown: %s", folder, told
        )
    return known
