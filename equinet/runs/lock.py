"""A lock for the files of a run, so that no second process writes into them; it ends with the process that holds it."""

from __future__ import annotations

import os
import re
import socket
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from .files import explained

# How long to wait for a holder that has not yet written its name.
READS, SECONDS_BETWEEN_READS = 10, 0.05


class InUseError(OSError):
    """Another process writes to the same files; the message says which and where."""


@contextmanager
def exclusive(path: Path, what: str, instead: str = "choose another `out`") -> Iterator[None]:
    """Hold the lock of a run within the block.

    Args:
        path: Lock file. It stays behind, as an empty file, because to remove it would let two processes in.
        what: Name of the run, for the message.
        instead: Last of the remedies that the message names.

    Raises:
        InUseError: If another process holds it; names process, machine and since when.
        OSError: If the lock file cannot be made; names it and the remedy.
    """
    lock = FileLock(path, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise InUseError(
            f"{what} is being written by {_holder(path)}; wait until it ends, stop it, or {instead}"
        ) from None
    except OSError as error:
        raise explained(error, path) from error
    except NotImplementedError:  # filelock says so of file systems of some networks
        warnings.warn(
            f"the file system of {path.parent} has no locks: see yourself that no second process writes to {what}",
            stacklevel=3,
        )
        yield
        return
    try:
        with suppress(OSError):  # Windows lets nobody write to a locked file
            since = time.strftime("%Y-%m-%d %H:%M:%S")
            path.write_text(f"process {os.getpid()} on {socket.gethostname()} since {since}\n")
        yield
    finally:
        with suppress(OSError):
            path.write_text("")
        lock.release()


def _holder(path: Path) -> str:
    """Holder of a lock as its file names it; the name is written a moment after the lock is taken."""
    for _ in range(READS):
        if name := _living(path):
            return name
        time.sleep(SECONDS_BETWEEN_READS)
    return "another process"


def _living(path: Path) -> str:
    """Name in a lock file; empty if there is none, or that of a process that was killed while it held the lock."""
    try:
        text = path.read_text().strip()
    except OSError:  # Windows lets nobody read a locked file
        return ""
    found = re.match(r"process (\d+) on (\S+)", text)
    return "" if found and found[2] == socket.gethostname() and not _is_there(int(found[1])) else text


def _is_there(process: int) -> bool:
    """True if a process of this machine lives, or the system cannot tell without harm."""
    if os.name != "posix":
        return True
    try:
        os.kill(process, 0)  # sends nothing
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # another user's
        pass
    return True
