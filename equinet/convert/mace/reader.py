"""Files of ``torch.save(module)`` read as records, without the code that wrote them and without running any of theirs."""

from __future__ import annotations

import os
import struct
import sys
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import torch

from equinet.quotes import shortened

from .budget import Budget
from .opcodes import value_of_pickle
from .records import Record
from .values import STORAGES, Name, Storage

BEFORE_TORCH_1_6 = b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # the number that torch wrote first, as a pickle
# What zipfile raises for damaged archives, besides ValueError: seeks and lengths that cannot be, bad checksums, unknown methods.
DAMAGE = (
    *(ValueError, LookupError, OverflowError, EOFError, OSError, RuntimeError),
    *(struct.error, zipfile.BadZipFile, zlib.error),
)
LONGEST_COMPLAINT = 1000  # characters, of what is wrong with a file
TAKE_THE_MODEL = "take the .model file that mace_run_train writes beside it"


def read_record(source: str | os.PathLike[str] | bytes | BinaryIO) -> Record:
    """Read a ``.model`` file as records: class names, attributes, and tensors on the CPU.

    Nothing of the file is run, and no library that wrote it needs to be there: names of classes and functions stay names.

    Args:
        source: A path, the bytes of such a file, or an open binary file, which is read from its beginning.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged or not a module that ``torch.save`` wrote. The message says what it is instead.

    Source:
        ``torch/serialization.py`` for the layout of the archive, ``torch/_utils.py`` for how tensors are pickled.
    """
    with _opened(source) as (file, called):
        size = file.seek(0, os.SEEK_END)
        _refuse_what_is_no_archive(file, called)
        try:
            archive = Archive(file, size)
            root = value_of_pickle(archive.bytes_of("data.pkl"), archive.storage, Budget(size))
        except DAMAGE as error:
            raise ValueError(
                f"{called} cannot be read as a MACE model: {shortened(str(error), LONGEST_COMPLAINT)}"
            ) from error
    return _module_only(root, called)


