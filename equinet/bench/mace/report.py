"""The parity matrix for the eye and for programs: terminal, Markdown, JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from equinet.bench.models.contenders import EQUINET
from equinet.bench.models.mace_peer import EAGER
from equinet.bench.products.machine import load_average

from .cases import FAMILIES
from .errors import LIMITS, OWN, QUANTITIES
from .picture import picture
from .record import Record
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
        name: What they have in common.
        cells: How many.
        failed: How many of them failed.
        errors: The worst of each column: float64, float32, mace-torch in float32.
        ratios: Of times: median, smallest, largest, of a single cell with its interval; None if nothing was timed.
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
        found = [cell.ratio.value for cell in cells if cell.ratio is not None]
        ratios = (float(np.median(found)), min(found), max(found)) if found else None
        if len(cells) == 1 and cells[0].ratio is not None:
            ratios = (cells[0].ratio.value, cells[0].ratio.low, cells[0].ratio.high)
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
            alone.append(Line.of((cell.name, "", ""), [cell]))
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


def terminal(record: Record) -> Group:
    """A table, what failed and why, and how it went as a whole."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for n, heading in enumerate(HEADINGS):
        number = 0 < n < len(HEADINGS) - 1
        table.add_column(
            heading.replace(" ", "\n"), justify="right" if number else "left", no_wrap=n > 0, overflow="fold"
        )
    for line in lines(record.cells):
        table.add_row(*map(escape, line.texts()), style="bold red" if line.failed else "")
    parts: list[RenderableType] = [table]
    if len(record.cells) == 1:
        parts.append(structures_table(record.cells[0]))
    for cell in record.failed:
        parts += [Text(f"FAILED {cell.name}: {reason}", style="red") for reason in cell.failures]
    parts.append(Text(summary(record), style="bold red" if record.failed else "bold green"))
    return Group(*parts)


def structures_table(cell: Cell) -> Table:
    """Every structure, head and quantity of one cell."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for heading in ("structure", "head", "", *QUANTITIES):
        table.add_column(heading, justify="right" if heading in QUANTITIES else "left", overflow="fold")
    for one in cell.errors:
        for n, (title, errors) in enumerate(
            (("float64", one.double), ("float32", one.single), ("mace-torch float32", one.of_mace))
        ):
            place = (one.structure, one.head) if n == 0 else ("", "")
            texts = (f"{errors[name]:.1e}" if name in errors else "-" for name in QUANTITIES)
            table.add_row(*map(escape, place), title, *texts, style="" if n < 2 else "dim")
    return table


def summary(record: Record) -> str:
    """One sentence."""
    cells, failed = record.cells, len(record.failed)
    seconds = sum(cell.seconds for cell in cells)
    ratios = [cell.ratio.value for cell in cells if cell.ratio is not None]
    speed = (
        f"; median speed ratio {np.median(ratios):.1f} ({min(ratios):.1f}-{max(ratios):.1f})" if len(ratios) > 1 else ""
    )
    whole = "" if len(cells) == record.planned else f" of {record.planned}: stopped before the end"
    unsteady = sum(any(timing.unsteady for timing in cell.timings.values()) for cell in cells)
    disturbed = f"; times of {unsteady} disturbed by something else" if unsteady else ""
    agree = "all agree" if not failed else f"{failed} FAILED"
    return f"{len(cells)} cell{'s' * (len(cells) != 1)}{whole}, {agree}{speed}{disturbed}; {seconds / 60:.1f} min"


def about(record: Record) -> str:
    """One sentence about machine and settings."""
    found = record.machine
    versions = ", ".join(f"{name} {number}" for name, number in found["versions"].items())
    load = f"load average {found['load_average']} before, {load_average()} after"
    threads = f"{found['threads']} thread" + "s" * (found["threads"] > 1)
    return f"{found['device']}, {threads}, {load}; {found['system']}, {versions}; {found['time']}"


def markdown(record: Record) -> str:
    """The table as a document, with the command that made it."""
    text = [f"Made by `{record.command}` on {about(record)}.", "", f"{summary(record)}.", "", LEGEND, ""]
    text += ["| " + " | ".join(HEADINGS) + " |", "|---|---:|---:|---:|---:|---:|---:|---:|---|"]
    text += ["| " + " | ".join(line.texts()) + " |" for line in lines(record.cells)]
    text += ["", *(f"- FAILED {cell.name}: {reason}" for cell in record.failed for reason in cell.failures)]
    return "\n".join(text).rstrip() + "\n"


def as_json(record: Record) -> dict[str, Any]:
    """Everything: each cell, structure, head and quantity, and every single time."""
    return {
        "command": record.command,
        "machine": record.machine,
        "complete": len(record.cells) == record.planned,
        "limits": {**LIMITS, "or_times_error_of_mace_torch_or_formulas_in_float32": OWN},
        "rounds": record.settings.rounds,
        "seed": record.settings.seed,
        "cells": [_cell_as_json(cell) for cell in record.cells],
    }


def _cell_as_json(cell: Cell) -> dict[str, Any]:
    case, ratio = cell.case, cell.ratio
    axes = {} if case is None else {name: getattr(case, name) for name in AXES_TOLD}
    return {
        "name": cell.name,
        **axes,
        "failures": cell.failures,
        "worst": {column: cell.worst(column) for column in ("double", "single", "of_mace")},
        "speed_ratio": ratio and [ratio.value, ratio.low, ratio.high],
        "seconds": {name: list(cell.timings[name].seconds) for name in (EQUINET, EAGER) if name in cell.timings},
        "unsteady": any(timing.unsteady for timing in cell.timings.values()),
        "largest_interaction_energy_ev": cell.size[0],
        "largest_force_ev_per_angstrom": cell.size[1],
        "quietest_weights": cell.quietest,
        "wall_seconds": round(cell.seconds, 2),
        "errors": [
            {
                "structure": one.structure,
                "head": one.head,
                "float64": dict(one.double),
                "float32": dict(one.single),
                "mace_torch_float32": dict(one.of_mace),
                "formulas_float32": one.of_formulas and dict(one.of_formulas),
            }
            for one in cell.errors
        ],
    }


def text_of(found: dict[str, Any]) -> str:
    """JSON with a line for each cell and three digits of each number: a thousand cells are a megabyte all the same."""
    cells = [json.dumps(_rounded(cell), ensure_ascii=False) for cell in found["cells"]]
    head = json.dumps({**found, "cells": []}, indent=1, ensure_ascii=False)
    return head.removesuffix("[]\n}") + "[\n" + ",\n".join(cells) + "\n]}\n"


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.3g}")
    if isinstance(value, dict):
        return {name: _rounded(each) for name, each in value.items()}
    return [_rounded(each) for each in value] if isinstance(value, (list, tuple)) else value


AXES_TOLD = ("family", "max_l", "correlation", "coupling", "transform", "zbl", "heads", "variant", "file_dtype")


def write(record: Record, folder: Path) -> list[str]:
    """``mace.json``, ``mace_table.md`` and ``mace.png``; the names."""
    folder.mkdir(parents=True, exist_ok=True)
    record.machine["load_average_after"] = load_average()
    (folder / "mace.json").write_text(text_of(as_json(record)))
    (folder / "mace_table.md").write_text(markdown(record))
    picture(record, folder / "mace.png")
    return ["mace.json", "mace_table.md", "mace.png"]
