"""Extended XYZ: read as ASE reads what is right, and refused with file, frame, line and remedy where it is not."""

from __future__ import annotations

import bz2
import gzip
import lzma
import re
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms

from equinet.datasets import LabelKeys, Units, find_labels, iter_frames, read_frames, read_structure
from equinet.datasets.read.frame import Frame
from equinet.datasets.read.xyz import iter_xyz

CELL = 'Lattice="5 0 0 0.5 6 0 0 0 7"'
HEAD = f"{CELL} Properties=species:S:1:pos:R:3:forces:R:3"
ROWS = "H 0 0 0.25 1 2 3\nO 1e-1 -2.5 3 0.5 0 -1\n"
GOOD = f"2\n{HEAD} energy=-1.5\n{ROWS}"


def one(path: Path, text: str | bytes, *, native: bool = True) -> Frame:
    """The last frame of a text, behind a good one, so that machine code is tried."""
    path.write_bytes(GOOD.encode() + (text.encode() if isinstance(text, str) else text))
    first, frame = iter_xyz(path, native=native)
    assert first.info == {"energy": -1.5}
    return frame


@pytest.fixture(params=[True, False], ids=["native", "python"])
def native(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def test_a_file_of_ase_reads_as_ase_reads_it(tmp_path: Path, native: bool) -> None:
    source = np.random.default_rng(0)
    frames = []
    for n in range(20):
        atoms = Atoms(
            "CuOH"[: 2 + 2 * (n % 2)],
            source.normal(size=(1 + n % 2 + n % 2, 3)),
            cell=source.normal(size=(3, 3)) + 5 * np.eye(3),
            pbc=n % 3 > 0,
        )
        atoms.info |= {
            "id": n,
            "name": f"frame {n}",
            "spin": 0.5 * n,
            "flag": n % 2 == 0,
            "vector": source.normal(size=4),
            "table": source.normal(size=(2, 2)),
        }
        atoms.arrays["tags"] = np.arange(len(atoms))
        atoms.arrays["fixed"] = np.arange(len(atoms)) % 2 == 0
        atoms.arrays["kind"] = np.array(["a", "bc", "d"][: len(atoms)])
        atoms.arrays["momenta"] = source.normal(size=(len(atoms), 3))
        atoms.info |= {
            "stress": source.normal(size=(3, 3)),
            "virial": source.normal(size=(3, 3)),
            "energy": source.normal(),
        }
        atoms.arrays["forces"] = source.normal(size=(len(atoms), 3))
        frames.append(atoms)
    path = tmp_path / "a.xyz"
    ase.io.write(path, frames, format="extxyz")
    expected = ase.io.read(path, ":", format="extxyz")
    for theirs, frame in zip(expected, iter_xyz(path, native=native), strict=True):
        mine = frame.atoms()
        np.testing.assert_array_equal(mine.cell[:], theirs.cell[:])
        assert mine.pbc.tolist() == theirs.pbc.tolist()
        assert mine.arrays.keys() == theirs.arrays.keys()
        assert mine.info.keys() == theirs.info.keys()
        assert mine.calc.results.keys() == theirs.calc.results.keys()
        mine.calc.results["stress"] = mine.calc.results["stress"].ravel()[[0, 4, 8, 5, 2, 1]]  # ASE keeps one triangle
        for ours, others in (
            (mine.arrays, theirs.arrays),
            (mine.info, theirs.info),
            (mine.calc.results, theirs.calc.results),
        ):
            for name in ours:
                np.testing.assert_array_equal(ours[name], others[name], err_msg=name)


@pytest.mark.parametrize(
    "change",
    [
        ("Lattice=", "lattice="), ("Lattice=", "LATTICE = "), ("Properties", "properties"), ("\n", "\r\n"), (" ", "\t"), ("H 0", "   H  0"),
        (CELL, 'Lattice="5.0D+00 0 0 5D-1 6 0 0 0 7"'), ("0.25 1 2", "2.5D-01 1 2"), (CELL, f'{CELL} pbc="T T T"'), (CELL, f"{CELL} pbc=T"),
        (CELL, f"{CELL} pbc=T T T"), (CELL, f"{CELL} PBC=[1, 1, 1]"), (CELL, "Lattice={5 0 0 0.5 6 0 0 0 7}"), (CELL, "Lattice=[5, 0, 0, 0.5, 6, 0, 0, 0, 7]"),
    ],
)  # fmt: skip
def test_what_means_the_same_reads_the_same(tmp_path: Path, native: bool, change: tuple[str, str]) -> None:
    text = GOOD.replace(*change)
    assert text != GOOD
    frame = one(tmp_path / "a.xyz", text, native=native)
    (expected, *_) = iter_xyz(tmp_path / "a.xyz")
    np.testing.assert_array_equal(frame.cell, expected.cell)
    np.testing.assert_array_equal(frame.positions, expected.positions)
    np.testing.assert_array_equal(frame.arrays["forces"], expected.arrays["forces"])
    assert (frame.pbc, frame.info) == (expected.pbc, expected.info) == ((True, True, True), {"energy": -1.5})


@pytest.mark.parametrize(
    "text", ["\n" + GOOD, "  \n\t\n" + GOOD, GOOD + "\n\n", GOOD.rstrip("\n"), GOOD.replace("\n", "\r\n") + "\r\n"]
)
def test_blank_lines_between_frames_and_at_the_end_do_not_count(tmp_path: Path, native: bool, text: str) -> None:
    assert len(one(tmp_path / "a.xyz", text, native=native)) == 2


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.xyz").write_bytes(b"\xef\xbb\xbf" + GOOD.encode())
    assert len(read_frames(tmp_path / "a.xyz")) == 1
    (tmp_path / "a.xyz").write_bytes(GOOD.encode("utf-16"))
    with pytest.raises(ValueError, match=r"a\.xyz is in UTF-16; save it as UTF-8"):
        read_frames(tmp_path / "a.xyz")


@pytest.mark.parametrize(
    ("item", "value"),
    [
        ("a=1", 1), ("a=-2.5", -2.5), ("a=1e3", 1000.0), ("a=1.0D+02", 100.0), ("a=T", True), ("a=False", False), ("a", True), ('a="T F"', [True, False]),
        ('a="1 2 3"', [1, 2, 3]), ("a={1 2.5}", [1, 2.5]), ("a=[1,2]", [1, 2]), ("a=[[1,2],[3,4]]", [[1, 2], [3, 4]]), ('a="_JSON [[1.5], [2]]"', [[1.5], [2]]),
        (r'a="_JSON {\"b\": [1]}"', {"b": [1]}), ("a=word", "word"), ('a="two words = one"', "two words = one"), (r'a="say \"so\""', 'say "so"'), ("a='x y'", "x y"),
        ("a=b=c", "b=c"), ("a=1D2", "1D2"), ("a=12_3", "12_3"), ("uid=007", "007"), ("a=99999999999999999999", 1e20), ('a=""', ""), ("a=C[C@H]O", "C[C@H]O"),
        ('a="True story"', "True story"), ("a=None", "None"), ("a=mp-1234", "mp-1234"), ("virial=\"1 2 3 4 5 6 7 8 9\"", [[1, 4, 7], [2, 5, 8], [3, 6, 9]]),
        ("virials=\"1 2 3 4 5 6\"", [1, 2, 3, 4, 5, 6]), ("'a b'=3", 3), ("a-b.c=3", 3), ("a = 3", 3), ('a="1.5 x"', "1.5 x"),
    ],
)  # fmt: skip
def test_items_have_the_values_that_they_say(tmp_path: Path, item: str, value: object) -> None:
    frame = one(tmp_path / "a.xyz", GOOD.replace("energy=-1.5", item))
    (key,) = frame.info
    found = frame.info[key]
    assert (found.tolist() if isinstance(found, np.ndarray) else found) == value
    assert type(found) is type(value) or isinstance(found, np.ndarray)


def test_a_comment_without_items_is_kept_as_text(tmp_path: Path) -> None:
    frame = one(tmp_path / "a.xyz", "1\nBob's cell, drawn by hand\nH 0 0 1\n")
    assert frame.info == {"comment": "Bob's cell, drawn by hand"}
    assert one(tmp_path / "a.xyz", "1\n\nH 0 0 1\n").info == {}


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [("1 2 3 4 5 6", [1, 2, 3, 4, 5, 6]), ("1 2 3 2 4 5 3 5 6", [1, 4, 6, 5, 3, 2])],
)
def test_six_and_nine_numbers_of_stress_are_read(tmp_path: Path, numbers: str, expected: list[float]) -> None:
    path = tmp_path / "a.xyz"
    path.write_text(GOOD.replace("energy=-1.5", f'stress="{numbers}"'))
    assert read_frames(path)[0].get_stress().tolist() == expected


