"""Tables of a training run."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from equinet.datasets.properties import PROPERTIES
from equinet.tables import Column, Table
from equinet.train.metrics import Errors


def error_table(parts: Mapping[str, Errors], title: str = "Errors") -> Table:
    """Errors of several sets of frames beside the spread of their labels.

    Args:
        parts: Errors by the name of the set (train, valid, test).
        title: Heading.
    """
    shown = shown_properties(parts.values())
    columns = [Column(""), Column("frames", number=True)]
    for name in shown:
        unit = PROPERTIES[name].shown_unit
        for kind in ("MAE", "RMSE", "spread"):
            columns.append(Column(f"{name}\n{kind}\n{unit}", number=True, tone="faint" if kind == "spread" else ""))
    rows = [
        (
            part,
            str(found.frames),
            *(f"{value[name]:.2f}" for name in shown for value in (found.mae, found.rmse, found.spread)),
        )
        for part, found in parts.items()
    ]
    return Table(title, columns, rows, "spread: what a model scores that knows only the mean energy and zero forces")


def shown_properties(found: Iterable[Errors]) -> list[str]:
    """Properties with an error in any of some sets of frames, in the order of the table."""
    several = list(found)
    return [name for name in PROPERTIES if any(math.isfinite(one.mae.get(name, math.nan)) for one in several)]
