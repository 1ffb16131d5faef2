"""Reading labels: from every place and name they come in, raw, in the right order, and refused when they cannot be right."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms

from equinet.datasets import (
    SAMPLE,
    LabelKeys,
    find_labels,
    is_isolated_atom,
    read_frames,
    read_structure,
    require_labels,
    source,
    split_isolated,
    to_graph,
    to_graphs,
)

FORCES = [[0.1, 0.2, 0.3], [-0.1, -0.2, -0.3]]
FULL = np.array([[1.0, 2.0, 3.0], [2.0, 4.0, 5.0], [3.0, 5.0, 6.0]])  # xx xy xz / yx yy yz / zx zy zz
VOIGT = [1.0, 4.0, 6.0, 5.0, 3.0, 2.0]  # xx yy zz yz xz xy


def write(path: Path, comment: str = "energy=-1.5", columns: str = "forces:R:3", rows: list | None = None) -> Path:
    """One frame of H2 in extended XYZ, the text written out so that ASE's writer has no say in it."""
    rows = FORCES if rows is None else rows
    lines = ["2", f"Properties=species:S:1:pos:R:3:{columns} {comment}"]
    lines += [f"H 0 0 {0.8 * n} " + " ".join(map(str, row)) for n, row in enumerate(rows)]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_energy_and_forces_are_read(tmp_path: Path) -> None:
    (atoms,) = read_frames(write(tmp_path / "a.xyz"))
    labels = find_labels(atoms)
    assert labels.get("energy") == -1.5
    np.testing.assert_array_equal(labels.get("forces"), FORCES)
    assert labels.get("stress") is None
    assert labels.weight == 1
    assert atoms.get_potential_energy() == -1.5
    np.testing.assert_array_equal(atoms.get_forces(), FORCES)


def test_labels_are_found_under_other_names(tmp_path: Path) -> None:
    comment = 'REF_energy=-3 REF_stress="1 2 3 2 4 5 3 5 6" w=0.25 Lattice="5 0 0 0 5 0 0 0 5" pbc="T T T"'
    path = write(tmp_path / "a.xyz", comment, "dft_force:R:3")
    keys = LabelKeys(energy="REF_energy", forces="dft_force", stress="REF_stress", weight="w")
    (atoms,) = read_frames(path, keys)
    labels = find_labels(atoms)  # from here on under their own names
    assert (labels.get("energy"), labels.weight) == (-3, 0.25)
    np.testing.assert_array_equal(labels.get("forces"), FORCES)
    np.testing.assert_array_equal(labels.get("stress"), FULL)


def test_a_name_asked_for_is_not_replaced_by_the_usual_one(tmp_path: Path) -> None:
    both = write(tmp_path / "both.xyz", "energy=-1 REF_energy=-2")
    usual = write(tmp_path / "usual.xyz", "energy=-1")
    frames = read_frames([both, usual], LabelKeys(energy="REF_energy"))
    assert [find_labels(atoms).get("energy") for atoms in frames] == [-2, None]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("stress", "1 2 3 2 4 5 3 5 6"),  # the only form in which ASE's reader accepts this name
        ("REF_stress", "1 2 3 2 4 5 3 5 6"),
        ("REF_stress", "1 4 6 5 3 2"),
    ],
)
def test_stress_is_read_in_both_orders(tmp_path: Path, name: str, text: str) -> None:
    comment = f'{name}="{text}" Lattice="5 0 0 0 5 0 0 0 5" pbc="T T T"'
    (atoms,) = read_frames(write(tmp_path / "a.xyz", comment), LabelKeys(stress=name))
    np.testing.assert_array_equal(find_labels(atoms).get("stress"), FULL)
    np.testing.assert_array_equal(atoms.get_stress(), VOIGT)
    np.testing.assert_array_equal(to_graph(atoms, 3.0).stress[0].numpy(), FULL)


@pytest.mark.parametrize("name", ["stress", "REF_stress"])
def test_stress_that_is_symmetric_but_for_noise_is_made_so(tmp_path: Path, name: str) -> None:
    comment = f'{name}="1e-6 0 0 2e-6 1e-6 0 0 0 1e-6" Lattice="5 0 0 0 5 0 0 0 5"'
    (atoms,) = read_frames(write(tmp_path / "a.xyz", comment), LabelKeys(stress=name))
    stress = find_labels(atoms).get("stress")
    assert stress is not None
    np.testing.assert_allclose(stress, [[1e-6, 1e-6, 0], [1e-6, 1e-6, 0], [0, 0, 1e-6]])
    np.testing.assert_array_equal(atoms.get_stress(), stress.ravel()[[0, 4, 8, 5, 2, 1]])
    assert not any("stress" in key for key in atoms.info if key != name)


