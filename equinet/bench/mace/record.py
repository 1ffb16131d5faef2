"""What was found of all cells, and on what."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from equinet.bench.models.report import machine

from .run import Cell, Settings


@dataclass
class Record:
    """Cells, and what they were measured on.

    Attributes:
        command: By which it can be repeated.
        settings: Of every cell.
        planned: How many cells there are to be.
        machine: Device, threads, load, versions.
        cells: So far.
    """

    command: str
    settings: Settings
    planned: int
    machine: dict[str, Any] = field(default_factory=lambda: machine("cpu"))
    cells: list[Cell] = field(default_factory=list)

    @property
    def failed(self) -> list[Cell]:
        """Those with something wrong."""
        return [cell for cell in self.cells if cell.failures]
