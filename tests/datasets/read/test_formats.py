"""Formats besides extended XYZ: ASE's own answer, packed as well, and units that are asked for where a file does not say them."""

from __future__ import annotations

import bz2
import gzip
import lzma
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ase.db
import ase.io
import h5py
import numpy as np
import pytest
from ase import Atoms, units
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms

from equinet.datasets import LabelKeys, Units, find_labels, read_frames, read_structure
from equinet.datasets.read.vasp import UNCONVERGED, unconverged_outcar, unconverged_xml

PACKS: dict[str, Callable[[bytes], bytes]] = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}
EV = LabelKeys(units=Units(energy="eV"))


def frames(count: int = 3, atoms: int = 4) -> list[Atoms]:
    source = np.random.default_rng(0)
    made = []
    for _ in range(count):
        each = Atoms(["Cu", "O", "H", "O"][:atoms], source.normal(size=(atoms, 3)), cell=[8, 8, 8], pbc=True)
        each.calc = SinglePointCalculator(
            each, energy=source.normal(), forces=source.normal(size=(atoms, 3)), stress=source.normal(size=6)
        )
        made.append(each)
    return made


def require_same(read: list[Atoms], told: list[Atoms], *, stress: bool = True) -> None:
    assert len(read) == len(told)
    for mine, theirs in zip(read, told):
        np.testing.assert_array_equal(mine.numbers, theirs.numbers)
        np.testing.assert_allclose(mine.positions, theirs.positions, rtol=1e-13)
        np.testing.assert_allclose(find_labels(mine)["energy"], theirs.calc.results["energy"], rtol=1e-13)
        np.testing.assert_allclose(find_labels(mine)["forces"], theirs.calc.results["forces"], rtol=1e-13)
        assert ("stress" in find_labels(mine)) == stress


@pytest.mark.parametrize("ending", ["", *PACKS])
@pytest.mark.parametrize("name", ["a.traj", "a.json", "a.db", "a.aselmdb"])
def test_files_of_ase_are_read_packed_or_not(tmp_path: Path, name: str, ending: str) -> None:
    told = frames()
    if name.endswith("db"):
        with ase.db.connect(tmp_path / name) as database:
            for each in told:
                database.write(each, source="here")
    else:
        ase.io.write(tmp_path / name, told)
    path = tmp_path / name
    if ending:
        path = tmp_path / (name + ending)
        path.write_bytes(PACKS[ending]((tmp_path / name).read_bytes()))
    read = read_frames(path)
    require_same(read, told)
    assert not name.endswith("db") or read[0].info["source"] == "here"


@pytest.mark.parametrize("name", ["POSCAR.xz", "a.cif.gz", "a.pdb.bz2"])
def test_packed_structures_are_read(tmp_path: Path, name: str) -> None:
    plain = tmp_path / Path(name).stem
    ase.io.write(plain, frames(1)[0])
    path = tmp_path / name
    path.write_bytes(PACKS[path.suffix](plain.read_bytes()))
    np.testing.assert_allclose(read_structure(path).positions, read_structure(plain).positions)


def test_constrained_forces_are_raw(tmp_path: Path) -> None:
    (told,) = frames(1)
    told.set_constraint(FixAtoms([0, 1]))
    for name in ("a.traj", "a.db"):
        ase.io.write(tmp_path / name, told)
        np.testing.assert_array_equal(
            find_labels(read_frames(tmp_path / name)[0])["forces"], told.calc.results["forces"]
        )


OUTCAR = """
   NELM   =      {most};   NELMIN=  2; NELMDL= -5     # of ELM steps
--------------------------------------- Iteration      1(   1)  ---------------------------------------
--------------------------------------- Iteration      1(   2)  ---------------------------------------
------------------------ aborting loop because EDIFF is reached ----------------------------------------
--------------------------------------- Iteration      2(   1)  ---------------------------------------
--------------------------------------- Iteration      2(   2)  ---------------------------------------
{end}
"""


@pytest.mark.parametrize(
    ("most", "end", "expected"),
    [
        (2, "", [False, True]),  # all steps taken, and nothing reached
        (60, "", [False, False]),  # still running
        (2, "------------------------ aborting loop because EDIFF is reached ---", [False, False]),
        (60, "------------------------ aborting loop EDIFF was not reached (unconverged)  ---", [False, True]),
    ],
)
def test_unconverged_steps_of_outcar_are_found(tmp_path: Path, most: int, end: str, expected: list[bool]) -> None:
    (tmp_path / "OUTCAR").write_text(OUTCAR.format(most=most, end=end))
    assert unconverged_outcar(tmp_path / "OUTCAR") == expected