def test_a_stress_that_is_not_asked_for_may_be_anything(tmp_path: Path) -> None:
    path = write(tmp_path / "a.xyz", 'energy=1 stress="0.1 5 0 0 0.1 0 0 0 0.1"')
    (atoms,) = read_frames(path, LabelKeys(stress="REF_stress"))
    assert find_labels(atoms).keys() == {"energy", "forces"}
    assert read_structure(path).calc is None


@pytest.mark.parametrize("name", ["a.xyz", "a.extxyz", "A.XYZ", "frames", "a.xyz.gz", "A.XYZ.GZ"])
def test_extended_xyz_is_checked_under_every_name(tmp_path: Path, name: str) -> None:
    """What ASE reads as such: by the end of the name, or by its first lines."""
    content = write(tmp_path / "good", 'stress="0.1 5 0 0 0.1 0 0 0 0.1"').read_bytes()
    path = tmp_path / name
    path.write_bytes(gzip.compress(content) if name.lower().endswith("gz") else content)
    with pytest.raises(ValueError, match=rf"{re.escape(name)}, frame 0: `stress` is not symmetric"):
        read_frames(path)
    path.write_bytes(gzip.compress(MANY_ATOMS) if name.lower().endswith("gz") else MANY_ATOMS)
    with pytest.raises(
        ValueError, match=rf"{re.escape(name)}, frame 0, line 1: the frame announces 1000000000000 atoms, more"
    ):
        read_frames(path)


MANY_ATOMS = b"1000000000000\nProperties=species:S:1:pos:R:3 energy=1\nH 0 0 0\n"


def test_stress_of_a_calculator_is_in_voigt_order() -> None:
    atoms = Atoms("H2", [[0, 0, 0], [0, 0, 0.8]], cell=[5, 5, 5], pbc=True)
    atoms.calc = SinglePointCalculator(atoms, energy=-1.0, stress=np.array(VOIGT))
    np.testing.assert_array_equal(find_labels(atoms).get("stress"), FULL)


def test_labels_without_a_calculator_are_found_too() -> None:
    atoms = Atoms("H2", [[0, 0, 0], [0, 0, 0.8]], info={"energy": -1.5})
    atoms.arrays["forces"] = np.array(FORCES)
    labels = find_labels(atoms)
    assert labels.get("energy") == -1.5
    np.testing.assert_array_equal(labels.get("forces"), FORCES)


def test_constraints_do_not_zero_forces(tmp_path: Path) -> None:
    path = write(tmp_path / "a.xyz", columns="forces:R:3:move_mask:L:1", rows=[[*FORCES[0], "F"], [*FORCES[1], "T"]])
    (atoms,) = read_frames(path)
    assert len(atoms.constraints) == 1
    assert atoms.get_forces()[0].tolist() == [0, 0, 0]  # what ASE makes of it
    np.testing.assert_array_equal(find_labels(atoms).get("forces"), FORCES)
    np.testing.assert_array_equal(to_graph(atoms, 3.0).forces.numpy(), FORCES)


def test_constraints_of_a_trajectory_do_not_zero_forces(tmp_path: Path) -> None:
    atoms = Atoms("H2", [[0, 0, 0], [0, 0, 0.8]], constraint=FixAtoms([0, 1]))
    atoms.calc = SinglePointCalculator(atoms, energy=-1.0, forces=np.array(FORCES))
    ase.io.write(tmp_path / "a.traj", atoms)
    (read,) = read_frames(tmp_path / "a.traj")
    np.testing.assert_array_equal(find_labels(read).get("forces"), FORCES)


def test_a_gzipped_file_reads_like_the_plain_one(tmp_path: Path) -> None:
    plain = write(tmp_path / "a.xyz")
    packed = tmp_path / "a.xyz.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    (expected,), (atoms,) = read_frames(plain), read_frames(packed)
    assert find_labels(atoms).get("energy") == find_labels(expected).get("energy")
    np.testing.assert_array_equal(find_labels(atoms).get("forces"), find_labels(expected).get("forces"))
    assert source(atoms) == f"{packed}, frame 0"


