"""Written frames read back exactly, here and in ASE."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms, FixBondLength, FixCartesian

from equinet.datasets import find_labels, iter_frames, read_frames, write_frames
from equinet.datasets.read.xyz import iter_xyz

INFO: dict[str, Any] = {
    "integer": -3, "real": 0.1 + 0.2, "tiny": 1e-300, "whole": 2.0, "yes": True, "no": False, "word": "word", "words": "some words = more", "quotes": "a \"b\" 'c'",
    "brackets": "[1] {2}", "backslash": "C:\\new\\table", "lines": "a\nb\tc", "digits": "007", "truth": "T", "empty": "", "blanks": "  x ", "nothing": None,
    "unicode": "Ångström ü", "json": "_JSON [1]", "commas": "1,2", "vector": np.array([0.1, -2.5e-17, 3.0]), "one": np.array([1.5]), "integers": np.array([1, 2]),
    "matrix": np.array([[0.1, 2], [3, 4]]), "none_of_it": np.zeros((0,)), "truths": np.array([True, False]), "table": {"a": [1, 2.5], "b": "c"}, "list": ["a", "b"],
    "odd key = [1]": 5, "big": 10**17, "bigger": 10**20, "nan": float("nan"), "virial": np.arange(9.0).reshape(3, 3), "exponent": "1.0D+00", "half": "1_0",
}  # fmt: skip


def frame(seed: int = 0) -> Atoms:
    source = np.random.default_rng(seed)
    atoms = Atoms(
        "HCuO", source.normal(size=(3, 3)), cell=source.normal(size=(3, 3)) + 4 * np.eye(3), pbc=(True, False, True)
    )
    atoms.arrays |= {
        "tags": np.array([1, -2, 3]), "masses": np.array([2.014, 63.5, 16.0]), "momenta": source.normal(size=(3, 3)), "fixed": np.array([True, False, True]),
        "names": np.array(["a", "bc", "d"]), "initial_charges": source.normal(size=3),
    }  # fmt: skip
    stress = source.normal(size=6)
    atoms.calc = SinglePointCalculator(
        atoms,
        energy=source.normal(),
        free_energy=-1.0,
        forces=source.normal(size=(3, 3)),
        stress=stress,
        magmoms=np.ones(3),
    )
    atoms.info |= INFO
    return atoms


def require_same(found: Any, told: Any, name: str) -> None:
    if isinstance(told, np.ndarray) or isinstance(found, np.ndarray):
        np.testing.assert_array_equal(found, told, err_msg=name)
        assert np.shape(found) == np.shape(told), name
    else:
        assert found == told or (found != found and told != told), name


def test_everything_reads_back_exactly(tmp_path: Path) -> None:
    told = [frame(n) for n in range(3)]
    assert write_frames(tmp_path / "a.xyz", iter(told)) == 3
    for native in (True, False):
        for expected, read in zip(told, iter_xyz(tmp_path / "a.xyz", native=native), strict=True):
            atoms = read.atoms()
            np.testing.assert_array_equal(atoms.cell[:], expected.cell[:])
            assert atoms.pbc.tolist() == expected.pbc.tolist()
            assert atoms.arrays.keys() == expected.arrays.keys()
            assert atoms.info.keys() == expected.info.keys()
            for name in atoms.arrays:
                require_same(atoms.arrays[name], expected.arrays[name], name)
            for name in atoms.info:
                require_same(atoms.info[name], expected.info[name], name)
            assert atoms.calc.results.keys() == expected.calc.results.keys()
            stress = atoms.calc.results.pop("stress")
            require_same(stress.ravel()[[0, 4, 8, 5, 2, 1]], expected.calc.results["stress"], "stress")
            for name, value in atoms.calc.results.items():
                require_same(value, expected.calc.results[name], name)


def test_ase_reads_the_same(tmp_path: Path) -> None:
    told = frame()
    told.info = {
        name: value for name, value in told.info.items() if name not in ("bigger", "half")
    }  # ASE takes these texts for numbers
    write_frames(tmp_path / "a.xyz", [told])
    read = ase.io.read(tmp_path / "a.xyz", format="extxyz")
    np.testing.assert_array_equal(read.positions, told.positions)
    np.testing.assert_array_equal(read.cell[:], told.cell[:])
    assert read.info.keys() == told.info.keys()
    for name, value in read.info.items():
        require_same(value, told.info[name], name)
    for name, value in read.arrays.items():
        require_same(value, told.arrays[name], name)
    for name, value in read.calc.results.items():
        require_same(value, told.calc.results[name], name)


def test_labels_of_read_frames_survive(tmp_path: Path) -> None:
    write_frames(tmp_path / "a.xyz", [frame()])
    first = read_frames(tmp_path / "a.xyz")
    write_frames(tmp_path / "b.xyz.gz", first)
    second = read_frames(tmp_path / "b.xyz.gz")
    for name, value in find_labels(first[0]).items():
        np.testing.assert_array_equal(find_labels(second[0])[name], value)
    assert second[0].get_masses()[0] == 2.014


def test_constraints_of_atoms_are_written(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fixed, partly = frame(), frame()
    fixed.set_constraint(FixAtoms([1]))
    partly.set_constraint([FixCartesian(0, (True, False, False)), FixBondLength(0, 1)])
    write_frames(tmp_path / "a.xyz", [fixed, partly])
    assert "extended XYZ has no form for FixBondLengths; written without" in caplog.text
    (one, other) = (each.atoms() for each in iter_xyz(tmp_path / "a.xyz"))
    assert one.constraints[0].index.tolist() == [1]
    assert other.constraints[0].mask.tolist() == [True, False, False]


def test_a_file_that_is_read_while_it_is_replaced_stays_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.xyz"
    write_frames(path, [frame()])
    before = path.read_bytes()
    write_frames(path, iter_frames(path))
    assert len(read_frames(path)) == 1
    path.write_bytes(before)
    with pytest.raises(FileNotFoundError, match=r"there is no file .*gone\.xyz"):
        write_frames(path, iter_frames(tmp_path / "gone.xyz"))
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["a.xyz"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"info": {"pbc": "T"}}, r"`info` has the key 'pbc', which is the name of another item or column"),
        ({"info": {"Tags": 1}, "arrays": {"tags": np.ones(3)}}, r"`info` has the key 'Tags'"),
        ({"info": {"a": 1, "A": 2}}, r"`info` has the key 'A'"),
        ({"info": {3: 1}}, r"`info` has the key 3, which is no name"),
        ({"info": {"a": object()}}, r"`info` holds `a`, which extended XYZ has no form for \(object\)"),
        ({"info": {"energy": 7.0}}, r"`energy` is both a result and in `info`, with different values"),
        (
            {"arrays": {"a": np.ones((3, 3, 3))}},
            r"the array `a` has the shape \(3, 3, 3\), and columns .* reshape or remove it",
        ),
        ({"arrays": {"a": np.ones(3, complex)}}, r"the array `a` holds complex128"),
        (
            {"arrays": {"a": np.array(["x y", "z", "u"])}},
            r"the array `a` holds 'x y', and a text of a column must be one word",
        ),
        ({"arrays": {"a b": np.ones(3)}}, r"the array 'a b' has blanks, colons, quotes or brackets in its name"),
        ({"arrays": {"numbers": np.array([0, 1, 1])}}, r"atom 0 \(from 0\) is of no element; remove it"),
    ],
)
def test_what_would_not_read_back_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    atoms = Atoms("HHO", np.eye(3))
    atoms.calc = SinglePointCalculator(atoms, energy=-1.0)
    atoms.info |= change.get("info", {})
    atoms.arrays |= change.get("arrays", {})
    with pytest.raises(ValueError, match=rf"a\.xyz, frame 1: {message}"):
        write_frames(tmp_path / "a.xyz", [Atoms("H"), atoms])
    assert not (tmp_path / "a.xyz").exists()


def test_a_frame_without_atoms_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="frame 0: the frame has no atoms; leave it out"):
        write_frames(tmp_path / "a.xyz", [Atoms()])
