"""Frames out of all proportion to the others: found, named, and let pass when accepted."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms

from equinet.datasets import Labels, measure, to_graphs, with_labels
from equinet.datasets.frames import SOURCE
from equinet.datasets.plausible import implausible, require_plausible


def frames_of(count: int = 15) -> list[Atoms]:
    """Alloys of two elements with -1.8 and -3.7 eV an atom, 0.05 eV/atom about that."""
    rng = np.random.default_rng(0)
    frames = []
    for n in range(count):
        one, other = rng.integers(1, 6, size=2).tolist()
        atoms = Atoms(f"Li{one}Cu{other}", rng.uniform(0, 8, size=(one + other, 3)))
        energy = -1.8 * one - 3.7 * other + 0.05 * rng.normal() * len(atoms)
        frames.append(with_labels(atoms, Labels({"energy": energy, "forces": rng.normal(size=(len(atoms), 3))})))
        frames[-1].info[SOURCE] = f"a.xyz, frame {n}"
    return frames


def with_dimer(energy: float, weight: float = 1.0) -> list[Atoms]:
    dimer = Atoms("LiCu", [[0, 0, 0], [0, 0, 2.5]], info={SOURCE: "a.xyz, frame 15"})
    return [*frames_of(), with_labels(dimer, Labels({"energy": energy}, weight=weight))]


def test_an_ordinary_set_has_no_findings() -> None:
    assert implausible(frames_of()) == []
    assert implausible(with_dimer(-5.0)) == implausible([]) == []


def test_a_dimer_at_minus_558_ev_is_named_with_energy_and_spread() -> None:
    (found,) = implausible(with_dimer(-558.0))
    assert found.name == "energy-outlier"
    with pytest.raises(ValueError, match=r"a\.xyz, frame 15: `energy` is -279 eV/atom, 27\d\.\d eV/atom below what its composition has in the other 15 frames, [\d.e+]+ times their spread \(0\.0\d+ eV/atom\).*give it weight 0$"):  # fmt: skip
        require_plausible(with_dimer(-558.0))


def test_a_finding_may_be_accepted_and_weight_zero_needs_no_acceptance() -> None:
    assert [each.name for each in require_plausible(with_dimer(-558.0), accept=["energy-outlier"])] == [
        "energy-outlier"
    ]
    assert require_plausible(with_dimer(-558.0, weight=0)) == []


@pytest.mark.parametrize(("gap", "found"), [(-13, 1), (-11, 0), (45, 0), (55, 1)])
def test_squeezed_frames_may_be_higher_than_bound_ones_are_low(gap: float, found: int) -> None:
    assert len(implausible(with_dimer(-5.5 + 2 * gap))) == found


def test_several_findings_are_counted() -> None:
    frames = with_dimer(-558.0)
    frames[3].calc.results["forces"][0, 0] = 2e4
    with pytest.raises(
        ValueError, match=r"a\.xyz, frame 3: `forces` has 20000 eV/Å of atom 0; .*\(1 more such frames\)"
    ):
        require_plausible(frames)


def test_a_set_that_differs_widely_by_itself_has_no_outliers() -> None:
    frames = frames_of(40)
    for n, atoms in enumerate(frames):
        atoms.calc.results["energy"] += (-1) ** n * 10.0 * len(atoms)
    frames[0].calc.results["energy"] -= 13.0 * len(frames[0])
    assert implausible(frames) == []


def test_one_failed_calculation_moves_neither_reference_energies_nor_shift() -> None:
    frames, spoilt = frames_of(), with_dimer(-558.0)
    before = measure(frames, [], to_graphs(frames, 4.0))
    after = measure(spoilt, [], to_graphs(spoilt, 4.0))
    np.testing.assert_allclose(after.reference, before.reference, rtol=0, atol=1e-9)
    np.testing.assert_allclose(after.shift, before.shift, rtol=0, atol=1e-9)
