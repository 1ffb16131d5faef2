"""Isolated atoms among frames: by their mark, or by being alone in a large box."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence

import numpy as np
from ase import Atoms
from ase.geometry import complete_cell, minkowski_reduce

from .frames import require_finite, source

EMPTY_SPACE = 10.0  # Å to the nearest image; no bond is a third as long
# Values of `config_type` in lower case without what is no letter. The first two say that there is one atom; the others may mean other things.
MARKS = ("isolatedatom", "isolatedatoms", "isolated", "atom", "singleatom", "freeatom")
SAY_ONE_ATOM = MARKS[:2]


def is_isolated_atom(atoms: Atoms) -> bool:
    """True if a frame is a single atom in empty space.

    It is if it is marked so (``config_type=IsolatedAtom``, ``isolated_atom``, ``isolated``, ...), or holds one atom that has no periodic
    images or none within 10 Å, as plane-wave codes need.

    Raises:
        ValueError: If it is marked so but has several atoms or an image nearer than 10 Å, or has a cell that is not finite.
    """
    require_finite(atoms)
    mark = atoms.info.get("config_type")
    letters = re.sub("[^a-z]", "", mark.lower()) if isinstance(mark, str) else ""
    if letters in SAY_ONE_ATOM and len(atoms) != 1:
        raise ValueError(f"{source(atoms)}: marked as {mark}, but it has {len(atoms)} atoms; correct the frame")
    if len(atoms) != 1:
        return False
    distance = nearest_image(atoms)
    if letters in MARKS and distance < EMPTY_SPACE * (1 - 1e-9):
        raise ValueError(
            f"{source(atoms)}: marked as {mark}, but its nearest periodic image is {distance:.2f} Å away, so it is a crystal; compute it in "
            f"a box of more than {EMPTY_SPACE:g} Å, or take the mark away (`config_type`)"
        )
    return letters in MARKS or distance > EMPTY_SPACE


def nearest_image(atoms: Atoms) -> float:
    """Distance in Å of an atom from its nearest periodic image; infinite if there is none."""
    if not atoms.pbc.any() or not atoms.cell[:][atoms.pbc].any(axis=1).all():
        return math.inf
    # In a reduced cell the nearest image is one step away, however skewed the cell was.
    periodic = minkowski_reduce(complete_cell(atoms.cell), atoms.pbc)[0][atoms.pbc]
    steps = [step for step in itertools.product((-1, 0, 1), repeat=len(periodic)) if any(step)]
    return float(np.linalg.norm(np.array(steps) @ periodic, axis=1).min())


def split_isolated(frames: Sequence[Atoms]) -> tuple[list[Atoms], list[Atoms]]:
    """(ordinary frames, isolated-atom frames)."""
    ordinary: list[Atoms] = []
    isolated: list[Atoms] = []
    for atoms in frames:
        (isolated if is_isolated_atom(atoms) else ordinary).append(atoms)
    return ordinary, isolated
