"""LMDB files with the keys of ASE's databases: the only module that imports lmdb.

The file format is that of ``ase-db-backends`` (``ase.db.connect("x.aselmdb")``), which other packages read. It is read and written here
through lmdb itself: that package searches a list of all rows for each row that it writes, and makes an ASE row of each that it reads.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from equinet.lazy import how_to_install
from equinet.runs.files import REMEDIES

SUFFIX = ".aselmdb"
NEXT, DELETED, METADATA = b"nextid", b"deleted_ids", b"metadata"  # keys that are no rows
LARGEST = 2**41  # bytes that a file may grow to; only addresses are taken, not memory

# Rows that are read before all files are closed, to be opened again when next used. The pages read until then, of 4 kB and more, count as
# memory of the process, though the system can take them back.
READS = 20_000

# Files of this process by device and inode: LMDB refuses to open a file twice in a process.
_files: WeakValueDictionary[tuple[int, int], _File] = WeakValueDictionary()
_reads = 0


def lmdb_module() -> Any:
    """The module lmdb.

    Raises:
        ValueError: If it is not installed; says how to install it.
    """
    try:
        import lmdb
    except ImportError as error:
        raise ValueError(
            f"a {SUFFIX} file needs lmdb, which cannot be imported ({error}): {how_to_install('data')}"
        ) from error
    return lmdb


class Database:
    """A file that is read: opened when first used, and again in every process that it comes into.

    Args:
        path: The file. Folder and file may be read-only, and no lock file is needed.

    Raises:
        FileNotFoundError, ValueError: If it is not there, is no store, or was cut short; names the file.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._file = _file_of(self.path)
        self._file.handle()

    def get(self, key: bytes) -> bytes | None:
        """Value of a key.

        Raises:
            FileNotFoundError, ValueError: If the file is damaged or gone.
        """
        global _reads
        if (_reads := _reads + 1) % READS == 0:
            for file in list(_files.values()):
                file.close()
        handle = self._file.handle()
        try:
            with handle.begin() as transaction:
                return transaction.get(key)
        except lmdb_module().Error as error:
            raise ValueError(f"{self.path} is damaged: {error}; make or fetch it again") from error

    def __getstate__(self) -> Path:
        return self.path

    def __setstate__(self, path: Path) -> None:
        self.path, self._file = path, _file_of(path)


class _File:
    """The handle of a file, which all that read it in a process share; a child must never use the one it inherits."""

    def __init__(self, path: Path) -> None:
        self.path, self._process, self._handle = path, 0, None

    def handle(self) -> Any:
        if self._process != os.getpid():
            self.close()
            self._handle, self._process = _opened(self.path), os.getpid()
        return self._handle

    def close(self) -> None:
        if self._handle is not None:
            self._handle.close()
        self._process, self._handle = 0, None


def _file_of(path: Path) -> _File:
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is a folder, and a store is a file" if path.is_dir() else f"there is no file {path}"
        )
    status = path.stat()
    key = (status.st_dev, status.st_ino)
    if (file := _files.get(key)) is None:
        file = _files[key] = _File(path.absolute())
    return file


def _opened(path: Path) -> Any:
    lmdb = lmdb_module()
    try:
        # Rows are read in random order, and to read ahead would fill the memory with rows that are not asked for.
        handle = lmdb.open(str(path), subdir=False, readonly=True, lock=False, readahead=False, meminit=False)
    except lmdb.InvalidError as error:
        raise ValueError(f"{path} is no store of frames ({error}); make it with `equinet data convert`") from error
    except lmdb.Error as error:
        if not path.exists():
            raise FileNotFoundError(f"there is no file {path} any more") from error
        reason = str(error) if path.stat().st_size else "the file is empty"
        raise ValueError(f"{path} cannot be opened: {reason}; make or fetch it again") from error
    size, wanted = path.stat().st_size, (handle.info()["last_pgno"] + 1) * handle.stat()["psize"]
    if size < wanted:  # to read beyond the end of a mapped file ends the process
        handle.close()
        raise ValueError(f"{path} was cut short: it has {size:,} of {wanted:,} bytes; make or fetch it again")
    return handle


class Writer:
    """A new file that items are put into, many in a transaction.

    Args:
        path: File to make.
        at_once: Items in a transaction.

    Raises:
        OSError: From every method, if it cannot be written.
    """

    def __init__(self, path: Path, at_once: int = 1000) -> None:
        self.at_once, self._count = at_once, 0
        lmdb = lmdb_module()
        with _as_os_error():
            self._handle = lmdb.open(
                str(path), subdir=False, lock=False, map_size=LARGEST, meminit=False, sync=False, map_async=True
            )
        self._transaction = self._handle.begin(write=True)

    def put(self, key: bytes, value: bytes) -> None:
        """Add an item."""
        with _as_os_error():
            self._transaction.put(key, value)
            self._count += 1
            if self._count % self.at_once == 0:
                self._transaction.commit()
                self._transaction = self._handle.begin(write=True)

    def finish(self) -> None:
        """Wait until all is on the disk."""
        with _as_os_error():
            self._transaction.commit()
            self._handle.sync(True)

    def close(self) -> None:
        """Close the file, finished or not."""
        self._handle.close()


@contextmanager
def _as_os_error() -> Iterator[None]:
    lmdb = lmdb_module()
    try:
        yield
    except lmdb.Error as error:
        code = next((number for number in REMEDIES if os.strerror(number) in str(error)), None)
        raise OSError(code, str(error)) if code else OSError(str(error)) from error
