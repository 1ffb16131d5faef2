"""Machine code and Python read the same: every number rounded as Python rounds it, every frame with the same values."""

from __future__ import annotations

import random
import struct
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from equinet.datasets.read import batches, machine
from equinet.datasets.read.form import form_of
from equinet.datasets.read.scanner import CUT, FULL, UNUSUAL
from equinet.datasets.read.streams import Window, opened
from equinet.datasets.read.xyz import iter_xyz

ALL_KINDS = "species:S:1:pos:R:3:tag:S:1:n:I:2:fixed:L:1:magmom:R:1"


def scan(path: Path, text: str | bytes, columns: str) -> batches.Batch:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    with opened(path) as file:
        return batches.Batch(Window(file, path), form_of(f"Properties={columns}".encode()))


def numbers(path: Path, words: list[str]) -> np.ndarray | None:
    """Values of words as machine code reads them; None if it leaves the frame to Python."""
    text = f"{len(words)}\n\n" + "".join(f"H {word} 0 0\n" for word in words)
    batch = scan(path, text, "species:S:1:pos:R:3")
    return batch.arrays(0, len(words))["positions"][:, 0] if batch.records else None


def half_way(source: random.Random) -> str:
    """A number half way between two of 64 bits, where one wrong digit rounds to the other."""
    value = Fraction(2 * (source.getrandbits(52) | 1 << 52) + 1) * Fraction(2) ** source.randrange(-6, 6)
    digits = value.denominator.bit_length() - 1
    whole = str(value.numerator * 5**digits).zfill(digits + 1)
    return f"{whole[:-digits]}.{whole[-digits:]}" if digits else whole


def any_number(source: random.Random) -> str:
    kind = source.randrange(5)
    if kind == 0:
        return repr(source.uniform(-1, 1) * 10.0 ** source.randrange(-200, 200))
    if kind == 1:
        return f"{source.gauss(0, 10):.{source.randrange(25)}f}"
    if kind == 2:
        return f"{source.gauss(0, 1):.{source.randrange(25)}{source.choice('eE')}}"
    if kind == 3:
        return f"{source.randrange(10 ** source.randrange(1, 20))}e{source.randrange(-200, 200)}"
    return half_way(source)


def test_numbers_are_rounded_as_python_rounds_them(tmp_path: Path) -> None:
    source = random.Random(0)
    words = [any_number(source) for _ in range(1200)]
    read = 0
    for begin in range(0, len(words), 20):
        part = words[begin : begin + 20]
        if (found := numbers(tmp_path / "a.xyz", part)) is None:  # one is too long to be sure of: without it
            pairs = [(word, numbers(tmp_path / "a.xyz", [word])) for word in part]
            part = [word for word, value in pairs if value is not None]
            found = np.array([value[0] for _, value in pairs if value is not None])
        assert found.tobytes() == np.array([float(word) for word in part]).tobytes()
        read += len(part)
    assert read > 0.85 * len(words)


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("0", 0.0), ("-0.0", -0.0), ("+3", 3.0), ("5.", 5.0), ("-.5", -0.5), ("1D3", 1e3), ("1.25d-07", 1.25e-7), ("00012.50", 12.5),
        ("9007199254740993", 9007199254740992.0), ("9007199254740993.00000000000000001", 9007199254740994.0), ("18446744073709551615", 2.0**64),
        ("0.000000000000000000001234", 1.234e-21), ("1e280", 1e280), ("1e-280", 1e-280),
    ],
)  # fmt: skip
def test_numbers_at_the_edge_are_right_or_left_to_python(tmp_path: Path, word: str, value: float) -> None:
    found = numbers(tmp_path / "a.xyz", [word])
    assert found is None or struct.pack("d", found[0]) == struct.pack("d", value)
    assert found is not None or word == "9007199254740993.00000000000000001"


@pytest.mark.parametrize(
    "word",
    [
        "nan",
        "inf",
        "1_0",
        "1,5",
        "0x10",
        "--1",
        "1e",
        "e5",
        ".",
        "+",
        "1.0.0",
        "1-3",
        "٣",
        "1e400",
        "1e-320",
        "",
        "*****",
    ],
)
def test_what_is_unusual_is_left_to_python(tmp_path: Path, word: str) -> None:
    assert numbers(tmp_path / "a.xyz", [word]) is None