def test_several_files_are_read_one_after_another_and_every_frame_knows_its_place(tmp_path: Path) -> None:
    first, second = write(tmp_path / "a.xyz"), tmp_path / "b.xyz"
    second.write_text(first.read_text() * 2)
    frames = read_frames([first, str(second)])
    assert [source(atoms) for atoms in frames] == [f"{first}, frame 0", f"{second}, frame 0", f"{second}, frame 1"]


def test_labels_survive_being_written_and_read_again(tmp_path: Path) -> None:
    comment = 'energy=-1.25 weight=2 stress="1 2 3 2 4 5 3 5 6" Lattice="5 0 0 0 5 0 0 0 5" pbc="T T T"'
    (atoms,) = read_frames(write(tmp_path / "a.xyz", comment))
    ase.io.write(tmp_path / "b.extxyz", atoms)
    (again,) = read_frames(tmp_path / "b.extxyz")
    before, after = find_labels(atoms), find_labels(again)
    assert (before.get("energy"), before.weight) == (after.get("energy"), after.weight) == (-1.25, 2)
    np.testing.assert_allclose(after.get("forces"), before.get("forces"), atol=1e-8)
    np.testing.assert_allclose(after.get("stress"), before.get("stress"), atol=1e-8)


def test_a_frame_without_labels_has_none(tmp_path: Path) -> None:
    path = tmp_path / "a.xyz"
    path.write_text("1\nProperties=species:S:1:pos:R:3\nH 0 0 0\n")
    (atoms,) = read_frames(path)
    labels = find_labels(atoms)
    assert (labels.get("energy"), labels.get("forces"), labels.get("stress")) == (None, None, None)


@pytest.mark.parametrize(
    ("comment", "rows", "message"),
    [
        ("energy=nan", FORCES, "`energy` has 1 value.s. that are not finite"),
        ("energy=inf", FORCES, "`energy` has 1 value.s. that are not finite"),
        ("energy=1", [["nan", "nan", 0], [0, 0, 0]], "`forces` has 2 value.s. that are not finite"),
        ('stress="1 2 3 2 4 5 3 5 nan"', FORCES, "`stress` has 1 value.s. that are not finite"),
        ("weight=nan", FORCES, "`weight` has 1 value.s. that are not finite"),
        ("weight=-2", FORCES, "`weight` must not be negative, got -2.0"),
        ("weight=1e308", FORCES, r"`weight` must not be above 1e\+06, got 1e\+308"),
        (
            "energy=1e308",
            FORCES,
            r"`energy` has 5e\+307 eV/atom; labels of more than 2e\+06 eV/atom come of another unit",
        ),
        ("energy=-5e6", FORCES, r"`energy` has 2.5e\+06 eV/atom; .* Remove the frame or compute it again"),
        (
            "energy=1",
            [[0, 0, 0], [0, -1e6, 0]],
            r"`forces` has 1e\+06 eV/Å of atom 1; labels of more than 10000 eV/Å come",
        ),
        ('stress="1e4 0 0 0 0 0 0 0 0"', FORCES, r"`stress` has 10000 eV/Å³; labels of more than 1000 eV/Å³ come"),
        ('energy="1 2 3"', FORCES, r"`energy` has shape \(3,\), must be \(\)"),
        ("energy=low", FORCES, "`energy` is not a number: 'low'"),
        ("energy=" + "a" * 10_000, FORCES, r"`energy` is not a number: 'a{30,40}\.\.\.a{30,40}'; correct the frame$"),
        ('stress="0.1 5 0 0 0.1 0 0 0 0.1"', FORCES, r"`stress` is not symmetric: \[\[0.1, .*; correct the frame"),
    ],
)
def test_a_label_that_cannot_be_right_is_refused_with_file_and_frame(
    tmp_path: Path, comment: str, rows: list, message: str
) -> None:
    good, bad = write(tmp_path / "good.xyz"), write(tmp_path / "bad.xyz", comment, rows=rows)
    path = tmp_path / "all.xyz"
    path.write_text(good.read_text() + bad.read_text())
    with pytest.raises(ValueError, match=rf"all\.xyz, frame 1: {message}"):
        read_frames(path)


