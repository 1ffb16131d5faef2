"""The ASE calculator: right derivatives in ASE's conventions, and no surprise for the caller."""

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError
from ase.calculators.fd import calculate_numerical_forces, calculate_numerical_stress

from equinet.accelerate.capture import StaticStep
from equinet.checkpoint import save_potential
from equinet.graph import from_atoms
from equinet.md import EquinetCalculator


@pytest.fixture
def box():
    """Atoms in a triclinic cell so small that each sees its own images."""
    rng = np.random.default_rng(3)
    cell = np.array([[4.2, 0.0, 0.0], [1.1, 3.9, 0.0], [-0.4, 0.8, 4.5]])
    corners = np.array([[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]])
    return Atoms("HCOC", scaled_positions=corners + rng.uniform(-0.05, 0.05, (4, 3)), cell=cell, pbc=True)


@pytest.fixture
def count_passes(monkeypatch):
    """A function that makes a calculator count how often it evaluates its potential."""

    def count(calculator):
        passes = []
        forward = calculator.potential.forward
        monkeypatch.setattr(
            calculator.potential, "forward", lambda *args, **kwargs: passes.append(kwargs) or forward(*args, **kwargs)
        )
        return passes

    return count


@pytest.mark.parametrize("structure", ["ethanol", "box"])
def test_forces_are_minus_the_energy_gradient(potential, structure, request):
    atoms = request.getfixturevalue(structure)
    atoms.calc = EquinetCalculator(potential)
    forces = atoms.get_forces()
    assert np.abs(forces).max() > 1e-3
    np.testing.assert_allclose(forces, calculate_numerical_forces(atoms, eps=3e-5), atol=1e-7)


def test_stress_is_the_strain_derivative_of_the_energy_in_voigt_order(potential, box):
    box.calc = EquinetCalculator(potential)
    stress = box.get_stress()
    assert len(set(np.round(stress, 8))) == 6  # all different, so that a wrong order cannot pass
    np.testing.assert_allclose(stress, calculate_numerical_stress(box, eps=1e-4), atol=1e-8)


def test_stress_is_that_of_the_potential_as_xx_yy_zz_yz_xz_xy(potential, box):
    box.calc = EquinetCalculator(potential)
    full = potential(from_atoms(box, potential.cutoff), stress=True)["stress"][0].numpy()
    order = [full[0, 0], full[1, 1], full[2, 2], full[1, 2], full[0, 2], full[0, 1]]
    np.testing.assert_allclose(box.get_stress(), order, rtol=1e-12)


def test_stress_is_computed_when_asked_for_and_then_with_every_structure(potential, box, count_passes):
    box.calc = EquinetCalculator(potential)
    passes = count_passes(box.calc)
    box.get_forces()
    box.get_stress()
    assert [each["stress"] for each in passes] == [False, True]
    box.rattle(0.01)
    box.get_forces()
    box.get_stress()
    assert [each["stress"] for each in passes] == [False, True, True]


def test_a_molecule_has_no_stress(potential, ethanol):
    ethanol.calc = EquinetCalculator(potential)
    with pytest.raises(
        PropertyNotImplementedError, match=r"C2H6O has no stress: it has no periodic direction.*atoms\.pbc"
    ):
        ethanol.get_stress()
    assert np.isfinite(ethanol.get_potential_energy())


def test_a_slab_without_cell_height_has_no_stress(potential, ethanol):
    ethanol.set_cell([8.0, 8.0, 0.0])
    ethanol.pbc = [True, True, False]
    ethanol.calc = EquinetCalculator(potential)
    with pytest.raises(PropertyNotImplementedError, match="its cell has no volume"):
        ethanol.get_stress()


def test_energies_of_atoms_sum_to_the_energy(potential, ethanol):
    ethanol.calc = EquinetCalculator(potential)
    assert ethanol.get_potential_energies().shape == (9,)
    assert ethanol.get_potential_energies().sum() == pytest.approx(ethanol.get_potential_energy(), abs=1e-10)
    assert ethanol.get_potential_energy(force_consistent=True) == ethanol.get_potential_energy()


