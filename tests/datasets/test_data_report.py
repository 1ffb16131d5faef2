"""Reports of data sets: what was read, what was not used, what lies far out."""

from __future__ import annotations

import json

import numpy as np
import pytest
from ase import Atoms
from ase.data import covalent_radii
from ase.neighborlist import neighbor_list
from doctored import copper, ethanol, relabelled, with_one

from equinet.datasets import LabelKeys, Labels, read_frames, with_labels
from equinet.datasets.frames import find_labels
from equinet.datasets.report import blocks, brief, report, survey
from equinet.datasets.report.spreads import composition_residuals, spread
from equinet.tables import as_text


@pytest.fixture(scope="module")
def metal() -> list[Atoms]:
    return copper(12)


def test_nearest_atoms_and_neighbours_are_those_of_ase(metal: list[Atoms]) -> None:
    """ASE's neighbour list is the oracle, periodic and not."""
    frames = [*metal[:3], *ethanol(3)]
    found = survey({"a": frames}, cutoff=4.0)
    for n, atoms in enumerate(frames):
        i, j, lengths = neighbor_list("ijd", atoms, 4.0)
        assert found.neighbours[n] == pytest.approx(len(i) / len(atoms))
        ratios = lengths / (covalent_radii[atoms.numbers[i]] + covalent_radii[atoms.numbers[j]])
        own = slice(found.first[n], found.first[n + 1])
        np.testing.assert_allclose(found.ratio[own], [ratios[i == k].min() for k in range(len(atoms))])
        there = found.positions[own] + found.nearest[own, None] * found.direction[own]
        gap = there - atoms.positions[found.partner[own] - found.first[n]]
        whole = gap @ np.linalg.inv(atoms.cell.complete()[:]) if atoms.pbc.any() else gap
        np.testing.assert_allclose(whole, np.round(whole), atol=1e-9)  # the partner, or an image of it


def test_the_shortest_distance_of_each_pair_of_elements_is_the_smallest_of_all() -> None:
    frames = ethanol(5)
    found = survey({"a": frames})
    distances = {n: atoms.get_all_distances() for n, atoms in enumerate(frames)}
    for (a, b), (length, frame) in found.shortest.items():
        rows = [
            distances[n][i, j]
            for n, atoms in enumerate(frames)
            for i in range(len(atoms))
            for j in range(len(atoms))
            if i != j and sorted((atoms.numbers[i], atoms.numbers[j])) == [a, b]
        ]
        assert length == pytest.approx(min(rows))
        assert np.isclose(distances[frame], length).any()


def test_a_crystal_in_nanometres_is_searched_in_a_smaller_radius(metal: list[Atoms]) -> None:
    small = metal[0].copy()
    small.set_cell(small.cell[:] * 0.1, scale_atoms=True)
    found = survey({"a": [with_labels(small, Labels())]})
    assert np.isnan(found.neighbours[0])
    assert found.ratio_of_frame[0] == pytest.approx(0.1 * survey({"a": metal[:1]}).ratio_of_frame[0])


def test_energies_beside_their_composition_are_not_moved_by_wrong_frames() -> None:
    random = np.random.default_rng(0)
    frames, exact = [], []
    for n in range(60):
        a, b = random.integers(1, 6, 2)
        exact.append(0.02 * random.normal())
        energy = -3.0 * a - 7.0 * b + exact[-1] * (a + b)
        atoms = Atoms(f"Cu{a}Au{b}", random.uniform(0, 12, (a + b, 3)))
        frames.append(with_labels(atoms, Labels({"energy": energy if n % 10 else -5000.0})))
    found = survey({"a": frames})
    residual = composition_residuals(found, found.energy)
    right = np.arange(60) % 10 > 0
    np.testing.assert_allclose(residual[right], np.array(exact)[right], atol=0.03)
    assert spread(np.array([1.0, 2.0, 3.0, 4.0, 1e9])) == pytest.approx(1.4826)


