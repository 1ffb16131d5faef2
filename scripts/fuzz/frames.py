"""Extended-XYZ files with damaged counts, columns, cells, labels and bytes."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from child import Wrong
from models import ELEMENTS, small_potential

from equinet.datasets import read_frames, to_graphs
from equinet.datasets.frames import find_labels, has_volume

SYMBOLS = {"H": 1, "C": 6, "O": 8}
ODD_NUMBERS = (
    "nan",
    "inf",
    "-inf",
    "1e308",
    "-1e308",
    "1e-308",
    "1e15",
    "1e400",
    "0",
    "-0.0",
    "1,5",
    "0x10",
    "1_0",
    "",
    "--",
    "T",
    "1e",
    "٣",
    "1.0.0",
    "9" * 400,
)
ODD_COUNTS = (
    "0",
    "-1",
    "1000000000000",
    "1e3",
    "2.0",
    " 3 ",
    "three",
    "",
    "4",
    "2",
    "999999999999999999999999",
    "3 3",
    "0x3",
    "\x00",
    "+3",
)
ODD_CELLS = (
    "1e308 0 0 0 1e308 0 0 0 1e308",
    "1e-9 0 0 0 5 0 0 0 5",
    "0.001 0 0 0 0.001 0 0 0 100000",
    "1e6 0 0 0 1e6 0 0 0 1e6",
    "1e12 0 0 0 5 0 0 0 5",
    "0 0 0 0 0 0 0 0 0",
    "5 0 0 5 0 0 0 0 5",
    "5 0 0 0 5 0 4.9999999 0 0.0000001",
    "1 0 0 1000000 1 0 0 0 1",
    "nan 0 0 0 5 0 0 0 5",
    "5 0 0 0 5 0 0 0",
    "5 5 5",
    "-5 0 0 0 5 0 0 0 5",
    "5 0 0 0 5 0 0 0 a",
    "",
)
ODD_PROPERTIES = (
    "species:S:1:pos:R:3",
    "species:S:1:pos:R:2:forces:R:4",
    "pos:R:3:species:S:1:forces:R:3",
    "species:S:1:pos:R:3:forces:R:30",
    "species:S:1:pos:R:1000000000:forces:R:3",
    "species:S:1:pos:R:-3:forces:R:3",
    "species:S:1:pos:I:3:forces:R:3",
    "species:S:1:pos:R:3:pos:R:3",
    "species:R:1:pos:R:3:forces:R:3",
    "species:S:1:pos:R:3:forces:S:3",
    "species:S:1:pos:X:3:forces:R:3",
    "species:S:1:pos:L:3:forces:R:3",
    "Z:I:1:pos:R:3:forces:R:3",
    "species:S:1:pos:R:3:energy:R:3",
    "species:S:1:forces:R:3:pos:R:3",
    "species:S:0:pos:R:3:forces:R:3",
    "species:S:1",
    ":::",
    "",
)
ODD_FORMS: tuple[tuple[str, str], ...] = (  # of a frame's text; each means the same as before, or is refused
    ("Lattice=", "lattice="), ("Properties=", "PROPERTIES="), ("pbc=", "PBC="), (" ", "\t"), (" ", "   "), ("=", " = "), ('pbc="T T T"', "pbc=T T T"), ('"', "'"),
    ("e-", "D-"), ("H ", "h "), ("O ", "O_1 "), ("\n", "\n\n"), ("\n", "\r"), ("\n", " \n"), (".", ","), ("-", "\u2212"), (":R:", ":r:"),
)  # fmt: skip
ODD_ITEMS = (
    'energy="1 2"', "energy=-1,5", "energy=T", "energy=1e400", "energy", "energy=", 'energy="', "energy={1}", "energy=[1,2]", "energy=1 energy=2",
    'stress="0.1 5 0 0 0.1 0 0 0 0.1"', 'stress="0.1 0.1 0.1 0 0 0"', 'stress="1 2"', 'stress="nan 0 0 0 0 0 0 0 0"', 'stress="[[0,1,2],[1,0,3],[2,3,0]]"',
    "weight=-1", "weight=nan", "weight=0", 'weight="1 1"', "weight=1e308", "config_type=IsolatedAtom", "config_type=1", 'pbc="T T"', 'pbc="1 0 2"', "pbc=T", 'pbc="T T T T"',
    "positions=3", 'numbers="1 1 1"', "forces=1", 'forces="1 2 3"', "cell=3", 'Lattice="1 2 3"', "equinet_source=there", "magmoms=3", 'a="\\"', "=", "==", 'Properties="x"',
    'arrays="{}"', 'info="_JSON {\\"a\\": [1, 2]}"', 'x="_JSON [[[["', "x=" + "[" * 500, "y=" + "9" * 5000, 'charge="nan"', 'dipole="1 2"', "free_energy=3", "spacegroup=P1",
)  # fmt: skip


class Frame:
    """A frame as tokens, which can be damaged one by one, with what they say where nothing is damaged."""

    def __init__(self, source: random.Random) -> None:
        count = source.choice((1, 2, 3, 3, 5))
        self.count = str(count)
        self.cell = "6.5 0 0 0.25 7 0 0 0 8" if source.random() < 0.6 else None
        self.energy = repr(round(source.uniform(-900, 100), 6))
        self.properties = "species:S:1:pos:R:3:forces:R:3"
        self.stress = ""
        self.items: list[str] = []
        grid = source.sample([(x, y, z) for x in range(3) for y in range(3) for z in range(2)], count)
        self.rows = [
            [source.choice(tuple(SYMBOLS)), *(f"{1.1 * n + source.uniform(-0.1, 0.1):.6f}" for n in spot), *(f"{source.gauss(0, 1):.6f}" for _ in range(3))]
            for spot in grid
        ]  # fmt: skip

    def text(self, line_end: str = "\n") -> str:
        """The frame in extended XYZ."""
        items = [
            f'Lattice="{self.cell}" pbc="T T T"' if self.cell is not None else 'pbc="F F F"',
            f"Properties={self.properties}",
            f"energy={self.energy}",
        ]
        if self.stress:
            items.append(f'stress="{self.stress}"')
        source = [self.count, " ".join(items + self.items), *(" ".join(row) for row in self.rows)]
        return line_end.join(source) + line_end

    def require(self, atoms: Atoms) -> None:
        """The structure that was read has the numbers of these tokens."""
        labels = find_labels(atoms)
        _require_equal("the symbols", atoms.numbers, [SYMBOLS[row[0]] for row in self.rows])
        _require_equal("the positions", atoms.positions, [list(map(float, row[1:4])) for row in self.rows])
        _require_equal("the forces", labels.get("forces"), [list(map(float, row[4:7])) for row in self.rows])
        _require_equal("the energy", labels.get("energy"), float(self.energy))
        if self.stress:
            _require_equal(
                "the stress", labels.get("stress"), np.reshape(list(map(float, self.stress.split())), (3, 3))
            )
        if self.cell is not None:
            _require_equal("the cell", atoms.cell[:].ravel(), list(map(float, self.cell.split())))


def damaged_frames(shared: Path) -> Callable[[random.Random, Path], Callable[[], object]]:
    """Files of one to three frames; what is read must be what stands there, and a potential must be able to take it."""
    potential = small_potential()
    _use(read_frames(_written(shared / "warm.xyz", Frame(random.Random(0)).text())), potential)

    def make(source: random.Random, file: Path) -> Callable[[], object]:
        told = [Frame(source) for _ in range(source.choice((1, 1, 2, 3)))]
        exact = True  # every token says what it did when it was made, or a number in its place
        for _ in range(source.choice((0, 1, 1, 1, 2))):
            exact &= _damage(source, source.choice(told))
        text = "".join(_blank(source) + frame.text(source.choice(("\n", "\n", "\n", "\r\n"))) for frame in told)
        if source.random() < 0.2:
            exact, text = False, text.replace(*source.choice(ODD_FORMS))
        content = text.encode()
        if source.random() < 0.25:
            exact, content = False, source.choice(BYTES)(source, content)
        file.write_bytes(content)

        def case() -> None:
            read = read_frames(file)
            if exact:
                if len(read) != len(told):
                    raise Wrong(f"the file has another number of frames: {len(read)} instead of {len(told)}")
                for atoms, frame in zip(read, told):
                    frame.require(atoms)
            _use(read, potential)
            _require_usual(read)  # last: it is as good if a graph refuses them

        return case

    return make


def _written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def _blank(source: random.Random) -> str:
    """Blank lines before a frame, which mean nothing."""
    return source.choice(("", "", "", "", "\n", " \n\t\n", "\r\n"))


def _damage(source: random.Random, frame: Frame) -> bool:
    """Damage one token. True if :meth:`Frame.require` still says what must be read, if anything is."""
    what = source.choice(
        (
            "count",
            "cell",
            "energy",
            "properties",
            "item",
            "item",
            "stress",
            "number",
            "number",
            "symbol",
            "column",
            "row",
            "same",
            "exchange",
            "move",
        )
    )
    if what == "count":
        frame.count = source.choice(ODD_COUNTS)
        return _is(int, frame.count) == len(frame.rows)
    if what == "cell":
        frame.cell = source.choice(ODD_CELLS)
        return len(frame.cell.split()) == 9 and all(_is(float, number) is not None for number in frame.cell.split())
    if what == "energy":
        frame.energy = source.choice(ODD_NUMBERS)
        return _is_plain(frame.energy)
    if what == "stress":
        numbers = [source.choice(("0.1", "-2.5", "0", "5", "1e-3")) for _ in range(6)]
        xx, yy, zz, yz, xz, xy = numbers
        frame.stress = " ".join((xx, xy, xz, xy, yy, yz, xz, yz, zz))
        if source.random() < 0.5:  # not symmetric
            frame.stress = frame.stress.replace(" ", f" {source.uniform(6, 7):.3f} ", 1).rsplit(" ", 1)[0]
        frame.cell = "6.5 0 0 0.25 7 0 0 0 8"
        return True
    if what == "properties":
        frame.properties = source.choice(ODD_PROPERTIES)
        return False
    if what == "item":
        frame.items.append(source.choice(ODD_ITEMS))
        return False
    if not frame.rows:
        return False
    row = source.choice(frame.rows)
    if what == "number":
        at = source.randrange(1, len(row))
        row[at] = source.choice(ODD_NUMBERS)
        return _is_plain(row[at])
    if what == "symbol":
        row[0] = source.choice(("X", "Xx", "h", "D", "1", "119", "200", "-1", "0", "Cu1", "", "He", "é", "CA", "nan"))
        return False
    if what == "column":
        row.pop() if source.random() < 0.5 else row.append("1.0")
        return False
    if what == "exchange":  # two numbers of one atom
        first, second = source.sample(range(1, len(row)), 2) if len(row) > 2 else (0, 0)
        row[first], row[second] = row[second], row[first]
        return True
    if what == "move":  # the symbol to another column
        row.insert(source.randrange(len(row)), row.pop(0))
        return False
    if what == "row":
        frame.rows.remove(row) if source.random() < 0.5 else frame.rows.append(list(row))
        return False
    row[1:4] = source.choice(frame.rows)[1:4]  # two atoms on one spot
    return True


def _is(kind: Callable[[str], Any], text: str) -> Any:
    try:
        return kind(text)
    except ValueError:
        return None


def _is_plain(text: str) -> bool:
    """A number that every reader reads alike."""
    return text.isascii() and "_" not in text and _is(float, text) is not None


def _cut(source: random.Random, content: bytes) -> bytes:
    return content[: source.randrange(len(content) + 1)]


def _flips(source: random.Random, content: bytes) -> bytes:
    new = bytearray(content)
    for _ in range(source.choice((1, 2, 10))):
        new[source.randrange(len(new))] ^= 1 << source.randrange(8)
    return bytes(new)


def _nul(source: random.Random, content: bytes) -> bytes:
    at = source.randrange(len(content) + 1)
    return (
        content[:at]
        + source.choice((b"\0", b"\0" * 100, b"\x1a", b"\x0c", b"\xc2\xa0", b"\xe2\x80\x8b"))
        + content[at:]
    )


def _garbage(source: random.Random, content: bytes) -> bytes:
    return source.choice(
        (
            b"",
            b"\n",
            b"\n\n\n",
            b" ",
            b"\0" * 1000,
            source.randbytes(1000),
            b"3",
            b"3\n",
            b"3\n\n",
            b"\xff\xfe" + content,
            b"\xef\xbb\xbf" + content,
        )
    )


def _lines(source: random.Random, content: bytes) -> bytes:
    lines = content.splitlines(keepends=True)
    at = source.randrange(len(lines))
    lines[at : at + 1] = source.choice(
        (
            [],
            [b"\n", lines[at]],
            [lines[at], lines[at]],
            [lines[at].rstrip()],
            [b"# a comment\n", lines[at]],
            lines[at : at + 2][::-1],
        )
    )
    return b"".join(lines)


BYTES = (_cut, _flips, _garbage, _lines, _lines, _nul)


def _require_usual(read: list[Atoms]) -> None:
    for atoms in read:
        if not np.isfinite(atoms.positions).all() or not np.isfinite(atoms.cell[:]).all():
            raise Wrong("positions or cell that are not finite are read without a word")
        if len(atoms) == 0:
            raise Wrong("a frame without atoms is read without a word")
        labels = find_labels(atoms)
        if not all(np.isfinite(value).all() for value in labels.values()) or not math.isfinite(labels.weight):
            raise Wrong("labels that are not finite are read without a word")


def _require_equal(what: str, found: Any, told: Any) -> None:
    if found is None:
        raise Wrong(f"{what} got lost without a word: {told}")
    if np.shape(found) != np.shape(told) or not np.allclose(found, told, rtol=1e-12, atol=0, equal_nan=True):
        raise Wrong(f"{what} became others: {np.asarray(found).tolist()} instead of {told}")


def _use(read: list[Atoms], potential: Any) -> None:
    """Predict, as ``equinet evaluate`` does, and require numbers."""
    for atoms, graph in zip(read, to_graphs(read, potential.cutoff, ELEMENTS)):
        found = potential(graph, stress=has_volume(atoms))
        if not all(torch.isfinite(found[name]).all() for name in ("energy", "forces")):
            raise Wrong("a prediction is not finite, without a word")
