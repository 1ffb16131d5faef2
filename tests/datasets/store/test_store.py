"""Stores give back what went in, to ASE too, in every process; what is damaged is named."""

from __future__ import annotations

import builtins
import os
import pickle
from pathlib import Path
from typing import Any

import ase.db
import numpy as np
import pytest
from ase import Atoms
from ase.db.row import AtomsRow

from equinet.datasets.frames import labelled
from equinet.datasets.store import StoredFrames, database, is_store, stores_of, write_store
from equinet.datasets.store.rows import decoded, encoded

from .conftest import random_frames, require_same, rich_frame


def test_frames_come_back_to_the_last_bit_in_any_order(store: Path, frames: list[Atoms]) -> None:
    stored = StoredFrames(store / "*.aselmdb")
    assert len(stored) == len(frames) == 60
    for n in (59, 0, 23, 22, 37, -1):
        require_same(frames[n], stored[n])
    assert stored[24].info["equinet_source"].endswith("b.aselmdb, frame 1")
    assert [a.calc.results["energy"] for a in stored[20:26]] == [a.calc.results["energy"] for a in frames[20:26]]
    assert len(list(stored)) == 60
    with pytest.raises(IndexError, match="no frame 60 in 60"):
        stored[60]


def test_everything_that_a_frame_has_comes_back(tmp_path: Path) -> None:
    atoms = labelled(rich_frame())
    atoms.calc.results["dipole"] = np.array([0.1, 0.2, 0.3])
    atoms.calc.results["my_property"] = np.array([[1.5, 2.5]])
    atoms.info |= {"nothing": None, "nested": {"list": [1, 2.5, "x"]}, "complex": 1 + 2j, "nan": float("nan")}
    write_store(tmp_path / "one.aselmdb", [atoms])
    back = StoredFrames(tmp_path / "one.aselmdb")[0]
    assert "my_property" not in back.info
    require_same(atoms, back)
    assert back.calc.results["forces"][0].any()  # of an atom that is held, for which ASE would say zero
    assert not back.get_forces()[0].any()


def test_ase_reads_what_we_write(store: Path, frames: list[Atoms], monkeypatch: pytest.MonkeyPatch) -> None:
    copy = store.parent / "for_ase.aselmdb"
    copy.write_bytes((store / "a.aselmdb").read_bytes())
    with ase.db.connect(copy, type="aselmdb", readonly=True, use_lock_file=False) as rows:
        assert len(rows) == 23
        for atoms, row in zip(frames, rows.select()):
            found = row.toatoms()
            assert (found.positions == atoms.positions).all()
            assert (found.cell[:] == atoms.cell[:]).all()
            assert found.get_potential_energy() == atoms.calc.results["energy"]
            assert (found.get_forces() == atoms.calc.results["forces"]).all()
        assert row.unique_id
        assert rows.metadata["units"]["energy"] == "eV"


def test_what_ase_writes_is_read_and_deleted_rows_are_not_there(tmp_path: Path) -> None:
    path, frames = tmp_path / "ase.aselmdb", random_frames(5)
    with ase.db.connect(path, type="aselmdb", use_lock_file=False) as rows:
        for n, atoms in enumerate(frames):
            rows.write(atoms, key_value_pairs={"number": n}, data={"more": [1, 2]})
    rows = ase.db.connect(path, type="aselmdb", use_lock_file=False)
    rows.delete([2])
    rows.close()
    del rows
    stored = StoredFrames(path)
    assert [atoms.info["number"] for atoms in stored] == [0, 2, 3, 4]
    assert stored[1].info["more"] == [1, 2]
    assert (stored[1].calc.results["forces"] == frames[2].calc.results["forces"]).all()


