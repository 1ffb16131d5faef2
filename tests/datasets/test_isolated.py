"""Isolated atoms: by any common spelling of their mark, or by being alone, and never in a small cell."""

from __future__ import annotations

import pytest
from ase import Atoms

from equinet.datasets import is_isolated_atom

SPELLINGS = ("IsolatedAtom", "isolated_atom", "isolated atom", "Isolated", "isolated-atom", "ISOLATED_ATOM", "atom")


def atom(box: float | None, mark: object = None) -> Atoms:
    atoms = Atoms("Cu") if box is None else Atoms("Cu", cell=[box] * 3, pbc=True)
    if mark is not None:
        atoms.info["config_type"] = mark
    return atoms


@pytest.mark.parametrize("mark", SPELLINGS)
def test_every_common_spelling_marks_an_isolated_atom(mark: str) -> None:
    assert is_isolated_atom(atom(10.0, mark))
    assert is_isolated_atom(atom(None, mark))


@pytest.mark.parametrize("mark", SPELLINGS)
def test_a_marked_atom_in_a_small_periodic_cell_is_refused(mark: str) -> None:
    with pytest.raises(ValueError, match=rf"marked as {mark}, but its nearest periodic image is 2\.50 Å away"):
        is_isolated_atom(atom(2.5, mark))


def test_an_atom_alone_is_isolated_without_a_mark() -> None:
    assert is_isolated_atom(atom(None))
    assert is_isolated_atom(atom(12.0))
    assert not is_isolated_atom(atom(10.0))
    assert not is_isolated_atom(atom(2.5, "bulk"))
    assert not is_isolated_atom(atom(2.5, 3))


@pytest.mark.parametrize(("mark", "refused"), [("isolated_atom", True), ("IsolatedAtom", True), ("isolated", False), ("atom", False)])  # fmt: skip
def test_several_atoms_are_none_whatever_they_are_marked_as(mark: str, refused: bool) -> None:
    molecule = Atoms("H2", [[0, 0, 0], [0, 0, 0.7]], info={"config_type": mark})
    if refused:
        with pytest.raises(ValueError, match=f"marked as {mark}, but it has 2 atoms"):
            is_isolated_atom(molecule)
    else:
        assert not is_isolated_atom(molecule)
