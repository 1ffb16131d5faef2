"""Files replaced as a whole, locks that end with their process, and signals that wait for the right moment."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import filelock
import pytest
from matplotlib.figure import Figure

from equinet.runs.files import explained, make_folder, remove_leftovers, replace_file, replace_picture, sync
from equinet.runs.interrupt import SIGNALS, GentleInterrupt, StopRequested, signal_of
from equinet.runs.lock import InUseError, exclusive

# Files


def test_a_file_is_replaced_by_text_or_bytes_also_through_a_link(tmp_path: Path) -> None:
    path, link = tmp_path / "file", tmp_path / "link"
    replace_file(path, "Å\n")
    link.symlink_to(path)
    replace_file(link, b"two")
    assert path.read_bytes() == b"two"
    assert link.is_symlink()
    assert sorted(each.name for each in tmp_path.iterdir()) == ["file", "link"]


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "the disk is full: make room and go on"),
        (errno.EDQUOT, "the quota is used up: make room and go on"),
        (errno.EIO, "Input/output error"),
    ],
)
@pytest.mark.parametrize("moment", ["os.fsync", "pathlib.Path.replace"])
def test_a_write_that_fails_leaves_the_old_file_and_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, remedy: str, moment: str
) -> None:
    path = tmp_path / "file"
    replace_file(path, "old")

    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(moment, fail)
    with pytest.raises(OSError, match=f"file cannot be written: {remedy}. What was saved before is whole") as raised:
        replace_file(path, "new")
    assert raised.value.errno == number
    assert path.read_text() == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_a_folder_that_may_not_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere/file cannot be written"):
        replace_file(tmp_path / "nowhere" / "file", "new")


def test_writers_at_the_same_time_leave_one_of_their_files_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    contents = [f"{n}" * 200_000 for n in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda content: replace_file(path, content), contents))
    assert path.read_text() in contents
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_what_killed_processes_left_behind_is_removed_and_nothing_else(tmp_path: Path) -> None:
    for name in ("a.eqn", "a.eqn.12-3.partial", "b.12-3.partial", "note.partially"):
        (tmp_path / name).touch()
    remove_leftovers(tmp_path, "b")
    assert not (tmp_path / "b.12-3.partial").exists()
    remove_leftovers(tmp_path)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a.eqn", "note.partially"]


class HalfDrawn:
    def savefig(self, file: Any, **_: object) -> None:
        file.write(b"half")
        raise KeyboardInterrupt


def test_a_picture_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt):
        replace_picture(path, HalfDrawn())
    assert path.read_bytes() == b"old"
    for name, begins in (("picture.png", b"\x89PNG"), ("picture.pdf", b"%PDF"), ("picture", b"\x89PNG")):
        replace_picture(tmp_path / name, Figure())
        assert (tmp_path / name).read_bytes().startswith(begins)
    assert len(list(tmp_path.iterdir())) == 3


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_folder(tmp_path / "a" / "b")
    make_folder(tmp_path / "a" / "b")

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.mkdir", fail)
    with pytest.raises(OSError, match="c cannot be written: the disk is full: make room and go on"):
        make_folder(tmp_path / "c")


def test_an_error_without_a_number_asks_whether_the_disk_is_full() -> None:
    assert "x cannot be written: 8 requested and 2 written; is the disk full" in str(
        explained(OSError("8 requested and 2 written"), "x")
    )


def test_a_disk_that_notices_late_that_it_is_full_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "log").write_text("x")

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="log cannot be written: the disk is full: make room and go on"):
        sync(tmp_path / "log")


# Locks

HOLD = """
import sys, time
from pathlib import Path
from equinet.runs.lock import exclusive
with exclusive(Path(sys.argv[1]), "the run"):
    print("held", flush=True)
    time.sleep(60)
