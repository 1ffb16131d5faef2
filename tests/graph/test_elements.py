"""Symbols and radii by atomic number are ASE's."""

import numpy as np
from ase.data import chemical_symbols, covalent_radii

from equinet.graph.elements import COVALENT_RADII, SYMBOLS


def test_symbols_are_those_of_ase():
    assert list(SYMBOLS) == chemical_symbols


def test_covalent_radii_are_those_of_ase():
    assert len(COVALENT_RADII) == len(SYMBOLS)
    np.testing.assert_array_equal(COVALENT_RADII, covalent_radii[: len(SYMBOLS)])
