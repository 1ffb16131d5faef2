"""Display of a training run in a terminal: progress bar with ETA, one line an epoch, tables."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from equinet.datasets.properties import PROPERTIES
from equinet.tables import Block, Table
from equinet.train import TrainingState

from .render import render, render_text

HEADER_EVERY = 25  # epochs


class TerminalReporter:
    """Progress bar with ETA and one line an epoch.

    Args:
        console: Terminal.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
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

    def __enter__(self) -> TerminalReporter:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def say(self, block: Block) -> None:
        """Print a line or a table."""
        drawn = render(block) if isinstance(block, Table) else render_text(block)
        self.console.print(drawn, highlight=False, soft_wrap=not isinstance(block, Table))

    def stopping(self) -> None:
        """Tell that the signal was heard."""
        with suppress(OSError):  # a terminal that hung up shows nothing
            self.console.print("stopping after this step …", style="yellow")

    def epoch_begins(self, epoch: int, epochs: int, batches: int, done: int) -> None:
        """Move the bar to the beginning of an epoch."""
        self.progress.update(
            self.task,
            description=f"epoch {epoch + 1}/{epochs}",
            total=batches * epochs,
            completed=epoch * batches + done,
        )

    def batch_done(self) -> None:
        """Move the bar by one step."""
        self.progress.advance(self.task)

    def epoch_done(self, record: dict[str, Any], state: TrainingState, improved: bool) -> None:
        """Print the line of an epoch."""
        if record["epoch"] == 1 or (record["epoch"] - 1) % HEADER_EVERY == 0:
            self.progress.console.print(_header(record), style="dim", highlight=False, soft_wrap=True)
        self.progress.console.print(_line(record, improved), highlight=False, soft_wrap=True)


def _columns(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [
        (f"{row.symbol} {row.shown_unit}", f"valid_{name}_rmse_{row.suffix}")
        for name, row in PROPERTIES.items()
        if f"valid_{name}_rmse_{row.suffix}" in record
    ]


def _header(record: Mapping[str, Any]) -> str:
    titles = "".join(f"{title:>13}" for title, _ in _columns(record))
    return f"{'epoch':>6}{'train loss':>12}{titles}{'lr':>9}{'seconds':>9}    (RMSE on valid)"


def _line(record: Mapping[str, Any], improved: bool) -> str:
    values = "".join(f"{record[key]:>13.2f}" for _, key in _columns(record))
    mark = "  best" if improved else ""
    return (
        f"{record['epoch']:>6}{record['train_loss']:>12.4g}{values}{record['learning_rate']:>9.1e}"
        f"{record['seconds']:>9.1f}{mark}"
    )
