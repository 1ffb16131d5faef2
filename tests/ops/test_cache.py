"""The disk cache: what is found again, what is made anew, and folders that cannot be used."""

from __future__ import annotations

import logging
import multiprocessing
import os
from pathlib import Path

import pytest
import torch
from torch import Tensor

from equinet.ops import cache
from equinet.ops.cache import cached
from equinet.ops.coupling.cp import _cp_factors, coupling_tensor, cp_factors
from equinet.tensorfile import read_tensors, save_tensors


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that is the cache."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("EQUINET_CACHE", str(folder))
    return folder


class Maker:
    """Makes a tensor, and counts how often."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> dict[str, Tensor]:
        self.calls += 1
        return {"squares": torch.arange(4.0, dtype=torch.float64) ** 2, "names": torch.tensor([1, 2])}


def ask(maker: Maker, argument: int = 1) -> dict[str, Tensor]:
    return cached("squares", {"argument": argument, "shape": (2, 2)}, maker, worthwhile=0.0)


def entries(place: Path) -> list[Path]:
    return sorted(place.glob("squares-*.safetensors"))


def test_what_was_made_once_is_found_again_with_every_digit(place: Path) -> None:
    maker = Maker()
    first, second = ask(maker), ask(maker)
    assert maker.calls == 1
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert second[name].dtype == value.dtype
        assert torch.equal(second[name], value)


def test_other_arguments_and_other_sources_are_made_anew(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    maker = Maker()
    ask(maker, 1)
    ask(maker, 2)
    monkeypatch.setattr(cache, "sources", lambda: "those of another version")
    ask(maker, 1)
    assert maker.calls == 3
    assert len(entries(place)) == 3


def damaged(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def of_something_else(path: Path) -> None:
    tensors, header = read_tensors(path)
    save_tensors(path, {name: value + 1 for name, value in tensors.items()}, {**header, "sources": "another version"})


def a_pickle(path: Path) -> None:
    torch.save({"squares": torch.zeros(4)}, path)


@pytest.mark.parametrize("change", [damaged, cut_short, emptied, of_something_else, a_pickle])
def test_an_entry_that_is_not_what_was_written_is_made_anew(
    place: Path, change: object, caplog: pytest.LogCaptureFixture
) -> None:
    maker = Maker()
    ask(maker)
    (path,) = entries(place)
    change(path)  # type: ignore[operator]
    with caplog.at_level(logging.INFO, "equinet"):
        found = ask(maker)
    assert maker.calls == 2
    assert found["squares"].tolist() == [0, 1, 4, 9]
    assert f"an entry of the cache is made anew: {path}" in caplog.text
    ask(maker)
    assert maker.calls == 2  # the new one is whole


def test_what_is_made_quickly_is_not_kept(place: Path) -> None:
    maker = Maker()
    for _ in range(2):
        cached("squares", {}, maker)
    assert maker.calls == 2
    assert not entries(place)


def test_entries_used_longest_ago_go_when_there_are_too_many(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    maker = Maker()
    for argument in range(3):
        ask(maker, argument)
    size = entries(place)[0].stat().st_size
    for age, path in enumerate(sorted(entries(place), key=lambda path: path.stat().st_mtime_ns)):
        os.utime(path, (1_000_000 + age, 1_000_000 + age))
    ask(maker, 0)  # used now
    (place / "squares-x.safetensors.1-1.partial").write_bytes(b"left by a killed process")
    os.utime(place / "squares-x.safetensors.1-1.partial", (1_000_000, 1_000_000))
    monkeypatch.setattr(cache, "MOST_BYTES", 3 * size + 100)
    ask(maker, 3)
    assert maker.calls == 4
    assert len(list(place.iterdir())) == 3
    ask(maker, 0)
    assert maker.calls == 4
    ask(maker, 1)
    assert maker.calls == 5


def test_what_is_too_large_for_one_entry_is_not_kept(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "MOST_BYTES_OF_ONE", 10)
    ask(Maker())
    assert not entries(place)


@pytest.mark.parametrize(
    ("mode", "reason"), [(0o777, "others may write there (chmod go-w)"), (0o500, "it cannot be written")]
)
def test_a_folder_that_cannot_be_used_is_named_once_and_nothing_is_kept(
    place: Path, mode: int, reason: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    if mode == 0o500 and os.geteuid() == 0:  # root may write anywhere
        monkeypatch.setattr(cache.os, "access", lambda *_: False)
    place.mkdir()
    place.chmod(mode)
    maker = Maker()
    for _ in range(3):
        ask(maker)
    place.chmod(0o700)
    assert maker.calls == 3
    assert not entries(place)
    (record,) = caplog.records
    assert caplog.text.count("cannot be the cache of equinet") == 1
    assert record.levelno == logging.WARNING
    assert reason in caplog.text


def test_a_file_in_place_of_the_folder_only_means_no_cache(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    place.write_text("no folder")
    assert ask(Maker())["names"].tolist() == [1, 2]
    assert "cannot be the cache of equinet" in caplog.text


def test_a_disk_that_is_full_only_means_that_nothing_is_kept(
    place: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(cache, "save_tensors", full)
    with caplog.at_level(logging.INFO, "equinet"):
        assert ask(Maker())["names"].tolist() == [1, 2]
    assert "is not kept: the disk is full" in caplog.text


def test_off_means_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EQUINET_CACHE", "off")
    assert cache.folder() is None


def test_without_a_folder_of_its_own_it_is_among_the_caches_of_the_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("EQUINET_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.folder() == tmp_path / "equinet"
    assert (tmp_path / "equinet").stat().st_mode & 0o777 == 0o700
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache.folder() == tmp_path / "home/.cache/equinet"


def _write_many(number: int) -> bool:
    return all(ask(Maker(), argument)["squares"].tolist() == [0, 1, 4, 9] for argument in [0, 1, 2, 3] * 5)


def test_processes_that_write_at_once_leave_whole_entries(place: Path) -> None:
    with multiprocessing.get_context("fork").Pool(3) as pool:
        assert all(pool.map(_write_many, range(3)))
    maker = Maker()
    assert len(list(place.iterdir())) == 4
    for argument in range(4):
        ask(maker, argument)
    assert maker.calls == 0


def test_factors_of_a_decomposition_are_those_that_were_found_first(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cached, "__defaults__", (0.0,))
    tensor = coupling_tensor("0e+1o", "0e+1o", "0e+1o")
    first = cp_factors(tensor, 5, seed=77)
    _cp_factors.cache_clear()
    assert len(list(place.glob("cp_factors-*"))) == 1
    monkeypatch.setattr("equinet.ops.coupling.cp._found_factors", None)  # not asked for
    second = cp_factors(tensor, 5, seed=77)
    assert second.error == first.error
    assert all((getattr(first, name) == getattr(second, name)).all() for name in ("left", "right", "out"))
    assert not second.left.flags.writeable