STEP = """<calculation>{steps}
<structure><crystal><varray name="basis"><v>5 0 0</v><v>0 5 0</v><v>0 0 5</v></varray></crystal>
<varray name="positions"><v>0 0 0</v><v>0.5 0 0</v></varray></structure>
<varray name="forces"><v>0 0 1</v><v>0 0 -1</v></varray>
<energy><i name="e_fr_energy">-1.5</i><i name="e_wo_entrp">-1.25</i><i name="e_0_energy">-1.0</i></energy></calculation>"""
XML = """<?xml version="1.0"?><modeling><parameters><i type="int" name="NELM">2</i></parameters><kpoints></kpoints>
<atominfo><array name="atoms"><set><rc><c>H </c><c>1</c></rc><rc><c>H </c><c>1</c></rc></set></array></atominfo>
<structure name="initialpos"><crystal><varray name="basis"><v>5 0 0</v><v>0 5 0</v><v>0 0 5</v></varray></crystal>
<varray name="positions"><v>0 0 0</v><v>0.5 0 0</v></varray></structure>"""
SCF = '<scstep><energy><i name="e_fr_energy">-1.5</i><i name="e_wo_entrp">-1.25</i><i name="e_0_energy">-1.0</i></energy></scstep>'


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_vasprun_is_read_with_what_did_not_converge(
    tmp_path: Path, ending: str, caplog: pytest.LogCaptureFixture
) -> None:
    text = XML + STEP.format(steps=SCF) + STEP.format(steps=SCF * 2)
    path = tmp_path / f"vasprun.xml{ending}"
    path.write_bytes(PACKS.get(ending, bytes)((text + "</modeling>").encode()))
    first, second = read_frames(path)
    assert (first.info.get(UNCONVERGED), second.info.get(UNCONVERGED)) == (None, True)
    assert find_labels(first)["forces"].tolist() == [[0, 0, 1], [0, 0, -1]]
    assert {find_labels(first)["energy"].item(), first.calc.unused["free_energy"]} <= {-1.5, -1.25, -1.0}
    assert not caplog.records
    path.write_bytes(PACKS.get(ending, bytes)(text.encode()))
    assert len(read_frames(path)) == 2
    assert "breaks off; its complete ionic steps are read" in caplog.text


def test_steps_of_a_broken_xml_are_counted(tmp_path: Path) -> None:
    (tmp_path / "vasprun.xml").write_text(XML + STEP.format(steps=SCF * 2) + "<calc")
    assert unconverged_xml(tmp_path / "vasprun.xml") == [True]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.traj", b"- of UlmASE-Trajectory" + b"\0" * 30, r"a\.traj cannot be read as traj: .*; is it complete\?"),
        ("a.unknown", b"some words\n", r"a\.unknown cannot be read: its format is not known\. Known are extended XYZ, npz, HDF5 and databases .*OUTCAR"),
        ("a.dat", b"", r"a\.dat holds no frames: it is empty"),
        ("a.npz", b"PK", r"a\.npz cannot be read: "),
        ("a.h5", b"HDF", r"a\.h5 cannot be read as HDF5: OSError"),
        ("a.db", b"x" * 5000, r"a\.db cannot be read as a database of ASE: "),
        ("a.aselmdb", b"x" * 5000, r"a\.aselmdb is no LMDB file; was it cut short or renamed"),
        ("a.traj.gz", b"no", r"a\.traj\.gz cannot be read: BadGzipFile: .*not packed as its name ends"),
        ("a.xyz", b"\n\n", r"a\.xyz holds no frames"),
    ],
)  # fmt: skip
def test_files_that_cannot_be_read_are_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_frames(tmp_path / name)


