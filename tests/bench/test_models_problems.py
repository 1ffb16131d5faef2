"""Structures and architectures by name."""

from __future__ import annotations

import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.io import write

from equinet.bench.models.pair import mean_neighbors, sample_of
from equinet.bench.models.problems import (
    MODELS,
    SILICON,
    find_architecture,
    find_problem,
    molecules,
    require_elements,
    silicon,
)
from equinet.checkpoint import save_potential
from equinet.graph import from_atoms


def test_acetylacetone_is_a_molecule():
    frames = molecules(4).frames
    assert [frame.get_chemical_formula() for frame in frames] == ["C5H8O2"] * 4
    for frame in frames:
        nearest = (frame.get_all_distances() + 9 * np.eye(15)).min(axis=1)
        assert nearest.min() > 0.75
        assert nearest.max() < 1.6, "an atom is bonded to nothing"
    assert not np.allclose(frames[0].positions, frames[1].positions)


def test_structures_are_the_same_every_time():
    assert np.array_equal(silicon(2).frames[0].positions, silicon(2).frames[0].positions)


def test_silicon_is_diamond_a_little_disturbed():
    (atoms,) = silicon(2).frames
    assert len(atoms) == silicon(2).atoms == 64
    assert atoms.get_volume() == pytest.approx((2 * SILICON) ** 3)
    edges = from_atoms(atoms, 3.0).edge_index.shape[1]
    assert edges == 4 * 64


def test_a_file_is_one_batch_of_structures(tmp_path):
    path = tmp_path / "frames.xyz"
    write(path, [molecule("H2O"), molecule("CH4")])
    problem = find_problem(str(path))
    assert (problem.name, problem.atoms, problem.elements) == ("frames.xyz", 8, (1, 6, 8))


def test_unknown_structures_and_models_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no file and none of the built-in structures: molecules, si64, si512"):
        find_problem("si_65")
    (tmp_path / "notes.xyz").write_text("what is this")
    with pytest.raises(ValueError, match="cannot be read as structures"):
        find_problem(str(tmp_path / "notes.xyz"))
    write(tmp_path / "atom.xyz", molecule("H"))
    with pytest.raises(ValueError, match="no structure with two atoms or more"):
        find_problem(str(tmp_path / "atom.xyz"))
    with pytest.raises(ValueError, match=r"`64x1o` is no model: give one of 64x0e, 64x0e\+1o"):
        find_architecture("64x1o")


def test_an_architecture_comes_by_name_from_a_configuration_or_from_a_trained_model(tmp_path, potential):
    assert find_architecture("64x0e+1o").config == MODELS["64x0e+1o"]
    other = find_architecture("96x0e+1o+2e+3o").config
    assert (other.channels, other.max_l) == (96, 3)
    (tmp_path / "mine.toml").write_text('[data]\ntrain = "x.xyz"\n[model]\nchannels = 12\n')
    assert find_architecture(str(tmp_path / "mine.toml")).config.channels == 12
    save_potential(potential, tmp_path / "mine.eqn")
    found = find_architecture(str(tmp_path / "mine.eqn"))
    assert found.config == potential.model.config
    with pytest.raises(ValueError, match="does not know Si of `silicon 64`"):
        require_elements(tmp_path / "mine.eqn", [silicon(2)])


def test_a_piece_of_a_large_structure_is_the_atoms_around_the_first():
    atoms = bulk("Cu", cubic=True).repeat(4)
    piece = sample_of(atoms)
    assert len(piece) == 64
    assert not piece.pbc.any()
    assert (
        piece.get_distances(0, range(1, 64)).max() <= np.sort(atoms.get_distances(0, range(256), mic=True))[63] + 1e-9
    )
    assert mean_neighbors([piece], 3.0) > 6
    small = molecule("H2O")
    assert sample_of(small) is small


def test_structures_without_neighbours_are_refused():
    with pytest.raises(ValueError, match=r"no two atoms of the structures are within 0\.5 Å"):
        mean_neighbors([molecule("H2O")], 0.5)


def test_silicon_of_any_whole_number_of_cells() -> None:
    assert find_problem("si216").atoms == 216
    with pytest.raises(ValueError, match="`si100` is no whole number of cells; the nearest is si64"):
        find_problem("si100")


@pytest.mark.parametrize("name", ["0x0e", "x0e", "64x0e+2e", "64x", "ax0e"])
def test_what_is_no_size_of_a_model(name: str) -> None:
    with pytest.raises(ValueError, match="is no model: give one of"):
        find_architecture(name)
