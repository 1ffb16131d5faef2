"""Tables and lines of a data report, for one screen of 80 columns, and the few of them that precede a training."""

from __future__ import annotations

import os
from collections.abc import Sequence

from equinet.quotes import shortened
from equinet.tables import Block, Column, Table, Text

from .report import MOST_VALUES, DataReport, PartReport, Range, UnusedKey

MOST_ROWS = 8  # of a table; what is left out is counted below it


def blocks(report: DataReport) -> list[Block]:
    """Return the whole report: files and labels, unused keys, ranges by type, shortest distances, duplicates, outliers."""
    lines: list[Block] = [_parts(report.parts)]
    elements = sorted({symbol for part in report.parts for symbol in part.elements})
    lines.append(f"elements    {' '.join(elements)}")
    e0s = ", ".join(f"{symbol} {energy:.4f}" for symbol, energy in report.e0s.items())
    lines.append(
        f"E0          {f'{e0s} eV (isolated atoms)' if e0s else 'no isolated atoms; least squares decides them'}"
    )
    if report.neighbours is not None:
        lines.append(f"neighbours  {report.neighbours:.1f} within {report.cutoff:g} Å")
    lines += _repeats(report)
    if report.unused:
        lines.append(_unused(report.unused))
    lines += [_kinds(report), _contacts(report)]
    if report.outliers:
        lines.append(_outliers(report))
    return lines


def brief(report: DataReport) -> list[Block]:
    """Return the lines that a training shows beside its own: unused keys, duplicates, the worst outliers."""
    lines: list[Block] = []
    if report.unused:
        names = ", ".join(f"{key.name}{_many(key)}" for key in report.unused[:MOST_ROWS])
        more = len(report.unused) - MOST_ROWS
        lines.append(f"not used    {names}{f' and {more} more' if more > 0 else ''}")
    lines += _repeats(report)
    if report.outliers:
        worst = "; ".join(f"{row.frame}: {row.quantity} {row.value}" for row in report.outliers[:2])
        lines.append(Text(f"far out     {worst}", "warning"))
    return lines


def _many(key: UnusedKey) -> str:
    if key.per == "atom":
        return " (per atom)"
    return f" ({key.distinct}{' or more' if key.distinct == MOST_VALUES else ''} values)" if key.distinct > 1 else ""


def _repeats(report: DataReport) -> list[Block]:
    lines: list[Block] = [
        Text(
            f"duplicates  {_frames(count)} of {_short(part)} repeat{'s' if count == 1 else ''} earlier ones of it",
            "warning",
        )
        for part, count in report.duplicates.items()
    ]
    for pair, count in report.shared.items():
        first, second = pair.split(", ", 1)
        lines.append(
            Text(
                f"duplicates  {_frames(count)} of {_short(second)} {'is' if count == 1 else 'are'} in {_short(first)}, too",
                "warning",
            )
        )
    return lines


def _frames(count: int) -> str:
    return "1 frame" if count == 1 else f"{count} frames"


def _short(name: str) -> str:
    return os.path.basename(name) or name


def _parts(parts: Sequence[PartReport]) -> Table:
    labels = list(dict.fromkeys(name for part in parts for name in part.labels))
    columns = [Column("file", fold=True), Column("format"), Column("frames", number=True), Column("atoms", number=True)]
    columns += [Column("periodic"), *(Column(name, number=True) for name in labels)]
    rows = [
        (
            _short(part.name),
            part.format or "-",
            f"{part.frames}",
            f"{part.smallest}" if part.smallest == part.largest else f"{part.smallest}-{part.largest}",
            _directions(part),
            *(f"{part.labels.get(name, 0)}" for name in labels),
        )
        for part in parts
    ]
    return Table("", columns, rows)


def _directions(part: PartReport) -> str:
    if sum(count > 0 for count in part.periodic) == 1:
        return f"{next(k for k, count in enumerate(part.periodic) if count)}D"
    return " ".join(f"{k}D:{count}" for k, count in enumerate(part.periodic) if count)


def _unused(keys: Sequence[UnusedKey]) -> Table:
    columns = [Column("not used"), Column("of"), Column("frames", number=True), Column("values", fold=True)]
    rows = [
        (
            key.name,
            key.per,
            str(key.frames),
            f"{key.distinct}{'+' if key.distinct >= 20 else ''}: {', '.join(key.examples)}" if key.distinct else "",
        )
        for key in keys[:MOST_ROWS]
    ]
    return Table("", columns, rows, caption=_left_out(len(keys)))


def _left_out(count: int) -> str:
    return f"and {count - MOST_ROWS} more; --json holds all" if count > MOST_ROWS else ""


def _kinds(report: DataReport) -> Table:
    columns = [Column("type"), Column("frames", number=True), Column("E spread\nmeV/atom", number=True)]
    columns += [Column("from .. to\nmeV/atom", number=True), Column("F rms\neV/Å", number=True)]
    columns += [Column("largest\neV/Å", number=True), Column("P from .. to\nGPa", number=True)]
    rows = [
        (
            shortened(kind.name, 14) or "-",
            str(kind.frames),
            f"{1e3 * kind.energy.spread:.3g}" if kind.energy else "-",
            _ends(kind.energy, 1e3, 0),
            f"{kind.force.median:.2f}" if kind.force else "-",
            f"{kind.force.largest:.2f}" if kind.force else "-",
            _ends(kind.pressure, 1.0, 1),
        )
        for kind in report.kinds[:MOST_ROWS]
    ]
    caption = f"E: beside a robust fit of one energy for each element. {_left_out(len(report.kinds))}".strip()
    return Table("", columns, rows, caption=caption)


def _ends(found: Range | None, factor: float, digits: int) -> str:
    return f"{factor * found.smallest:.{digits}f} .. {factor * found.largest:.{digits}f}" if found else "-"


def _contacts(report: DataReport) -> Table:
    columns = [
        Column("shortest"),
        Column("Å", number=True),
        Column("covalent radii", number=True),
        Column("in", fold=True),
    ]
    rows = [
        (
            f"{row.first}-{row.second}",
            f"{row.distance:.3f}",
            f"{row.distance / row.covalent:.2f} x {row.covalent:.2f}",
            _short(row.frame),
        )
        for row in report.contacts[:MOST_ROWS]
    ]
    return Table("", columns, rows, caption=_left_out(len(report.contacts)))


def _outliers(report: DataReport) -> Table:
    columns = [
        Column("far out"),
        Column("value", number=True),
        Column("robust spreads", number=True),
        Column("in", fold=True),
    ]
    rows = [(row.quantity, row.value, f"{row.spreads:.0f}", _short(row.frame)) for row in report.outliers]
    return Table("", columns, rows)