@pytest.mark.parametrize(
    ("keys", "comment", "message"),
    [
        (LabelKeys(forces="f"), "energy=1", r"`f` has shape \(2, 2\), must be \(2, 3\)"),
        (LabelKeys(stress="s"), 's="1 2 3 4"', r"`s` has shape \(4,\), must be \(6,\) or \(9,\) or \(3, 3\)"),
        (LabelKeys(energy="e"), 'e="1 2"', r"`e` has shape \(2,\), must be \(\)"),
    ],
)
def test_a_renamed_label_of_the_wrong_shape_is_refused(
    tmp_path: Path, keys: LabelKeys, comment: str, message: str
) -> None:
    path = write(tmp_path / "a.xyz", comment, "f:R:2", [[1, 2], [3, 4]])
    with pytest.raises(ValueError, match=message):
        read_frames(path, keys)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no file .*nothing\.xyz"):
        read_frames(tmp_path / "nothing.xyz")


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.xyz").write_text("")
    with pytest.raises(ValueError, match=r"empty\.xyz holds no frames"):
        read_frames(tmp_path / "empty.xyz")


def test_a_file_that_is_not_gzipped_in_spite_of_its_name_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.xyz").rename(tmp_path / "a.xyz.gz")
    with pytest.raises(ValueError, match=r"a\.xyz\.gz cannot be read: BadGzipFile"):
        read_frames(path)


def test_isolated_atoms_are_told_from_frames() -> None:
    crystal = Atoms("Cu", cell=[2, 2, 2], pbc=True)
    marked = Atoms("Cu", cell=[20, 20, 20], pbc=True, info={"config_type": "IsolatedAtom"})
    assert not is_isolated_atom(crystal)
    assert is_isolated_atom(marked)
    assert is_isolated_atom(Atoms("H"))
    assert not is_isolated_atom(Atoms("H2"))
    ordinary, isolated = split_isolated([crystal, marked, Atoms("H"), Atoms("H2")])
    assert ordinary[0] is crystal
    assert [len(atoms) for atoms in ordinary] == [1, 2]
    assert isolated[0] is marked
    assert len(isolated) == 2


@pytest.mark.parametrize(
    ("cell", "pbc", "isolated"),
    [
        ([12, 12, 12], True, True),
        ([12, 12, 8], True, False),
        ([12, 12, 8], (True, True, False), True),
        ([0, 0, 8], (False, False, True), False),
        ([[12, 0, 0], [11, 6, 0], [0, 0, 12]], True, False),  # b - a is 6.1 Å long
    ],
)
def test_one_atom_is_isolated_if_its_images_are_far(cell: list, pbc: bool | tuple, isolated: bool) -> None:
    assert is_isolated_atom(Atoms("Cu", cell=cell, pbc=pbc)) == isolated


def test_a_molecule_marked_as_an_isolated_atom_is_refused() -> None:
    with pytest.raises(ValueError, match="marked as IsolatedAtom, but it has 2 atoms"):
        is_isolated_atom(Atoms("H2", info={"config_type": "IsolatedAtom"}))


def frames_with(tmp_path: Path, *comments: str) -> list[Atoms]:
    path = tmp_path / "frames.xyz"
    path.write_text("".join(write(tmp_path / "one.xyz", comment).read_text() for comment in comments))
    return read_frames(path)


def test_labels_that_all_frames_have_are_enough(tmp_path: Path) -> None:
    require_labels(frames_with(tmp_path, "energy=1", "energy=2"), ["energy", "forces"], allow_missing=False)


def test_a_label_that_a_frame_lacks_is_refused_unless_allowed(tmp_path: Path) -> None:
    frames = frames_with(tmp_path, "energy=1", "other=2", "other=3")
    message = r"2 of 3 frames have no label `energy`, first .*frame 1; .*otherwise set `data.allow_missing = true`"
    with pytest.raises(ValueError, match=message):
        require_labels(frames, ["energy"], allow_missing=False)
    require_labels(frames, ["energy"], allow_missing=True)


@pytest.mark.parametrize("allow_missing", [False, True])
def test_a_label_that_no_frame_has_is_refused_in_any_case(tmp_path: Path, allow_missing: bool) -> None:
    frames = frames_with(tmp_path, "dft_energy=1", "dft_energy=2")
    message = (
        r"2 of 2 frames have no label `energy`.*holds: .*dft_energy.*`data.energy_key`; otherwise set `train.energy_w"
    )
    with pytest.raises(ValueError, match=message):
        require_labels(frames, ["forces", "energy"], allow_missing=allow_missing)


