"""Children of this process: forks that can be killed, halted at a file operation, or made to find the disk full.

Everything is imported and warmed up once, so that a child begins to work within milliseconds.
"""

from __future__ import annotations

import errno
import json
import os
import random
import select
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LONGEST = 120  # seconds, after which a child hangs
OPERATIONS = ("open", "os.rename", "os.truncate", "os.remove", "os.mkdir")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


@dataclass(frozen=True)
class Ended:
    """How a child ended: its exit code (negative: the signal), and kind and message of what it raised."""

    code: int
    error: str = ""
    message: str = ""

    @property
    def well(self) -> bool:
        """Whether it came to its end."""
        return self.code == 0 and not self.error

    def __str__(self) -> str:
        return f"code {self.code} {self.error} {self.message}".strip()


class Child:
    """A fork that works.

    Args:
        work: What it does.
        folder: Folder whose file operations are counted.
        at: Number of the operation at which :meth:`wait_for_operation` returns; 0 for none.
        full_from: Number of the operation from which on every writing one fails with ENOSPC; 0 for none.
        gate: Descriptor that is closed when the child shall begin.
    """

    def __init__(
        self,
        work: Callable[[], object],
        folder: Path,
        *,
        at: int = 0,
        full_from: int = 0,
        gate: tuple[int, int] | None = None,
    ) -> None:
        self._answer, answer = os.pipe()
        self._reached, reached = os.pipe()
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.close(self._answer)
                os.close(self._reached)
                signal.alarm(LONGEST)
                if gate is not None:
                    os.close(gate[1])
                    os.read(gate[0], 1)
                count = _watch(folder, at, full_from, reached)
                os.write(answer, json.dumps([*_outcome(work), count()]).encode()[:60_000])
            finally:
                os._exit(0)
        os.close(answer)
        os.close(reached)
        self.operations = 0

    def wait_for_operation(self, seconds: float = LONGEST) -> None:
        """Wait until the child is about to do operation ``at``, or has ended."""
        select.select([self._reached], [], [], seconds)

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal; the child may have ended."""
        os.kill(self.pid, number)  # not yet waited for, so the number is still its own

    def wait(self) -> Ended:
        """Wait for its end."""
        with os.fdopen(self._answer, "rb") as pipe:
            said = pipe.read()
        os.close(self._reached)
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        if not said:
            return Ended(code or 1, "", "" if code else "ended without an answer")
        error, message, self.operations = json.loads(said)
        return Ended(code, error, message)


def operations_and_seconds(work: Callable[[], object], folder: Path) -> tuple[int, float]:
    """How many file operations in a folder work takes, and how long in a child of a process that has done it once.

    Raises:
        RuntimeError: If it fails.
    """
    work()  # so that machine code is made once, and not by every child
    shutil.rmtree(folder)
    folder.mkdir()
    began = time.monotonic()
    child = Child(work, folder)
    if not (ended := child.wait()).well:
        raise RuntimeError(f"a run that nothing disturbs fails: {ended}")
    return child.operations, time.monotonic() - began


def killed(
    work: Callable[[], object], folder: Path, source: random.Random, operations: int, seconds: float
) -> tuple[Ended, str]:
    """Start work and kill it, half the time within 2 ms of a file operation, else anywhere until one of the next.

    Args:
        work: What is killed.
        folder: Folder whose file operations count.
        source: Decides when.
        operations: Operation by which it is killed at the latest.
        seconds: That all of its operations take.

    Returns:
        Its end, and how it was killed.
    """
    near = source.random() < 0.5
    at = source.randint(0, operations)  # 0: before the first
    child = Child(work, folder, at=at)
    if at:
        child.wait_for_operation()
    gap = 3 * seconds / operations
    time.sleep(
        source.choice((0.0, source.uniform(0, 0.0003), source.uniform(0, 0.002))) if near else source.uniform(0, gap)
    )
    child.kill()
    return child.wait(), "at a file" if near else "anywhere"


def _outcome(work: Callable[[], object]) -> tuple[str, str]:
    try:
        work()
    except BaseException as error:
        return type(error).__name__, str(error)
    return "", ""


def _watch(folder: Path, at: int, full_from: int, reached: int) -> Callable[[], int]:
    """Count file operations in a folder from now on; tell the parent at one, and let them fail from one on."""
    count = 0
    prefix = str(folder)
    real_sync = os.fsync

    def happens(writes: bool) -> None:
        nonlocal count
        count += 1
        if count == at:
            os.write(reached, b"!")
        if full_from and count >= full_from and writes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event in OPERATIONS and isinstance(args[0], (str, os.PathLike)) and os.fspath(args[0]).startswith(prefix):
            happens(event != "os.remove" and (event != "open" or bool((args[2] or 0) & WRITING)))

    def sync(descriptor: int) -> None:
        happens(True)
        real_sync(descriptor)

    sys.addaudithook(hook)
    os.fsync = sync
    return lambda: count