@pytest.mark.parametrize("name", ["lmdb", "h5py"])
def test_a_missing_library_is_named_with_how_to_install_it(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / ("a.h5" if name == "h5py" else "a.aselmdb")
    path.write_bytes(b"x")
    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr("equinet.datasets.read.databases.find_spec", lambda module: None if module == name else True)
    with pytest.raises(ValueError, match=rf"{path.name} needs {name}, which .*: pip install -e '\.\[data\]'"):
        read_frames(path)


# SchNetPack's layout: labels in `data`, with an axis of frames, units in the metadata.


def write_rows(path: Path, metadata: dict[str, Any], factor: float = 1.0, **more: Any) -> list[Atoms]:
    told = frames()
    with ase.db.connect(path) as database:
        for each in told:
            bare = Atoms(each.numbers, each.positions / (units.Bohr if factor != 1 else 1), cell=[9, 9, 9], pbc=True)
            force = each.calc.results["forces"] / factor * (units.Bohr if factor != 1 else 1)
            database.write(
                bare, data={"energy": np.array([each.calc.results["energy"] / factor]), "forces": force, **more}
            )
        database.metadata = metadata
    return told


def test_labels_in_data_are_read_in_the_units_of_the_metadata(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    told = write_rows(
        path,
        {"_distance_unit": "Bohr", "_property_unit_dict": {"energy": "Hartree", "forces": "Hartree/Bohr"}},
        units.Hartree,
        charge=np.array([2.0]),
    )
    read = read_frames(path)
    require_same(read, told, stress=False)
    assert read[0].info["charge"] == 2.0


def test_labels_in_data_without_units_are_refused_unless_units_are_asked_for(tmp_path: Path) -> None:
    told = write_rows(tmp_path / "a.db", {})
    with pytest.raises(
        ValueError,
        match=r"a\.db: row 1 has its labels \(energy, forces\) in `data`, .*does not say the units .*set `data\.units`",
    ):
        read_frames(tmp_path / "a.db")
    require_same(read_frames(tmp_path / "a.db", EV), told, stress=False)


def test_a_unit_of_the_metadata_that_is_unknown_is_named(tmp_path: Path) -> None:
    write_rows(tmp_path / "a.db", {"_distance_unit": "Ang", "_property_unit_dict": {"energy": "erg"}})
    with pytest.raises(ValueError, match=r"a\.db: `units` has no energy unit 'erg'"):
        read_frames(tmp_path / "a.db")


def test_data_that_contradicts_the_calculator_is_refused(tmp_path: Path) -> None:
    (told,) = frames(1)
    with ase.db.connect(tmp_path / "a.db") as database:
        database.write(told, data={"energy": told.calc.results["energy"], "note": "same"})
        database.write(told, data={"energy": 7.0})
    with pytest.raises(
        ValueError, match=r"a\.db, row 2: `energy` differs between the calculator and `data` of the row"
    ):
        read_frames(tmp_path / "a.db")


# npz


def write_npz(path: Path, **changes: Any) -> list[Atoms]:
    told = frames()
    arrays = {
        "nuclear_charges": told[0].numbers,
        "coords": np.array([each.positions for each in told]),
        "energies": np.array([each.calc.results["energy"] for each in told]) / (units.kcal / units.mol),
        "forces": np.array([each.calc.results["forces"] for each in told]) / (units.kcal / units.mol),
    }
    np.savez(path, **{name: value for name, value in {**arrays, **changes}.items() if value is not None})
    return told


def test_npz_is_read_in_the_units_asked_for(tmp_path: Path) -> None:
    told = write_npz(tmp_path / "a.npz", old_indices=np.array([7, 8, 9]))
    with pytest.raises(
        ValueError,
        match=r"a\.npz: a `\.npz` file does not say the units of its numbers \(often kcal/mol and Ang in rMD17\); set `data\.units`",
    ):
        read_frames(tmp_path / "a.npz")
    read = read_frames(tmp_path / "a.npz", LabelKeys(units=Units(energy="kcal/mol", length="Ang")))
    require_same(read, told, stress=False)
    assert [each.info["old_indices"] for each in read] == [7, 8, 9]
    assert not read[0].pbc.any()


def test_npz_that_says_its_units_is_read_in_them(tmp_path: Path) -> None:
    told = write_npz(tmp_path / "a.npz", e_unit="kcal/mol", r_unit="Ang", lattice=9 * np.eye(3))
    read = read_frames(tmp_path / "a.npz")
    require_same(read, told, stress=False)
    assert read[0].pbc.all()


def test_npz_of_frames_of_different_size_is_padded(tmp_path: Path) -> None:
    numbers = np.tile(frames()[0].numbers, (3, 1))
    numbers[1, 2:] = 0
    write_npz(tmp_path / "a.npz", nuclear_charges=numbers)
    assert [len(each) for each in read_frames(tmp_path / "a.npz", EV)] == [4, 2, 4]
    assert find_labels(read_frames(tmp_path / "a.npz", EV)[1])["forces"].shape == (2, 3)


def test_labels_of_npz_under_another_name_are_taken_when_asked_for(tmp_path: Path) -> None:
    write_npz(tmp_path / "a.npz", old_energies=np.array([1.0, 2.0, 3.0]))
    read = read_frames(tmp_path / "a.npz", LabelKeys(energy="old_energies", units=Units(energy="eV")))
    assert [find_labels(each)["energy"].item() for each in read] == [1, 2, 3]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"coords": None},
            r"there are no positions \(coords, coordinates, .*it holds nuclear_charges, energies, forces",
        ),
        ({"nuclear_charges": None}, r"there are no atomic numbers"),
        ({"coords": np.zeros((3, 12))}, r"`coords` must have the shape \(frames, atoms, 3\), got \(1, 3, 12\)"),
        (
            {"nuclear_charges": np.array([1, 8])},
            r"`nuclear_charges` must have the shape \(4,\) or \(3, 4\) as `coords`, got \(2,\)",
        ),
        ({"lattice": np.zeros(3)}, r"`lattice` must have the shape \(3, 3\) or \(3, 3, 3\), got \(3,\)"),
        ({"energies": np.zeros(2)}, r"`energies` must have one entry for each of 3 frames, got the shape \(2,\)"),
        ({"nuclear_charges": np.array(["H", "O", "Xx", "H"])}, r"'Xx' is no symbol of an element"),
        ({"coords": np.array([None])}, r"cannot be read: ValueError: Object arrays cannot be loaded"),
    ],
)
def test_npz_of_wrong_arrays_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    write_npz(tmp_path / "a.npz", **changes)
    with pytest.raises(ValueError, match=rf"a\.npz.* {message}"):
        read_frames(tmp_path / "a.npz", EV)


