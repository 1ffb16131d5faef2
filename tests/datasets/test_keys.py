"""What labels of a file mean: units, sign of the stress, virials, weights of frames and terms, and other names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from equinet.datasets import LabelKeys, Units, find_labels, labelled, read_frames, require_labels, to_graph
from equinet.datasets.names import label_named, left_out, other_weights, second_labels, unknown_types

STRESS = np.array([[0.01, 0.004, 0.0], [0.004, -0.02, 0.003], [0.0, 0.003, 0.05]])
VOIGT = STRESS.ravel()[[0, 4, 8, 5, 2, 1]]
KEYS = LabelKeys()


def frame(forces: Any = None, *, pbc: bool = True, **info: Any) -> Atoms:
    """Two atoms in a cell of 2 x 3 x 4 Å, 24 Å³."""
    atoms = Atoms("H2", [[0, 0, 0], [0, 0, 0.8]], cell=[2, 3, 4], pbc=pbc, info=info)
    if forces is not None:
        atoms.arrays["forces"] = np.asarray(forces, dtype=float)
    return atoms


def test_labels_in_other_units_become_those_in_ev_and_angstrom() -> None:
    keys = LabelKeys(units=Units(energy="Hartree", length="Bohr"))
    atoms = labelled(frame([[1.0, 0, 0], [-1.0, 0, 0]], energy=-2.0, stress=VOIGT), keys)
    hartree, bohr = 27.21138602, 0.52917721067
    labels = find_labels(atoms)
    assert labels["energy"] == pytest.approx(-2 * hartree)
    assert labels["forces"][0, 0] == pytest.approx(hartree / bohr)
    np.testing.assert_allclose(labels["stress"], STRESS * hartree / bohr**3, rtol=1e-7)
    assert atoms.positions[1, 2] == pytest.approx(0.8 * bohr)
    assert atoms.get_volume() == pytest.approx(24 * bohr**3)


def test_the_frame_that_was_given_stays_as_it_is() -> None:
    atoms = frame(energy=-2.0)
    labelled(atoms, LabelKeys(units=Units(length="Bohr")))
    assert (atoms.positions[1, 2], atoms.cell[0, 0], atoms.calc) == (0.8, 2, None)


def test_a_stress_in_kbar_with_pressure_positive_is_read_as_vasp_means_it() -> None:
    keys = LabelKeys(units=Units(stress="kbar"), stress_sign="compression")
    np.testing.assert_allclose(find_labels(frame(stress=-1602.1766208 * VOIGT), keys)["stress"], STRESS, rtol=1e-7)
    with pytest.raises(ValueError, match='`stress_sign` must be "tension" or "compression", got \'pressure\''):
        LabelKeys(stress_sign="pressure")  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(6,), (9,), (3, 3)])
def test_the_stress_is_minus_the_virial_over_the_volume(shape: tuple[int, ...]) -> None:
    virial = -24 * (VOIGT if shape == (6,) else STRESS.reshape(shape))
    labels = find_labels(frame(virial=virial), LabelKeys(virial="virial"))
    np.testing.assert_allclose(labels["stress"], STRESS, rtol=0, atol=1e-15)
    in_kcal = LabelKeys(virial="virial", units=Units(energy="kcal/mol"))
    np.testing.assert_allclose(find_labels(frame(virial=virial), in_kcal)["stress"], 0.04336410 * STRESS, rtol=1e-6)
    # The sign of a stress says nothing about a virial; a length in Bohr makes the volume in Å³ smaller.
    other = LabelKeys(virial="virial", stress_sign="compression", units=Units(length="Bohr"))
    np.testing.assert_allclose(find_labels(frame(virial=virial), other)["stress"], STRESS / 0.52917721067**3, rtol=1e-7)


def test_a_stress_and_a_virial_that_agree_are_one_label_and_others_are_refused() -> None:
    keys = LabelKeys(virial="virial")
    agree = find_labels(frame(virial=-24 * STRESS, stress=VOIGT), keys)
    np.testing.assert_array_equal(agree["stress"], STRESS)
    with pytest.raises(ValueError, match=r"`stress` and `virial` contradict each other: xx 0\.01 and -0\.01 eV/Å³"):
        find_labels(frame(virial=24 * STRESS, stress=VOIGT), keys)


def test_a_virial_without_volume_must_be_zero() -> None:
    keys = LabelKeys(virial="virial")
    assert "stress" not in find_labels(frame(pbc=False, virial=np.zeros(6)), keys)
    with pytest.raises(ValueError, match="`virial` is not zero, but the frame has no periodic direction or no volume"):
        find_labels(frame(pbc=False, virial=VOIGT), keys)


def test_a_virial_that_is_not_symmetric_or_absurd_is_refused_by_its_own_name() -> None:
    with pytest.raises(ValueError, match="`virials` is not symmetric"):
        find_labels(frame(virials=24 * np.triu(STRESS)), LabelKeys(virial="virials"))
    with pytest.raises(ValueError, match=r"`virials` has .* eV/Å³; labels of more than 1000"):
        find_labels(frame(virials=1e6 * VOIGT), LabelKeys(virial="virials"))


def test_a_virial_under_the_name_of_a_stress_is_refused() -> None:
    with pytest.raises(ValueError, match=r'`dft_virial` is the name of a virial.*set `data.virial_key = "dft_virial"`'):
        LabelKeys(stress="dft_virial")
    LabelKeys(stress="virial_stress")


@pytest.mark.parametrize(
    ("gap", "size", "refused"),
    [(2e-6, 1e-6, False), (4e-6, 1e-6, True), (0.9e-4, 1.0, False), (1.1e-4, 1.0, True), (1.0, 0.01, True)],
)
@pytest.mark.parametrize("key", ["stress", "REF_stress"])
def test_noise_of_a_stress_is_averaged_and_more_is_refused(gap: float, size: float, refused: bool, key: str) -> None:
    full = np.diag([size] * 3)
    full[0, 1] = gap
    if refused:
        with pytest.raises(ValueError, match=f"`{key}` is not symmetric"):
            find_labels(frame(**{key: full}), LabelKeys(stress=key))
    else:
        found = find_labels(frame(**{key: full}), LabelKeys(stress=key))["stress"]
        assert found[0, 1] == found[1, 0] == gap / 2


def test_weights_of_frame_kind_and_term_are_multiplied() -> None:
    keys = LabelKeys(weight="config_weight", type_weights={"dimer": 0.5, "Default": 4.0})
    info = {"energy": 1.0, "config_weight": 3.0, "config_forces_weight": 7.0}
    dimer = labelled(frame([[0, 0, 1], [0, 0, -1]], config_type="dimer", **info), keys)
    labels = find_labels(dimer)
    assert (labels.weight, labels.weight_of("energy"), labels.weight_of("forces")) == (1.5, 1.5, 10.5)
    assert find_labels(labelled(frame(**info), keys)).weight == 12
    assert find_labels(labelled(frame(config_type="bulk", **info), keys)).weight == 3
    graph = to_graph(dimer, 3.0)
    assert (graph.weight.tolist(), graph.energy_weight.tolist(), graph.forces_weight.tolist()) == ([1.5], [1], [7])


def test_the_kind_of_a_frame_may_have_another_name() -> None:
    keys = LabelKeys(config_type="kind", type_weights={"dimer": 0.5})
    atoms = labelled(frame(energy=1.0, kind="dimer"), keys)
    assert (atoms.info["config_type"], find_labels(atoms).weight) == ("dimer", 0.5)


def test_weights_are_ignored_when_told_so() -> None:
    atoms = labelled(frame(energy=1.0, weight=0.0, energy_weight=5.0), LabelKeys(weight=""))
    assert find_labels(atoms).weight_of("energy") == 1
    assert LabelKeys(weight="").weight_of("energy") == ""
    assert LabelKeys(weight="w").weight_of("energy") == "energy_w"


def test_a_label_of_weight_zero_is_none_for_the_model() -> None:
    graph = to_graph(labelled(frame([[0, 0, 1], [0, 0, -1]], energy=1.0, energy_weight=0.0)), 3.0)
    assert graph.energy.isnan().all()
    assert not graph.forces.isnan().any()
    assert to_graph(labelled(frame([[0, 0, 1], [0, 0, -1]], weight=0)), 3.0).forces.isnan().all()


@pytest.mark.parametrize("value", [-1.0, 1e7, "heavy"])
def test_a_weight_of_a_term_that_cannot_be_one_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match=r"a frame: `energy_weight` (must not be|is not a number)"):
        find_labels(frame(energy=1.0, energy_weight=value))


def test_weights_of_mace_that_nobody_asked_for_are_complained_of() -> None:
    frames = [labelled(frame(energy=1.0, config_weight=w)) for w in (1, 1, 0)]
    complaint = other_weights(frames, KEYS)
    assert complaint is not None
    assert 'frames carry `config_weight` (0, 1)' in complaint  # fmt: skip
    assert 'set `data.weight_key = "config_weight"`' in complaint
    assert other_weights(frames[:2], KEYS) is None
    assert other_weights(frames, LabelKeys(weight="config_weight")) is None
    assert other_weights(frames, LabelKeys(weight="")) is None
    assert "`data.weight_key` is 'w', and no frame carries it" in str(other_weights(frames, LabelKeys(weight="w")))
    term = other_weights([labelled(frame(energy=1.0, config_forces_weight="2"))], KEYS)
    assert term is not None
    assert "`config_forces_weight` (2)" in term


def test_kinds_of_frames_that_do_not_occur_are_named() -> None:
    frames = [labelled(frame(energy=1.0, config_type=kind)) for kind in ("bulk", "slab")]
    assert unknown_types(frames, {"bulk": 1.0, "Default": 2.0}) is None
    assert unknown_types(frames, {"bluk": 1.0}) == (
        "`data.config_type_weights` names bluk, and no frame is of that kind; the kinds are: bulk, slab"
    )
    assert "none at all" in str(unknown_types([labelled(frame())], {"bulk": 1.0}))


def test_usual_names_of_labels_are_known() -> None:
    names = {
        "energy": ("REF_energy", "dft_energy", "energies", "free_energy", "TotEnergy", "energy_pbe", "DFT_energy"),
        "forces": ("force", "DFT_forces", "mace_forces", "forcesDFT"),
        "stress": ("REF_stress", "stresses"),
        "virial": ("virials", "dft_virial"),
    }
    for name, keys in names.items():
        assert [label_named(key) for key in keys] == [name] * len(keys)
    others = ("config_energy_weight", "kinetic_energy", "energy_std", "momenta", "tags", "enforced", "spacegroup")
    assert not any(map(label_named, others))


def test_the_error_of_a_missing_label_lists_what_is_there_and_the_setting_that_takes_it() -> None:
    atoms = frame(REF_energy=-1.0, energy_note="fine", REF_virial=np.zeros(9), charge=2)
    atoms.calc = SinglePointCalculator(atoms, stress=VOIGT)
    frames = [labelled(atoms, LabelKeys(stress="dft_stress"))]
    with pytest.raises(ValueError, match=r"holds: REF_energy, REF_virial, charge, energy_note, stress\. .* looks as if it were there: set `data\.energy_key = \"REF_energy\"`$"):  # fmt: skip
        require_labels(frames, ["energy"], allow_missing=False)
    with pytest.raises(
        ValueError,
        match=r"no label `dft_stress` \(stress\).*set `data\.stress_key = \"stress\"` or `data\.virial_key = \"REF_virial\"`$",
    ):
        require_labels(frames, ["stress"], allow_missing=False, keys=LabelKeys(stress="dft_stress"))


def test_a_virial_that_is_not_there_is_named_with_the_stress() -> None:
    keys = LabelKeys(virial="W")
    with pytest.raises(ValueError, match="no label `stress` and no `W`, first"):
        require_labels([labelled(frame(energy=1.0), keys)], ["stress"], allow_missing=False, keys=keys)


def test_labels_may_be_missing_one_by_one() -> None:
    frames = [labelled(frame(energy=1.0, stress=VOIGT)), labelled(frame(energy=1.0)), labelled(frame(stress=VOIGT))]
    require_labels(frames, ["energy", "stress"], allow_missing=["stress", "energy"])
    with pytest.raises(ValueError, match=r'no label `energy`.*`data\.allow_missing = \["energy"\]` for this label'):
        require_labels(frames, ["stress", "energy"], allow_missing=["stress"])


def test_frames_of_weight_zero_need_no_labels() -> None:
    frames = [labelled(frame(energy=1.0)), labelled(frame(weight=0))]
    require_labels(frames, ["energy"], allow_missing=False)
    with pytest.raises(ValueError, match=r"all 1 frames have weight 0 for `energy`.*`train\.energy_weight = 0`"):
        require_labels(frames[1:], ["energy"], allow_missing=True)


def test_labels_that_are_there_twice_are_told_of_when_they_differ() -> None:
    def twice(gap: float) -> list[Atoms]:
        atoms = frame(REF_energy=-3.0, REF_forces=3)
        atoms.calc = SinglePointCalculator(atoms, energy=-3.0, free_energy=-3.0 - gap)
        return [labelled(frame(energy=1.0)), labelled(atoms)]

    (sentence,) = second_labels(twice(0.25), KEYS)
    assert "hold `energy` and `free_energy`, which differ in 1 of 2 frames, by up to 0.25 eV" in sentence
    assert '`energy` is taken; data.energy_key = "free_energy" takes the other' in sentence
    assert second_labels(twice(1e-7), KEYS) == []
    nine = [labelled(frame(stress=VOIGT, dft_stress=2 * STRESS))]
    assert "by up to 0.05 eV/Å³" in second_labels(nine, KEYS)[0]


def test_a_name_asked_for_is_not_replaced_by_one_that_stays_in_info() -> None:
    atoms = labelled(frame(energy=-1.0), LabelKeys(energy="REF_energy"))
    assert "energy" not in find_labels(atoms)


def test_absurd_labels_that_nothing_is_trained_on_are_left_out_and_told_of() -> None:
    keys = LabelKeys(optional=["stress"])
    frames = [labelled(frame(energy=1.0, stress=1e7 * VOIGT), keys), labelled(frame(energy=1.0), keys)]
    assert find_labels(frames[0]).keys() == {"energy"}
    (sentence,) = left_out(frames, keys)
    assert "`stress` of 1 of 2 frames cannot be right" in sentence
    assert "set data.units.stress" in sentence


def test_nine_numbers_of_a_file_reach_the_check(tmp_path: Path) -> None:
    path = tmp_path / "a.xyz"
    path.write_text('1\nLattice="3 0 0 0 3 0 0 0 3" stress="0.1 0.05 0 -0.05 0.1 0 0 0 0.1" energy=1\nCu 0 0 0\n')
    with pytest.raises(ValueError, match=r"a\.xyz, frame 0: `stress` is not symmetric"):
        read_frames(path)
