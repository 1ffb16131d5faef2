"""Tables and lines of text as plain data: the library makes them, ``equinet.cli.render`` draws them in a terminal."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

Tone: TypeAlias = Literal["", "strong", "good", "bad", "warning", "faint"]


@dataclass(frozen=True)
class Text:
    """Text with a tone, which a terminal may show as a colour.

    Attributes:
        text: The words.
        tone: Meaning of the colour; empty for plain text.
    """

    text: str
    tone: Tone = ""

    def __str__(self) -> str:
        return self.text


# Text in one tone, or several pieces one after the other.
Cell: TypeAlias = str | Text | tuple[str | Text, ...]


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        heading: Title; may have several lines.
        number: True for right-aligned cells.
        fold: True if a narrow terminal may break long cells; other columns keep their width.
        tone: Tone of all cells.
    """

    heading: str
    number: bool = False
    fold: bool = False
    tone: Tone = ""


@dataclass(frozen=True)
class Table:
    """A table with rows of text.

    Attributes:
        title: Line above the table; may be empty.
        columns: Columns from left to right.
        rows: Cells of each row, one per column; a row without cells is a horizontal rule.
        caption: Line below the table; may be empty.
        padding: Spaces between two columns in a terminal.

    Raises:
        ValueError: If a row has another number of cells than there are columns.

    >>> print(Table("Times", [Column("name"), Column("s", number=True)], [("first", "0.5")]).markdown())
    **Times**
    <BLANKLINE>
    | name | s |
    |---|---:|
    | first | 0.5 |
    """

    title: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    caption: str = ""
    padding: int = 1

    def __post_init__(self) -> None:
        for row in self.rows:
            if row and len(row) != len(self.columns):
                raise ValueError(f"`rows` must have {len(self.columns)} cells, one per column, got {len(row)}: {row}")

    def markdown(self) -> str:
        """Return the table in Markdown, with title and caption as paragraphs; lines of a cell become one line."""
        lines = (
            [_one_line(column.heading) for column in self.columns],
            ["---:" if c.number else "---" for c in self.columns],
        )
        texts = [f"| {' | '.join(lines[0])} |", f"|{'|'.join(lines[1])}|"]
        texts += [f"| {' | '.join(_one_line(plain(cell)) for cell in row)} |" for row in self.rows if row]
        before = [f"**{self.title}**", ""] if self.title else []
        after = ["", self.caption] if self.caption else []
        return "\n".join([*before, *texts, *after])


# Part of a report: a table, or a line of text.
Block: TypeAlias = Table | Text | str


WIDTH = 100


def as_text(blocks: Sequence[Block], width: int = WIDTH) -> str:
    """Return tables and lines as plain text, wrapped at ``width`` characters."""
    return "\n".join(
        _table_as_text(block, width) if isinstance(block, Table) else textwrap.fill(str(block), width)
        for block in blocks
    )


def _table_as_text(table: Table, width: int) -> str:
    headings = [column.heading for column in table.columns]
    rows = [[plain(cell) for cell in row] for row in table.rows if row]
    lines = [headings, *rows] if any(headings) else rows
    sizes = [max(len(line) for row in lines for line in row[k].splitlines() or [""]) for k in range(len(headings))]
    gaps = 2 * (len(sizes) - 1)
    folding = [k for k, column in enumerate(table.columns) if column.fold]
    if folding:
        excess = max(sum(sizes) + gaps - width, 0)
        sizes[folding[-1]] = max(sizes[folding[-1]] - excess, 10)
    texts = [line for row in lines for line in _row_as_text(row, sizes, table.columns)]
    if any(headings):
        head = max(heading.count("\n") + 1 for heading in headings)
        texts.insert(head, "-" * (sum(sizes) + gaps))
    around = (
        ([table.title, ""] if table.title else []),
        ([textwrap.fill(table.caption, width)] if table.caption else []),
    )
    return "\n".join([*around[0], *texts, *around[1]])


def _row_as_text(row: Sequence[str], sizes: Sequence[int], columns: Sequence[Column]) -> list[str]:
    wrapped = [
        [piece for line in cell.splitlines() for piece in textwrap.wrap(line, size)] or [""]
        for cell, size in zip(row, sizes)
    ]
    lines = []
    for pieces in itertools.zip_longest(*wrapped, fillvalue=""):
        cells = [p.rjust(n) if c.number else p.ljust(n) for p, n, c in zip(pieces, sizes, columns)]
        lines.append("  ".join(cells).rstrip())
    return lines


def plain(cell: Cell) -> str:
    """Return the text of a cell without tones."""
    return "".join(map(str, cell)) if isinstance(cell, tuple) else str(cell)


def _one_line(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