def test_deuterium_and_tritium_are_hydrogen_of_their_mass(tmp_path: Path) -> None:
    frame = one(
        tmp_path / "a.xyz",
        GOOD.replace("H 0", "D 0").replace("O 1e-1", "T 1e-1").replace("2\n", "3\n") + "O 0 0 0 0 0 0\n",
    )
    assert frame.numbers.tolist() == [1, 1, 8]
    assert frame.atoms().get_masses().tolist() == [2.014, 3.016, 15.999]
    (atoms,) = read_frames([tmp_path / "a.xyz"])[1:]
    assert atoms.get_masses()[0] == 2.014
    own = (
        GOOD.replace("H 0", "D 0")
        .replace("forces", "forces:R:3:masses:R:1", 1)
        .replace(":R:3:masses:R:1:R:3", ":R:3:masses:R:1")
    )
    own = own.replace("1 2 3\n", "1 2 3 2.5\n").replace("0 -1\n", "0 -1 16\n")
    assert one(tmp_path / "a.xyz", own).atoms().get_masses().tolist() == [2.5, 16]


def test_atomic_numbers_are_as_good_as_symbols(tmp_path: Path, native: bool) -> None:
    text = f"1\n{CELL} Properties=Z:I:1:pos:R:3:species:S:1\n8 0 0 0 O\n"
    assert one(tmp_path / "a.xyz", text, native=native).numbers.tolist() == [8]
    with pytest.raises(ValueError, match=r"frame 1, line 7: symbol and atomic number are of different elements"):
        one(tmp_path / "a.xyz", text.replace("8 0 0 0 O", "8 0 0 0 H"), native=native)