def test_the_sample_reads_as_its_readme_says() -> None:
    expected = {"train": (403, 3), "valid": (100, 0), "test": (200, 0)}
    for part, (count, atoms_alone) in expected.items():
        frames = read_frames(SAMPLE[part])
        ordinary, isolated = split_isolated(frames)
        assert (len(frames), len(isolated)) == (count, atoms_alone)
        assert {atoms.get_chemical_formula() for atoms in ordinary} == {"C2H6O"}
        require_labels(ordinary, ["energy", "forces"], allow_missing=False)
    train, isolated = split_isolated(read_frames(SAMPLE["train"]))
    energies = {atoms.get_chemical_formula(): find_labels(atoms).get("energy") for atoms in isolated}
    assert energies == {"H": -10.70721138, "C": -48.79807985, "O": -102.52180714}
    rms = np.sqrt(np.mean([find_labels(atoms).get("forces") ** 2 for atoms in train]))
    assert rms == pytest.approx(0.918, abs=5e-4)


def test_forces_of_the_sample_add_up_to_nothing() -> None:
    for atoms in read_frames(SAMPLE["valid"]):
        np.testing.assert_allclose(find_labels(atoms).get("forces").sum(0), 0, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "count", "formula"), [("test_300K.xyz.gz", 1669, "C12H12N2O"), ("iso_atoms.xyz.gz", 4, None)]
)
def test_a_published_set_reads(shared_data: Path, name: str, count: int, formula: str | None) -> None:
    frames = read_frames(shared_data / "3bpa" / name)
    assert len(frames) == count
    if formula:
        assert {atoms.get_chemical_formula() for atoms in frames} == {formula}
        rms = np.sqrt(np.mean([find_labels(atoms).get("forces") ** 2 for atoms in frames]))
        assert rms == pytest.approx(0.9607, abs=1e-4)  # the data set's own README
    else:
        assert all(is_isolated_atom(atoms) for atoms in frames)


@pytest.mark.parametrize("number", [0, -1, 119, 200])
def test_atoms_of_no_element_are_refused_with_file_frame_and_atom(tmp_path: Path, number: int) -> None:
    path = tmp_path / "a.xyz"
    head = "2\nProperties=Z:I:1:pos:R:3\n1 0 0 0\n"
    path.write_text(f"{head}1 0 0 1\n{head}{number} 0 0 1\n")
    sentence = (
        rf"a\.xyz, frame 1, line 8, column 1: `Z` of atom 1 .*: there is no element with atomic number {number}, "
    )
    with pytest.raises(ValueError, match=sentence):
        read_frames(path)
    with pytest.raises(ValueError, match=sentence):
        read_structure(path)


@pytest.mark.parametrize("number", ["nan", "inf", "-inf"])
def test_positions_and_cells_that_are_not_finite_are_refused_with_file_and_frame(tmp_path: Path, number: str) -> None:
    path = tmp_path / "a.xyz"
    head = '2\nLattice="5 0 0 0 5 0 0 0 {}" pbc="T T T" Properties=species:S:1:pos:R:3\nH 0 0 0\nH 0 0 {}\n'
    for cell, position, what in (
        (5, number, r"position of atom 1 is not finite: \["),
        (number, 1, r"cell is not finite: \["),
    ):
        path.write_text(head.format(5, 1) + head.format(cell, position))
        for read in (read_frames, read_structure):
            with pytest.raises(ValueError, match=rf"a\.xyz, frame 1, line \d: the {what}.*; correct"):
                read(path)


def test_whether_an_atom_is_isolated_is_not_asked_of_a_cell_that_is_not_finite() -> None:
    with pytest.raises(ValueError, match=r"a frame: the cell is not finite"):
        split_isolated([Atoms("H", cell=[5, 5, np.nan], pbc=True)])


def test_an_element_that_does_not_exist_is_refused_before_one_that_the_model_does_not_know() -> None:
    atoms = Atoms([1, 200], [[0, 0, 0], [0, 0, 1]])
    with pytest.raises(ValueError, match=r"a frame: there is no element with atomic number 200 \(atom 1"):
        to_graphs([atoms], 3.0, [1])
