"""Drawing of the library's tables, lines and progress in a terminal, with rich."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table as RichTable
from rich.text import Text as RichText

from equinet.tables import Block, Cell, Table, Text, Tone

STYLES: dict[Tone, str] = {
    "": "",
    "strong": "bold",
    "good": "green",
    "bad": "bold red",
    "warning": "yellow",
    "faint": "dim",
}


def render(table: Table) -> RichTable:
    """Return a table for rich; square brackets in its texts are no markup."""
    drawn = RichTable(
        title=RichText(table.title) if table.title else None,
        title_justify="left",
        caption=RichText(table.caption) if table.caption else None,
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        show_header=any(column.heading for column in table.columns),
        padding=(0, table.padding, 0, 0),
        pad_edge=False,
    )
    for column in table.columns:
        drawn.add_column(
            RichText(column.heading),
            justify="right" if column.number else "left",
            overflow="fold",
            no_wrap=not column.fold,
            style=STYLES[column.tone],
        )
    for row in table.rows:
        if row:
            drawn.add_row(*map(render_text, row))
        else:
            drawn.add_section()
    return drawn


def render_text(cell: Cell) -> RichText:
    """Return a cell or a line for rich, its tones as colours."""
    pieces = cell if isinstance(cell, tuple) else (cell,)
    parts = [(piece.text, STYLES[piece.tone]) if isinstance(piece, Text) else piece for piece in pieces]
    return RichText.assemble(*parts)


def show(console: Console, blocks: Iterable[Block]) -> None:
    """Print tables and lines one after the other; long lines are broken at the width of the console."""
    for block in blocks:
        console.print(render(block) if isinstance(block, Table) else render_text(block), highlight=False)


@contextmanager
def progress(
    console: Console, unit: str = "", *, period: float = 30.0
) -> Iterator[Callable[[int, int | None, str], None]]:
    """Show a progress bar and give the function that moves it: ``move(done, total, text)``.

    The bar is gone at the end. What is printed to the console meanwhile stands above it.

    Args:
        console: Terminal; where it is none, no bar is drawn.
        unit: Noun of what is counted, such as ``"steps"``.
        period: Time in seconds over which the rest is estimated; longer where single steps differ much.
    """
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        *([TextColumn(unit)] if unit else []),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(elapsed_when_finished=True),
        TextColumn("{task.description}", markup=False),  # last, as its length changes
    )
    # Where it draws no bar, rich would leave an empty line.
    off = not console.is_interactive
    with Progress(*columns, console=console, transient=True, speed_estimate_period=period, disable=off) as bar:
        task = bar.add_task("", total=None)

        def move(done: int, total: int | None = None, text: str = "") -> None:
            bar.update(task, completed=done, total=total, description=text)

        yield move