def test_our_reading_of_a_row_agrees_with_ases(tmp_path: Path) -> None:
    atoms = labelled(rich_frame())
    write_store(tmp_path / "x.aselmdb", [atoms])
    content = database.Database(tmp_path / "x.aselmdb").get(b"1")
    assert content is not None
    theirs, ours = AtomsRow(decoded(content)).toatoms(), StoredFrames(tmp_path / "x.aselmdb")[0]
    for name in theirs.arrays:
        np.testing.assert_array_equal(theirs.arrays[name], ours.arrays[name])
    np.testing.assert_array_equal(theirs.calc.results["stress"], ours.calc.results["stress"])


def test_other_processes_open_the_file_for_themselves(store: Path, frames: list[Atoms]) -> None:
    stored = StoredFrames([store / "a.aselmdb", store / "b.aselmdb"])
    again = pickle.loads(pickle.dumps(stored))
    require_same(again[30], frames[30])
    child = os.fork()
    if child == 0:  # no handle is shared: each of these two opens the file anew, in this process once
        good = (
            stored[30].calc.results["energy"] == again[30].calc.results["energy"] == frames[30].calc.results["energy"]
        )
        os._exit(0 if good else 1)
    assert os.waitpid(child, 0)[1] == 0
    require_same(stored[31], frames[31])


def test_files_are_closed_and_opened_again_so_that_their_pages_do_not_fill_the_memory(
    store: Path, frames: list[Atoms], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, real = [], database._opened
    monkeypatch.setattr(database, "_opened", lambda path: opened.append(path) or real(path))
    monkeypatch.setattr(database, "READS", 10)
    one, other = StoredFrames(store / "a.aselmdb"), StoredFrames(store / "a.aselmdb")
    for n in range(20):
        require_same(frames[n], one[n])
        require_same(frames[n], other[n])
    assert 4 <= len(opened) <= 6


def test_a_store_that_is_gone_when_it_is_opened_again_is_named(store: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.aselmdb"
    path.write_bytes((store / "a.aselmdb").read_bytes())
    stored = StoredFrames(path)
    stored.files[0]._file.close()
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"there is no file .*x\.aselmdb any more"):
        stored[0]


def test_a_folder_may_be_read_only_and_there_is_no_lock_file(store: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.aselmdb"
    path.write_bytes((store / "a.aselmdb").read_bytes())
    path.chmod(0o444)
    tmp_path.chmod(0o555)
    try:
        assert len(StoredFrames(path)) == 23
        assert os.listdir(tmp_path) == ["x.aselmdb"]
    finally:
        tmp_path.chmod(0o755)


def test_writing_leaves_nothing_but_the_store(tmp_path: Path) -> None:
    def frames() -> Any:
        yield labelled(random_frames(1)[0])
        raise ValueError("the disk of the reader broke")

    with pytest.raises(ValueError, match="broke"):
        write_store(tmp_path / "x.aselmdb", frames())
    assert os.listdir(tmp_path) == []
    assert write_store(tmp_path / "x.aselmdb", random_frames(3)) == 3
    assert os.listdir(tmp_path) == ["x.aselmdb"]
    with pytest.raises(FileExistsError, match=r"x\.aselmdb is there already"):
        write_store(tmp_path / "x.aselmdb", random_frames(1))
    with pytest.raises(ValueError, match=r"must end in \.aselmdb"):
        write_store(tmp_path / "x.mdb", random_frames(1))
    with pytest.raises(OSError, match=r"y\.aselmdb cannot be written"):
        write_store(tmp_path / "nowhere" / "y.aselmdb", random_frames(1))


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (object(), "is a object"),
        ({1: 2}, "is a table with the key 1"),
        ([b"bytes"], "is a bytes"),
        (np.array([None]), "is an array of object"),
    ],
)
def test_an_entry_that_would_be_lost_is_refused(value: object, reason: str, tmp_path: Path) -> None:
    atoms = labelled(random_frames(1)[0])
    atoms.info |= {"strange": value, "equinet_source": "a.xyz, frame 3"}
    with pytest.raises(ValueError, match=rf"a\.xyz, frame 3: `strange` {reason}"):
        write_store(tmp_path / "x.aselmdb", [atoms])


