"""Files of equinet: tensors as safetensors, everything else as JSON in the header, and a checksum of both. Never a pickle."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from equinet.runs.files import replace_file

# Keys of the safetensors metadata, and the field of the header that says that there is a checksum.
HEADER, CHECKSUM = "equinet", "sha256"


class UncheckedFile(UserWarning):
    """Says that a file was written before files had checksums, so that damage to it cannot be noticed."""


def save_tensors(path: str | os.PathLike[str], tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
    """Write tensors and a JSON header to one file, all or nothing: a crash leaves the old file whole.

    Raises:
        TypeError: If JSON cannot hold the header; nothing is written.
        OSError: If the file cannot be written; names it and the remedy.
    """
    flat = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = json.dumps({**header, "checksum": CHECKSUM})
    replace_file(path, save(flat, metadata={HEADER: text, CHECKSUM: checksum(flat, text)}))


def read_tensors(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and header of a file that :func:`save_tensors` wrote; warns (:class:`UncheckedFile`) if it has no checksum.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not such a file, or is damaged; names the file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if HEADER not in metadata:
                raise ValueError(f"{path} is a safetensors file, but equinet did not write it")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(_unreadable(path, error)) from error
    header = _parsed(path, metadata[HEADER])
    if CHECKSUM in metadata or "checksum" in header:
        if metadata.get(CHECKSUM) != checksum(tensors, metadata[HEADER]):
            raise ValueError(f"{path} is damaged: its content is not that of its checksum. {AGAIN}")
        del header["checksum"]
    else:
        text = f"{path} was written before files had checksums, so that damage to it cannot be noticed; save it again"
        warnings.warn(text, UncheckedFile, stacklevel=3)
    return tensors, header


AGAIN = "Fetch it again or go back to another copy"


def checksum(tensors: Mapping[str, Tensor], header: str) -> str:
    """SHA-256, in hexadecimal digits, of the header and of names, dtypes, shapes and bytes of all tensors."""
    digest = hashlib.sha256(header.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        content: Any = tensor.contiguous().flatten().view(torch.uint8).numpy()
        digest.update(content)
    return digest.hexdigest()


def _parsed(path: Path, text: str) -> dict[str, Any]:
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else error
        raise ValueError(f"{path} is damaged: its header is no JSON ({reason}). {AGAIN}") from error
    if not isinstance(header, dict):
        raise ValueError(f"{path} is damaged: its header is no table of keys. {AGAIN}")
    return header


def _unreadable(path: Path, error: SafetensorError) -> str:
    with path.open("rb") as file:
        if file.read(4) == b"PK\x03\x04":
            return (
                f"{path} is an archive as torch.save writes it, not an equinet file; a MACE model becomes one by "
                f"`equinet convert-mace {path} OUT.eqn`"
            )
    return (
        f"{path} cannot be read: {error}. It is not an equinet file, or it was cut short while being copied; "
        f"it has {path.stat().st_size} bytes. {AGAIN}"
    )
