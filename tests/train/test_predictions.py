"""Predictions written to a file: the potential's own numbers beside everything that the structures had."""

from __future__ import annotations

import gzip

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.constraints import FixAtoms
from toy_set import toy_set

from equinet.checkpoint import load_potential, save_potential
from equinet.datasets import SAMPLE, read_frames
from equinet.potential import Potential
from equinet.train import evaluate_file, predict_file, predict_frames
from equinet.train import predictions as module
from equinet.train.predictions import invariant_columns


@pytest.fixture(scope="module")
def model(make_potential, tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.eqn"
    save_potential(make_potential(), path)
    return path


@pytest.fixture
def structures(ethanol, triclinic):
    """A molecule with properties of its own, a crystal, an atom alone, and a slab."""
    ethanol.info |= {"name": "ethanol", "charge": 1}
    ethanol.arrays["site"] = np.arange(9)
    slab = triclinic.copy()
    slab.pbc = (True, True, False)
    return [ethanol, triclinic, Atoms("O"), slab]


@pytest.fixture
def predicted(model, structures, write, tmp_path):
    assert predict_file(model, write("in.xyz", structures), tmp_path / "out.xyz") == 4
    return ase.io.read(tmp_path / "out.xyz", ":")


def test_the_numbers_are_those_of_the_potential(model, structures, predicted):
    potential = load_potential(model)
    for atoms, found in zip(structures, predicted):
        expected = potential(atoms, stress=True)
        assert found.info["equinet_energy"] == pytest.approx(float(expected.energy), abs=1e-6)
        np.testing.assert_allclose(found.arrays["equinet_forces"], expected.forces.numpy(), atol=1e-6)
        if atoms.pbc.any():
            stress = expected.stress[0].numpy()
            np.testing.assert_allclose(
                found.info["equinet_stress"], stress[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]], atol=1e-7
            )
    assert ["equinet_stress" in atoms.info for atoms in predicted] == [False, True, False, True]


def test_the_frames_keep_what_they_had(structures, predicted):
    assert predicted[0].info["name"] == "ethanol"
    assert predicted[0].info["charge"] == 1
    assert predicted[0].arrays["site"].tolist() == list(range(9))
    assert "equinet_source" not in predicted[0].info
    for atoms, found in zip(structures, predicted):
        assert (found.pbc == atoms.pbc).all()
        np.testing.assert_allclose(found.positions, atoms.positions, atol=1e-8)
        np.testing.assert_allclose(found.cell[:], atoms.cell[:], atol=1e-8)


def test_labels_and_constraints_stay_and_the_forces_are_raw(model, tmp_path, write):
    frames = ase.io.read(SAMPLE["test"], ":2")
    frames[0].set_constraint(FixAtoms([0]))
    predict_file(model, write("in.xyz", frames), tmp_path / "out.xyz")
    found = ase.io.read(tmp_path / "out.xyz", ":")
    for atoms, other in zip(frames, found):
        assert other.get_potential_energy() == pytest.approx(atoms.get_potential_energy())
        np.testing.assert_allclose(
            other.get_forces(apply_constraint=False), atoms.get_forces(apply_constraint=False), atol=1e-7
        )
    assert np.abs(found[0].arrays["equinet_forces"][0]).max() > 1e-3
    assert found[0].constraints[0].index.tolist() == [0]