def test_a_report_counts_labels_keys_and_repeats(metal: list[Atoms]) -> None:
    frames = [atoms.copy() for atoms in metal]
    for n, atoms in enumerate(frames):
        atoms.info |= {"charge": n % 2, "config_type": "hot" if n > 5 else "cold"}
        atoms.arrays["magmoms"] = np.ones(len(atoms))
    frames = [with_labels(a, find_labels(b)) for a, b in zip(frames, metal)]
    frames[3] = with_labels(frames[3], Labels({"energy": 1.0}))
    isolated = with_labels(Atoms("Cu", info={"config_type": "IsolatedAtom"}), Labels({"energy": -3.5}))
    found = report({"train": [isolated, *frames], "valid": [frames[0]]})
    train = found.parts[0]
    assert (train.frames, train.isolated, train.smallest, train.largest) == (13, 1, 1, 16)
    assert train.labels == {"energy": 13, "forces": 11, "stress": 11}
    assert train.periodic == (1, 0, 0, 12)
    assert train.elements == ("Cu", "Au")
    assert {key.name: (key.frames, key.distinct) for key in found.unused if key.per == "structure"} == {
        "charge": (13, 2),
    }
    assert [key.name for key in found.unused if key.per == "atom"] == ["magmoms"]
    assert found.e0s == {"Cu": -3.5}
    assert {kind.name: kind.frames for kind in found.kinds} == {"cold": 7, "hot": 6}
    assert found.shared == {"train, valid": 1}
    assert json.loads(json.dumps(found.as_json()))["parts"][0]["labels"]["energy"] == 13


def test_keys_that_settings_name_are_used(metal: list[Atoms]) -> None:
    frames = [atoms.copy() for atoms in metal[:3]]
    for atoms in frames:
        atoms.info |= {"REF_energy": 1.0, "w": 2.0, "other": 1}
    labelled = [with_labels(a, Labels({"energy": 1.0})) for a in frames]
    keys = LabelKeys(energy="REF_energy", weight="w")
    assert [key.name for key in report({"a": labelled}, keys=keys).unused] == ["other"]


def test_a_frame_far_out_is_named(metal: list[Atoms]) -> None:
    frames = with_one(metal, 7, lambda a: relabelled(a, energy=find_labels(a)["energy"] - 558.0))
    worst = report({"a": frames}).outliers[0]
    assert (worst.frame, worst.quantity) == ("a.xyz, frame 7", "energy")
    assert worst.spreads > 100


def test_a_report_is_read_at_80_columns_on_one_screen(metal: list[Atoms], tmp_path) -> None:
    path = tmp_path / "a_rather_long_name_of_a_file_with_training_frames.xyz"
    lines = []
    for atoms in metal:
        labels = find_labels(atoms)
        cell = " ".join(map(str, atoms.cell[:].ravel()))
        rows = np.hstack([atoms.positions, labels["forces"]])
        lines += [
            str(len(atoms)),
            f'Lattice="{cell}" Properties=species:S:1:pos:R:3:forces:R:3 energy={labels["energy"]} head=a',
        ]
        lines += [f"{s} {' '.join(map(str, row))}" for s, row in zip(atoms.get_chemical_symbols(), rows)]
    path.write_text("\n".join(lines) + "\n")
    found = report({str(path): read_frames(path)})
    assert found.parts[0].format == "extxyz"
    text = as_text(blocks(found), 80)
    assert max(map(len, text.splitlines())) <= 80
    assert len(text.splitlines()) <= 45
    assert "head" in text
    assert "Cu-Au" in text


def test_a_training_shows_a_handful_of_lines(metal: list[Atoms]) -> None:
    frames = [*metal, with_labels(metal[0], Labels({"energy": 1.0}))]
    text = as_text(brief(report({"train": frames})), 100)
    assert "1 frame of train repeats earlier ones" in text
    assert len(text.splitlines()) < 6
    with pytest.raises(ValueError, match="there are no frames"):
        report({"train": []})
