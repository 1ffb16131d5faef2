"""What was measured, for the eye and for programs: terminal, Markdown, CSV, JSON."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table as RichTable
from rich.text import Text

from .passes import PASSES, TITLES
from .record import Measured, Record, Row, Table
from .timing import Ratio

CSV_COLUMNS = (
    "problem", "kind", "spec", "nodes", "edges", "channels", "contender", "pass", "state", "same_function",
    "couplings", "couplings_full", "couplings_odd", "weights", "error", "checked_nodes", "build_seconds",
    "first_call_seconds", "median_seconds", "quartile_low", "quartile_high", "minimum_seconds", "rounds", "unsteady",
    "times_faster", "times_faster_low", "times_faster_high", "flops", "bytes", "roofline_fraction", "peak_memory_bytes",
)  # fmt: skip
LEGEND = (
    "backward: forward and gradients of all inputs; double: these and gradients of the gradients. Median ± interquartile range of "
    "interleaved rounds (n: fewer than 9); times faster than the baseline, with its 95 % bootstrap interval; roof: useful "
    "operations and least bytes (rule: equinet.bench.products.work) at the rates measured in this run, over the time; MB: peak memory on "
    "top of the inputs. error: the largest of value, gradients and second derivatives against the formulas in float64, before any "
    "timing. ≠: another function than exact couplings: compare couplings and weights first. !: unsteady."
)


def terminal(record: Record) -> Group:
    """A table per problem, 80 columns, then who was absent, and a loud warning where times cannot be trusted."""
    parts: list[RenderableType] = []
    for table in record.tables:
        title = f"{table.problem.name}: {table.problem.spec}; {table.problem.sizes()}"
        parts += [Text(f"\n{title}", style="bold"), _terminal_table(table), *(_absent(table))]
    parts.append(Text(f"\n{about(record)}"))
    parts.append(Text(LEGEND, style="dim"))
    if record.unsteady:
        parts.append(Text(f"\nUNSTEADY: {warning(record)}", style="bold red"))
    return Group(*parts)


def about(record: Record) -> str:
    """One sentence about machine and settings."""
    machine, settings = record.machine, record.settings
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    where = machine["device"] if machine["kind"] == "cuda" else f"{machine['device']}, {machine['threads']} thread(s)"
    dtype = str(settings.dtype).removeprefix("torch.")
    load = f"{machine['load_average']} before, {machine['load_average_after']} after"
    clock = ", processor time" if settings.clock == "cpu" else ""
    return f"{where}, {dtype}{clock}, load average {load}; {versions}; {machine['time']}"


def warning(record: Record) -> str:
    """What to do about times that cannot be trusted."""
    names = record.unsteady
    some = "; ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
    return (
        f"the median is more than 1.3 times the minimum, as something else used the machine: {some}. Do not quote these times; "
        "measure again on a quiet machine"
    )


def _terminal_table(table: Table) -> RichTable:
    shown = RichTable(box=box.SIMPLE_HEAD, padding=0, pad_edge=False)
    shown.add_column("contender\n couplings, weights", overflow="fold")
    shown.add_column("", no_wrap=True)
    for heading in ("ms ± IQR", "times faster", "roof", "MB"):
        shown.add_column(heading, justify="right", no_wrap=True)
    for row in table.rows:
        if row.absent:
            continue
        first = "\n".join([_name(row), *_expressivity(row)])
        if row.wrong:
            shown.add_row(first, "", Text("WRONG", style="bold red"), Text(row.wrong.replace(", ", "\n"), style="red"))
        else:
            cells = (_cells(row.passes[name], row.name == table.baseline) for name in PASSES)
            shown.add_row(first, "\n".join(PASSES), *("\n".join(column) for column in zip(*cells)))
    return shown


def _name(row: Row) -> str:
    return escape(row.name) + ("" if row.same_function else " ≠")


def _expressivity(row: Row) -> list[str]:
    if row.expressivity is None:
        return []
    found = row.expressivity
    odd = f", {found.odd} odd" if found.odd else ""
    error = max(row.errors.values(), default=0.0)
    return [f" {found.reached}/{found.full}{odd}, {found.weights} weights", f" error {error:.0e}"]


def _cells(found: Measured, baseline: bool) -> list[str]:
    """Time, ratio, fraction and memory, as rich's markup."""
    if found.timing is None:
        return [escape(f"failed: {found.failure}"[:20]), "", "", ""]
    median, spread, count = found.timing.median * 1e3, found.timing.iqr * 1e3, len(found.timing.seconds)
    few = f" n={count}" if count < 9 else ""
    time = f"{_three(median)} ±{spread:.2g}{few}" + (" [bold red]![/]" if found.timing.unsteady else "")
    ratio = "baseline" if baseline else "-" if found.ratio is None else _interval(found.ratio)
    memory = (
        "-"
        if found.peak_memory is None
        else f"{found.peak_memory / 1e6:.2g}"
        if found.peak_memory < 1e7
        else f"{found.peak_memory / 1e6:.0f}"
    )
    return [time, escape(ratio), _percent(found.roofline), memory]


def _interval(ratio: Ratio) -> str:
    value, low, high = (_three(x) if x >= 0.995 else f"{x:.2f}" for x in (ratio.value, ratio.low, ratio.high))
    return f"{value} [{low}, {high}]"


def time_text(found: Measured) -> str:
    """``3.94 ms ± 0.12``."""
    assert found.timing is not None
    median, spread = found.timing.median, found.timing.iqr
    unit, factor = next(((u, f) for u, f in (("s", 1.0), ("ms", 1e3)) if median * f >= 0.1), ("µs", 1e6))
    few = f", {len(found.timing.seconds)} rounds" if len(found.timing.seconds) < 9 else ""
    return f"{_three(median * factor)} {unit} ± {spread * factor:.2g}{few}"


