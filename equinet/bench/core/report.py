"""Texts, documents and files of a record; suites give columns, legend and picture."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic

from equinet.tables import Block, Table, Text

from .machine import load_average
from .record import FEW, R, Record, Row, flat, plain
from .timing import UNSTEADY, Ratio, Timing


@dataclass(frozen=True)
class Suite(Generic[R]):
    """Report of one kind of record.

    Attributes:
        stem: Name of its files without ending.
        legend: Meaning of the columns.
        terminal: Tables and lines for 80 columns.
        document: Tables and lines for a document.
        picture: Function that draws the record into a PNG file.
        suffix: End of the document's name.
        facts: Function that gives further entries of the JSON file.
    """

    stem: str
    legend: str
    terminal: Callable[[Record[R]], list[Block]]
    document: Callable[[Record[R]], list[Block]]
    picture: Callable[[Record[R], Path], None]
    suffix: str = "_table.md"
    facts: Callable[[Record[R]], dict[str, Any]] = lambda record: {}


def closing(suite: Suite[R], record: Record[R]) -> list[Block]:
    """Lines below the tables in a terminal: machine, legend, and a warning where times cannot be trusted."""
    return [Text(about(record)), Text(suite.legend, "faint"), *unsteady(record)]


def unsteady(record: Record[R]) -> list[Block]:
    """A warning if times cannot be trusted."""
    return [Text(f"UNSTEADY: {warning(record.unsteady)}", "bad")] if record.unsteady else []


def warning(places: Sequence[str]) -> str:
    """Return advice about times that cannot be trusted."""
    some = "; ".join(places[:4]) + (f" and {len(places) - 4} more" if len(places) > 4 else "")
    return (
        f"the median is more than {UNSTEADY} times the minimum, as something else used the machine: {some}. Do not quote these "
        "times; measure again on a quiet machine"
    )


def about(record: Record[R]) -> str:
    """One sentence about machine and settings."""
    found = record.machine
    versions = ", ".join(f"{name} {number}" for name, number in found["versions"].items())
    after = found.get("load_average_after", load_average())
    clock = ", processor time" if record.settings.clock == "cpu" else ""
    load = f"load average {found['load_average']} before, {after} after"
    return f"{where(record)}, {record.settings.dtype}{clock}, {load}; {found['system']}, {versions}; {found['time']}"


def where(record: Record[R]) -> str:
    """Device and threads."""
    found = record.machine
    return found["device"] + ("" if found["kind"] == "cuda" else f", {count(found['threads'], 'thread')}")


def caption(record: Record[R]) -> str:
    """The least a picture must say of its origin."""
    versions = record.machine["versions"]
    known = ", ".join(f"{name} {versions[name]}" for name in ("torch", "mace-torch") if name in versions)
    return f"{where(record)}, {record.settings.dtype}, {known}, {record.machine['time'][:10]}"


def notes(rows: Sequence[Row]) -> list[Block]:
    """Reasons and remarks, each once, with contender and place; wrong results first, absent contenders last."""
    lines: list[Block] = [
        Text(f"WRONG: {row.contender}, {row.problem}, {row.task}: {row.wrong}", "bad") for row in rows if row.wrong
    ]
    of_whom: dict[tuple[str, str], list[str]] = {}
    absent: dict[str, list[str]] = {}
    for row in rows:
        for note in (*([row.failure] if row.failure else []), *row.notes):
            of_whom.setdefault((row.contender, note), []).append(", ".join(filter(None, (row.problem, row.task))))
        if row.absent:
            absent.setdefault(row.absent, []).append(row.contender)
    for (contender, note), places in of_whom.items():
        everywhere = len(places) == sum(row.contender == contender for row in rows)
        lines.append(f"{contender}: {note}" + ("" if everywhere else f" ({'; '.join(dict.fromkeys(places))})"))
    return [*lines, *(f"absent, {'; '.join(dict.fromkeys(names))}: {why}" for why, names in absent.items())]


def three(value: float) -> str:
    """Three digits."""
    return f"{value:,.0f}" if value >= 99.95 else f"{value:#.3g}"


def count(number: int, noun: str) -> str:
    """Number and noun: ``2 threads``."""
    return f"{number:,} {noun}" + "s" * (number != 1)


def time_text(seconds: float) -> str:
    """Three digits with a unit."""
    unit, factor = next(((u, f) for u, f in (("s", 1.0), ("ms", 1e3)) if seconds * f >= 0.9995), ("µs", 1e6))
    return f"{three(seconds * factor)} {unit}"


def bytes_text(number: float) -> str:
    """Three digits with a unit, of 1000."""
    unit, factor = next(((u, f) for u, f in (("GB", 1e9), ("MB", 1e6)) if number >= 0.9995 * f), ("kB", 1e3))
    return f"{three(number / factor)} {unit}"


def ratio_text(ratio: Ratio) -> str:
    """``7.74 [7.06, 8.21]``."""
    value, low, high = (three(x) if x >= 0.995 else f"{x:.2f}" for x in (ratio.value, ratio.low, ratio.high))
    return f"{value} [{low}, {high}]"


def spread_text(timing: Timing) -> str:
    """Median with half the interquartile range: ``1.05 s ±2 %, 3 rounds (!)``."""
    few = f", {len(timing.seconds)} rounds" if len(timing.seconds) < FEW else ""
    half = 50 * timing.iqr / timing.median
    return f"{time_text(timing.median)} ±{half:.0f} %{few}" + " (!)" * timing.unsteady


def ratio_cell(ratio: Ratio) -> Text:
    """A ratio in green if its interval lies above one, in red if below."""
    return Text(f"x{ratio_text(ratio)}", "bad" if ratio.high < 1 else "good" if ratio.low > 1 else "")


def markdown(suite: Suite[R], record: Record[R]) -> str:
    """The document of a record: command, machine, legend and tables."""
    parts = [f"Made by `{record.command}` on {about(record)}.", suite.legend]
    if record.unsteady:
        parts.append(f"**Unsteady**: {warning(record.unsteady)}.")
    return "\n\n".join([*parts, *_paragraphs(suite.document(record))]) + "\n"


def _paragraphs(blocks: Iterable[Block]) -> list[str]:
    """Tables and headings by themselves, other lines as lists."""
    found: list[str] = []
    items: list[str] = []
    for block in blocks:
        if isinstance(block, Table) or str(block).startswith("#"):
            found += ["\n".join(items)] if items else []
            found.append(block.markdown() if isinstance(block, Table) else str(block))
            items = []
        else:
            items.append(f"- {block}")
    return [*found, "\n".join(items)] if items else found


def write(suite: Suite[R], record: Record[R], folder: Path) -> list[str]:
    """Write numbers (JSON, CSV), the document and the picture into a folder; returns their names."""
    folder.mkdir(parents=True, exist_ok=True)
    record.machine["load_average_after"] = load_average()
    files = {
        f"{suite.stem}.json": json_text({**record.as_json(), **plain(suite.facts(record))}),
        f"{suite.stem}.csv": csv_text([flat(row) for row in record.rows]),
        f"{suite.stem}{suite.suffix}": markdown(suite, record),
    }
    for name, text in files.items():
        (folder / name).write_text(text)
    if not any(row.state in ("measured", "FAILED") for row in record.rows):
        return list(files)
    suite.picture(record, folder / f"{suite.stem}.png")
    return [*files, f"{suite.stem}.png"]


def json_text(tree: dict[str, Any]) -> str:
    """JSON with a line for each row: a thousand rows stay readable."""
    rows = ",\n".join(json.dumps(row, ensure_ascii=False) for row in tree["rows"])
    head = json.dumps({**tree, "rows": []}, indent=1, ensure_ascii=False)
    return head.replace('"rows": []', f'"rows": [\n{rows}\n ]') + "\n"


def csv_text(lines: Sequence[dict[str, Any]]) -> str:
    """Columns of all lines; those without any value are left out."""
    names = dict.fromkeys(name for line in lines for name, value in line.items() if value not in (None, ""))
    file = io.StringIO()
    writer = csv.DictWriter(file, list(names), lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(lines)
    return file.getvalue()