def test_all_kinds_of_columns_are_read(tmp_path: Path) -> None:
    text = "2\n\nCu 1 2 3 left -5 7 T 0.5\n O\t1e1 2 3 right 0 +8 F -1\r\n"
    batch = scan(tmp_path / "a.xyz", text, ALL_KINDS)
    found = batch.arrays(0, 2)
    assert found["numbers"].tolist() == [29, 8]
    assert found["positions"].tolist() == [[1, 2, 3], [10, 2, 3]]
    assert found["tag"].tolist() == ["left", "right"]
    assert found["n"].tolist() == [[-5, 7], [0, 8]]
    assert found["fixed"].tolist() == [True, False]
    assert found["magmom"].tolist() == [0.5, -1]


@pytest.mark.parametrize(
    ("text", "stopped"),
    [
        ("1\n\nH 0 0 0\n", CUT),  # no further frame
        ("1\n\nH 0 0 0\n2\n\nH 0 0 0\n", CUT),
        ("1\n\nH 0 0 0\n1\n\nH 0 0 0", CUT),  # the last line has no end
        ("1\n\nH 0 0 0\nH 0 0 0\n", UNUSUAL),
        ("1\n\nH 0 0 0\n1\n\nD 0 0 0\n", UNUSUAL),
        ("1\n\nH 0 0 0\n999999999\n\nH 0 0 0\n", CUT),
        ("1\n\nH 0 0 0\n9999999999\n\nH 0 0 0\n", UNUSUAL),
        ("1\n\nH 0 0 0\n" + "1\n\nH 0 0 0\n" * batches.MOST_FRAMES, FULL),
    ],
)
def test_a_batch_says_why_it_stopped_and_where(tmp_path: Path, text: str, stopped: int) -> None:
    batch = scan(tmp_path / "a.xyz", text, "species:S:1:pos:R:3")
    assert batch.stopped == stopped
    assert len(batch.records) == (1 if stopped != FULL else batches.MOST_FRAMES)
    assert batch.line == 1 + 3 * len(batch.records)
    assert batch.at == len("1\n\nH 0 0 0\n") * len(batch.records)


def test_nothing_outside_the_window_is_read_or_written(tmp_path: Path) -> None:
    """Every cut of a text is read to the last whole frame, and never beyond: the columns' memory ends with the rows."""
    text = "".join(f"2\nx=1\nH {n}.25 0 0\nHe -1e-3 {n} 7\n\n" for n in range(3))
    for end in range(len(text) + 1):
        batch = scan(tmp_path / "a.xyz", text[:end], "species:S:1:pos:R:3")
        assert len(batch.records) == text[:end].count("7\n")
        for frame, (*_, row, _, _) in enumerate(batch.records):
            assert batch.arrays(row, 2)["positions"][:, 0].tolist() == [frame + 0.25, -1e-3]


def test_python_and_machine_code_read_the_same_frames(tmp_path: Path) -> None:
    source = random.Random(1)
    frames = []
    for n in range(300):
        columns = source.choice(["species:S:1:pos:R:3", ALL_KINDS, "Z:I:1:pos:R:3:forces:R:3"])
        rows = {
            "species:S:1:pos:R:3": "He 1.5 2 -3",
            ALL_KINDS: "Cu 1 2 3 left -5 7 T 0.5",
            "Z:I:1:pos:R:3:forces:R:3": "8 1 2 3.25 -0.1 1d-3 9e-9",
        }
        count = source.randrange(1, 4)
        blank = "\n" * source.randrange(3)
        frames.append(f"{count}\nProperties={columns} id={n} x={n / 7}\n" + f"{rows[columns]}\n" * count + blank)
    path = tmp_path / "a.xyz"
    path.write_text("".join(frames))
    fast, slow = list(iter_xyz(path)), list(iter_xyz(path, native=False))
    assert len(fast) == len(slow) == 300
    for one, other in zip(fast, slow):
        assert (one.info, one.pbc, one.line, one.number) == (other.info, other.pbc, other.line, other.number)
        assert one.arrays.keys() == other.arrays.keys()
        pairs = [(one.numbers, other.numbers), (one.positions, other.positions)]
        for mine, theirs in [*pairs, *((one.arrays[name], other.arrays[name]) for name in one.arrays)]:
            np.testing.assert_array_equal(mine, theirs)
            assert mine.dtype.kind == theirs.dtype.kind


