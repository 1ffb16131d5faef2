"""Pickles and archives made by hand, for the tests of the reader."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from typing import Any

import torch

from equinet.convert.mace.reader import read_record


def text(value: str) -> bytes:
    """The opcode that pushes a string."""
    return b"X" + len(value.encode()).to_bytes(4, "little") + value.encode()


def module_holding(pickled: bytes) -> bytes:
    """The pickle of a torch module with the value of another pickle as its attribute ``held``."""
    return (
        b"\x80\x02ctorch.nn.modules.module\nModule\n)\x81}("
        + text("_modules")
        + b"}"
        + text("held")
        + pickled[:-1]
        + b"ub."
    )


def record_or_complaint(file: bytes) -> Any:
    """What the reader makes of a file: a record, or the words it refuses it with."""
    try:
        return read_record(file)
    except ValueError as error:
        return str(error)


def archive(pickled: bytes, entries: dict[str, bytes] | None = None, compression: int = zipfile.ZIP_STORED) -> bytes:
    """A file laid out as torch.save does it, with this pickle."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as file:
        for name, content in ({"data.pkl": pickled, "byteorder": b"little"} | (entries or {})).items():
            file.writestr(f"archive/{name}", content)
    return out.getvalue()


def saved(value: Any, **options: Any) -> bytes:
    out = io.BytesIO()
    torch.save(value, out, **options)
    return out.getvalue()


class Reduces:
    """Pickled as a call of this function: what ``__reduce__`` lets any file ask for."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call
