"""Tables of the comparison with mace-torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from equinet.bench.core.record import Record
from equinet.bench.core.report import Suite, count
from equinet.tables import Block, Column, Table, Text, Tone

from .cases import FAMILIES
from .errors import LIMITS, OWN, QUANTITIES
from .picture import picture
from .run import Cell

LEGEND = (
    "Relative errors against mace-torch in float64: the largest over energy, forces, virial and energies of atoms, over all structures "
    f"and heads. Limits: {LIMITS['float64']:.0e} in float64; {LIMITS['float32']:.0e} in float32, or {OWN:g} times the float32 "
    "error of mace-torch or of the formulas term by term where that is more. Speed: mace-torch's time over equinet's for energy and forces of 64 atoms in float32, eager code, "
    "taking turns; above 1 equinet is faster. Of several cells the median (smallest-largest), of one the ratio [95 % bootstrap interval]."
)


@dataclass(frozen=True)
class Line:
    """Several cells as one line of a table.

    Attributes:
        name: Common properties of the cells.
        cells: Number of cells.
        failed: Number of cells that failed.
        errors: The worst of each column: float64, float32, mace-torch in float32.
        ratios: Ratios of times: median, smallest, largest, of a single cell with its interval; None if nothing was timed.
    """

    name: tuple[str, ...]
    cells: int
    failed: int
    errors: tuple[float | None, float | None, float | None]
    ratios: tuple[float, float, float] | None

    @classmethod
    def of(cls, name: tuple[str, ...], cells: Sequence[Cell]) -> Line:
        """Worst errors and the spread of the ratios."""
        judged = [cell for cell in cells if all(one.double_counts for one in cell.errors)]
        errors = (_worst(judged, "double"), _worst(cells, "single"), _worst(cells, "of_mace"))
        found = [cell.over_equinet.value for cell in cells if cell.over_equinet is not None]
        ratios = (float(np.median(found)), min(found), max(found)) if found else None
        if len(cells) == 1 and cells[0].over_equinet is not None:
            ratios = (cells[0].over_equinet.value, cells[0].over_equinet.low, cells[0].over_equinet.high)
        return cls(name, len(cells), sum(bool(cell.failures) for cell in cells), errors, ratios)

    def texts(self) -> list[str]:
        """For a table."""
        median, low, high = self.ratios or (None, None, None)
        left, right = "[]" if self.cells == 1 else "()"
        speed = "-" if median is None else f"{median:.1f} {left}{low:.1f}-{high:.1f}{right}"
        state = "ok" if not self.failed else "FAILED" if self.cells == 1 else f"{self.failed} FAILED"
        return [*self.name, str(self.cells), *("-" if e is None else f"{e:.0e}" for e in self.errors), speed, state]


def _worst(cells: Sequence[Cell], column: str) -> float | None:
    return max((error for cell in cells if (error := cell.worst(column)) is not None), default=None)


def lines(cells: Iterable[Cell]) -> list[Line]:
    """Cells of the product by family, max_L and correlation; then all others, each by itself."""
    inside: dict[tuple[str, ...], list[Cell]] = {}
    alone = []
    for cell in cells:
        case = cell.case
        if case is None:
            alone.append(Line.of((cell.problem, "", ""), [cell]))
            continue
        numbers = (str(case.max_l), str(case.correlation))
        if case.variant:
            reduced = ", reduced" * (case.coupling == "reduced")
            alone.append(Line.of((f"{case.family}: {case.variant}{reduced}", *numbers), [cell]))
        else:
            inside.setdefault((case.family, *numbers), []).append(cell)
    families = list(FAMILIES)
    order = sorted(inside, key=lambda key: (families.index(key[0]), key[1:]))
    return [*(Line.of(key, inside[key]) for key in order), *alone]


HEADINGS = ("model", "L", "nu", "cells", "float64", "float32", "mace-torch float32", "speed", "")


def cells_table(cells: Iterable[Cell]) -> Table:
    """A line for the cells of each family, max_L and correlation."""
    last = len(HEADINGS) - 1
    columns = [Column(text.replace(" ", "\n"), number=0 < n < last, fold=n == 0) for n, text in enumerate(HEADINGS)]
    rows = [[Text(text, "bad" if line.failed else "") for text in line.texts()] for line in lines(cells)]
    return Table("", columns, rows)


def structures_table(cell: Cell) -> Table:
    """Every structure, head and quantity of one cell."""
    columns = [
        *(Column(text, fold=True) for text in ("structure", "head", "")),
        *(Column(q, number=True) for q in QUANTITIES),
    ]
    rows = []
    for one in cell.errors:
        parts: tuple[tuple[str, Mapping[str, float], Tone], ...] = (
            ("float64", one.double, ""),
            ("float32", one.single, ""),
            ("mace-torch float32", one.of_mace, "faint"),
        )
        for n, (title, errors, tone) in enumerate(parts):
            place = (one.structure, one.head) if n == 0 else ("", "")
            texts = (f"{errors[name]:.1e}" if name in errors else "-" for name in QUANTITIES)
            rows.append([Text(text, tone) for text in (*place, title, *texts)])
    return Table("", columns, rows)


def terminal(record: Record[Cell]) -> list[Block]:
    """A table, what failed and why, and how it went as a whole."""
    blocks: list[Block] = [cells_table(record.rows)]
    if len(record.rows) == 1:
        blocks.append(structures_table(record.rows[0]))
    tone: Tone = "bad" if failed(record) else "good"
    return [*blocks, *failures(record), Text(summary(record), tone)]


def document(record: Record[Cell]) -> list[Block]:
    """Return the lines of a document: summary, table, failures."""
    return [f"{summary(record)}.", cells_table(record.rows), *failures(record)]


def failed(record: Record[Cell]) -> list[Cell]:
    """Cells with something wrong."""
    return [cell for cell in record.rows if cell.failures]


def failures(record: Record[Cell]) -> list[Block]:
    """A line for each thing that is wrong."""
    return [Text(f"FAILED {cell.problem}: {reason}", "bad") for cell in failed(record) for reason in cell.failures]


def summary(record: Record[Cell]) -> str:
    """One sentence."""
    cells, wrong, planned = record.rows, len(failed(record)), record.about["planned"]
    ratios = [cell.over_equinet.value for cell in cells if cell.over_equinet is not None]
    median = f"; median speed ratio {np.median(ratios):.1f} ({min(ratios):.1f}-{max(ratios):.1f})" if ratios[1:] else ""
    whole = "" if len(cells) == planned else f" of {planned}: stopped before the end"
    unsteady = sum(cell.unsteady for cell in cells)
    disturbed = f"; times of {unsteady} disturbed by something else" if unsteady else ""
    agree = "all agree" if not wrong else f"{wrong} FAILED"
    minutes = sum(cell.seconds for cell in cells) / 60
    return f"{count(len(cells), 'cell')}{whole}, {agree}{median}{disturbed}; {minutes:.1f} min"


def facts(record: Record[Cell]) -> dict[str, Any]:
    """Limits, and whether the run came to its end."""
    limits = {**LIMITS, "or_times_error_of_mace_torch_or_formulas_in_float32": OWN}
    return {"complete": len(record.rows) == record.about["planned"], "limits": limits}


SUITE: Suite[Cell] = Suite("mace", LEGEND, terminal, document, picture, facts=facts)
