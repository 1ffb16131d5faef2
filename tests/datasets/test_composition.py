"""Reference energies by robust least squares, and what compositions determine of them."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from ase import Atoms

from equinet.datasets import Labels, measure, reference_energies, to_graphs, with_labels
from equinet.datasets.composition import (
    UndeterminedReferences,
    deviations,
    fit_to_composition,
    spanning_compositions,
    undetermined,
    warn_if_undetermined,
    weighted_median,
)


def set_of(count: int, elements: int = 3, noise: float = 0.1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Compositions, energies with normal noise per atom, and weights."""
    rng = np.random.default_rng(count)
    counts = rng.integers(1, 9, size=(count, elements)).astype(np.float64)
    energies = counts @ np.array([-13.6, -1029.0, -2041.0])[:elements]
    return counts, energies + noise * counts.sum(axis=1) * rng.normal(size=count), np.ones(count)


def test_without_outliers_the_fit_is_ordinary_least_squares() -> None:
    for count in (3, 20, 2000):
        counts, energies, weights = set_of(count)
        expected = np.linalg.lstsq(counts, energies, rcond=None)[0]
        np.testing.assert_allclose(fit_to_composition(counts, energies, weights), expected, rtol=0, atol=1e-8)


def test_a_weight_counts_as_so_many_frames() -> None:
    counts, energies, weights = set_of(12)
    weights[3], weights[5] = 3, 0
    repeated = [n for n in range(12) for _ in range(int(weights[n]))]
    expected = np.linalg.lstsq(counts[repeated], energies[repeated], rcond=None)[0]
    np.testing.assert_allclose(fit_to_composition(counts, energies, weights), expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize("gap", [-600.0, 5e3, 3e7])
def test_outliers_do_not_take_part(gap: float) -> None:
    counts, energies, weights = set_of(40)
    expected = fit_to_composition(counts[2:], energies[2:], weights[2:])
    energies[:2] += gap
    np.testing.assert_allclose(fit_to_composition(counts, energies, weights), expected, rtol=0, atol=1e-8)


def test_deviations_are_those_from_the_fit_to_the_other_frames() -> None:
    counts, energies, weights = set_of(40, noise=0.0)
    energies[7] -= 300.0
    away, spread = deviations(counts, energies, weights)
    assert away[7] == pytest.approx(-300 / counts[7].sum(), abs=1e-3)
    assert np.abs(np.delete(away, 7)).max() < 1e-3
    assert spread < 1e-3
    _, spread = deviations(*set_of(4000))
    assert spread == pytest.approx(0.1, rel=0.05)  # the standard deviation of the noise


def test_among_a_few_frames_none_is_an_outlier() -> None:
    counts, energies, weights = set_of(4)
    energies[0] += 1e6
    away, spread = deviations(counts, energies, weights)
    assert not away.any()
    assert spread == 0


def test_half_of_the_weight_lies_below_the_median() -> None:
    assert weighted_median(np.array([3.0, 1.0, 2.0]), np.ones(3)) == 2
    assert weighted_median(np.array([1.0, 4.0]), np.ones(2)) == 2.5
    assert weighted_median(np.array([1.0, 2.0, 9.0, 5.0]), np.array([1.0, 1.0, 3.0, 0.0])) == 9
    assert weighted_median(np.array([1.0, 2.0, 9.0]), np.array([1.0, 1.0, 2.0])) == 5.5
    assert np.isnan(weighted_median(np.array([1.0]), np.zeros(1)))


def test_where_elements_are_not_determined_all_atoms_have_one_energy() -> None:
    """Water has -999 eV: -333 eV an atom, where the smallest solution has -399.6 for hydrogen and -199.8 for oxygen."""
    water = np.array([[2.0, 1.0]] * 6)
    np.testing.assert_allclose(fit_to_composition(water, np.full(6, -999.0), np.ones(6)), [-333, -333], rtol=1e-12)


def test_what_is_determined_is_fitted_where_not_everything_is() -> None:
    counts = np.array(
        [[2.0, 1.0, 0.0], [2.0, 1.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 2.0]]
    )  # water and an element alone
    found = fit_to_composition(counts, counts @ np.array([-10.0, -100.0, -50.0]), np.ones(4))
    assert found[2] == pytest.approx(-50, abs=1e-9)
    assert 2 * found[0] + found[1] == pytest.approx(-120, abs=1e-9)
    assert -60 < min(found[:2]) <= max(found[:2]) < -30


def test_an_element_in_no_frame_of_any_weight_has_the_energy_of_the_others() -> None:
    assert fit_to_composition(np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([-5.0, 9.0]), np.array([1.0, 0.0])).tolist() == [-5, -5]  # fmt: skip
    assert fit_to_composition(np.ones((2, 2)), np.ones(2), np.zeros(2)).tolist() == [0, 0]


def test_compositions_that_all_others_are_put_together_from() -> None:
    counts = np.array([[4.0, 0, 2], [2, 0, 1], [4, 1, 0], [6, 1, 1]])
    assert spanning_compositions(counts, (1, 6, 8)) == [{"H": 2, "O": 1}, {"H": 4, "C": 1}]
    assert len(spanning_compositions(np.eye(3), (1, 6, 8))) == 3


def test_a_sentence_says_what_is_determined() -> None:
    assert "all training frames have H:C:O = 6:2:1" in undetermined([{"H": 6, "C": 2, "O": 1}])
    assert undetermined([{"H": 2, "O": 1}, {"H": 4, "C": 1}]).startswith(
        "the training frames determine the energies of H2O, H4C and of what is put together"
    )


def water(energy: float = -999.0) -> Atoms:
    return with_labels(Atoms("OHH", [[0, 0, 0], [1, 0, 0], [0, 1, 0]]), Labels({"energy": energy}))


def test_statistics_remember_what_is_not_determined() -> None:
    frames = [water(-999 + 0.1 * n) for n in range(5)]
    assert measure(frames, [], to_graphs(frames, 3.0)).compositions == ({"H": 2, "O": 1},)
    isolated = [with_labels(Atoms([z]), Labels({"energy": e})) for z, e in ((1, -13.0), (8, -968.0))]
    assert measure(frames, isolated, to_graphs(frames, 3.0)).compositions == ()


def test_other_compositions_are_warned_of_once() -> None:
    references = {"compositions": [{"H": 2, "O": 1}]}
    with warnings.catch_warnings(action="error"):
        assert not warn_if_undetermined([water(), Atoms("H4O2")], references)
        assert not warn_if_undetermined([Atoms("H2")], {})
    for atoms in (Atoms("H2"), Atoms("OH"), Atoms("OH2Au")):
        with pytest.warns(UndeterminedReferences, match=r"is of another composition .* H:O = 2:1") as told:
            assert warn_if_undetermined([water(), atoms, atoms], references)
        assert len(told) == 1


def test_a_frame_of_weight_zero_touches_nothing() -> None:
    rng = np.random.default_rng(0)
    frames = [with_labels(w, Labels({"energy": w.calc.results["energy"], "forces": rng.normal(size=(3, 3))})) for w in map(water, -999 + 0.1 * rng.normal(size=8))]  # fmt: skip
    far = Atoms("OHH", [[0, 0, 0], [9, 0, 0], [0, 9, 0]])  # without neighbours
    bad = with_labels(far, Labels({"energy": -5000.0, "forces": np.full((3, 3), 1e3)}, weight=0))
    alone = with_labels(Atoms("H"), Labels({"energy": 7.0}, weight=0))
    before = measure(frames, [], to_graphs(frames, 3.0))
    assert measure([*frames, bad], [alone], to_graphs([*frames, bad], 3.0)) == before
    # The same by the weights of single terms, which leave the geometry in.
    terms = with_labels(water(), Labels({"energy": 1e6, "forces": np.full((3, 3), 1e3)}, weights={"energy": 0, "forces": 0}))  # fmt: skip
    assert measure([*frames, terms], [], to_graphs([*frames, terms], 3.0)) == before


def test_weights_count_in_all_statistics() -> None:
    rng = np.random.default_rng(1)
    frames = [with_labels(water(), Labels({"energy": -999 + rng.normal(), "forces": rng.normal(size=(3, 3))})) for _ in range(6)]  # fmt: skip
    heavy = [*frames[1:], with_labels(frames[0], Labels({**frames[0].calc.results}, weight=3))]
    repeated = [*frames, frames[0], frames[0]]
    for per_element in (False, True):
        found = measure(heavy, [], to_graphs(heavy, 3.0), e0s={"H": -13.0, "O": -970.0}, per_element=per_element)
        expected = measure(repeated, [], to_graphs(repeated, 3.0), e0s={"H": -13.0, "O": -970.0}, per_element=per_element)  # fmt: skip
        np.testing.assert_allclose(found.shift, expected.shift, rtol=1e-9)
        np.testing.assert_allclose(found.scale, expected.scale, rtol=1e-9)
        assert found.avg_num_neighbors == expected.avg_num_neighbors
    heavy_e0, _ = reference_energies(heavy, [], (1, 8))
    np.testing.assert_allclose(heavy_e0, reference_energies(repeated, [], (1, 8))[0], rtol=1e-12)


@pytest.mark.parametrize(("offset", "refused"), [(-25.0, True), (-15.0, False), (5.0, False), (15.0, True)])
def test_reference_energies_of_another_code_are_refused(offset: float, refused: bool) -> None:
    """Half of the frames ``offset`` eV/atom from free atoms."""
    frames = [water(3 * (offset + 0.01 * np.sign(offset)) + 0.001 * n) for n in range(5)]
    graphs, zero = to_graphs(frames, 3.0), {"H": 0.0, "O": 0.0}
    if refused:
        said = (
            rf"lie {abs(offset):.0f}\.\d+ eV/atom or more {'above' if offset > 0 else 'below'} the reference energies"
        )
        with pytest.raises(ValueError, match=rf"{said} \(H 0, O 0 eV, from a table\).*least_squares"):
            measure(frames, [], graphs, e0s=zero)
        measure(frames, [], graphs, e0s=zero, accept=["e0s"])
    else:
        measure(frames, [], graphs, e0s=zero)


def test_forces_that_are_zero_by_symmetry_leave_the_scale_to_the_energies() -> None:
    zero = np.zeros((3, 3))
    frames = [with_labels(water(), Labels({"energy": energy, "forces": zero})) for energy in (-990.0, -996.0)]
    found = measure(frames, [], to_graphs(frames, 3.0))
    assert found.scale_origin == "forces all zero"
    np.testing.assert_allclose(found.scale, [1.0, 1.0], rtol=1e-9)  # -330 and -332 eV/atom
    silent = [water(-990.0), water(-996.0)]
    assert measure(silent, [], to_graphs(silent, 3.0)).scale_origin == "no forces"