def _three(value: float) -> str:
    """Three digits."""
    return f"{value:.0f}" if value >= 99.95 else f"{value:#.3g}"


def _percent(fraction: float | None) -> str:
    return "-" if fraction is None else f"{100 * fraction:.2g} %"


def _absent(table: Table) -> list[Text]:
    reasons: dict[str, list[str]] = {}
    for row in table.rows:
        if row.absent:
            reasons.setdefault(row.absent, []).append(row.name)
    return [Text(f"absent, {'; '.join(names)}: {why}") for why, names in reasons.items()]


def flat(record: Record) -> Iterator[dict[str, Any]]:
    """A line for every problem, contender and pass, with the columns of the CSV file."""
    for table in record.tables:
        problem = table.problem
        sizes = {"nodes": problem.nodes, "edges": problem.edges, "channels": problem.spec.channels}
        what = {"problem": problem.name, "kind": problem.kind, "spec": str(problem.spec), **sizes}
        for row in table.rows:
            who: dict[str, Any] = {**what, "contender": row.name, "same_function": row.same_function}
            if row.absent or row.wrong:
                yield {**who, "state": f"absent: {row.absent}" if row.absent else f"WRONG: {row.wrong}"}
                continue
            if (found := row.expressivity) is not None:
                counts = {"couplings": found.reached, "couplings_full": found.full, "couplings_odd": found.odd}
                who |= {**counts, "weights": found.weights}
            who |= {"checked_nodes": row.checked_nodes, "build_seconds": row.build_seconds}
            who |= {"first_call_seconds": row.first_call_seconds}
            for name, measured in row.passes.items():
                yield {**who, "pass": name, "error": row.errors.get(name), **_numbers(measured)}


def _numbers(found: Measured) -> dict[str, Any]:
    if found.timing is None:
        return {"state": f"failed: {found.failure}"}
    low, high = found.timing.quartiles
    ratio = found.ratio
    return {
        "state": "measured",
        "median_seconds": found.timing.median,
        "quartile_low": low,
        "quartile_high": high,
        "minimum_seconds": found.timing.minimum,
        "rounds": len(found.timing.seconds),
        "unsteady": found.timing.unsteady,
        "times_faster": ratio and ratio.value,
        "times_faster_low": ratio and ratio.low,
        "times_faster_high": ratio and ratio.high,
        "flops": found.flops,
        "bytes": found.bytes,
        "roofline_fraction": found.roofline,
        "peak_memory_bytes": found.peak_memory,
    }


def markdown(record: Record, command: str) -> str:
    """The tables as a document, with the command that made them."""
    lines = [f"Made by `{command}` on {about(record)}.", ""]
    if record.unsteady:
        lines += [f"**Unsteady**: {warning(record)}.", ""]
    for table in record.tables:
        problem = table.problem
        lines += [f"### {problem.name}", "", f"{problem.spec}; {problem.sizes()}.", ""]
        lines += [
            "| contender | couplings | weights | error | " + " | ".join(TITLES[n] for n in PASSES) + " | roof | MB |"
        ]
        lines += ["|---|---:|---:|---:|---:|---:|---:|---:|---:|"]
        for row in table.rows:
            if not row.absent:
                lines.append("| " + " | ".join(_markdown_cells(table, row)) + " |")
        lines += ["", *(f"- {text.plain}" for text in _absent(table)), ""]
        if table.ceilings is not None:
            roofs = table.ceilings
            rates = f"{roofs.flops / 1e9:.3g} GFLOP/s, {roofs.bandwidth / 1e9:.3g} GB/s from memory"
            lines += [f"Roofs: {rates}, {roofs.in_cache / 1e9:.3g} GB/s at {roofs.bytes / 1e6:.3g} MB.", ""]
    return "\n".join([*lines, LEGEND, ""])


def _markdown_cells(table: Table, row: Row) -> list[str]:
    found = row.expressivity
    counts = ["", ""] if found is None else [f"{found.reached}/{found.full}", str(found.weights)]
    error = f"{max(row.errors.values(), default=0.0):.0e}"
    if row.wrong:
        return [_name(row), *counts, error, f"**WRONG** ({row.wrong})", "", "", "", ""]
    cells, forward = [], row.passes["forward"]
    for name in PASSES:
        one = row.passes[name]
        if one.timing is None:
            cells.append(f"failed: {one.failure}")
            continue
        mark = " (unsteady)" if one.timing.unsteady else ""
        ratio = "" if row.name == table.baseline or one.ratio is None else f", {_interval(one.ratio)}x"
        cells.append(f"{time_text(one)}{mark}{ratio}")
    memory = [one.peak_memory for one in row.passes.values() if one.peak_memory is not None]
    most = f"{max(memory) / 1e6:.3g}" if memory else "not measured"
    return [_name(row), *counts, error, *cells, _percent(forward.roofline), most]


def write(record: Record, out: Path, command: str) -> list[str]:
    """``bench.json``, ``bench.csv``, ``bench.md`` and ``bench.png`` in a folder; returns their names."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "bench.json").write_text(json.dumps({"command": command, **record.as_json()}, indent=1) + "\n")
    with (out / "bench.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, CSV_COLUMNS)
        writer.writeheader()
        writer.writerows(flat(record))
    (out / "bench.md").write_text(markdown(record, command))
    names = ["bench.json", "bench.csv", "bench.md"]
    if any(row.passes for table in record.tables for row in table.rows):
        from .picture import picture  # matplotlib: not for those who time things only

        picture(record, out / "bench.png")
        names.append("bench.png")
    return names