# HDF5


def write_groups(path: Path, *, attributes: bool = False, gradient: bool = False) -> list[Atoms]:
    """Two molecules, each with frames of its own, in Hartree and Bohr."""
    told = frames(3)
    names = (
        ("conformations", "dft_total_energy", "dft_total_gradient")
        if gradient
        else ("coordinates", "energies", "forces")
    )
    with h5py.File(path, "w") as file:
        for name, part in (("m10", told[2:]), ("m2", told[:2])):
            group = file.create_group(f"sets/{name}")
            group["species"] = [symbol.encode() for symbol in part[0].get_chemical_symbols()]
            group[names[0]] = np.array([each.positions for each in part]) / units.Bohr
            group[names[1]] = np.array([each.calc.results["energy"] for each in part]) / units.Hartree
            force = np.array([each.calc.results["forces"] for each in part]) / units.Hartree * units.Bohr
            group[names[2]] = -force if gradient else force
            if attributes:
                for data, unit in zip(names, ("bohr", "hartree", "hartree/bohr")):
                    group[data].attrs["units"] = unit
    return told


@pytest.mark.parametrize("gradient", [False, True])
def test_hdf5_that_says_its_units_is_read_in_them(tmp_path: Path, gradient: bool) -> None:
    told = write_groups(tmp_path / "a.h5", attributes=True, gradient=gradient)
    read = read_frames(tmp_path / "a.h5")
    require_same(read, told, stress=False)
    assert read[2].info["group"] == "/sets/m10"


def test_hdf5_without_units_asks_for_them(tmp_path: Path) -> None:
    told = write_groups(tmp_path / "a.hdf5")
    with pytest.raises(ValueError, match=r"a\.hdf5: this HDF5 file does not say the units .*set `data\.units`"):
        read_frames(tmp_path / "a.hdf5")
    require_same(
        read_frames(tmp_path / "a.hdf5", LabelKeys(units=Units(energy="Hartree", length="Bohr"))), told, stress=False
    )


def test_hdf5_of_wrong_arrays_is_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["species"], file["coordinates"] = [1, 1], np.zeros((2, 3, 3))
    with pytest.raises(ValueError, match=r"a\.h5, /: `species` must have the shape"):
        read_frames(tmp_path / "a.h5", EV)
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["something"] = 1
    with pytest.raises(ValueError, match=r"b\.h5 holds no frames"):
        read_frames(tmp_path / "b.h5")


def write_mace(path: Path, **changes: Any) -> list[Atoms]:
    told = frames(12)
    with h5py.File(path, "w") as file:
        for n, each in enumerate(told):
            group = file.create_group(f"config_batch_0/config_{n}")
            items = {
                "atomic_numbers": each.numbers,
                "positions": each.positions,
                "cell": each.cell[:],
                "pbc": (True, True, True),
                "weight": 2.0,
                "config_type": "Default",
            }
            for name, value in {**items, **changes}.items():
                if value is not None:
                    group[name] = value
            for name, value in {**each.calc.results, "dipole": "None"}.items():
                group[f"properties/{name}"] = value
            group["property_weights/forces"] = 0.5
    return told