def test_float32_is_close_to_float64(potential, box):
    results = {}
    for dtype in ("float32", "float64"):
        box.calc = EquinetCalculator(potential, dtype=dtype)
        assert str(box.calc.potential.dtype) == f"torch.{dtype}"
        results[dtype] = (box.get_potential_energy() / len(box), box.get_forces(), box.get_stress())
    for single, double in zip(results["float32"], results["float64"]):
        assert np.abs(single - double).max() < 1e-5
    assert np.abs(results["float32"][1] - results["float64"][1]).max() > 0


def test_the_callers_potential_stays_as_it_was(potential, ethanol):
    potential.train()
    ethanol.calc = EquinetCalculator(potential, dtype="float32")
    ethanol.get_forces()
    assert potential.training
    assert potential.dtype == torch.float64
    assert all(parameter.requires_grad for parameter in potential.parameters())
    assert not any(parameter.requires_grad for parameter in ethanol.calc.potential.parameters())


def test_a_model_file_gives_what_its_potential_gives(potential, ethanol, tmp_path):
    save_potential(potential, tmp_path / "model.eqn")
    energies = []
    for model in (potential, tmp_path / "model.eqn", str(tmp_path / "model.eqn")):
        ethanol.calc = EquinetCalculator(model, device="cpu")
        energies.append(ethanol.get_potential_energy())
    assert energies[0] == energies[1] == energies[2]


def test_an_isolated_atom_has_its_reference_energy_and_no_force(potential):
    atom = Atoms("O", calculator=EquinetCalculator(potential))
    assert atom.get_potential_energy() == pytest.approx(float(potential.scale.reference[2]))
    assert not atom.get_forces().any()


def test_same_positions_are_cached_and_changed_ones_computed(potential, ethanol, count_passes):
    ethanol.calc = EquinetCalculator(potential)
    passes = count_passes(ethanol.calc)
    before = ethanol.get_potential_energy()
    ethanol.get_forces()
    ethanol.set_initial_charges([0.1] * 9)  # no part of the model
    ethanol.get_potential_energy()
    assert len(passes) == 1
    ethanol.positions[0, 0] += 0.1
    assert ethanol.get_potential_energy() != before
    assert len(passes) == 2


@pytest.mark.parametrize(
    "change",
    [
        lambda atoms: atoms.positions.__iadd__(np.eye(4, 3) * 1e-12),
        lambda atoms: atoms.numbers.__setitem__(0, 6),
        lambda atoms: atoms.cell.__setitem__((2, 2), 4.6),
        lambda atoms: atoms.pbc.__setitem__(1, False),
        lambda atoms: atoms.append("H"),
    ],
    ids=["positions", "numbers", "cell", "pbc", "atoms"],
)
def test_any_change_in_place_is_seen(potential, box, count_passes, change):
    box.calc = EquinetCalculator(potential)
    passes = count_passes(box.calc)
    box.get_forces()
    change(box)
    forces = box.get_forces()
    assert len(passes) == 2
    assert np.array_equal(forces, potential(from_atoms(box, potential.cutoff))["forces"].numpy())


@pytest.mark.parametrize("skin", [0.0, 0.3, 2.0])
def test_no_result_depends_on_the_skin_or_on_what_was_computed_before(potential, box, skin):
    rng = np.random.default_rng(4)
    box.calc = EquinetCalculator(potential, skin=skin)
    for step in range(12):
        expected = potential(from_atoms(box, potential.cutoff), stress=True)
        assert box.get_potential_energy() == expected["energy"].item()
        assert np.array_equal(box.get_forces(), expected["forces"].numpy())
        assert np.array_equal(box.get_stress(voigt=False), expected["stress"][0].numpy())
        box.positions += rng.normal(scale=0.03, size=(4, 3))
        if step % 3 == 2:
            box.set_cell(1.01 * box.cell[:], scale_atoms=True)
    assert box.calc.graph_of.searches >= 12 if skin == 0 else box.calc.graph_of.searches < 12


def test_neighbours_are_not_searched_for_while_atoms_move_within_the_skin(potential, box):
    box.calc = EquinetCalculator(potential)
    for _ in range(20):
        box.get_forces()
        box.positions[0] += 0.01
    assert box.calc.graph_of.searches == 1


