"""RuNNer's and n2p2's ``input.data``, numbers as in the file: the format has no units of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from ase import Atoms

from equinet.datasets.keys import LabelKeys
from equinet.quotes import quoted

from .frame import attach
from .places import Place
from .required import require_units
from .streams import Window, opened
from .symbols import atomic_number
from .values import real


def read_runner(path: Path, keys: LabelKeys) -> Iterator[tuple[Atoms, LabelKeys]]:
    """Frames between ``begin`` and ``end``: ``lattice``, ``atom x y z symbol charge n fx fy fz``, ``energy``, ``charge``, ``comment``.

    Raises:
        ValueError: If no units are asked for, or a line cannot be read; names file, frame, line and remedy.
    """
    require_units(path, "the format of RuNNer and n2p2 (begin ... end)", keys, hint="Hartree and Bohr, or eV and Ang")
    number = 0
    with opened(path) as file:
        window = Window(file, path)
        while (begin := _next(window)) is not None:
            place = Place(path, number, window.line - 1)
            if begin[0] != "begin":
                raise place.error(f"here a frame begins with `begin`, but there is {quoted(' '.join(begin))}")
            yield _frame(window, place), keys
            number += 1


def _next(window: Window) -> list[str] | None:
    """Words of the next line that is neither blank nor a comment."""
    while (line := window.next_line()) is not None:
        words = line.decode(errors="replace").split()
        if words and not words[0].startswith("#"):
            return words
    return None


def _frame(window: Window, place: Place) -> Atoms:
    lattice: list[list[float]] = []
    atoms: list[list[float]] = []
    numbers: list[int] = []
    totals: dict[str, float] = {}
    comments: list[str] = []
    while (words := _next(window)) is not None and words[0] != "end":
        here = place.at(line=window.line - 1)
        key, rest = words[0], words[1:]
        try:
            if key == "atom" and len(rest) == 9:
                numbers.append(atomic_number(rest[3]))
                atoms.append([real(word) for word in (*rest[:3], rest[4], *rest[6:])])
            elif key == "lattice" and len(rest) == 3:
                lattice.append([real(word) for word in rest])
            elif key in ("energy", "charge") and len(rest) == 1 and key not in totals:
                totals[key] = real(rest[0])
            elif key == "comment":
                comments.append(" ".join(rest))
            else:
                raise ValueError(
                    f"{quoted(' '.join(words))} is none of: lattice with 3 numbers, atom with 9 words, one energy, one charge, comment, end"
                )
        except ValueError as error:
            raise here.error(str(error)) from None
    if words is None:
        raise place.error("the frame has no `end`; was the file cut short? Fetch it again")
    if not atoms or len(lattice) not in (0, 3):
        raise place.error(
            f"the frame has {len(atoms)} atoms and {len(lattice)} lattice vectors; there must be atoms, and none or three vectors"
        )
    table = np.array(atoms)
    made = Atoms(numbers=numbers, positions=table[:, :3], cell=lattice or None, pbc=bool(lattice))
    made.arrays["charges"] = table[:, 3]
    if comments:
        made.info["comment"] = "; ".join(comments)
    if "charge" in totals:
        made.info["charge"] = totals["charge"]
    attach(made, {"forces": table[:, 4:], **({"energy": totals["energy"]} if "energy" in totals else {})})
    return made
