"""Records of rows become JSON, CSV, Markdown and lines for a terminal, by one writer for all suites."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass, field
from pathlib import Path

from equinet.bench.core.record import Record, Row, Settings, flat, plain
from equinet.bench.core.report import Suite, about, closing, csv_text, markdown, notes, time_text, write
from equinet.bench.core.timing import Ratio, Timing
from equinet.tables import Column, Table, Text

TIMING = Timing((1.0, 1.1, 1.05), (0, 1, 2), 4, 2.0)


@dataclass(frozen=True)
class Size:
    nodes: int = 3


@dataclass(kw_only=True)
class Example(Row):
    size: Size = field(default_factory=Size)
    faster: Ratio | None = None
    errors: dict[str, float] = field(default_factory=dict)
    parts: list[Size] = field(default_factory=list)


def a_row(**more: object) -> Example:
    ratio = Ratio(2.0, 1.5, 2.5)
    given = {"problem": "p", "contender": "c", "task": "t", "timing": TIMING, "faster": ratio, "errors": {"rmse": 0.5}}
    return Example(**{**given, "parts": [Size(), Size()], **more})  # type: ignore[arg-type]


def table(record: Record[Example]) -> list[Table | Text | str]:
    return ["## All", Table("", [Column("name")], [(row.contender,) for row in record.rows]), "done"]


def picture(record: Record[Example], path: Path) -> None:
    path.write_bytes(b"picture")


SUITE: Suite[Example] = Suite(
    "some", "The legend.", table, table, picture, facts=lambda record: {"fits": {"a": 1.23456789}}
)


def test_a_row_is_flat_with_the_parts_of_its_fields_called_after_it() -> None:
    found = flat(a_row())
    assert (found["state"], found["median"], found["rounds"]) == ("measured", 1.05, 3)
    assert (found["faster"], found["faster_low"], found["size_nodes"], found["rmse"]) == (2.0, 1.5, 3, 0.5)
    assert "parts" not in found


def test_json_keeps_everything_and_every_single_time() -> None:
    found = plain(a_row())
    assert found["timing"]["seconds"] == [1.0, 1.1, 1.05]
    assert found["parts"] == [{"nodes": 3}, {"nodes": 3}]
    assert plain({"a": 1.23456789, "b": Path("x"), "c": (1, None)}) == {"a": 1.23457, "b": "x", "c": [1, None]}


def test_states_of_rows_in_words() -> None:
    untimed = a_row(timing=None)
    assert untimed.state == "not measured"
    assert a_row(timing=None, absent="not installed").state == "absent"
    assert a_row(wrong="off by 1").state == "WRONG"
    assert a_row(timing=Timing((1.0, 2.0, 2.0), (0, 1, 2), 1, 1.0)).unsteady


def test_files_of_a_suite(tmp_path: Path) -> None:
    record = Record("equinet bench some", Settings(), rows=[a_row(), a_row(contender="d")])
    assert write(SUITE, record, tmp_path) == ["some.json", "some.csv", "some_table.md", "some.png"]
    text = (tmp_path / "some.json").read_text()
    tree = json.loads(text)
    assert tree["fits"] == {"a": 1.23457}
    assert [row["contender"] for row in tree["rows"]] == ["c", "d"]
    assert sum(line.startswith('{"problem"') for line in text.splitlines()) == 2, "a line for each row"
    lines = list(csv.DictReader((tmp_path / "some.csv").read_text().splitlines()))
    assert [line["median"] for line in lines] == ["1.05", "1.05"]
    document = (tmp_path / "some_table.md").read_text()
    assert document.startswith("Made by `equinet bench some` on ")
    assert "The legend.\n\n## All\n\n| name |\n|---|\n| c |\n| d |\n\n- done\n" in document


def test_without_times_there_is_no_picture(tmp_path: Path) -> None:
    record = Record("", Settings(), rows=[a_row(timing=None, absent="not installed")])
    assert "some.png" not in write(SUITE, record, tmp_path)


def test_columns_without_values_are_left_out_of_the_csv() -> None:
    assert csv_text([{"a": 1, "b": None, "c": ""}, {"a": 2, "c": "x"}]) == "a,c\n1,\n2,x\n"


def test_unsteady_times_are_said_at_the_end_and_in_the_document() -> None:
    record = Record("", Settings(), rows=[a_row(timing=Timing((1.0, 2.0, 2.0), (0, 1, 2), 1, 1.0))] * 6)
    last = closing(SUITE, record)[-1]
    assert isinstance(last, Text)
    assert last.tone == "bad"
    assert str(last).startswith("UNSTEADY: the median is more than 1.3 times the minimum")
    assert "c, p, t; c, p, t; c, p, t; c, p, t and 2 more" in str(last)
    assert "**Unsteady**: the median" in markdown(SUITE, record)
    assert len(closing(SUITE, Record("", Settings(), rows=[a_row()]))) == 2


def test_notes_come_once_with_their_places_and_absent_contenders_last() -> None:
    rows = [
        a_row(absent="not installed", contender="x", timing=None),
        a_row(absent="not installed", contender="y", timing=None),
        a_row(notes=("slow",)),
        a_row(task="u", notes=("slow",)),
        a_row(task="v", failure="out of memory"),
        a_row(contender="z", wrong="off by 1"),
    ]
    assert [str(line) for line in notes(rows)] == [
        "WRONG: z, p, t: off by 1",
        "c: slow (p, t; p, u)",
        "c: out of memory (p, v)",
        "absent, x; y: not installed",
    ]


def test_machine_and_settings_in_a_sentence() -> None:
    text = about(Record("", Settings(dtype="float64", clock="cpu")))
    assert "float64, processor time, load average" in text
    assert "torch " in text


def test_times_have_three_digits_and_a_unit() -> None:
    assert [time_text(s) for s in (2.0, 0.9996, 0.0123, 4.5e-6)] == ["2.00 s", "1.00 s", "12.3 ms", "4.50 µs"]