def test_a_negative_skin_is_refused(potential):
    with pytest.raises(ValueError, match="`skin` must be 0 or more Å"):
        EquinetCalculator(potential, skin=-1.0)


def test_results_handed_out_cannot_spoil_the_cache(potential, ethanol):
    ethanol.calc = EquinetCalculator(potential)
    forces = ethanol.get_forces()
    forces[:] = 0
    assert ethanol.get_forces().any()


def test_an_unknown_element_is_refused_by_the_potential(potential):
    atoms = Atoms("NH", positions=[[0, 0, 0], [0, 0, 1.0]], calculator=EquinetCalculator(potential))
    with pytest.raises(ValueError, match="does not know N; it was made for H, C, O"):
        atoms.get_potential_energy()


def test_a_result_that_is_not_finite_names_the_atom(potential, ethanol):
    with torch.no_grad():
        potential.scale.reference[2] = torch.nan  # oxygen
    ethanol.calc = EquinetCalculator(potential)
    with pytest.raises(
        FloatingPointError, match=r"1 of 9 atoms are not finite, first of atom 2 \(O\).*training diverged"
    ):
        ethanol.get_forces()
    assert not ethanol.calc.results


def test_an_unknown_dtype_is_refused(potential):
    with pytest.raises(ValueError, match='`dtype` must be "float64" or "float32", got \'float16\''):
        EquinetCalculator(potential, dtype="float16")


@pytest.mark.parametrize("device", ["gpu", "meta"])
def test_an_unknown_device_is_refused(potential, device):
    with pytest.raises(ValueError, match=f"`device` must be .* got '{device}'"):
        EquinetCalculator(potential, device=device)


def test_a_gpu_that_is_not_there_is_refused(potential):
    with pytest.raises(ValueError, match=r"`device` is 'cuda:63', but torch sees \d+ GPUs"):
        EquinetCalculator(potential, device="cuda:63")


def test_something_that_is_no_model_is_refused():
    with pytest.raises(TypeError, match="must be a model file or a Potential, got Linear"):
        EquinetCalculator(torch.nn.Linear(1, 1))


def test_a_recorded_step_is_for_gpus(potential):
    with pytest.raises(ValueError, match=r"`capture` records CUDA graphs, and the device is cpu; leave it out"):
        EquinetCalculator(potential, device="cpu", capture=True)


def test_a_static_step_gives_what_the_potential_gives(potential, ethanol, box):
    """What `capture` does on a GPU, without the recording."""
    for atoms in (ethanol, box):
        plain, static = EquinetCalculator(potential), EquinetCalculator(potential)
        static._step = StaticStep(static.potential, skin=0.5)
        for _ in range(3):
            atoms.positions += np.random.default_rng(len(atoms)).normal(scale=0.1, size=(len(atoms), 3))
            for calculator in (plain, static):
                calculator.calculate(atoms, ["energy", "forces"] + ["stress"] * bool(atoms.pbc.any()))
            assert static.results.keys() == plain.results.keys()
            for name, expected in plain.results.items():
                np.testing.assert_allclose(static.results[name], expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("ask", ["get_potential_energy", "get_forces", "get_stress", "calculate"])
def test_a_calculator_without_atoms_says_so(potential, ask):
    with pytest.raises(
        ValueError, match=r"this calculator has no atoms yet; set `atoms.calc = calculator` .*or pass them"
    ):
        getattr(EquinetCalculator(potential), ask)()


def test_a_calculator_remembers_its_last_atoms(potential, box):
    calculator = EquinetCalculator(potential)
    energy = calculator.get_potential_energy(box)
    assert calculator.get_potential_energy() == energy


@pytest.mark.parametrize("change", [{"dtype": "float32"}, {"device": "cuda", "skin": 1.0}, {"anything": 1}])
def test_parameters_of_a_calculator_cannot_be_set_afterwards(potential, box, change):
    box.calc = EquinetCalculator(potential)
    given = ", ".join(f"{name}={value!r}" for name, value in change.items())
    with pytest.raises(
        ValueError, match=rf"`set` cannot change it; make a new one: EquinetCalculator\(model, {given}\)"
    ):
        box.calc.set(**change)
    assert box.calc.set() == box.calc.parameters == {}