def test_move_masks_are_constraints(tmp_path: Path) -> None:
    text = "2\nProperties=species:S:1:pos:R:3:move_mask:L:{}\nH 0 0 0 {}\nH 0 0 1 {}\n"
    (fixed,) = one(tmp_path / "a.xyz", text.format(1, "F", "T")).atoms().constraints
    assert fixed.index.tolist() == [0]
    assert len(one(tmp_path / "a.xyz", text.format(3, "F T T", "T T T")).atoms().constraints) == 2
    with pytest.raises(ValueError, match="`move_mask` must have one or three columns, got 2"):
        one(tmp_path / "a.xyz", text.format(2, "F T", "T T")).atoms()


WRONG: list[tuple[str, str, str]] = [
    # first lines
    ("2\n", "x\n", r"line 5: here a frame begins, with its number of atoms, but there is 'x'; correct or remove it"),
    ("2\n", "-1\n", r"line 5: here a frame begins"),
    ("2\n", "0\n", r"line 5: the frame announces no atoms; correct the number or remove the frame"),
    ("2\n", "1000000000000\n", r"line 5: the frame announces 1000000000000 atoms, more than any frame has"),
    ("2\n", "3\n", r"line 5: the frame announces 3 atoms, and only 2 lines follow; was the file cut short\?"),
    ("2\n", "1\n", r"frame 2, line 8: here a frame begins, .* 'O 1e-1.*; does the frame before have more atoms than it announces\?"),
    (GOOD, "2", r"line 5: the file ends after the number of atoms, 2; was it cut short\?"),
    ("2\n", "1\n\nH 0 0 0\nVEC1 1 0 0\n", r'frame 2, line 8: .*; write the cell as Lattice="ax .* instead of VEC lines'),
    # rows
    ("3 0.5 0 -1\n", "3 0.5 0\n", r"line 8: atom 1 \(from 0\) has 6 column\(s\), but `Properties` names 7; .*The file ends there: was it cut short\?"),
    ("1 2 3\n", "1 2 3 4\n", r"line 7: atom 0 \(from 0\) has 8 column\(s\), but `Properties` names 7; correct the line or `Properties`"),
    (":forces:R:3", "", r"line 7: atom 0 \(from 0\) has 7 column\(s\), but `Properties` names 4"),
    (HEAD, CELL, r"has 7 column\(s\), but without `Properties` there are 4; name all of them .* Properties=species:S:1:pos:R:3:forces:R:3"),
    ("H 0", "\nH 0", r"line 7: the line of atom 0 \(from 0\) is blank"),
    (ROWS, "H 0 0 0 0 0 0\n2\n" + ROWS, r"line 8: here atom 1 \(from 0\) should be, but another frame seems to begin"),
    ("0.25 1", "nan 1", r"line 7: the position of atom 0 is not finite: \[.*correct or remove the frame"),
    ("0.25 1", "1_0 1", r"line 7, column 7: `pos` of atom 0 \(from 0\): '1_0' is not a number; remove the `_`"),
    ("0.25 1", "1,5 1", r"column 7: `pos` of atom 0 .*: '1,5' is not a number; decimals are written with a point"),
    ("0.25 1", "**** 1", r"'\*\*\*\*' is not a number; the number was too wide for its column"),
    ("0.25 1", "1.5-2.5 1", r"'1.5-2.5' is not a number; two numbers without a blank between them"),
    ("0.25 1", "٣ 1", r"'٣' is not a number"),
    ("0.25 1", "0x1 1", r"'0x1' is not a number"),
    ("0.25 1", "0.2\0 1", r"line 7, column 10: the line holds '\\x00', which is no text; remove it"),
    ("H 0", "\x1bH 0", r"line 7, column 1: the line holds '\\x1b'"),
    # symbols
    ("O 1e-1", "X 1e-1", r"line 8: `species` of atom 1 \(from 0\): 'X' is no symbol of an element: ghost atoms .*; remove the atom"),
    ("O 1e-1", "Gh_O 1e-1", r"'Gh_O' is no symbol of an element: ghost atoms"),
    ("O 1e-1", "Bq 1e-1", r"'Bq' is no symbol of an element: ghost atoms"),
    ("O 1e-1", "O1 1e-1", r"'O1' is no symbol of an element: a label of an atom\? Write O, and keep labels in a column of their own"),
    ("O 1e-1", "cu 1e-1", r"'cu' is no symbol of an element: write Cu if that is meant"),
    ("O 1e-1", "CU 1e-1", r"'CU' is no symbol of an element: write Cu if that is meant"),
    ("O 1e-1", "8 1e-1", r"'8' is no symbol of an element: for atomic numbers name the column `Z:I:1`"),
    ("O 1e-1", "Qq 1e-1", r"'Qq' is no symbol of an element: correct or remove the atom"),
    ("species:S:1", "Z:I:1", r"line 7, column 1: `Z` of atom 0 \(from 0\): 'H' is not a whole number of at most 18 digits"),
    (f"{HEAD} energy=-1.5\n{ROWS}", "Properties=Z:I:1:pos:R:3\n1 0 0 0\n119 0 0 0\n", r"there is no element with atomic number 119, elements have 1 to 118"),
    (f"{HEAD} energy=-1.5\n{ROWS}", "Properties=species:S:1:pos:R:3:a:L:1\nH 0 0 0 T\nH 0 0 0 yes\n", r"line 8, column 9: `a` of atom 1 .*'yes' is neither T nor F"),
    # comments
    ("energy=-1.5", "energy=-1 energy=-1", r"line 6: the key `energy` comes twice; remove or rename one"),
    ("energy=-1.5", "energy=-1 Energy=-2", r"the key `energy` comes twice \(`energy` and `Energy`\)"),
    ("energy=-1.5", "Lattice=3", r"the key `Lattice` comes twice"),
    ("energy=-1.5", "forces=3", r"`forces` is both a key of the comment and a column of the atoms; rename one of them"),
    ("energy=-1.5", "positions=3", r"`positions` is both a key"),
    ("energy=-1.5", "energy=", r"line 6, column \d+: `energy` has no value; give it one"),
    ("energy=-1.5", "a= energy=3", r"`a` has no value"),
    ("energy=-1.5", "=3", r"there is no key before the `=`; write key=value"),
    ("energy=-1.5", 'a="3', r'the " has no " that closes it; add it'),
    ("energy=-1.5", "a={3", r"the { has no } that closes it"),
    ("energy=-1.5", 'a="3"4', r'letters follow directly after the closing "; put a blank between'),
    ("energy=-1.5", "a=b'c d", r"has a quote in its middle; put the whole of it in quotes"),
    ("energy=-1.5", "a=b[1 2]", r"has a bracket without its other"),
    ("energy=-1.5", "energy", r"`energy` is T and must be a number"),
    ("energy=-1.5", "energy=1_0", r"`energy` is no number that every reader reads alike, '1_0'; remove the `_`"),
    ("energy=-1.5", 'a="_JSON [1"', r"is no JSON \(JSONDecodeError\), '\[1'"),
    ("energy=-1.5", "a=\0", r"line 6, column \d+: the line holds '\\x00'"),
    # structure
    (CELL, 'Lattice="1 2 3"', r"`Lattice` has 3 number\(s\) and must have nine in quotes"),
    (CELL, "Lattice=5 0 0", r"line 6, column 1: `Lattice` must be nine numbers in quotes"),
    (CELL, "lattice=cubic", r"`Lattice`: 'cubic' is not a number; it must be nine numbers"),
    (CELL, 'Lattice="5 0 0 0 5 0 0 0 nan"', r"the cell is not finite: .*; correct the frame"),
    (CELL, 'Lattice="5 0 0 5 0 0 0 0 5"', r"the vectors of `Lattice` do not span a cell \(without `pbc` it is periodic in all directions\)"),
    (CELL, 'pbc="T T F" Lattice="5 0 0 0 0 0 0 0 5"', r'do not span a cell \(pbc="T T F"\)'),
    (CELL, 'pbc="T T F"', r"`pbc` has a T, but there is no `Lattice`; add"),
    (CELL, f'{CELL} pbc="T T"', r"""`pbc` must be three of T and F, as in pbc="T T F", got 'T T'"""),
    (CELL, f'{CELL} pbc="1 0 2"', r"`pbc` must be three of T and F"),
    (CELL, 'cell="5 0 0 0 5 0 0 0 5"', r"the comment has `cell` and no `Lattice`; if it is the cell, write"),
    (CELL, 'Latice="5 0 0 0 5 0 0 0 5"', r"the comment has `Latice` and no `Lattice`"),
    ("species:S:1:pos:R:3", "species:S:1:pos:R", r"`Properties` must be triples name:kind:columns"),
    ("species:S:1:pos:R:3", "species:S:1", r"`Properties` has no positions; name their columns pos:R:3"),
    ("species:S:1:pos:R:3", "pos:R:3", r"`Properties` has neither symbols nor atomic numbers"),
    ("pos:R:3", "pos:R:3:pos:R:3", r"`Properties` names `pos` twice"),
    ("pos:R:3", "pos:R:2", r"`Properties`: `pos` must be pos:R:3, got 'pos:R:2'"),
    ("forces:R:3", "forces:X:3", r"the kind of `forces` must be R, I, S or L, got 'X'"),
    ("forces:R:3", "forces:R:0", r"the columns of `forces` must be a number above 0, got '0'"),
    ("forces:R:3", ":R:3", r"`Properties` has a name without letters"),
    ("forces:R:3", f"forces:R:{'9' * 18}", r"`Properties` announces 10+3 columns, more than 100000"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "message"), WRONG, ids=[message[:40] for _, _, message in WRONG])