def test_without_llvmlite_python_reads_and_says_so_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(machine, "missing", "llvmlite cannot be imported (no wheel)")
    batches.available.cache_clear()
    path = tmp_path / "a.xyz"
    path.write_text("1\nx=1\nH 0 0 0\n" * 3)
    assert [frame.info["x"] for _ in range(2) for frame in iter_xyz(path)] == [1] * 6
    assert [record.message.partition(":")[0] for record in caplog.records] == [
        "extended XYZ is read by Python, about a tenth as fast as it can be"
    ]
    batches.available.cache_clear()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("a=1.5", "a=-2.5e-3"), ("a=1.5", "a=2"), ("a=1.5", "a=word"), ("a=1.5", 'a="1.5 2.5"'), ("a=1.5", "b=1.5"), ("a=1.5", "a=1.5 b=2"), ("a=1.5", "  a=1.5  "),
        ('a="1.5 2.5"', 'a="3.5 -4.5"'), ('a="1.5 2.5"', 'a="3.5  4"'), ('a="1.5 2.5"', 'a="3.5,4.5"'), ('a="1.5 2.5"', 'a="1.5 2.5 3.5"'), ('a="1.5 2.5"', "a=1.5"),
        ("a=word", "a=other"), ("a=word", "a=1.5"), ("a=word", 'a="two words"'), ("a=word", "a=x=y"), ("a=word", "a={x y}"), ("a=word", "a=True"), ("a=word", "a=Å"),
        ('a="two words"', 'a="3"'), ('a="two words"', r'a="say \"so\""'), ('stress="1. 2. 3. 4. 5. 6. 7. 8. 9."', 'stress="9. 2. 3. 4. 5. 6. 7. 8. 9."'),
        ('pbc="F F F" a=1.5', 'pbc="T F F" a=1.5 Lattice="5 0 0 0 5 0 0 0 5"'), ('Lattice="5 0 0 0 5 0 0 0 5"', 'Lattice="5.5 0 1e-1 0 6 0 0 0 7"'),
        ('Lattice="5 0 0 0 5 0 0 0 5" pbc="T T F"', 'Lattice="6 0 0 0 5 0 0 0 5" pbc="T T F"'), ("a=1.5 uid=1.5", "a=1.5 uid=2.50"), ("a=1.5 b=2", "a=1.5 b=3"),
    ],
)  # fmt: skip
def test_comments_of_one_form_read_as_python_reads_them(tmp_path: Path, before: str, after: str) -> None:
    rows = "Properties=species:S:1:pos:R:3\nHe 1.5 2 -3\n"
    path = tmp_path / "a.xyz"
    path.write_text("".join(f"1\n{comment} {rows}" for comment in (before, before, after, before, after, after)))
    fast, slow = list(iter_xyz(path)), list(iter_xyz(path, native=False))
    for one, other in zip(fast, slow, strict=True):
        assert repr(one.info) == repr(other.info)
        assert one.pbc == other.pbc
        np.testing.assert_array_equal(one.cell, other.cell)
    assert len(scan(path, path.read_text(), "species:S:1:pos:R:3").records) == 6


def test_a_cell_without_volume_is_refused_behind_comments_of_one_form(tmp_path: Path) -> None:
    rows = "Properties=species:S:1:pos:R:3\nHe 1.5 2 -3\n"
    path = tmp_path / "a.xyz"
    path.write_text("".join(f'1\nLattice="5 0 0 0 5 0 0 0 {c}" {rows}' for c in (5, 6, 0)))
    with pytest.raises(ValueError, match=r"a\.xyz, frame 2, line 8: the vectors of `Lattice` do not span a cell"):
        list(iter_xyz(path))
