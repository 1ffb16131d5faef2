"""Tables of the library are plain data; the command line draws them."""

from __future__ import annotations

import io
import subprocess
import sys

import pytest
from rich.console import Console

from equinet.cli.render import progress, render, render_text, show
from equinet.tables import Column, Table, Text, plain

TIMES = Table(
    "Times [ms]",
    [Column("name", fold=True), Column("median\nms", number=True)],
    [("ours", ("1.0", Text(" !", "bad"))), (), ("theirs [eager]", Text("12.5", "faint"))],
    "a | b",
)


def shown(*blocks, width=80):
    console = Console(width=width, file=io.StringIO())
    show(console, blocks)
    return console.file.getvalue()


def test_a_table_becomes_markdown():
    assert TIMES.markdown().splitlines() == [
        "**Times [ms]**",
        "",
        "| name | median ms |",
        "|---|---:|",
        "| ours | 1.0 ! |",
        "| theirs [eager] | 12.5 |",
        "",
        "a | b",
    ]
    assert Table("", [Column("a")], [("x|y\nz",)]).markdown().splitlines()[-1] == "| x\\|y z |"


def test_a_row_of_another_length_is_refused():
    with pytest.raises(ValueError, match="`rows` must have 2 cells, one per column, got 1"):
        Table("", [Column("a"), Column("b")], [("x",)])


def test_a_terminal_shows_brackets_rules_and_captions():
    printed = shown(TIMES, Text("UNSTEADY: [again]", "bad"))
    lines = [line.strip() for line in printed.splitlines()]
    assert [line for line in lines if line.strip(" ─╶╴")] == [
        "Times [ms]",
        "median",
        "name                ms",
        "ours             1.0 !",
        "theirs [eager]    12.5",
        "a | b",
        "UNSTEADY: [again]",
    ]
    assert len(render(TIMES).rows) == 2
    assert render(TIMES).rows[0].end_section


def test_numbers_keep_their_width_where_names_are_folded():
    wide = Table("", [Column("name", fold=True), Column("n", number=True)], [("word " * 8, "123,456")])
    assert "123,456" in shown(wide, width=20)


def test_tones_become_colours():
    assert render_text(("a", Text("b", "good"))).spans[-1].style == "green"
    assert plain(("a", Text("b", "good"))) == "ab"


def test_a_progress_bar_counts_and_leaves_nothing_behind():
    console = Console(width=80, file=io.StringIO(), force_terminal=True)
    with progress(console, unit="steps") as move:
        move(1, 2, "epoch [1]")
        console.print("a line above")
    text = console.file.getvalue()
    assert "epoch [1]" in text
    assert "1/2" in text
    assert "steps" in text
    assert "a line above" in text


def test_tables_need_the_standard_library_only():
    code = "import sys, equinet.tables; print([m for m in ('rich', 'torch', 'numpy') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert result.stdout.strip() == "[]"