def test_what_is_wrong_is_named_with_its_place_and_remedy(
    tmp_path: Path, native: bool, old: str, new: str, message: str
) -> None:
    text = GOOD.replace(old, new, 1)
    assert text != GOOD
    prefix = "" if message.startswith("frame") else "frame 1, .*" if not message.startswith("line") else "frame 1, "
    with pytest.raises(ValueError, match=rf"a\.xyz, {prefix}{message}"):
        list(_behind_a_good_one(tmp_path / "a.xyz", text, native))


def _behind_a_good_one(path: Path, text: str, native: bool) -> list[Frame]:
    path.write_text(GOOD + text)
    return list(iter_xyz(path, native=native))


@pytest.mark.parametrize("place", ["comment", "row"])
def test_bytes_that_are_no_utf8_are_refused(tmp_path: Path, place: str) -> None:
    text = (
        GOOD.encode().replace(b"energy", b"\xff") if place == "comment" else GOOD.encode().replace(b"O 1", b"\xffO 1")
    )
    with pytest.raises(
        ValueError, match=rf"a\.xyz, frame 1, line {6 if place == 'comment' else 8}, column \d+: the line is not UTF-8"
    ):
        one(tmp_path / "a.xyz", text)


@pytest.fixture
def peak() -> Iterator[Callable[[], int]]:
    """Most bytes that Python and numpy held since the test began."""
    tracemalloc.start()
    yield lambda: tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()


