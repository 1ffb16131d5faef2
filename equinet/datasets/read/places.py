"""Errors that name file, frame, line and column, what is wrong there, and the remedy."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Place:
    """A place in a file.

    Attributes:
        path: The file.
        frame: Number of the frame, from 0.
        line: Number of the line, from 1.
        column: Number of the letter in the line, from 1.
    """

    path: str | os.PathLike[str]
    frame: int | None = None
    line: int | None = None
    column: int | None = None

    def __str__(self) -> str:
        told = [os.fspath(self.path)]
        told += [f"{name} {value}" for name, value in self._numbers() if value is not None]
        return ", ".join(told)

    def _numbers(self) -> list[tuple[str, int | None]]:
        return [("frame", self.frame), ("line", self.line), ("column", self.column)]

    def at(self, *, line: int | None = None, column: int | None = None) -> Place:
        """The same frame, another line or column."""
        return replace(self, line=self.line if line is None else line, column=column)

    def error(self, message: str) -> ValueError:
        """An error of this place."""
        return ValueError(f"{self}: {message}")