class Archive:
    """The zip that ``torch.save`` writes: one folder with a pickle, ``data.pkl``, and the bytes of its tensors."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self.size = size
        try:
            self.zip = zipfile.ZipFile(file)
        except zipfile.BadZipFile as error:
            raise ValueError(
                f"its list of entries is damaged or missing ({error}); was it cut short? Fetch it again"
            ) from None
        self.entries = {entry.filename: entry for entry in self.zip.infolist()}
        self.folder = self._folder()
        self._refuse_what_is_not_stored_plainly()
        order = self.bytes_of("byteorder").decode("latin1") if f"{self.folder}/byteorder" in self.entries else "little"
        if order != sys.byteorder:
            raise ValueError(
                f"its record `byteorder` is {order[:10]!r} and this machine's is {sys.byteorder!r}; load it with torch on "
                f"this machine and save it again"
            )
        self.read: dict[str, bytearray] = {}

    def bytes_of(self, name: str) -> bytes:
        """One entry of the folder."""
        path = f"{self.folder}/{name}"
        if path not in self.entries:
            raise ValueError(f"its pickle asks for `{name[:80]}`, which is not in the archive; the file is damaged")
        return self.zip.read(self.entries[path])

    def storage(self, identity: Any) -> Storage:
        """The numbers that a persistent id names. The same key gives the same memory, as tensors may share it."""
        if not (isinstance(identity, tuple) and len(identity) == 5 and identity[0] == "storage"):
            raise ValueError("it refers to something outside that is no storage of tensors")
        _, kind, key, _, count = identity
        if not isinstance(kind, Name) or not isinstance(key, str) or type(count) is not int:
            raise ValueError("it refers to a storage without type, key or length")
        if kind.class_name not in STORAGES:
            raise ValueError(f"it has tensors in a {kind.class_name}, which equinet does not read")
        dtype = STORAGES[kind.class_name]
        if key not in self.read:
            self.read[key] = bytearray(self.bytes_of(f"data/{key}"))
        content = self.read[key]
        if len(content) != count * dtype.itemsize:
            raise ValueError(f"its storage {key[:20]!r} has {len(content)} bytes and claims {count} numbers of {dtype}")
        return Storage(torch.frombuffer(content, dtype=dtype) if content else torch.empty(0, dtype=dtype), self.size)

    def _refuse_what_is_not_stored_plainly(self) -> None:
        """Compressed or overlapping entries can unfold to more than the file; torch writes neither."""
        entries = self.zip.infolist()
        if len(self.entries) != len(entries):
            raise ValueError("two entries of the archive have the same name, which torch.save does not write")
        for entry in entries:
            plain = entry.compress_type == zipfile.ZIP_STORED and entry.compress_size == entry.file_size
            if not plain or entry.flag_bits & 1:
                raise ValueError(
                    f"its entry {entry.filename[:80]!r} is compressed or encrypted, which torch.save does not write; "
                    f"if somebody repacked it, unpack it and use `zip -0`"
                )
        if sum(entry.file_size for entry in entries) > self.size:
            raise ValueError(
                "the entries of the archive are longer than the file, so they overlap; it is damaged or a trap"
            )

    def _folder(self) -> str:
        inside = {name.partition("/")[2] for name in self.entries}
        if "constants.pkl" in inside or any(name.startswith("code/") for name in inside):
            raise ValueError("it is TorchScript, which is code; take the .model file it was made from")
        folders = [name.removesuffix("/data.pkl") for name in self.entries if name.endswith("/data.pkl")]
        folders = [folder for folder in folders if folder and "/" not in folder]
        if len(folders) != 1:
            raise ValueError("it is a zip archive, but torch.save did not write it")
        return folders[0]


@contextmanager
def _opened(source: str | os.PathLike[str] | bytes | BinaryIO) -> Iterator[tuple[BinaryIO, str]]:
    """An open file and what to call it in a message."""
    if isinstance(source, (bytes, bytearray)):
        yield BytesIO(source), "the model in memory"
    elif isinstance(source, (str, os.PathLike)):
        path = Path(source)
        if not path.is_file():
            raise FileNotFoundError(f"there is no file {path}")
        with path.open("rb") as file:
            yield file, str(path)
    else:
        yield source, str(getattr(source, "name", "the model in memory"))


def _refuse_what_is_no_archive(file: BinaryIO, called: str) -> None:
    """Say what a file is that does not begin like the archives of torch."""
    file.seek(0)
    start = file.read(64)
    if start.startswith(b"PK\x03\x04"):
        return
    if start[8:10] == b'{"' and int.from_bytes(start[:8], "little") < 2**32:
        what = "is an equinet or another safetensors file; `equinet.load` reads those that equinet wrote"
    elif BEFORE_TORCH_1_6 in start:
        what = "is in the form that torch wrote before version 1.6; load it with torch and save it again"
    elif start.startswith(b"version https://git-lfs"):
        what = "is a pointer of Git LFS, not the file itself; fetch it with `git lfs pull`"
    elif not start:
        what = "is empty"
    else:
        what = f"is not a zip archive, as a .model file is; it begins with {start[:16]!r}. Was it fetched whole?"
    raise ValueError(f"{called} {what}")


def _module_only(root: Any, called: str) -> Record:
    if isinstance(root, dict):
        raise ValueError(
            f"{called} holds a dictionary: weights without architecture, or a training checkpoint; {TAKE_THE_MODEL}"
        )
    if not isinstance(root, Record) or isinstance(root, Name) or not isinstance(root.attributes.get("_modules"), dict):
        what = root.class_name if isinstance(root, Record) else type(root).__name__
        raise ValueError(f"{called} holds a {what[:80]}, not a torch module; {TAKE_THE_MODEL}")
    return root