def test_a_name_for_two_things_is_refused(tmp_path: Path) -> None:
    atoms = labelled(random_frames(1)[0])
    atoms.info["charge"], atoms.arrays["charge"] = 1, np.zeros(len(atoms))
    with pytest.raises(ValueError, match="has `charge` twice"):
        write_store(tmp_path / "x.aselmdb", [atoms])


def damaged(path: Path, key: bytes, value: bytes | None) -> None:
    lmdb = database.lmdb_module()
    with (
        lmdb.open(str(path), subdir=False, lock=False, map_size=2**24) as handle,
        handle.begin(write=True) as transaction,
    ):
        assert transaction.delete(key) if value is None else transaction.put(key, value)


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda p: p.write_bytes(p.read_bytes()[:20000]), r"was cut short: it has 20,000 of [\d,]+ bytes"),
        (lambda p: p.write_bytes(p.read_bytes()[:100]), "is no store of frames"),
        (lambda p: p.write_bytes(b""), "cannot be opened: the file is empty"),
        (lambda p: p.write_text("2\n\nH 0 0 0\n" * 2000), "is no store of frames"),
        (lambda p: damaged(p, b"3", b"\x00\x01"), r"x\.aselmdb, frame 2: row 3 is damaged: error"),
        (lambda p: damaged(p, b"3", encoded({"positions": []})), "frame 2: row 3 is no frame: KeyError: 'numbers'"),
        (lambda p: damaged(p, b"3", None), r"frame 2: there is no row 3; make or fetch"),
        (lambda p: damaged(p, b"nextid", b"junk"), "is no database of ASE: its list of rows is damaged"),
        (lambda p: damaged(p, b"nextid", encoded(1)), "holds no frames"),
        (lambda p: damaged(p, b"metadata", encoded({"_property_unit_dict": {}})), "has units of its own"),
        (lambda p: (p.unlink(), p.mkdir()), "is a folder, and a store is a file"),
        (lambda p: p.unlink(), "there is no file"),
    ],
)  # fmt: skip
def test_a_damaged_store_is_named(harm: Any, message: str, store: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.aselmdb"
    path.write_bytes((store / "a.aselmdb").read_bytes())
    harm(path)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        list(StoredFrames(path))
    assert "x.aselmdb" in str(caught.value)


def test_a_wrong_label_in_a_store_is_named(tmp_path: Path) -> None:
    atoms = random_frames(1)[0]
    atoms.calc.results["energy"] = float("nan")
    write_store(tmp_path / "x.aselmdb", [atoms])
    with pytest.raises(ValueError, match=r"x\.aselmdb, frame 0: `energy` has 1 value"):
        StoredFrames(tmp_path / "x.aselmdb")[0]


def test_without_lmdb_the_error_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, store: Path, tmp_path: Path
) -> None:
    original = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "lmdb":
            raise ImportError("No module named 'lmdb'")
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    for use in (lambda: StoredFrames(store / "a.aselmdb"), lambda: write_store(tmp_path / "x.aselmdb", [])):
        with pytest.raises(ValueError, match=r"a \.aselmdb file needs lmdb, .*pip install -e '\.\[data\]'"):
            use()


def test_patterns_and_mixtures(store: Path, tmp_path: Path) -> None:
    assert [path.name for path in stores_of(store / "*.aselmdb")] == ["a.aselmdb", "b.aselmdb"]
    with pytest.raises(FileNotFoundError, match=r"no file fits the pattern .*\*\.aselmdb"):
        stores_of(str(tmp_path / "*.aselmdb"))
    assert is_store("x.ASELMDB")
    assert not is_store(["x.xyz", "y.xyz"])
    with pytest.raises(ValueError, match=r"equinet data convert a\.aselmdb b\.xyz all\.aselmdb"):
        is_store(["a.aselmdb", "b.xyz"])