def test_files_of_mace_are_read(tmp_path: Path) -> None:
    told = write_mace(tmp_path / "train.h5")
    read = read_frames(tmp_path / "train.h5")
    require_same(read, told)
    labels = find_labels(read[0])
    assert (labels.weight, labels.weights) == (2.0, {"forces": 0.5})
    assert read[0].pbc.all()
    assert "dipole" not in read[0].calc.results


def test_damaged_and_converted_files_of_mace_are_refused(tmp_path: Path) -> None:
    write_mace(tmp_path / "a.h5", positions=None)
    with pytest.raises(ValueError, match=r"a\.h5, /config_batch_0/config_0: KeyError: .*the configuration is damaged"):
        read_frames(tmp_path / "a.h5")
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["config_0/node_attrs"], file["config_0/edge_index"] = np.eye(2), [[0], [1]]
    with pytest.raises(ValueError, match=r"b\.h5, /config_0: graphs of MACE do not say their elements"):
        read_frames(tmp_path / "b.h5")


# RuNNer and n2p2

RUNNER = """# a comment
begin
comment made up
lattice 5 0 0
lattice 0 5 0
lattice 0 0 5
atom 1 2 3 H 0.1 0 0.5 0 -0.5
atom 1 2 4 O -0.1 0 -0.5 0 0.5
energy -2.5
charge 0
end
"""


def test_runner_files_are_read_in_the_units_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "input.data"
    path.write_text(RUNNER * 2)
    with pytest.raises(
        ValueError,
        match=r"input\.data: the format of RuNNer and n2p2 .* does not say the units .*often Hartree and Bohr.*`data\.units`",
    ):
        read_frames(path)
    read = read_frames(path, EV)
    assert len(read) == 2
    assert find_labels(read[1])["energy"] == -2.5
    assert find_labels(read[1])["forces"].tolist() == [[0.5, 0, -0.5], [-0.5, 0, 0.5]]
    assert read[0].cell.lengths().tolist() == [5, 5, 5]
    assert read[0].info["comment"] == "made up"
    (bohr, _) = read_frames(path, LabelKeys(units=Units(energy="Hartree", length="Bohr")))
    assert bohr.positions[0, 0] == pytest.approx(units.Bohr)
    assert find_labels(bohr)["forces"][0, 0] == pytest.approx(0.5 * units.Hartree / units.Bohr)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("begin", "start", r"input\.data, frame 1, line 13: here a frame begins with `begin`, but there is 'start'"),
        ("\nend", "", r"frame 1, line 13: the frame has no `end`; was the file cut short"),
        ("lattice 0 0 5\n", "", r"the frame has 2 atoms and 2 lattice vectors"),
        ("1 2 3 H", "1 2 3 Hx", r"line 18: 'Hx' is no symbol of an element"),
        ("1 2 3 H", "1 2 x H", r"line 18: 'x' is not a number"),
        ("-0.5\natom", "\natom", r"line 18: 'atom 1 2 3 H 0.1 0 0.5 0' is none of: lattice with 3 numbers"),
        ("charge 0", "energy 0", r"line 21: 'energy 0' is none of"),
    ],
)
def test_damaged_runner_files_are_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = tmp_path / "input.data"
    path.write_text(RUNNER + RUNNER.replace(old, new, 1))
    with pytest.raises(ValueError, match=message):
        read_frames(path, EV)


def test_lammps_does_not_say_its_units(tmp_path: Path) -> None:
    ase.io.write(tmp_path / "a.lmp", frames(1)[0], format="lammps-data")
    text = (tmp_path / "a.lmp").read_text()
    assert re.search("atoms", text)
    dump = "ITEM: TIMESTEP\n0\nITEM: NUMBER OF ATOMS\n1\nITEM: BOX BOUNDS pp pp pp\n0 5\n0 5\n0 5\nITEM: ATOMS id element x y z\n1 H 1 2 3\n"
    (tmp_path / "a.lammpstrj").write_text(dump)
    with pytest.raises(ValueError, match=r"a\.lammpstrj: a dump of LAMMPS does not say the units"):
        read_frames(tmp_path / "a.lammpstrj")
    (atoms,) = read_frames(tmp_path / "a.lammpstrj", EV)
    assert atoms.positions.tolist() == [[1, 2, 3]]
