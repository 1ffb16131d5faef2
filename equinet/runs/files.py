"""Files replaced as a whole: a crash, a full disk or a power cut leaves the old one or the new one, nothing in between."""

from __future__ import annotations

import errno
import io
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

ENDING = ".partial"
REMEDIES = {
    errno.ENOSPC: "the disk is full: make room and go on",
    errno.EDQUOT: "the quota is used up: make room and go on",
    errno.EACCES: "you may not write there: change the permissions or choose another place",
    errno.EROFS: "the disk can only be read: choose another place",
}


def replace_file(path: str | os.PathLike[str], content: bytes | str) -> None:
    """Replace a file by new content that is on the disk before the old content is gone.

    Args:
        path: File to make or to replace; a link is followed.
        content: Bytes, or text, written as UTF-8.

    Raises:
        OSError: If the content cannot be written; names the file and the remedy. The old file is whole, and nothing else is left.
    """
    with replacing(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Replace a file by what is written to another one meanwhile, as :func:`replace_file` does; for content that is not in memory.

    Args:
        path: File to make or to replace; a link is followed.

    Raises:
        OSError: As :func:`replace_file`. After any other error, too, the old file is whole, and nothing else is left.
    """
    target = Path(os.path.realpath(path))
    # A name of its own for every writer, so that two of them never write into one file.
    partial = target.with_name(f"{target.name}.{os.getpid()}-{threading.get_ident()}{ENDING}")
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(target)
    except OSError as error:
        partial.unlink(missing_ok=True)
        if isinstance(error, FileNotFoundError) and error.errno is None:  # of what is to be written, which was read
            raise
        raise explained(error, path) from error
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    _sync_folder(target.parent)


@contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a name under which to write a file piece by piece; it gets its own name when the block ends without an error.

    Args:
        path: File to make or to replace; a link is followed.

    Raises:
        OSError: If it cannot be finished; names the file and the remedy. The old file is whole, and nothing else is left, also after an
            error of the block.
    """
    target = Path(os.path.realpath(path))
    partial = target.with_name(f"{target.name}.{os.getpid()}-{threading.get_ident()}{ENDING}")
    try:
        yield partial
        with explaining(path):
            sync(partial)
            partial.replace(target)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    _sync_folder(target.parent)


@contextmanager
def explaining(path: str | os.PathLike[str]) -> Iterator[None]:
    """Name the file and the remedy in errors of the system, where nothing else is done than writing ``path``."""
    try:
        yield
    except OSError as error:
        raise explained(error, path) from error


def replace_picture(path: str | os.PathLike[str], figure: Any, **settings: Any) -> None:
    """Replace a picture by a figure of matplotlib, as :func:`replace_file` does.

    Args:
        path: File to make or to replace; its suffix says the format, PNG if there is none.
        figure: A ``matplotlib.figure.Figure``.
        settings: Of its ``savefig``.

    Raises:
        OSError: As :func:`replace_file`.
    """
    drawn = io.BytesIO()
    figure.savefig(drawn, format=Path(path).suffix.removeprefix(".") or "png", **settings)
    replace_file(path, drawn.getvalue())


def make_folder(path: Path) -> None:
    """Make a folder with all above it, if it is not there.

    Raises:
        OSError: If it cannot be made; names it and the remedy.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise explained(error, path) from error


def explained(error: OSError, path: str | os.PathLike[str]) -> OSError:
    """The same error with a message that names the file and what can be done."""
    reason = REMEDIES.get(error.errno or 0, error.strerror or str(error))
    if error.errno is None:  # numpy says only how many numbers it wrote
        reason += "; is the disk full?"
    told = type(error)(f"{os.fspath(path)} cannot be written: {reason}. What was saved before is whole")
    told.errno = error.errno
    return told


def sync(path: str | os.PathLike[str]) -> None:
    """Wait until what was written to a file is on the disk.

    Raises:
        OSError: If it cannot be written; names the file and the remedy.
    """
    try:
        descriptor = os.open(path, os.O_RDWR)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:  # some disks notice only now that they are full
        raise explained(error, path) from error


def remove_leftovers(folder: Path, name: str = "*") -> None:
    """Remove what killed processes left half written of the files of a folder whose names match a pattern."""
    for left in folder.glob(f"{name}.*{ENDING}"):
        left.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Wait until a new name is on the disk, where the system can do that."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:  # Windows opens no folders
        return
    try:
        os.fsync(descriptor)
    except OSError:  # some file systems of networks refuse, and do it themselves
        pass
    finally:
        os.close(descriptor)
