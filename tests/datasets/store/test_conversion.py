"""Conversions give every digit and entry back, or refuse the frame by name."""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable
from pathlib import Path

import ase.db
import ase.io
import ase.units
import numpy as np
import pytest
from ase import Atoms
from ase.constraints import FixBondLength

from equinet.datasets import LabelKeys, read_frames
from equinet.datasets.conversion import convert, format_of
from equinet.datasets.frames import labelled
from equinet.datasets.store import StoredFrames, write_store
from equinet.datasets.store.rows import atoms_of
from equinet.datasets.writing import frame_text, write_frames

from .conftest import random_frames, require_same, rich_frame


def from_database(path: Path) -> list[Atoms]:
    rows = ase.db.connect(path, type="db", use_lock_file=False).select()
    return [
        labelled(
            atoms_of(
                {
                    **{name: row[name] for name in row},
                    "constraints": [each.todict() for each in row.constraints],
                    "data": dict(row.data),
                }
            )
        )
        for row in rows
    ]


READERS: dict[str, Callable[[Path], list[Atoms]]] = {
    "x.xyz": read_frames,
    "x.extxyz": read_frames,
    "x.xyz.gz": read_frames,
    "x.aselmdb": lambda path: list(StoredFrames(path)),
    "x.db": from_database,
}


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("there") / "there.aselmdb"
    write_store(path, [labelled(rich_frame()), *map(labelled, random_frames(10))])
    return path


@pytest.mark.parametrize("name", READERS)
def test_a_round_trip_gives_every_bit_back(name: str, there: Path, tmp_path: Path) -> None:
    before = list(StoredFrames(there))
    calls: list[tuple[int, int | None]] = []
    count = convert(there, tmp_path / name, advance=lambda done, total: calls.append((done, total)))
    assert count == 11
    assert calls[-1] == (11, 11)
    after = READERS[name](tmp_path / name)
    assert len(after) == 11
    for one, other in zip(before, after):
        require_same(one, other)
    if name != "x.db":
        convert(tmp_path / name, tmp_path / "back.aselmdb")
        for one, other in zip(before, StoredFrames(tmp_path / "back.aselmdb")):
            require_same(one, other)
    assert not any(".partial" in each for each in os.listdir(tmp_path))


def test_a_trajectory_keeps_all_that_it_can_hold(tmp_path: Path) -> None:
    frames = [labelled(atoms) for atoms in random_frames(5)]
    frames[1].info["third"] = 1 / 3
    write_frames(tmp_path / "in.xyz", frames)
    convert(tmp_path / "in.xyz", tmp_path / "out.traj")
    for one, other in zip(frames, read_frames(tmp_path / "out.traj"), strict=True):
        require_same(one, other)
    write_frames(tmp_path / "rich.xyz", [labelled(rich_frame())])
    with pytest.raises(ValueError, match=r"rich\.xyz, frame 0: has an array `bader`, which a trajectory cannot hold"):
        convert(tmp_path / "rich.xyz", tmp_path / "rich.traj")
    frames[0].info["strange"] = {1: object()}
    with pytest.raises(ValueError, match=r"strange.*write a \*\.aselmdb instead"):
        format_of(tmp_path / "b.traj")(tmp_path / "b.traj", frames)
    assert sorted(os.listdir(tmp_path)) == ["in.xyz", "out.traj", "rich.xyz"]


def test_labels_get_their_own_names(tmp_path: Path) -> None:
    atoms = random_frames(1)[0]
    results, atoms.calc = atoms.calc.results, None
    atoms.info |= {"dft_energy": results["energy"], "config_weight": 2.0}
    atoms.arrays["dft_forces"] = results["forces"]
    write_frames(tmp_path / "in.xyz", [atoms])
    keys = LabelKeys(energy="dft_energy", forces="dft_forces", weight="config_weight")
    convert(tmp_path / "in.xyz", tmp_path / "out.xyz", keys)
    (back,) = read_frames(tmp_path / "out.xyz")
    assert back.calc.results["energy"] == results["energy"]
    assert (back.calc.results["forces"] == results["forces"]).all()
    assert back.info.keys() == {"weight", "equinet_source"}
    assert back.info["weight"] == 2
    assert back.arrays.keys() == {"numbers", "positions"}


