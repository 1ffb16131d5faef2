"""What a training set says before the first step, against sets whose answer is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule

from equinet.datasets import (
    SAMPLE,
    GraphLoader,
    LabelKeys,
    Labels,
    Statistics,
    measure,
    read_frames,
    reference_energies,
    split_isolated,
    to_graphs,
    with_labels,
)
from equinet.datasets.composition import composition
from equinet.datasets.plausible import without_tail
from equinet.models import MACE, MACEConfig
from equinet.nn import EnergyScale
from equinet.potential import Potential

CUTOFF = 4.0
E0 = {1: -13.5, 6: -1029.25, 8: -2041.75}


def labelled(atoms: Atoms, interaction: float, forces: np.ndarray | None = None) -> Atoms:
    energy = sum(E0[z] for z in atoms.numbers.tolist()) + interaction
    return with_labels(atoms, Labels({"energy": energy, "forces": forces}))


@pytest.fixture
def frames() -> list[Atoms]:
    """Four molecules of different composition whose interaction energy is -3 eV an atom exactly, with forces."""
    rng = np.random.default_rng(0)
    names = ("H2O", "CH4", "CH3CH2OH", "CO2")
    return [labelled(a, -3.0 * len(a), rng.normal(size=(len(a), 3))) for a in map(molecule, names)]


@pytest.fixture
def isolated() -> list[Atoms]:
    return [labelled(Atoms([z]), 0.0) for z in E0]


def test_composition_counts_atoms(frames: list[Atoms]) -> None:
    assert composition(frames, (1, 6, 8)).tolist() == [[2, 0, 1], [4, 1, 0], [6, 2, 1], [0, 1, 2]]


@pytest.mark.parametrize("choice", ["auto", "isolated"])
def test_reference_energies_come_from_isolated_atoms(frames: list[Atoms], isolated: list[Atoms], choice: str) -> None:
    reference, origin = reference_energies(frames, isolated, (1, 6, 8), choice)
    assert reference == list(E0.values())
    assert origin == "isolated atoms"


def test_reference_energies_come_from_a_table(frames: list[Atoms], isolated: list[Atoms]) -> None:
    table = {"O": -3.0, "H": -1.0, "C": -2, "N": -7.0}
    reference, origin = reference_energies(frames, isolated, (1, 6, 8), table)
    assert reference == [-1, -2, -3]
    assert origin == "a table"


@pytest.mark.parametrize("choice", ["auto", "least_squares"])
def test_reference_energies_come_from_the_best_fit(frames: list[Atoms], choice: str) -> None:
    reference, origin = reference_energies(frames, [], (1, 6, 8), choice)
    np.testing.assert_allclose(reference, [e - 3.0 for e in E0.values()], rtol=0, atol=1e-8)
    assert "least squares" in origin


def test_a_fit_that_is_not_determined_still_adds_up() -> None:
    water = [labelled(molecule("H2O"), -9.0), labelled(molecule("H2O"), -11.0)]
    reference, _ = reference_energies(water, [], (1, 8), "least_squares")
    assert 2 * reference[0] + reference[1] == pytest.approx(2 * E0[1] + E0[8] - 10.0, abs=1e-8)


def test_frames_without_an_energy_do_not_disturb_the_fit(frames: list[Atoms]) -> None:
    silent = with_labels(molecule("H2O2"), Labels())
    reference, _ = reference_energies([silent, *frames], [], (1, 6, 8), "least_squares")
    np.testing.assert_allclose(reference, [e - 3.0 for e in E0.values()], rtol=0, atol=1e-8)


def test_a_missing_reference_energy_is_named_with_its_remedy(frames: list[Atoms], isolated: list[Atoms]) -> None:
    with pytest.raises(
        ValueError, match=r"no reference energy for C, O \(first seen in .*\); isolated atoms gave H\. Add"
    ):
        reference_energies(frames, isolated[:1], (1, 6, 8), "auto")
    with pytest.raises(ValueError, match=r"no reference energy for O .*; a table gave H, C\..*least_squares"):
        reference_energies(frames, [], (1, 6, 8), {"H": -1.0, "C": -2.0})
    with pytest.raises(ValueError, match="isolated atoms gave none"):
        reference_energies(frames, [], (1, 6, 8), "isolated")


def test_the_frame_that_lacks_a_reference_is_named(tmp_path: Path) -> None:
    path = tmp_path / "all.xyz"
    path.write_text("2\nenergy=-1\nH 0 0 0\nH 0 0 1\n2\nenergy=-1\nC 0 0 0\nO 0 0 1\n")
    with pytest.raises(ValueError, match=r"no reference energy for C, O \(first seen in .*all\.xyz, frame 1\)"):
        reference_energies(read_frames(path), [], (1, 6, 8), {"H": 0.0})


def test_an_isolated_atom_without_energy_is_refused(frames: list[Atoms]) -> None:
    with pytest.raises(ValueError, match="an isolated atom without an energy"):
        reference_energies(frames, [with_labels(Atoms("H"), Labels())], (1,), "auto")


def test_isolated_atoms_that_disagree_are_refused(frames: list[Atoms], isolated: list[Atoms]) -> None:
    other = labelled(Atoms("C"), 0.01)
    with pytest.raises(ValueError, match=r"isolated C has -1029\.24 eV, an earlier frame -1029\.25 eV; keep one"):
        reference_energies(frames, [*isolated, other], (1, 6, 8), "auto")
    reference_energies(frames, [*isolated, isolated[1]], (1, 6, 8), "auto")


def test_an_unknown_choice_is_refused(frames: list[Atoms]) -> None:
    with pytest.raises(ValueError, match=r"`data\.e0s` must be .* or a table, got 'average'"):
        reference_energies(frames, [], (1, 6, 8), "average")


def test_statistics_of_a_set_whose_answer_is_known(frames: list[Atoms], isolated: list[Atoms]) -> None:
    graphs = to_graphs(frames, CUTOFF)
    found = measure(frames, isolated, graphs)
    assert found.elements == (1, 6, 8)
    assert found.reference == tuple(E0.values())
    np.testing.assert_allclose(found.shift, [-3, -3, -3], rtol=0, atol=1e-9)
    forces = np.concatenate([atoms.calc.results["forces"] for atoms in frames])
    np.testing.assert_allclose(found.scale, [np.sqrt(np.mean(forces**2))] * 3, rtol=1e-12)
    pairs = sum(((atoms.get_all_distances() < CUTOFF).sum() - len(atoms)) for atoms in frames)
    assert found.avg_num_neighbors == pytest.approx(pairs / sum(map(len, frames)))


def test_statistics_of_each_element_by_itself(isolated: list[Atoms]) -> None:
    rng = np.random.default_rng(1)
    sizes, shifts = {1: 0.5, 6: 2.0, 8: 1.0}, {1: -2.0, 6: -7.0, 8: -4.0}
    frames = []
    for atoms in map(molecule, ("H2O", "CH4", "CH3CH2OH", "CO2", "C2H4", "CH3OH")):
        directions = rng.normal(size=(len(atoms), 3))
        directions *= np.sqrt(3) / np.linalg.norm(directions, axis=1, keepdims=True)
        forces = np.array([sizes[z] for z in atoms.numbers])[:, None] * directions
        frames.append(labelled(atoms, sum(shifts[z] for z in atoms.numbers.tolist()), forces))
    found = measure(frames, isolated, to_graphs(frames, CUTOFF), per_element=True)
    np.testing.assert_allclose(found.shift, list(shifts.values()), rtol=0, atol=1e-8)
    np.testing.assert_allclose(found.scale, list(sizes.values()), rtol=1e-12)


def test_the_shift_is_the_mean_over_frames_of_the_energy_per_atom(isolated: list[Atoms]) -> None:
    forces = np.ones((1, 3))
    frames = [
        labelled(molecule(name), energy * len(molecule(name)), forces.repeat(len(molecule(name)), 0))
        for name, energy in (("H2O", -2.0), ("CH3CH2OH", -5.0))
    ]
    found = measure(frames, isolated, to_graphs(frames, CUTOFF))
    np.testing.assert_allclose(found.shift, [-3.5] * 3, rtol=0, atol=1e-9)


def test_without_forces_the_spread_of_the_energies_is_the_scale(isolated: list[Atoms]) -> None:
    frames = [labelled(molecule("H2O"), -9.0), labelled(molecule("H2O"), -15.0)]
    found = measure(frames, isolated, to_graphs(frames, CUTOFF))
    np.testing.assert_allclose(found.scale, [1.0, 1.0], rtol=1e-9)
    alone = measure(frames[:1], isolated, to_graphs(frames[:1], CUTOFF))
    assert alone.scale == (1e-3, 1e-3)


def test_forces_that_are_all_zero_are_refused(isolated: list[Atoms]) -> None:
    frames = [labelled(molecule("H2O"), -9.0, np.zeros((3, 3)))]
    with pytest.raises(ValueError, match="all training forces are zero"):
        measure(frames, isolated, to_graphs(frames, CUTOFF))


def test_frames_without_any_pair_are_refused(isolated: list[Atoms]) -> None:
    frames = [labelled(Atoms("HO", [[0, 0, 0], [9, 0, 0]]), 0.0)]
    with pytest.raises(
        ValueError, match=r"no two atoms of the 1 training frames are within the cutoff.*`model.cutoff`"
    ):
        measure(frames, isolated, to_graphs(frames, CUTOFF))


def many(count: int = 60) -> list[Atoms]:
    rng = np.random.default_rng(2)
    return [labelled(a, -3.0 * len(a) + rng.normal(), rng.normal(size=(len(a), 3))) for a in [molecule("H2O")] * count]


def test_a_force_out_of_all_proportion_is_refused_by_frame_and_atom(isolated: list[Atoms]) -> None:
    frames = many()
    frames[7].calc.results["forces"][2, 1] = -5000.0
    frames[7].info["equinet_source"] = "a.xyz, frame 7"
    with pytest.raises(
        ValueError, match=r"a\.xyz, frame 7: `forces` has 5000 eV/Å of atom 2; in half of the 60 frames they are below"
    ):
        measure(frames, isolated, to_graphs(frames, CUTOFF))


def test_ordinary_forces_among_relaxed_frames_are_no_outliers(isolated: list[Atoms]) -> None:
    frames = many()
    for atoms in frames[:40]:
        atoms.calc.results["forces"] *= 1e-5
    frames[50].calc.results["forces"][0, 0] = 60.0
    measure(frames, isolated, to_graphs(frames, CUTOFF))


@pytest.mark.parametrize("per_element", [False, True])
def test_one_bad_label_hardly_moves_scale_and_shift(isolated: list[Atoms], per_element: bool) -> None:
    frames = many()
    before = measure(frames, isolated, to_graphs(frames, CUTOFF), per_element=per_element)
    frames[7].calc.results["forces"][2, 1] = 99.0
    after = measure(frames, isolated, to_graphs(frames, CUTOFF), per_element=per_element)
    assert max(after.scale) < 2 * max(before.scale)  # 4 to 7 times as it was


def test_one_bad_energy_hardly_moves_scale_and_shift(isolated: list[Atoms]) -> None:
    frames = many(120)
    for atoms in frames:
        del atoms.calc.results["forces"]
    before = measure(frames, isolated, to_graphs(frames, CUTOFF))
    frames[7].calc.results["energy"] += 3e5
    after = measure(frames, isolated, to_graphs(frames, CUTOFF))
    np.testing.assert_allclose(after.shift, before.shift, rtol=0, atol=0.1)
    assert max(after.scale) < 4 * max(before.scale)  # 30,000 times as it was


def test_numbers_without_a_tail_are_taken_as_they_are() -> None:
    for values in (np.random.default_rng(0).normal(size=5000), np.zeros(200), np.array([0.0, 0.0, 5.0]), np.ones(0)):
        np.testing.assert_array_equal(without_tail(values), values)


def test_an_atom_of_no_element_is_refused(frames: list[Atoms], isolated: list[Atoms]) -> None:
    graphs = to_graphs(frames, CUTOFF)
    for parts in (([*frames, Atoms([200])], isolated), (frames, [*isolated, Atoms([0])])):
        with pytest.raises(ValueError, match=r"a frame: there is no element with atomic number (200|0) \(atom 0"):
            measure(*parts, graphs)


def fresh_potential(statistics: Statistics, exact_isolated_atoms: bool = True) -> Potential:
    config = MACEConfig(channels=8, max_l=1, sh_degree=2, correlation=2, cutoff=CUTOFF)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = MACE(config, statistics.elements, statistics.avg_num_neighbors)
    scale = EnergyScale(
        statistics.reference, statistics.scale, statistics.shift, exact_isolated_atoms=exact_isolated_atoms
    )
    return Potential(model, scale).eval()


def errors_per_atom(potential: Potential, frames: list[Atoms]) -> np.ndarray:
    errors = []
    for batch in GraphLoader(to_graphs(frames, CUTOFF), batch_size=50):
        sizes = torch.bincount(batch.graph_of_node)
        errors.append((potential(batch)["energy"] - batch.energy) / sizes)
    return torch.cat(errors).numpy()


@pytest.mark.parametrize("e0s", ["isolated", "least_squares", {"H": -10.0, "C": -50.0, "O": -100.0}])
@pytest.mark.parametrize("per_element", [False, True])
def test_before_training_the_mean_error_is_nothing_but_what_the_model_says(e0s: object, per_element: bool) -> None:
    frames, isolated = split_isolated(read_frames(SAMPLE["train"]))
    statistics = measure(frames, isolated, to_graphs(frames, CUTOFF), e0s=e0s, per_element=per_element)
    potential = fresh_potential(statistics, exact_isolated_atoms=False)
    with torch.no_grad():
        for readout in potential.model.readouts:
            readout.network.weights[-1].zero_()
    assert abs(errors_per_atom(potential, frames).mean()) < 1e-10  # of energies near -310 eV


def test_before_training_a_fresh_model_is_off_by_a_small_part_of_the_interaction() -> None:
    frames, isolated = split_isolated(read_frames(SAMPLE["train"]))
    statistics = measure(frames, isolated, to_graphs(frames, CUTOFF))
    for dtype in (torch.float64, torch.float32):
        errors = errors_per_atom(fresh_potential(statistics).to(dtype), frames)
        assert abs(errors.mean()) < 0.01 * abs(statistics.shift[0])
        assert errors.std() < 0.01 * abs(statistics.shift[0])


def test_a_published_set_gives_reasonable_numbers(shared_data: Path) -> None:
    isolated = read_frames(shared_data / "3bpa" / "iso_atoms.xyz.gz")
    frames = read_frames(shared_data / "3bpa" / "train_300K.xyz.gz", LabelKeys())[:50]
    found = measure(frames, isolated, to_graphs(frames, 5.0))
    assert found.elements == (1, 6, 7, 8)
    assert found.reference[0] == pytest.approx(-13.587222781)
    assert -7 < found.shift[0] < -4  # cohesive energy of an organic molecule, eV an atom
    assert found.scale[0] == pytest.approx(0.948, rel=0.05)
    assert 12 < found.avg_num_neighbors < 20