def test_a_line_without_end_is_refused_without_being_read(tmp_path: Path, peak: Callable[[], int]) -> None:
    path = tmp_path / "a.xyz.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(GOOD.encode() + b"2\n")
        for _ in range(300):
            file.write(b"a" * (1 << 20))
    with pytest.raises(
        ValueError, match=r"a\.xyz\.gz, frame 1, line 6: the line is longer than 16 MiB; is this a text file"
    ):
        list(iter_xyz(path))
    assert peak() < 64 << 20


MANY = 80_000


def write_many(path: Path, first: str = "") -> None:
    with path.open("w") as file:
        file.write(first)
        for _ in range(MANY // 1000):
            file.write(GOOD * 1000)


def test_a_wrong_number_of_atoms_does_not_read_the_whole_file_into_memory(
    tmp_path: Path, peak: Callable[[], int]
) -> None:
    path = tmp_path / "a.xyz"
    write_many(path, GOOD + GOOD.replace("2\n", "900000000\n", 1))
    with pytest.raises(
        ValueError, match=r"frame 1, line 9: here atom 2 \(from 0\) should be, but another frame seems to begin"
    ):
        list(iter_xyz(path))
    assert peak() < path.stat().st_size / 2


def test_frames_are_streamed_in_constant_memory(tmp_path: Path, peak: Callable[[], int]) -> None:
    path = tmp_path / "a.xyz"
    write_many(path)
    assert sum(len(frame) for frame in iter_xyz(path)) == 2 * MANY
    assert peak() < path.stat().st_size / 2


def test_a_frame_larger_than_a_chunk_is_read(tmp_path: Path, native: bool) -> None:
    count = 30_000
    frame = one(tmp_path / "a.xyz", f"{count}\n{HEAD}\n" + "H 0.125 0.25 0.5 1 2 3\n" * count + "\n", native=native)
    assert len(frame) == count
    assert set(frame.positions.ravel().tolist()) == {0.125, 0.25, 0.5}


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress], ids=["gz", "bz2", "xz"])
def test_packed_files_are_read_and_refused_when_damaged(tmp_path: Path, pack, request: pytest.FixtureRequest) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / f"a.xyz.{request.node.callspec.id}"
    packed = pack(GOOD.encode() * 3)
    path.write_bytes(packed)
    assert len(read_frames(path)) == 3
    path.write_bytes(packed[:-10])
    with pytest.raises(ValueError, match=rf"{re.escape(path.name)} cannot be read: .*cut short"):
        read_frames(path)
    path.write_bytes(GOOD.encode())
    with pytest.raises(ValueError, match=rf"{re.escape(path.name)} cannot be read: .*not packed as its name ends\?"):
        read_frames(path)


