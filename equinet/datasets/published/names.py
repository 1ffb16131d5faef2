"""From names of published sets, or paths, to files that are on this machine."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .card import DataFile, cards, find_file, is_set_name, nearest_name
from .fetch import fetch
from .local import find_local

logger = logging.getLogger("equinet")
PATTERN = frozenset("*?[")


@dataclass(frozen=True)
class Located:
    """A file to read.

    Attributes:
        path: File on this machine.
        file: File of a card; None for a file of the user.
        note: Sentence for the user; empty if there is nothing to say.
    """

    path: str
    file: DataFile | None = None
    note: str = ""


def locate(
    name: str | os.PathLike[str],
    fetched: Callable[[DataFile], Path] = fetch,
) -> Located:
    """Find the file that a path or the name of a published set stands for; a set that is not on this machine is fetched.

    Args:
        name: Path, or name such as ``acac/train_300K``. A file of that name wins, and the note says so.
        fetched: Function that fetches a file.

    Raises:
        ValueError: If the set has no such file, or the file that is there is another one (by its checksum).
        FileNotFoundError: If a path leads nowhere and resembles the name of a set.
        NotFetchedError: If the file is not on this machine and cannot be fetched; says where from and where to put it.
    """
    text = os.fspath(name)
    if is_set_name(text, Path()):
        try:
            file = find_file(text)
        except ValueError as error:
            raise ValueError(f"there is no file {text}, and {error}") from None
        return Located(str(find_local(file) or _fetched(file, fetched)), file)
    if os.path.exists(text):
        return Located(text, note=_hidden_set(text))
    if not PATTERN & set(text) and (near := nearest_name(text)):
        raise FileNotFoundError(f"there is no file {text}; did you mean the published set {near}?")
    return Located(text)


def _fetched(file: DataFile, fetched: Callable[[DataFile], Path]) -> Path:
    if file.url:
        logger.info("fetching %s from %s", file.full_name, file.url)
    return fetched(file)


def _hidden_set(path: str) -> str:
    """Note on a file of the user that has the name of a file of a published set."""
    absolute = os.path.abspath(path)
    for card in cards().values():
        for file in card.files:
            if absolute.endswith(f"/{file.full_name}"):
                return (
                    f"{path} is a file of yours; the published set {file.full_name} has the same name and is not used"
                )
    return ""


def with_isolated_atoms(file: DataFile) -> list[DataFile]:
    """A file of a set, and after it the file with the isolated atoms that belong to it, if there is one."""
    return [file, find_file(f"{file.set}/{file.isolated_atoms}")] if file.isolated_atoms else [file]
