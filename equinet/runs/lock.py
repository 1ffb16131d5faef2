"""A lock for the files of a run, so that no second process writes into them; it ends with the process that holds it."""

from __future__ import annotations

import os
import socket
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from .files import explained


class InUseError(OSError):
    """Another process writes to the same files; the message says which and where."""


@contextmanager
def exclusive(path: Path, what: str) -> Iterator[None]:
    """Hold the lock of a run within the block.

    Args:
        path: Lock file. It stays behind, as an empty file that nobody holds, because to remove it would let two processes in.
        what: Name of the run, for the message.

    Raises:
        InUseError: If another process holds it; names process, machine and since when.
        OSError: If the lock file cannot be made; names it and the remedy.
    """
    lock = FileLock(path, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise InUseError(
            f"{what} is being written by {_holder(path)}; wait until it ends, stop it, or choose another `out`"
        ) from None
    except OSError as error:
        raise explained(error, path) from error
    except NotImplementedError:
        warnings.warn(
            f"the file system of {path.parent} has no locks: see yourself that no second process writes to {what}",
            stacklevel=3,
        )
        yield
        return
    try:
        with suppress(OSError):  # Windows lets nobody write to a locked file
            path.write_text(f"{_name(os.getpid())} since {time.strftime('%Y-%m-%d %H:%M:%S')}\n")
        yield
    finally:
        with suppress(OSError):
            path.write_text("")
        lock.release()


def _name(process: int | str) -> str:
    return f"process {process} on {socket.gethostname()}"


def _holder(path: Path) -> str:
    """Who holds a lock, as far as its file says: "another process" until the holder has written its name."""
    try:
        text = path.read_text().strip()
        number = text.split()[1] if text else ""
        if text.startswith(_name(number)):
            os.kill(int(number), 0)  # sends nothing; fails if it is a killed one, whose name is still there
    except (OSError, ValueError, IndexError):  # Windows lets nobody read a locked file
        return "another process"
    return text or "another process"
