"""Tables of a training run."""

from __future__ import annotations

from collections.abc import Mapping

from equinet.tables import Column, Table
from equinet.train.metrics import QUANTITIES, Errors


def error_table(parts: Mapping[str, Errors], title: str = "Errors") -> Table:
    """Errors of several sets of frames beside the spread of their labels.

    Args:
        parts: Errors by the name of the set (train, valid, test).
        title: Heading.
    """
    shown = [name for name in QUANTITIES if any(found.mae[name] == found.mae[name] for found in parts.values())]
    columns = [Column(""), Column("frames", number=True)]
    for name in shown:
        unit = QUANTITIES[name][2]
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
