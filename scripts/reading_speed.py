"""Speed of reading extended XYZ beside ASE's, in one process on text in memory or the page cache, and whether all values are the same.

``python scripts/reading_speed.py FILE...``; packed files are unpacked first, so that both read plain text. Processor times, best of several.
"""

from __future__ import annotations

import io
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
from ase import Atoms

from equinet.datasets.read.streams import opened
from equinet.datasets.read.xyz import iter_xyz

REPEATS = 7


def best(run: Callable[[], Any], repeats: int) -> tuple[float, Any]:
    """Least processor time of several runs, in s, and what the last gave."""
    times, found = [], None
    for _ in range(repeats):
        began = time.process_time()
        found = run()
        times.append(time.process_time() - began)
    return min(times), found


def same(mine: Atoms, theirs: Atoms) -> bool:
    """All values are the same, bit for bit; of a stress ASE keeps one triangle."""
    ours, others = (getattr(each.calc, "results", {}) for each in (mine, theirs))
    if "stress" in ours and np.shape(ours["stress"]) == (3, 3):
        ours["stress"] = ours["stress"].ravel()[[0, 4, 8, 5, 2, 1]]
    pairs = [
        (mine.arrays, theirs.arrays),
        (mine.info, theirs.info),
        (ours, others),
        ({"cell": mine.cell[:], "pbc": mine.pbc}, {"cell": theirs.cell[:], "pbc": theirs.pbc}),
    ]
    return all(
        one.keys() == other.keys() and all(equal(one[name], other[name]) for name in one) for one, other in pairs
    )


def equal(one: Any, other: Any) -> bool:
    """Two values are the same, NaN and NaN too."""
    if isinstance(one, np.ndarray) or isinstance(other, np.ndarray):
        return np.array_equal(one, other, equal_nan=np.asarray(one).dtype.kind == "f")
    return bool(one == other) or (one != one and other != other)


def measured(path: Path) -> str:
    """One line of the table."""
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder, "frames.xyz")
        with opened(path) as file:
            plain.write_bytes(file.read())
        text = plain.read_text()
        raw, count = best(lambda: sum(1 for _ in iter_xyz(plain)), REPEATS)
        structures, ours = best(lambda: [frame.atoms() for frame in iter_xyz(plain)], 3)
        peer, theirs = best(lambda: ase.io.read(io.StringIO(text), ":", format="extxyz"), 2)
    equal_to_ase = len(ours) == len(theirs) and all(same(mine, other) for mine, other in zip(ours, theirs))
    atoms = sum(map(len, ours)) / count
    us = [1e6 * each / count for each in (raw, structures, peer)]
    name = "/".join(path.parts[-2:])
    return f"{name[-38:]:38}{count:7}{atoms:7.1f}{us[0]:8.1f}{us[1]:8.1f}{us[2]:9.1f}{peer / raw:7.1f}  {'yes' if equal_to_ase else 'NO'}"


def main() -> None:
    """Print the table."""
    print("µs per frame, processor time")
    print(f"{'file':38}{'frames':>7}{'atoms':>7}{'raw':>8}{'Atoms':>8}{'ASE':>9}{'ratio':>7}  equal")
    for name in sys.argv[1:]:
        print(measured(Path(name)), flush=True)


if __name__ == "__main__":
    main()
