"""Cost against size: time and peak memory of energies and forces of ever more atoms of silicon."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from equinet.bench.products.machine import load_average

from .model import Row
from .picture import size_picture
from .problems import Problem, silicon
from .report import Record, about, as_json, bytes_text, caption, notes, ratio_text, time_text, warning

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
    """How cost grows: cost = a N^p, by least squares of the logarithms.

    Attributes:
        exponent: p; 1 is linear.
        per_atom: Cost over atoms of the largest structure: seconds or bytes.
        atoms: Of that structure.
    """

    exponent: float
    per_atom: float
    atoms: int


def problems(largest: int) -> list[Problem]:
    """Silicon of 64 to ``largest`` atoms.

    Raises:
        ValueError: If fewer than three sizes are left.
    """
    found = [silicon(cells) for cells in CELLS if 8 * cells**3 <= largest]
    if len(found) < FEWEST:
        raise ValueError(f"`--largest` must be 512 or more to see how cost grows, got {largest}")
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
    """Of time and of memory, by contender."""
    found = {}
    for name in dict.fromkeys(row.contender for row in rows):
        own = [row for row in rows if row.contender == name]
        times = [(row.atoms, row.timing.median) for row in own if row.timing is not None]
        peaks = [(row.atoms, float(row.peak)) for row in own if row.peak]
        found[name] = (fit(times), fit(peaks))
    return found


def sentence(name: str, time: Fit | None, peak: Fit | None) -> str:
    """What the fits say, in words."""
    parts = []
    if time is not None:
        parts.append(f"time ~ N^{time.exponent:.2f}, {time_text(time.per_atom)} per atom at {time.atoms:,} atoms")
    if peak is not None:
        parts.append(f"memory ~ N^{peak.exponent:.2f}, {bytes_text(peak.per_atom)} per atom at {peak.atoms:,} atoms")
    return f"{name}: " + ("; ".join(parts) if parts else "too few sizes for a slope")


def terminal(rows: Sequence[Row]) -> Group:
    """A line for each size; below how cost grows and what was left out."""
    names = list(dict.fromkeys(row.contender for row in rows))
    title = f"{rows[0].model}, energy + forces of silicon"
    table = Table(title=escape(title), title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for heading in ("atoms", *(f"{escape(name)}\n{what}" for name in names for what in ("time", "memory"))):
        table.add_column(heading, justify="right", no_wrap=True)
    if len(names) > 1:
        table.add_column("time over\nequinet's", justify="right", no_wrap=True)
    for atoms in dict.fromkeys(row.atoms for row in rows):
        here = {row.contender: row for row in rows if row.atoms == atoms}
        pairs = [pair for name in names for pair in zip(*[iter(_cells(here[name]))] * 2)]
        cells = [f"{whole}\n[dim]{each}/atom[/]" if each != "-" else whole for whole, each in pairs]
        ratios = [escape(ratio_text(row.ratio)).replace(" ", "\n", 1) for row in here.values() if row.ratio is not None]
        table.add_row(f"{atoms:,}", *cells, *(["\n".join(ratios)] if len(names) > 1 else []))
    parts: list[RenderableType] = [table]
    parts += [Text(sentence(name, *found), style="bold") for name, found in fits(rows).items()]
    parts += [Text(line) for line in notes(rows)]
    if bad := [row for row in rows if row.timing is not None and row.timing.unsteady]:
        parts.append(Text(f"\nUNSTEADY: {warning(bad)}", style="bold red"))
    return Group(*parts)


def _cells(row: Row) -> list[str]:
    time = ["WRONG" if row.wrong else "-", "-"]
    if row.timing is not None:
        time = [time_text(row.timing.median) + " !" * row.timing.unsteady, time_text(row.timing.median / row.atoms)]
    memory = ["-", "-"] if row.peak is None else [bytes_text(row.peak), bytes_text(row.peak / row.atoms)]
    return [*time, *memory]


def markdown(record: Record) -> str:
    """The table as a document, with the command that made it."""
    rows = record.rows
    names = list(dict.fromkeys(row.contender for row in rows))
    lines = [f"Made by `{record.command}` on {about(record)}.", ""]
    if record.unsteady:
        lines += [f"**Unsteady**: {warning(record.unsteady)}.", ""]
    heads = [f"{name}, {what}" for name in names for what in ("time", "per atom", "memory", "per atom")]
    heads += ["time over equinet's"] if len(names) > 1 else []
    lines += ["| atoms | " + " | ".join(heads) + " |", "|---:" * (len(heads) + 1) + "|"]
    for atoms in dict.fromkeys(row.atoms for row in rows):
        here = {row.contender: row for row in rows if row.atoms == atoms}
        cells = [cell for name in names for cell in _cells(here[name])]
        ratios = [ratio_text(row.ratio) for row in here.values() if row.ratio is not None]
        lines.append(f"| {atoms:,} | " + " | ".join([*cells, *(["; ".join(ratios)] if len(names) > 1 else [])]) + " |")
    lines += ["", *(f"- {sentence(name, *found)}" for name, found in fits(rows).items())]
    return "\n".join([*lines, *(f"- {line}" for line in notes(rows)), ""])


def write(record: Record, folder: Path) -> list[str]:
    """``size.json``, ``size_table.md`` and ``size.png``; the names."""
    folder.mkdir(parents=True, exist_ok=True)
    record.machine["load_average_after"] = load_average()
    rows, found = record.rows, fits(record.rows)
    tree: dict[str, Any] = as_json(record)
    tree["fits"] = {
        name: {what: vars(one) if one else None for what, one in zip(("seconds", "bytes"), pair)}
        for name, pair in found.items()
    }
    (folder / "size.json").write_text(json.dumps(tree, indent=1) + "\n")
    (folder / "size_table.md").write_text(markdown(record))
    series = {
        name: [
            (row.atoms, row.timing.median if row.timing else None, row.peak) for row in rows if row.contender == name
        ]
        for name in found
    }
    legends = {
        name: tuple("" if one is None else f", N^{one.exponent:.2f}" for one in pair) for name, pair in found.items()
    }
    size_picture(series, legends, caption(record), folder / "size.png")
    return ["size.json", "size_table.md", "size.png"]
