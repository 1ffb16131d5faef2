"""Tables of products for the terminal and for documents."""

from __future__ import annotations

from collections.abc import Sequence

from equinet.bench.core.record import FEW, Record
from equinet.bench.core.report import Suite, notes, ratio_text, three
from equinet.tables import Block, Cell, Column, Table, Text, plain

from .passes import PASSES, TITLES
from .picture import picture
from .run import Measured, Row

LEGEND = (
    "backward: forward and gradients of all inputs; double: these and gradients of the gradients. Median ± interquartile range of "
    "interleaved rounds (n: fewer than 9); times faster than the baseline, with its 95 % bootstrap interval; roof: useful "
    "operations and least bytes (rule: equinet.bench.products.work) at the rates measured in this run, over the time; MB: peak memory on "
    "top of the inputs. error: the largest of value, gradients and second derivatives against the formulas in float64, before any "
    "timing. ≠: another function than exact couplings: compare couplings and weights first. !: unsteady."
)


def by_contender(record: Record[Row], problem: Measured) -> list[list[Row]]:
    """Rows of each contender that took part."""
    rows = [row for row in record.of(problem=problem.name) if not row.absent]
    return [[row for row in rows if row.contender == name] for name in dict.fromkeys(row.contender for row in rows)]


def terminal(record: Record[Row]) -> list[Block]:
    """A table for each problem in 80 columns, then who was absent."""
    blocks: list[Block] = []
    for problem in record.problems:
        columns = [Column("contender\n couplings, weights", fold=True), Column("")]
        columns += [Column(heading, number=True) for heading in ("ms ± IQR", "times faster", "roof", "MB")]
        table = Table("", columns, [_cells(rows, problem) for rows in by_contender(record, problem)], padding=0)
        title = Text(f"\n{problem.name}: {problem.spec}; {problem.sizes}", "strong")
        blocks += [title, table, *_absent(record, problem)]
    return blocks


def document(record: Record[Row]) -> list[Block]:
    """A table for each problem, a line for each contender."""
    blocks: list[Block] = []
    headings = ("couplings", "weights", "error", *(f"{TITLES[n]}, ms" for n in PASSES), "roof", "MB")
    columns = [Column("contender"), *(Column(heading, number=True) for heading in headings)]
    for problem in record.problems:
        blocks += [f"### {problem.name}", f"{problem.spec}; {problem.sizes}."]
        blocks.append(Table("", columns, [_line(rows, problem) for rows in by_contender(record, problem)]))
        blocks += _absent(record, problem)
        if (roofs := problem.ceilings) is not None:
            rates = f"{roofs.flops / 1e9:.3g} GFLOP/s, {roofs.bandwidth / 1e9:.3g} GB/s from memory"
            blocks.append(f"Roofs: {rates}, {roofs.in_cache / 1e9:.3g} GB/s at {roofs.bytes / 1e6:.3g} MB.")
    return blocks


def _absent(record: Record[Row], problem: Measured) -> list[Block]:
    return notes([row for row in record.of(problem=problem.name) if row.absent])


def _name(row: Row) -> str:
    return row.contender + ("" if row.same_function else " ≠")


def _error(rows: Sequence[Row]) -> str:
    return f"{max((row.error for row in rows if row.error is not None), default=0.0):.0e}"


def _cells(rows: Sequence[Row], problem: Measured) -> tuple[Cell, ...]:
    """A contender in the terminal: a line for each pass in every cell."""
    first, found = rows[0], rows[0].expressivity
    lines = [_name(first)]
    if found is not None:
        odd = f", {found.odd} odd" if found.odd else ""
        lines += [f" {found.reached}/{found.full}{odd}, {found.weights} weights", f" error {_error(rows)}"]
    name = "\n".join(lines)
    if first.wrong:
        return name, "", Text("WRONG", "bad"), Text(first.wrong.replace(", ", "\n"), "bad"), "", ""
    columns = zip(*(_pass(row, row.contender == problem.baseline) for row in rows))
    return name, "\n".join(row.task for row in rows), *map(_stacked, columns)


def _stacked(cells: Sequence[tuple[str | Text, ...]]) -> Cell:
    """Cells of several lines."""
    return tuple(piece for n, cell in enumerate(cells) for piece in (("\n", *cell) if n else cell))


def _pass(row: Row, baseline: bool) -> tuple[tuple[str | Text, ...], ...]:
    """Time, ratio, fraction and memory."""
    if row.timing is None:
        return (f"failed: {row.failure}"[:20],), ("",), ("",), ("",)
    few = f" n={len(row.timing.seconds)}" if len(row.timing.seconds) < FEW else ""
    time = f"{three(row.timing.median * 1e3)} ±{row.timing.iqr * 1e3:.2g}{few}"
    ratio = "baseline" if baseline else "-" if row.times_faster is None else ratio_text(row.times_faster)
    memory = "-" if row.peak is None else f"{row.peak / 1e6:.2g}" if row.peak < 1e7 else f"{row.peak / 1e6:.0f}"
    return (time, *([Text(" !", "bad")] if row.unsteady else [])), (ratio,), (_percent(row.roofline),), (memory,)


def _percent(fraction: float | None) -> str:
    return "-" if fraction is None else f"{100 * fraction:.2g} %"


def _line(rows: Sequence[Row], problem: Measured) -> list[str]:
    """A contender in a document: a column for each pass."""
    first, found = rows[0], rows[0].expressivity
    line = [
        _name(first),
        *(["", ""] if found is None else [f"{found.reached}/{found.full}", str(found.weights)]),
        _error(rows),
    ]
    if first.wrong:
        return [*line, f"**WRONG** ({first.wrong})", "", "", "", ""]
    for row in rows:
        time, ratio, _, _ = _pass(row, row.contender == problem.baseline)
        faster = "" if row.times_faster is None or ratio[0] == "baseline" else f", {ratio[0]}x"
        line.append(f"failed: {row.failure}" if row.timing is None else plain(time) + faster)
    memory = [row.peak for row in rows if row.peak is not None]
    return [*line, _percent(first.roofline), f"{max(memory) / 1e6:.3g}" if memory else "not measured"]


SUITE: Suite[Row] = Suite("bench", LEGEND, terminal, document, picture, suffix=".md")