def test_several_files_become_one_and_a_weight_of_one_is_not_written(tmp_path: Path) -> None:
    write_frames(tmp_path / "a.xyz", random_frames(3))
    with gzip.open(tmp_path / "b.xyz.gz", "wt") as file:
        file.write("".join(map(frame_text, random_frames(2, seed=1))))
    assert convert([tmp_path / "a.xyz", tmp_path / "b.xyz.gz"], tmp_path / "all.xyz") == 5
    assert "weight" not in (tmp_path / "all.xyz").read_text()
    assert len(ase.io.read(tmp_path / "all.xyz", ":")) == 5


def test_nothing_is_overwritten_nor_left_half_written(tmp_path: Path) -> None:
    write_frames(tmp_path / "a.xyz", random_frames(3))
    (tmp_path / "b.xyz").write_text("mine")
    with pytest.raises(FileExistsError, match=r"b\.xyz is there already"):
        convert(tmp_path / "a.xyz", tmp_path / "b.xyz")
    (tmp_path / "a.xyz").write_text((tmp_path / "a.xyz").read_text() + "2\nenergy=nan\nH 0 0 0\nH 0 0 1\n")
    for name in ("c.xyz", "c.aselmdb", "c.db", "c.traj", "c.xyz.gz"):
        with pytest.raises(ValueError, match=r"a\.xyz, frame 3: `energy` has 1 value"):
            convert(tmp_path / "a.xyz", tmp_path / name)
    assert sorted(os.listdir(tmp_path)) == ["a.xyz", "b.xyz"]
    with pytest.raises(OSError, match=r"c\.xyz cannot be written"):
        write_frames(tmp_path / "nowhere" / "c.xyz", random_frames(1))


@pytest.mark.parametrize("name", ["out.cif", "out", "out.gz", "out.aselmdb.gz"])
def test_a_format_that_loses_something_is_refused(name: str, tmp_path: Path) -> None:
    write_frames(tmp_path / "a.xyz", random_frames(1))
    with pytest.raises(
        ValueError, match=r"`out`: .* has no suffix of a format that keeps all of a frame; there are \*\.xyz"
    ):
        convert(tmp_path / "a.xyz", tmp_path / name)


def spoilt(change: Callable[[Atoms], object]) -> Atoms:
    atoms = labelled(random_frames(2)[1])
    atoms.info["equinet_source"] = "a.aselmdb, frame 7"
    change(atoms)
    return atoms


def test_a_constraint_that_extended_xyz_cannot_hold_is_refused(tmp_path: Path) -> None:
    atoms = random_frames(1)[0]
    atoms.set_constraint(FixBondLength(0, 1))
    write_store(tmp_path / "a.aselmdb", [labelled(atoms)])
    with pytest.raises(
        ValueError, match=r"a\.aselmdb, frame 0: has constraints \(FixBondLengths\), which extended XYZ cannot hold"
    ):
        convert(tmp_path / "a.aselmdb", tmp_path / "a.xyz")
    assert os.listdir(tmp_path) == ["a.aselmdb"]


def test_ase_reads_the_text_that_we_write(tmp_path: Path) -> None:
    atoms = labelled(rich_frame())
    write_frames(tmp_path / "x.xyz", [atoms])
    read = ase.io.read(tmp_path / "x.xyz")
    assert (read.positions == atoms.positions).all()
    assert (read.cell[:] == atoms.cell[:]).all()
    np.testing.assert_array_equal(read.get_stress(), atoms.calc.results["stress"])
    np.testing.assert_array_equal(read.get_forces(apply_constraint=False), atoms.calc.results["forces"])


def test_a_store_with_units_of_its_own_is_refused_for_streaming_and_converted(tmp_path: Path) -> None:
    atoms = random_frames(1)[0]
    energy, atoms.calc = atoms.calc.results["energy"], None
    with ase.db.connect(tmp_path / "other.aselmdb", type="aselmdb", use_lock_file=False) as database:
        database.metadata = {"_property_unit_dict": {"energy": "Hartree"}, "_distance_unit": "Ang"}
        database.write(atoms, data={"energy": np.array([energy / ase.units.Hartree])})
    with pytest.raises(ValueError, match=r"has units of its own .*equinet data convert"):
        StoredFrames(tmp_path / "other.aselmdb")
    assert convert(tmp_path / "other.aselmdb", tmp_path / "new.aselmdb") == 1
    assert StoredFrames(tmp_path / "new.aselmdb")[0].calc.results["energy"] == pytest.approx(energy, rel=1e-12)
