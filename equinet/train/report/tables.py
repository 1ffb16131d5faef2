"""Tables of errors: of a training run, of an evaluation and its groups of frames, beside published ones."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from equinet.datasets.properties import PROPERTIES
from equinet.datasets.published import DataFile
from equinet.datasets.published.tables import KINDS
from equinet.tables import Block, Column, Table, Text
from equinet.train.breakdown import ELEMENT, Extreme
from equinet.train.metrics import Errors

SPREAD = "spread: what a model scores that knows only the mean energy and zero forces"


def error_table(
    parts: Mapping[str, Errors], title: str = "Errors", of: str = "", caption: str = SPREAD, count: str = "frames"
) -> Table:
    """Errors of several sets of frames beside the spread of their labels; a section for each property.

    Args:
        parts: Errors by the name of the set (train, valid, test; or a configuration type, an element).
        title: Heading.
        of: Heading of the names.
        caption: Line below the table.
        count: Number to show of each, "frames" or "atoms".
    """
    columns = [
        Column(""),
        Column(of, fold=True),
        Column(count, number=True),
        Column("MAE", number=True),
        Column("RMSE", number=True),
        Column("largest", number=True),
        Column("spread", number=True, tone="faint"),
    ]
    rows: list[tuple[str, ...]] = []
    for name in shown_properties(parts.values()):
        shown = {part: found for part, found in parts.items() if math.isfinite(found.mae.get(name, math.nan))}
        for n, (part, found) in enumerate(shown.items()):
            head = _with_unit(name) if n == 0 else ""
            numbers = (found.mae[name], found.rmse[name], found.largest[name], found.spread[name])
            rows.append((head, part, str(getattr(found, count)), *map(shown_number, numbers)))
        rows.append(())
    return Table(title, columns, rows[:-1], caption)


def _with_unit(name: str) -> str:
    return f"{name} ({PROPERTIES[name].shown_unit})"


def shown_number(value: float) -> str:
    """An error with two decimals; a small one with three, a large one with none."""
    return f"{value:.{3 if abs(value) < 0.995 else 2 if abs(value) < 9999.995 else 0}f}"


def group_table(groups: Mapping[str, Errors], key: str, most: int | None = None) -> Table:
    """Errors of groups of frames, or of the atoms of each element; those with the largest errors of forces, else energies, first.

    Args:
        groups: Errors by group.
        key: What the groups have in common: file, element, or a key of the frames such as config_type.
        most: Number of groups to show; None for all.
    """
    shown = shown_properties(groups.values())
    leading = "forces" if "forces" in shown else next(iter(shown), "energy")
    ranked = sorted(groups, key=lambda name: -_or_zero(groups[name].rmse.get(leading, math.nan)))
    chosen = ranked[:most]
    caption = (
        f"the {len(chosen)} of {len(groups)} with the largest errors; all of them: --by {key}"
        if len(chosen) < len(groups)
        else ""
    )
    count = "atoms" if key == ELEMENT else "frames"
    return error_table({name: groups[name] for name in chosen}, f"By {key}", key, caption, count)


def _or_zero(value: float) -> float:
    return value if math.isfinite(value) else 0.0


def extremes_table(extremes: Sequence[Extreme]) -> Table:
    """The frames with the largest errors of each property, with label and prediction there."""
    columns = [
        Column(""),
        Column("error", number=True),
        Column("label", number=True),
        Column("model", number=True),
        Column("where", fold=True),
    ]
    rows: list[tuple[str, ...]] = []
    before = ""
    for extreme in extremes:
        head = _with_unit(extreme.property) if extreme.property != before else ""
        if head and rows:
            rows.append(())
        before = extreme.property
        numbers = (extreme.error, extreme.label, extreme.prediction)
        rows.append((head, *map(shown_number, numbers), extreme.where))
    return Table("Largest errors, a frame each", columns, rows, "energies are interaction energies per atom")


def comparisons(found: Errors | None, file: DataFile | None) -> list[Block]:
    """Errors of a model beside those published for the same file: a table, and a line with the source, per publication.

    Args:
        found: Errors of the model; None without.
        file: File of a published set; None for a file of the user.
    """
    if found is None or file is None:
        return []
    blocks: list[Block] = []
    for published in file.published:
        columns = [Column("model")]
        own: list[str | Text] = [Text("this model", "strong")]
        for column in published.columns:
            unit = PROPERTIES[column.property].shown_unit
            columns.append(Column(f"{column.property}\n{KINDS[column.kind]}\n{unit}", number=True))
            own.append(shown_number(getattr(found, column.kind).get(column.property, math.nan)))
        theirs = [
            (f"{model} (published)", *map(shown_number, values))
            for model, values in published.in_shown_units(file.atoms).items()
        ]
        blocks.append(Table("Beside published errors", columns, [tuple(own), *theirs]))
        divided = any(column.unit == "meV" for column in published.columns)
        source = f"published for {file.full_name}: {published.source}; trained on {published.trained_on}"
        per_atom = f"; its energies of whole frames are divided by {file.atoms[0]} atoms" if divided else ""
        blocks.append(Text(source + per_atom, "faint"))
    return blocks


def shown_properties(found: Iterable[Errors]) -> list[str]:
    """Properties with an error in any of some sets of frames, in the order of the table."""
    several = list(found)
    return [name for name in PROPERTIES if any(math.isfinite(one.mae.get(name, math.nan)) for one in several)]
