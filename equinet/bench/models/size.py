"""Cost against size: time and peak memory of energies and forces for growing pieces of silicon."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from equinet.bench.core.record import Record
from equinet.bench.core.report import Suite, bytes_text, notes, ratio_text, time_text
from equinet.tables import Block, Cell, Column, Table, Text

from .picture import size_picture
from .problems import Structures, silicon
from .report import contenders
from .run import Row

# Cubic cells of 8 atoms along each edge: 64, 216, 512, 1000, 1728, 4096, 8000 atoms; on a GPU 32768, 110592, 216000 too.
CELLS = (2, 3, 4, 5, 6, 8, 10, 16, 24, 30)
FEWEST = 3  # points for a slope
LARGE = 512  # atoms
LEGEND = (
    "Medians of rounds taken in turns, after a check against float64; time over equinet's with its 95 % bootstrap interval: above 1 "
    "equinet is faster. Memory: peak of a process of its own beyond the loaded model, neighbour list and first call included. N^1: "
    "linear; slopes are least squares of the logarithms from 512 atoms on, or of all if there are fewer than three such sizes."
)


@dataclass(frozen=True)
class Fit:
    """Growth of cost with size: cost = a N^p, by least squares of the logarithms.

    Attributes:
        exponent: p; 1 is linear.
        per_atom: Cost over atoms of the largest structure: seconds or bytes.
        atoms: Atoms of that structure.
    """

    exponent: float
    per_atom: float
    atoms: int


def problems(largest: int) -> list[Structures]:
    """Silicon of 64 to ``largest`` atoms.

    Raises:
        ValueError: If fewer than three sizes are left.
    """
    found = [silicon(cells) for cells in CELLS if 8 * cells**3 <= largest]
    if len(found) < FEWEST:
        raise ValueError(f"`largest` must be 512 or more to see how cost grows, got {largest}")
    return found


def fit(points: Sequence[tuple[int, float]]) -> Fit | None:
    """The fit through (atoms, cost) of 512 atoms and more, or through all if these are fewer than three; None if all are.

    What a call costs whatever the size makes a small structure dear for each atom, and a slope over it too gentle.
    """
    if len(points) < FEWEST:
        return None
    large = [point for point in points if point[0] >= LARGE]
    atoms, cost = np.array(sorted(large if len(large) >= FEWEST else points), dtype=float).T
    exponent = float(np.polyfit(np.log(atoms), np.log(cost), 1)[0])
    return Fit(exponent, float(cost[-1] / atoms[-1]), int(atoms[-1]))


def fits(rows: Sequence[Row]) -> dict[str, tuple[Fit | None, Fit | None]]:
    """Return fits of time and of memory, by contender."""
    found = {}
    for name in contenders(rows):
        own = [row for row in rows if row.contender == name]
        times = [(row.atoms, row.timing.median) for row in own if row.timing is not None]
        peaks = [(row.atoms, float(row.peak)) for row in own if row.peak]
        found[name] = (fit(times), fit(peaks))
    return found


def sentence(name: str, time: Fit | None, peak: Fit | None) -> str:
    """Describe the fits of a contender."""
    parts = []
    if time is not None:
        parts.append(f"time ~ N^{time.exponent:.2f}, {time_text(time.per_atom)} per atom at {time.atoms:,} atoms")
    if peak is not None:
        parts.append(f"memory ~ N^{peak.exponent:.2f}, {bytes_text(peak.per_atom)} per atom at {peak.atoms:,} atoms")
    return f"{name}: " + ("; ".join(parts) if parts else "too few sizes for a slope")


def terminal(record: Record[Row]) -> list[Block]:
    """A line for each size; below how cost grows and what was left out."""
    title = f"{record.rows[0].model}, energy + forces of silicon"
    blocks: list[Block] = [_table(record.rows, title, "\n")]
    return [
        *blocks,
        *(Text(sentence(name, *found), "strong") for name, found in fits(record.rows).items()),
        *notes(record.rows),
    ]


def document(record: Record[Row]) -> list[Block]:
    """Return the lines of a document: table, fits, notes."""
    blocks: list[Block] = [_table(record.rows, "", ", ")]
    return [*blocks, *(sentence(name, *found) for name, found in fits(record.rows).items()), *notes(record.rows)]


def _table(rows: Sequence[Row], title: str, between: str) -> Table:
    """A line for each size; cost and cost per atom of a contender with ``between`` them."""
    names = contenders(rows)
    headings = ["atoms", *(f"{name}{between}{what}" for name in names for what in ("time", "memory"))]
    headings += ["time over\nequinet's"] if len(names) > 1 else []
    lines = []
    for atoms in dict.fromkeys(row.atoms for row in rows):
        here = {row.contender: row for row in rows if row.atoms == atoms}
        cells = [cell for name in names for cell in _cells(here[name], between)]
        ratios = [
            ratio_text(row.over_equinet).replace(" ", between[-1], 1) for row in here.values() if row.over_equinet
        ]
        lines.append([f"{atoms:,}", *cells, *([between.join(ratios)] if len(names) > 1 else [])])
    return Table(title, [Column(heading, number=True) for heading in headings], lines)


def _cells(row: Row, between: str) -> list[Cell]:
    """Time and memory, of all and per atom."""
    time: Cell = Text("WRONG", "bad") if row.wrong else "-"
    memory: Cell = "-"
    if row.timing is not None:
        mark, each = Text(" !" * row.unsteady, "bad"), Text(f"{time_text(row.timing.median / row.atoms)}/atom", "faint")
        time = (time_text(row.timing.median), mark, between, each)
    if row.peak is not None:
        memory = (bytes_text(row.peak), between, Text(f"{bytes_text(row.peak / row.atoms)}/atom", "faint"))
    return [time, memory]


def facts(record: Record[Row]) -> dict[str, Any]:
    """Fits of all contenders."""
    pairs = fits(record.rows).items()
    return {"fits": {name: {"seconds": t and asdict(t), "bytes": p and asdict(p)} for name, (t, p) in pairs}}


def picture(record: Record[Row], path: Path) -> None:
    """Cost against size, with the exponents in the legend; PNG."""

    def exponent(one: Fit | None) -> str:
        return "" if one is None else f", N^{one.exponent:.2f}"

    legends = {name: (exponent(time), exponent(peak)) for name, (time, peak) in fits(record.rows).items()}
    size_picture(record, path, legends)


SUITE: Suite[Row] = Suite("size", LEGEND, terminal, document, picture, facts=facts)