def test_errors_of_an_evaluation_follow_from_the_file(model, tmp_path):
    predict_file(model, SAMPLE["test"], tmp_path / "out.xyz.gz")
    with gzip.open(tmp_path / "out.xyz.gz", "rt") as file:
        frames = ase.io.read(file, ":", format="extxyz")
    differences = np.concatenate([atoms.arrays["equinet_forces"] - atoms.get_forces() for atoms in frames])
    expected = evaluate_file(model, SAMPLE["test"]).errors.rmse["forces"]
    assert 1e3 * np.sqrt(np.mean(differences**2)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("batch_edges", [1, 60, 10**6])
def test_predictions_do_not_depend_on_the_batches(model, structures, batch_edges, monkeypatch):
    potential = load_potential(model)
    sizes = []
    own = module._predicted
    monkeypatch.setattr(module, "_predicted", lambda p, batch, d: sizes.append(len(batch)) or own(p, batch, d))
    found = list(predict_frames(potential, structures, batch_edges=batch_edges))
    assert sizes == {1: [1, 1, 1, 1], 60: sizes, 10**6: [4]}[batch_edges]
    for atoms, each in zip(structures, found):
        assert each.info["equinet_energy"] == pytest.approx(float(potential(atoms).energy), abs=1e-9)


def test_descriptors_are_invariant_and_tell_atoms_apart(model, ethanol, tmp_path, write):
    turned = ethanol.copy()
    turned.rotate(40, (1, 2, 3))
    turned.positions *= [1, 1, -1]
    predict_file(model, write("in.xyz", [ethanol, turned]), tmp_path / "out.xyz", descriptors=True)
    one, other = (atoms.arrays["equinet_descriptors"] for atoms in ase.io.read(tmp_path / "out.xyz", ":"))
    np.testing.assert_allclose(one, other, atol=2e-7)
    assert one.shape == (9, 8)
    assert np.ptp(one, axis=0).max() > 0.1


def test_a_model_without_invariant_features_is_refused(potential, monkeypatch):
    from e3nn import o3

    monkeypatch.setattr(Potential, "descriptor_irreps", o3.Irreps("4x1o"))
    with pytest.raises(ValueError, match="the features of MACE are 4x1o, and none of them is invariant"):
        invariant_columns(potential)


def test_files_of_other_formats_and_published_sets_are_read(model, tmp_path, monkeypatch, triclinic):
    ase.io.write(tmp_path / "POSCAR", triclinic, format="vasp", sort=True)
    ase.io.write(tmp_path / "crystal.cif", triclinic)
    with toy_set(monkeypatch, tmp_path) as toys:
        monkeypatch.setenv("EQUINET_DATA", str(tmp_path))
        toys.put(tmp_path, "test")
        files = [tmp_path / "POSCAR", tmp_path / "crystal.cif", "toy/test"]
        moves = []
        assert predict_file(model, files, tmp_path / "out.xyz", advance=lambda *move: moves.append(move)) == 8
    found = ase.io.read(tmp_path / "out.xyz", ":")
    energies = [atoms.info["equinet_energy"] for atoms in found]
    assert found[1].info["spacegroup"] == "P 1"
    assert energies[0] == pytest.approx(energies[1], abs=1e-4)
    assert moves == [*((n, None) for n in range(1, 9)), *((n, 8) for n in range(1, 9))]


# Refused


def test_an_unknown_element_is_told_before_anything_is_predicted(model, structures, write, tmp_path, monkeypatch):
    structures[3].numbers[2] = 14
    monkeypatch.setattr(module, "predict_frames", None)
    with pytest.raises(
        ValueError, match=r"in\.xyz, frame 3: holds Si, which the model does not know \(it was made for H, C, O\)"
    ):
        predict_file(model, write("in.xyz", structures), tmp_path / "out.xyz")
    assert not (tmp_path / "out.xyz").exists()


def test_a_fault_in_the_middle_leaves_the_old_file(model, structures, write, tmp_path, monkeypatch):
    (tmp_path / "out.xyz").write_text("old")
    own = Potential.graph

    def graph(self, atoms):
        if len(atoms) == 1:
            raise ValueError("no room")
        return own(self, atoms)

    path = write("in.xyz", structures)
    monkeypatch.setattr(Potential, "graph", graph)
    with pytest.raises(ValueError, match=r"in\.xyz, frame 2: no room"):
        predict_file(model, path, tmp_path / "out.xyz", batch_edges=1)
    assert (tmp_path / "out.xyz").read_text() == "old"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["in.xyz", "out.xyz"]


def test_what_is_not_finite_is_not_written(potential, ethanol):
    potential.model.bias.data.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="the prediction is not finite"):
        list(predict_frames(potential, [ethanol]))


def test_a_frame_without_atoms_is_refused(potential):
    with pytest.raises(ValueError, match="the frame has no atoms; remove it"):
        list(predict_frames(potential, [Atoms()]))


def test_no_edges_at_a_time_are_too_few(potential, ethanol):
    with pytest.raises(ValueError, match="`batch_edges` must be 1 or more, got 0"):
        list(predict_frames(potential, [ethanol], batch_edges=0))


@pytest.mark.parametrize("name", ["out.traj", "out.db", "out"])
def test_a_format_that_cannot_hold_predictions_is_refused(model, name, tmp_path):
    with pytest.raises(ValueError, match=r"`out` must end in \.xyz, \.extxyz, \.xyz\.gz, .*other formats do not hold"):
        predict_file(model, SAMPLE["test"], tmp_path / name)


def test_a_file_is_not_written_over_itself(model, ethanol, write):
    path = write("in.xyz", [ethanol])
    with pytest.raises(ValueError, match=r"`out` is .*in\.xyz, one of the files to read"):
        predict_file(model, path, path)


def test_predictions_of_another_model_are_replaced_and_that_is_told(model, ethanol, write, tmp_path):
    ethanol.info["equinet_energy"] = 7.0
    ethanol.arrays["equinet_descriptors"] = np.ones((9, 2))
    told = []
    predict_file(model, write("in.xyz", [ethanol]), tmp_path / "out.xyz", tell=told.append)
    assert told == ["the frames hold equinet_descriptors, equinet_energy already; they are replaced"]
    (found,) = read_frames(tmp_path / "out.xyz")
    assert found.info["equinet_energy"] < -1000
    assert "equinet_descriptors" not in found.arrays
