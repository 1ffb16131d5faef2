"""Marks of options that name what a command writes; each is looked at before the command does any work."""

from __future__ import annotations

import inspect
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_type_hints


class Output(ABC):
    """Mark of an option, ``Annotated[Path, typer.Option(), OUTPUT_FILE]``: nothing is done if it cannot be written."""

    @abstractmethod
    def why_not(self, path: Path) -> str | None:
        """Reason why nothing can be written there, and the remedy; None if it can."""


class OutputFile(Output):
    """A file to write, in a folder that is there.

    Args:
        suffixes: Endings of its name of which it must have one; none for any.
    """

    def __init__(self, suffixes: Sequence[str] = ()) -> None:
        self.suffixes = suffixes

    def why_not(self, path: Path) -> str | None:
        if self.suffixes and not path.name.endswith(tuple(self.suffixes)):
            return f"{path} must end in {', '.join(self.suffixes)}"
        if path.is_dir():
            return f"{path} is a folder, and a file is to be written; add a name, as in {path / 'NAME'}"
        if not path.parent.exists():
            return f"there is no folder {path.parent} to write {path.name} into; make it first"
        if not path.parent.is_dir():
            return f"{path.parent} is a file, and {path.name} is to be written into a folder; choose another place"
        if not os.access(path if path.exists() else path.parent, os.W_OK):
            where = path if path.exists() else f"the folder {path.parent}"
            return f"{where} may not be written to; choose another place, or change its permissions"
        return None


class OutputFolder(Output):
    """A folder to write files into; made if it is not there."""

    def why_not(self, path: Path) -> str | None:
        there = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
        if not there.is_dir():
            return f"{there} is a file, and results are to be written into a folder; choose another name"
        if not os.access(there, os.W_OK):
            return f"the folder {there} may not be written to; choose another place, or change its permissions"
        return None


OUTPUT_FILE, OUTPUT_FOLDER = OutputFile(), OutputFolder()
OUTPUT_PICTURE = OutputFile((".png", ".pdf", ".svg"))
OUTPUT_FRAMES = OutputFile((".xyz", ".extxyz", ".xyz.gz", ".extxyz.gz"))


def outputs_of(command: Callable[..., Any]) -> dict[str, Output]:
    """Marks of the arguments of a command, by the names of the arguments."""
    hints = get_type_hints(inspect.unwrap(command), include_extras=True)
    marks = {name: getattr(hint, "__metadata__", ()) for name, hint in hints.items()}
    return {name: mark for name, found in marks.items() for mark in found if isinstance(mark, Output)}


def require_outputs(command: Callable[..., Any], given: Mapping[str, Any]) -> None:
    """Refuse outputs of a command that cannot be written.

    Args:
        command: Function of the command.
        given: Its arguments.

    Raises:
        ValueError: Names the argument, the path, and what to do.
    """
    for name, mark in outputs_of(command).items():
        path = given.get(name)
        if path is not None and (reason := mark.why_not(path)):
            raise ValueError(f"`{name}`: {reason}")
