"""What was measured of whole models, for the eye and for programs: terminal, Markdown, CSV, JSON."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from equinet.bench.products.machine import describe, load_average
from equinet.bench.products.timing import UNSTEADY, Ratio

from .contenders import EQUINET, FORCES, TASKS, TRAINING
from .model import Plan, Row

OTHERS = ("ase", "mace-torch", "matscipy", "vesin")  # packages whose versions matter too
MEMORY = {TRAINING: "memory, training", FORCES: "memory, en. + forces"}
LEGEND = (
    "Same weights everywhere; energies and forces checked against float64 before any timing. Medians of rounds taken in turns, ± half "
    "the interquartile range in per cent; below, the time over equinet's with its 95 % bootstrap interval: above 1 equinet is "
    "faster. Training step: forward with forces, loss, backward, clipping, Adam with AMSGrad. MD step: velocity Verlet through "
    "the package's ASE calculator, one structure, neighbour lists included. Memory: peak of a process of its own beyond the "
    "loaded model, first call included."
)


@dataclass
class Record:
    """Rows, and what they were measured on.

    Attributes:
        plan: What was measured.
        command: By which it can be repeated.
        machine: Device, threads, load, versions.
        rows: So far.
    """

    plan: Plan
    command: str
    machine: dict[str, Any]
    rows: list[Row] = field(default_factory=list)

    @classmethod
    def begin(cls, plan: Plan, command: str) -> Record:
        """A record without rows."""
        return cls(plan, command, machine(plan.device))

    @property
    def unsteady(self) -> list[Row]:
        """Rows whose times cannot be trusted."""
        return [row for row in self.rows if row.timing is not None and row.timing.unsteady]


def machine(device: str) -> dict[str, Any]:
    """Device, processor, threads, load and versions."""
    found = describe(
        torch.device("cuda" if device == "auto" and torch.cuda.is_available() else device.replace("auto", "cpu"))
    )
    for name in OTHERS:
        try:
            found["versions"][name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def terminal(rows: Sequence[Row]) -> Group:
    """A table of one architecture, for 80 columns or more, and why something is not there."""
    contenders = list(dict.fromkeys(row.contender for row in rows))
    weights = {row.contender: row.parameters for row in rows}
    known = ", ".join(f"{name} {weights[name]:,}" for name in contenders if weights[name])
    parts: list[RenderableType] = [Text(f"\n{rows[0].model}   weights: {known}\n", style="bold")]
    for problem in dict.fromkeys(row.problem for row in rows):
        here = {(row.task, row.contender): row for row in rows if row.problem == problem}
        parts.append(_table(problem, here, contenders))
    parts += [Text(line) for line in notes(rows)]
    if bad := [row for row in rows if row.timing is not None and row.timing.unsteady]:
        parts.append(Text(f"\nUNSTEADY: {warning(bad)}", style="bold red"))
    return Group(*parts)


def _table(problem: str, rows: Mapping[tuple[str, str], Row], contenders: Sequence[str]) -> Table:
    """One problem: a line for each task, a column for each contender."""
    first = rows[FORCES, contenders[0]]
    table = Table(
        title=escape(f"{problem}: {first.atoms:,} atoms, {first.edges:,} edges"),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    table.add_column("", no_wrap=True, min_width=20)
    for name in contenders:
        table.add_column(escape(name.replace(", ", ",\n")), justify="right", overflow="fold")
    for task in TASKS:
        table.add_row(task, *(_time_cell(rows[task, name]) for name in contenders))
    for task, label in MEMORY.items():
        own = rows[task, EQUINET].peak
        table.add_row(label, *(_memory_cell(rows[task, name], own) for name in contenders))
    return table


def notes(rows: Sequence[Row]) -> list[str]:
    """Reasons and remarks, each once, with whom and what it is about; wrong results first."""
    lines = [
        f"WRONG: {row.contender}, {row.problem}, {row.task}: relative error {row.error:.1e} against float64; no time"
        for row in rows
        if row.wrong and row.error is not None
    ]
    about: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        for note in row.notes:
            about.setdefault((row.contender, note), []).append(f"{row.problem}, {row.task}")
    for (contender, note), places in about.items():
        everywhere = len(places) == sum(row.contender == contender for row in rows)
        lines.append(f"{contender}: {note}" + ("" if everywhere else f" ({'; '.join(dict.fromkeys(places))})"))
    return lines


def warning(rows: Sequence[Row]) -> str:
    """What to do about times that cannot be trusted."""
    some = "; ".join(f"{row.contender}, {row.model}, {row.problem}, {row.task}" for row in rows[:4])
    more = f" and {len(rows) - 4} more" if len(rows) > 4 else ""
    return (
        f"the median is more than {UNSTEADY} times the minimum, as something else used the machine: {some}{more}. Do not quote "
        "these times; measure again on a quiet machine"
    )


def about(record: Record) -> str:
    """One sentence about machine and settings."""
    found, plan = record.machine, record.plan
    threads = "" if found["kind"] == "cuda" else f", {found['threads']} thread" + "s" * (found["threads"] > 1)
    versions = ", ".join(f"{name} {number}" for name, number in found["versions"].items())
    load = f"load average {found['load_average']} before, {load_average()} after"
    return f"{found['device']}{threads}, {plan.dtype}, {load}; {found['system']}, {versions}; {found['time']}"


def caption(record: Record) -> str:
    """The least a picture must say of its origin."""
    found = record.machine
    known = [f"{name} {found['versions'][name]}" for name in ("torch", "mace-torch") if name in found["versions"]]
    threads = "" if found["kind"] == "cuda" else f", {found['threads']} thread" + "s" * (found["threads"] > 1)
    return f"{found['device']}{threads}, {record.plan.dtype}, {', '.join(known)}, {found['time'][:10]}"


def time_text(seconds: float) -> str:
    """Three digits with a unit."""
    unit, factor = next(((u, f) for u, f in (("s", 1.0), ("ms", 1e3)) if seconds * f >= 0.9995), ("µs", 1e6))
    return f"{_three(seconds * factor)} {unit}"


def bytes_text(number: float) -> str:
    """Three digits with a unit, of 1000."""
    unit, factor = next(((u, f) for u, f in (("GB", 1e9), ("MB", 1e6)) if number >= 0.9995 * f), ("kB", 1e3))
    return f"{_three(number / factor)} {unit}"


def ratio_text(ratio: Ratio) -> str:
    """``7.74 [7.06, 8.21]``."""
    return f"{_three(ratio.value)} [{_three(ratio.low)}, {_three(ratio.high)}]"


def _three(value: float) -> str:
    return f"{value:,.0f}" if value >= 99.95 else f"{value:#.3g}"


def _time_cell(row: Row) -> Text:
    if row.timing is None:
        return Text("WRONG", style="bold red") if row.wrong else Text("not measured", style="yellow")
    text = Text(f"{time_text(row.timing.median)} ±{50 * row.timing.iqr / row.timing.median:.0f}%")
    if len(row.timing.seconds) < 9:
        text.append(f" n={len(row.timing.seconds)}")
    if row.timing.unsteady:
        text.append(" !", style="bold red")
    if row.ratio is not None:
        text.append(
            f"\nx{ratio_text(row.ratio)}", style="red" if row.ratio.high < 1 else "green" if row.ratio.low > 1 else ""
        )
    return text


def _memory_cell(row: Row, own: int | None) -> Text:
    if row.peak is None:
        return Text("not measured", style="yellow")
    ratio = f"  x {_three(row.peak / own)}" if own and row.contender != EQUINET else ""
    return Text(bytes_text(row.peak) + ratio)


def markdown(record: Record) -> str:
    """All tables as a document, with the command that made them."""
    lines = [f"Made by `{record.command}` on {about(record)}.", "", LEGEND, ""]
    if record.unsteady:
        lines += [f"**Unsteady**: {warning(record.unsteady)}.", ""]
    for model in dict.fromkeys(row.model for row in record.rows):
        rows = [row for row in record.rows if row.model == model]
        contenders = list(dict.fromkeys(row.contender for row in rows))
        peers = [name for name in contenders if name != EQUINET]
        lines += [f"## {model}", "", f"| structures | | {EQUINET} |" + "".join(f" {n} | ratio |" for n in peers)]
        lines.append("|---|---|---:|" + "---:|---:|" * len(peers))
        for problem in dict.fromkeys(row.problem for row in rows):
            here = {(row.task, row.contender): row for row in rows if row.problem == problem}
            for task in TASKS:
                cells = [_plain(here[task, EQUINET])]
                for name in peers:
                    row = here[task, name]
                    cells += [_plain(row), ratio_text(row.ratio) if row.ratio else ""]
                lines.append(f"| {problem} | {task} | " + " | ".join(cells) + " |")
            for task, label in MEMORY.items():
                own = here[task, EQUINET].peak
                cells = [bytes_text(own) if own is not None else "-"]
                for name in peers:
                    peak = here[task, name].peak
                    cells += [bytes_text(peak) if peak is not None else "-", _three(peak / own) if peak and own else ""]
                lines.append(f"| {problem} | {label} | " + " | ".join(cells) + " |")
        lines += ["", *(f"- {line}" for line in notes(rows)), ""]
    return "\n".join(lines)


def _plain(row: Row) -> str:
    if row.timing is None:
        return "**WRONG**" if row.wrong else "-"
    few = f", {len(row.timing.seconds)} rounds" if len(row.timing.seconds) < 9 else ""
    return (
        f"{time_text(row.timing.median)} ±{50 * row.timing.iqr / row.timing.median:.0f} %{few}"
        + " (!)" * row.timing.unsteady
    )


def flat(rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
    """Plain numbers, a row for each contender and task; seconds and bytes."""
    for row in rows:
        timing, ratio = row.timing, row.ratio
        yield {
            "model": row.model,
            "structures": row.problem,
            "atoms": row.atoms,
            "edges": row.edges,
            "task": row.task,
            "contender": row.contender,
            "weights": row.parameters,
            "state": "WRONG" if row.wrong else "not measured" if timing is None else "measured",
            "relative_error": row.error,
            "first_call": row.first_call,
            "median": timing and timing.median,
            "quartile_low": timing and timing.quartiles[0],
            "quartile_high": timing and timing.quartiles[1],
            "minimum": timing and timing.minimum,
            "rounds": timing and len(timing.seconds),
            "unsteady": timing and timing.unsteady,
            "over_equinet": ratio and ratio.value,
            "over_equinet_low": ratio and ratio.low,
            "over_equinet_high": ratio and ratio.high,
            "peak_bytes": row.peak,
            "load_average": row.load,
            "notes": "; ".join(row.notes),
        }


def as_json(record: Record) -> dict[str, Any]:
    """Everything, every single time too."""
    plan = record.plan
    return {
        "command": record.command,
        "machine": record.machine,
        "dtype": plan.dtype,
        "rounds": plan.rounds,
        "seconds_for_each_task": plan.seconds,
        "models": {item.name: item.config.model_dump(mode="json") for item in plan.architectures},
        "rows": [
            {**numbers, "seconds": list(row.timing.seconds) if row.timing else []}
            for row, numbers in zip(record.rows, flat(record.rows))
        ],
    }


def write(record: Record, folder: Path) -> list[str]:
    """``model.json``, ``model.csv``, ``model_table.md`` and ``model.png``; the names."""
    from .picture import picture

    folder.mkdir(parents=True, exist_ok=True)
    record.machine["load_average_after"] = load_average()
    (folder / "model.json").write_text(json.dumps(as_json(record), indent=1) + "\n")
    (folder / "model_table.md").write_text(markdown(record))
    with (folder / "model.csv").open("w", newline="") as file:
        lines = list(flat(record.rows))
        writer = csv.DictWriter(file, list(lines[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)
    picture(record.rows, caption(record), folder / "model.png")
    return ["model.json", "model.csv", "model_table.md", "model.png"]