def test_cp2k_does_not_say_its_units(tmp_path: Path) -> None:
    path = tmp_path / "a.xyz"
    path.write_text("1\n i =        0, time =        0.000, E =       -0.5\nH 0 0 1\n")
    with pytest.raises(
        ValueError, match=r"a\.xyz: XYZ as CP2K writes it .* does not say the units .*; set `data\.units`"
    ):
        read_frames(path)
    (atoms,) = read_frames(path, LabelKeys(energy="E", units=Units(energy="Hartree")))
    assert find_labels(atoms)["energy"] == pytest.approx(-13.605693, abs=1e-5)


def test_the_last_structure_is_read_without_labels(tmp_path: Path) -> None:
    (tmp_path / "a.xyz").write_text(GOOD + GOOD.replace("0.25", "0.75"))
    atoms = read_structure(tmp_path / "a.xyz")
    assert atoms.positions[0, 2] == 0.75
    assert atoms.calc is None


def test_frames_come_one_by_one_before_what_is_wrong_later(tmp_path: Path) -> None:
    (tmp_path / "a.xyz").write_text(GOOD + "x\n")
    frames = iter_frames(tmp_path / "a.xyz")
    assert find_labels(next(frames))["energy"] == -1.5
    with pytest.raises(ValueError, match="frame 1, line 5"):
        next(frames)
