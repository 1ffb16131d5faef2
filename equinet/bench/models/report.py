"""Tables of whole models for the terminal and for documents."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from equinet.bench.core import EQUINET
from equinet.bench.core.record import FEW, Record
from equinet.bench.core.report import Suite, bytes_text, notes, ratio_cell, ratio_text, spread_text, three, time_text
from equinet.tables import Block, Cell, Column, Table, Text

from .picture import picture
from .run import Plan, Row
from .runners import FORCES, TASKS, TRAINING

MEMORY = {TRAINING: "memory, training", FORCES: "memory, en. + forces"}
LEGEND = (
    "Same weights everywhere; energies and forces checked against float64 before any timing. Medians of rounds taken in turns, ± half "
    "the interquartile range in per cent; below, the time over equinet's with its 95 % bootstrap interval: above 1 equinet is "
    "faster. Training step: forward with forces, loss, backward, clipping, Adam with AMSGrad. MD step: velocity Verlet through "
    "the package's ASE calculator, one structure, neighbour lists included. Memory: peak of a process of its own beyond the "
    "loaded model, first call included."
)


def record_of(plan: Plan, command: str) -> Record[Row]:
    """A record without rows."""
    return Record(command, plan.settings, [{"name": a.name, "config": a.config} for a in plan.architectures])


def by_problem(rows: Sequence[Row]) -> Iterator[dict[tuple[str, str], Row]]:
    """Rows of each problem by (task, contender)."""
    for problem in dict.fromkeys(row.problem for row in rows):
        yield {(row.task, row.contender): row for row in rows if row.problem == problem}


def by_model(record: Record[Row]) -> dict[str, list[Row]]:
    """Rows of each model."""
    return {name: record.of(model=name) for name in dict.fromkeys(row.model for row in record.rows)}


def contenders(rows: Sequence[Row]) -> list[str]:
    """Names in their order."""
    return list(dict.fromkeys(row.contender for row in rows))


def terminal(record: Record[Row]) -> list[Block]:
    """A table for each problem of each model, for 80 columns or more, and why something is not there."""
    blocks: list[Block] = []
    for model, rows in by_model(record).items():
        weights = {row.contender: row.parameters for row in rows}
        known = ", ".join(f"{name} {number:,}" for name, number in weights.items() if number)
        blocks += [Text(f"\n{model}   weights: {known}\n", "strong")]
        blocks += [_table(here, contenders(rows)) for here in by_problem(rows)]
        blocks += notes(rows)
    return blocks


def _table(rows: dict[tuple[str, str], Row], names: Sequence[str]) -> Table:
    """One problem: a line for each task, a column for each contender."""
    first = rows[FORCES, names[0]]
    columns = [Column(f"{'':20}"), *(Column(name.replace(", ", ",\n"), number=True, fold=True) for name in names)]
    lines: list[list[Cell]] = [[task, *(_time(rows[task, name]) for name in names)] for task in TASKS]
    lines += [[label, *(_memory(rows, task, name, "  x ") for name in names)] for task, label in MEMORY.items()]
    return Table(f"{first.problem}: {first.atoms:,} atoms, {first.edges:,} edges", columns, lines)


def _time(row: Row) -> Cell:
    if (timing := row.timing) is None:
        return Text("WRONG", "bad") if row.wrong else Text("not measured", "warning")
    few = f" n={len(timing.seconds)}" if len(timing.seconds) < FEW else ""
    cell = (
        f"{time_text(timing.median)} ±{50 * timing.iqr / timing.median:.0f}%{few}",
        Text(" !" * row.unsteady, "bad"),
    )
    return cell if row.over_equinet is None else (*cell, "\n", ratio_cell(row.over_equinet))


def _memory(rows: dict[tuple[str, str], Row], task: str, name: str, times: str) -> Cell:
    peak, own = rows[task, name].peak, rows[task, EQUINET].peak
    if peak is None:
        return Text("not measured", "warning")
    return bytes_text(peak) + (f"{times}{three(peak / own)}" if own and name != EQUINET else "")


def document(record: Record[Row]) -> list[Block]:
    """A table for each model, a line for each problem and task."""
    blocks: list[Block] = []
    for model, rows in by_model(record).items():
        names = contenders(rows)
        columns = [Column("structures"), Column(""), *(Column(name, number=True) for name in names)]
        lines: list[list[Cell]] = []
        for here in by_problem(rows):
            problem = here[FORCES, EQUINET].problem
            lines += [[problem, task, *(_plain(here[task, name]) for name in names)] for task in TASKS]
            lines += [
                [problem, what, *(_memory(here, task, name, ", x") for name in names)] for task, what in MEMORY.items()
            ]
        blocks += [f"## {model}", Table("", columns, lines), *notes(rows)]
    return blocks


def _plain(row: Row) -> str:
    if row.timing is None:
        return "**WRONG**" if row.wrong else "-"
    ratio = f", x{ratio_text(row.over_equinet)}" if row.over_equinet else ""
    return spread_text(row.timing) + ratio


SUITE: Suite[Row] = Suite("model", LEGEND, terminal, document, picture)
