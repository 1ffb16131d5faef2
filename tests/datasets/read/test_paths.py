"""Names of data: files, folders, patterns, and words on what is not there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from equinet.datasets import read_frames
from equinet.datasets.read import files_of

FRAME = "1\nProperties=species:S:1:pos:R:3 energy={}\nH 0 0 0\n"


def make(folder: Path, *names: str) -> None:
    for n, name in enumerate(names):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(FRAME.format(n))


def names(found: list[Path]) -> list[str]:
    return [path.name for path in found]


def test_patterns_are_files_in_natural_order(tmp_path: Path) -> None:
    make(tmp_path, "run10.xyz", "run2.xyz", "run1.xyz", "notes.txt")
    assert names(files_of(tmp_path / "run*.xyz")) == ["run1.xyz", "run2.xyz", "run10.xyz"]
    assert [atoms.get_potential_energy() for atoms in read_frames(str(tmp_path / "*.xyz"))] == [2, 1, 0]


def test_patterns_go_down_and_may_name_folders(tmp_path: Path) -> None:
    make(tmp_path, "a/1.xyz", "b/2.xyz", "c.xyz")
    assert names(files_of(tmp_path / "**/*.xyz")) == ["1.xyz", "2.xyz", "c.xyz"]
    assert names(files_of(tmp_path / "[ab]")) == ["1.xyz", "2.xyz"]


def test_a_file_with_brackets_in_its_name_is_itself(tmp_path: Path) -> None:
    make(tmp_path, "a[1].xyz", "a1.xyz")
    assert names(files_of(tmp_path / "a[1].xyz")) == ["a[1].xyz"]


def test_a_folder_is_all_its_files_and_says_what_it_leaves(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make(tmp_path, "b.xyz.gz", "a.extxyz", "OUTCAR", "notes.txt", ".hidden", "sub/c.xyz")
    assert names(files_of(tmp_path)) == ["OUTCAR", "a.extxyz", "b.xyz.gz"]
    assert "not read from the folder" in caplog.text
    assert "notes.txt, sub" in caplog.text


def test_a_folder_without_structures_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"holds no file of a known ending, but nothing; name the files or a pattern such as .*\*\.xyz"
    ):
        files_of(tmp_path)
    make(tmp_path, *(f"{n}.txt" for n in range(12)))
    with pytest.raises(ValueError, match=r"but 0\.txt, 1\.txt, 2\.txt, .*, 9\.txt and 2 more"):
        files_of(tmp_path)


def test_the_home_folder_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, "a.xyz")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert files_of("~/a.xyz") == [tmp_path / "a.xyz"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("trian.xyz", r"there is no file .*trian\.xyz; did you mean .*train\.xyz\?"),
        ("TRAIN.XYZ", r"there is no file .*; did you mean .*train\.xyz\?"),
        ("zzz", r"there is no file .*zzz$"),
        ("gone/deep/a.xyz", r"there is no file .*; there is no folder .*deep, only "),
        ("*.traj", r"no file fits the pattern .*\*\.traj; .* holds train\.xyz$"),
        ("gone/*.xyz", r"no file fits the pattern .*; there is no folder .*gone"),
    ],
)
def test_what_is_not_there_is_named_with_what_is(tmp_path: Path, name: str, message: str) -> None:
    make(tmp_path, "train.xyz")
    with pytest.raises(FileNotFoundError, match=message):
        files_of(tmp_path / name)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.xyz")
    with pytest.raises(ValueError, match=r"pipe\.xyz is neither a file nor a folder"):
        files_of(tmp_path / "pipe.xyz")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every folder")
def test_a_closed_folder_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0)
    with pytest.raises(ValueError, match="cannot be read: Permission denied"):
        files_of(tmp_path)
    tmp_path.chmod(0o700)
