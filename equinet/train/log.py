"""What a run tells: a progress bar and one line an epoch on the terminal, one JSON line an epoch in a file."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from .interrupt import GentleInterrupt
from .metrics import QUANTITIES, Errors
from .state import TrainingState

SHORT = {"energy": "E", "forces": "F", "stress": "σ"}


class TerminalReporter:
    """Progress bar with ETA, one line an epoch, ``metrics.jsonl``, and a saved state every epoch.

    Args:
        console: Where to print.
        out: Folder of the run.
        epochs: Epochs in all.
        save: Called after every epoch with whether it was the best so far.

    Ctrl-C is heard at once and acted on between two steps; see :class:`GentleInterrupt`.
    """

    def __init__(self, console: Console, out: Path, epochs: int, save: Callable[[bool], None]) -> None:
        self.console = console
        self.metrics = out / "metrics.jsonl"
        self.epochs = epochs
        self.save = save
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("steps"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=console,
            transient=True,
        )
        self.task = self.progress.add_task("training", total=None)
        self.interrupt = GentleInterrupt(lambda: console.print("stopping after this step …", style="yellow"))

    def __enter__(self) -> TerminalReporter:
        self.progress.start()
        self.interrupt.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.interrupt.__exit__()
        self.progress.stop()

    def epoch_begins(self, epoch: int, batches: int, done: int) -> None:
        self.progress.update(
            self.task,
            description=f"epoch {epoch + 1}/{self.epochs}",
            total=batches * self.epochs,
            completed=epoch * batches + done,
        )

    def batch_done(self) -> None:
        self.progress.advance(self.task)
        self.interrupt.check()

    def epoch_done(self, record: dict[str, Any], state: TrainingState, improved: bool) -> None:
        append_json(self.metrics, record)
        if record["epoch"] == 1 or (record["epoch"] - 1) % 25 == 0:
            self.progress.console.print(self._header(record), style="dim", highlight=False, soft_wrap=True)
        self.progress.console.print(self._line(record, improved), highlight=False, soft_wrap=True)
        self.save(improved)
        self.interrupt.check()

    @staticmethod
    def _columns(record: Mapping[str, Any]) -> list[tuple[str, str]]:
        return [
            (f"{SHORT[name]} {unit}", f"valid_{name}_rmse_{suffix}")
            for name, (_, suffix, unit) in QUANTITIES.items()
            if f"valid_{name}_rmse_{suffix}" in record
        ]

    def _header(self, record: Mapping[str, Any]) -> str:
        titles = "".join(f"{title:>13}" for title, _ in self._columns(record))
        return f"{'epoch':>6}{'train loss':>12}{titles}{'lr':>9}{'seconds':>9}    (RMSE on valid)"

    def _line(self, record: Mapping[str, Any], improved: bool) -> str:
        values = "".join(f"{record[key]:>13.2f}" for _, key in self._columns(record))
        mark = "  best" if improved else ""
        return (
            f"{record['epoch']:>6}{record['train_loss']:>12.4g}{values}{record['learning_rate']:>9.1e}"
            f"{record['seconds']:>9.1f}{mark}"
        )


def append_json(path: str | os.PathLike[str], record: Mapping[str, Any]) -> None:
    """Add one line to a JSON-lines file."""
    with open(path, "a") as file:
        file.write(json.dumps(dict(record)) + "\n")


def write_json(path: str | os.PathLike[str], record: Mapping[str, Any]) -> None:
    """Write a JSON file, indented."""
    Path(path).write_text(json.dumps(dict(record), indent=1) + "\n")


def error_table(parts: Mapping[str, Errors], title: str = "Errors") -> Table:
    """Errors of several sets of frames beside the spread of their labels, to be printed by rich.

    Args:
        parts: Name of each set (train, valid, test) and its errors.
        title: Heading.
    """
    table = Table(title=title, caption="spread: what a model scores that knows only the mean energy and zero forces")
    table.add_column("")
    table.add_column("frames", justify="right")
    shown = [name for name in QUANTITIES if any(found.mae[name] == found.mae[name] for found in parts.values())]
    for name in shown:
        unit = QUANTITIES[name][2]
        for kind in ("MAE", "RMSE", "spread"):
            table.add_column(f"{name}\n{kind}\n{unit}", justify="right", style="dim" if kind == "spread" else None)
    for part, found in parts.items():
        cells = [f"{value[name]:.2f}" for name in shown for value in (found.mae, found.rmse, found.spread)]
        table.add_row(part, str(found.frames), *cells)
    return table
