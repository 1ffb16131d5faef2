"""Published data sets that a configuration names: their files, and the isolated atoms that belong to them."""

from __future__ import annotations

from dataclasses import dataclass

from equinet.datasets.published import DataFile, Located, locate, with_isolated_atoms
from equinet.tables import Block, Text

from .config import DataConfig


@dataclass(frozen=True)
class PublishedFiles:
    """Files behind the names in the section [data] of a configuration.

    Attributes:
        data: The section with paths in place of names of published sets, and with the isolated atoms that belong to them.
        located: Part of the run (train, valid, test) and file, in order.
        test: The published file to test on; None for a file of the user.
    """

    data: DataConfig
    located: tuple[tuple[str, Located], ...]

    @property
    def test(self) -> DataFile | None:
        return next((each.file for part, each in self.located if part == "test"), None)

    def lines(self) -> list[Block]:
        """Lines that tell which published files a run takes, and from where."""
        lines: list[Block] = [
            f"published   {_told(part, each.file)}: {each.path}" for part, each in self.located if each.file is not None
        ]
        return [*lines, *(Text(each.note, "warning") for _, each in self.located if each.note)]


def _told(part: str, file: DataFile) -> str:
    if file.role == "isolated atoms":
        return f"E0s from {file.full_name}"
    return f"{part} {file.full_name}"


def find_published(data: DataConfig) -> PublishedFiles:
    """Find the files of published sets that a configuration names; those that are not on this machine are fetched.

    Isolated atoms in a file of their own belong to the training file of their set, unless ``data.e0s`` asks for other references.

    Args:
        data: Section [data].

    Raises:
        ValueError, OSError: If there is no such set, or its file cannot be had; says where from and where to put it.
    """
    located: list[tuple[str, Located]] = []
    for name in [data.train] if isinstance(data.train, str) else data.train:
        located.append(("train", locate(name)))
        if (file := located[-1][1].file) and data.e0s in ("auto", "isolated"):
            located += [("train", locate(atoms.full_name)) for atoms in with_isolated_atoms(file)[1:]]
    located = list(dict.fromkeys(located))
    train = [each.path for _, each in located]
    changes: dict[str, object] = {"train": train if len(train) > 1 or not isinstance(data.train, str) else train[0]}
    for part in ("valid", "test"):
        if isinstance(name := getattr(data, part), str):
            located.append((part, locate(name)))
            changes[part] = located[-1][1].path
    return PublishedFiles(data.model_copy(update=changes), tuple(located))