"""


def holder(path: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_lock_is_refused_while_its_process_lives_and_not_held_by_the_dead(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    with holder(path) as process:
        for _ in range(2):
            with (
                pytest.raises(InUseError, match=rf"the run is being written by process {process.pid} on .+ since 20"),
                exclusive(path, "the run"),
            ):
                pytest.fail("two processes hold it")
        process.kill()
        process.wait()
    with exclusive(path, "the run"):
        assert path.read_text().startswith(f"process {os.getpid()} on ")
    assert path.read_text() == ""


def test_a_killed_process_is_not_named_as_the_holder(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    with holder(path) as process:
        process.kill()
        process.wait()
    left = path.read_text()
    with exclusive(path, "the run"):
        path.write_text(left)  # as in the moment after it was taken
        with pytest.raises(InUseError, match="the run is being written by another process"), exclusive(path, "the run"):
            pytest.fail("it is held")


def test_a_holder_that_has_not_yet_written_its_name_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    with holder(path) as process:
        name = path.read_text()
        path.write_text("")
        with ThreadPoolExecutor(1) as pool:

            def write_late() -> None:
                time.sleep(0.1)
                path.write_text(name)

            pool.submit(write_late)
            with pytest.raises(InUseError, match=f"by process {process.pid} on"), exclusive(path, "the run"):
                pytest.fail("it is held")
        process.kill()
        process.wait()


def test_a_lock_file_that_cannot_be_made_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: object, *_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(filelock.BaseFileLock, "acquire", fail)
    with (
        pytest.raises(OSError, match=r"\.lock cannot be written: the disk is full"),
        exclusive(tmp_path / ".lock", "x"),
    ):
        pytest.fail("nobody holds it")


def test_a_lock_is_given_back_after_an_error(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    with pytest.raises(KeyError), exclusive(path, "the run"):
        raise KeyError
    with exclusive(path, "the run"):
        pass


def test_where_there_are_no_locks_the_run_goes_on_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: object, *_: object) -> None:
        raise NotImplementedError

    monkeypatch.setattr(filelock.BaseFileLock, "acquire", fail)
    with (
        pytest.warns(UserWarning, match="has no locks: see yourself that no second process writes to the run"),
        exclusive(tmp_path / ".lock", "the run"),
    ):
        pass


# Signals


@pytest.mark.parametrize("number", SIGNALS, ids=[each.name for each in SIGNALS])
def test_a_signal_waits_until_it_is_asked_for(number: signal.Signals) -> None:
    heard: list[int] = []
    before = [signal.getsignal(each) for each in SIGNALS]
    with GentleInterrupt(lambda: heard.append(1)) as stop:
        stop.check()
        signal.raise_signal(number)
        if number != signal.SIGINT:
            signal.raise_signal(number)  # as schedulers do
        assert heard == [1]
        with pytest.raises(StopRequested) as raised:
            stop.check()
    assert signal_of(raised.value) == number
    assert [signal.getsignal(each) for each in SIGNALS] == before


def test_a_second_ctrl_c_stops_at_once_also_after_another_signal() -> None:
    for first in (signal.SIGINT, signal.SIGTERM):
        with GentleInterrupt(lambda: None):
            signal.raise_signal(first)
            with pytest.raises(KeyboardInterrupt) as raised:
                signal.raise_signal(signal.SIGINT)
            assert not isinstance(raised.value, StopRequested)
            assert signal_of(raised.value) == signal.SIGINT


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="this system has no SIGHUP")
def test_a_signal_that_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with GentleInterrupt(lambda: pytest.fail("heard")) as stop:
            signal.raise_signal(signal.SIGHUP)
            stop.check()
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_once_nothing_needs_to_be_saved_a_signal_stops_at_once() -> None:
    with GentleInterrupt(lambda: None) as interrupt:
        interrupt.stop_at_once()
        for number in (signal.SIGTERM, signal.SIGINT):
            with pytest.raises(StopRequested) as raised:
                signal.raise_signal(number)
            assert raised.value.signal == number
    with GentleInterrupt(lambda: None) as interrupt:
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(StopRequested):  # one that came before
            interrupt.stop_at_once()


def test_outside_the_main_thread_signals_are_left_alone() -> None:
    before = signal.getsignal(signal.SIGTERM)

    def inside() -> object:
        with GentleInterrupt(lambda: None):
            return signal.getsignal(signal.SIGTERM)

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(inside).result() is before
