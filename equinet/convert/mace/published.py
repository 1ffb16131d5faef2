"""A table of published MACE model files, ``published.toml``: name, address, SHA-256 and licence of each, found by hash or by name.

equinet ships no weights. A file is recognised by the SHA-256 of its bytes and by nothing else; a name, :func:`look_alike`, is only a hint.
"""

from __future__ import annotations

import hashlib
import os
import re
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

_TABLE = Path(__file__).with_name("published.toml")
_BLOCK = 1 << 20  # bytes read at a time
_TYPES = {**dict.fromkeys(("name", "file", "url", "sha256", "licence", "note"), str), "size": int}
_OPTIONAL = {"sha256", "size"}


@dataclass(frozen=True, kw_only=True)
class Licence:
    """Terms of a licence under which model files are published."""

    commercial: bool
    """True if it allows commercial use."""
    name: str
    """Full name, e.g. ``"MIT License"``."""
    url: str
    """Address of its text."""


@dataclass(frozen=True, kw_only=True)
class Published:
    """One released model file."""

    name: str
    """Name of the model in publications, e.g. ``"MACE-MP-0 medium"``."""
    file: str
    """File name as released."""
    url: str
    """Address of the download."""
    sha256: str | None = None
    """SHA-256 of the file, 64 lowercase hex digits; None where no record of it was found, so that no file is recognised as it."""
    size: int | None = None
    """Bytes; None where not recorded."""
    licence: str
    """``"MIT"`` or ``"ASL"`` (Academic Software License)."""
    note: str
    """Name in mace-torch, training data, level of theory, elements, special features."""

    def __post_init__(self) -> None:
        if self.licence not in _licences():
            raise ValueError(
                f"`licence` must be one of {', '.join(_licences())}, not {self.licence!r}; add its terms first"
            )
        if self.sha256 is not None and not re.fullmatch(r"[0-9a-f]{64}", self.sha256):
            raise ValueError(f"`sha256` of {self.name} must be 64 lowercase hex digits or None, not {self.sha256!r}")

    @property
    def commercial(self) -> bool:
        """True if the licence allows commercial use of the model."""
        return _licences()[self.licence].commercial

    def warning(self) -> str | None:
        """Terms of a non-commercial licence, in two sentences; None where commercial use is allowed."""
        licence = _licences()[self.licence]
        if licence.commercial:
            return None
        return (
            f"{self.name} is released under the {licence.name} ({self.licence}): academic, non-commercial use only. "
            f"Weights converted or fine-tuned from it stay under that licence, see {licence.url}"
        )


@cache
def published_files() -> tuple[Published, ...]:
    """Return all published files, in the order of the table, which is read once.

    >>> published_files()[0].name
    'MACE-MP-0 small'
    """
    return tuple(_published(row) for row in _table()["files"])


def identify(sha256: str) -> Published | None:
    """Find the published file with this content; None if there is none.

    A model that was loaded and saved again has the same weights and another hash: None says "not this file", not "not this model".

    Args:
        sha256: SHA-256 of the file's bytes, in hex; capitals are accepted.

    >>> identify("75428afe3a1d7d8062e19bcaabd5c433623cabf308242ec9fb493e38604fb638").name
    'MACE-MPA-0 medium'
    """
    return _by_hash().get(sha256.strip().lower())


def look_alike(file_name: str) -> Published | None:
    """Find the published file of this name, as released or as mace-torch caches it; None if there is none.

    For a file that :func:`identify` does not know: "named like MACE-MP-0 medium, but with another content". A name proves nothing.

    Args:
        file_name: Name of the file; folders before it are ignored.

    >>> look_alike("20231203mace128L1_epoch199model").name
    'MACE-MP-0 medium'
    """
    return _by_name().get(_bare(re.split(r"[/\\]", file_name)[-1]))


def sha256_of(path: str | os.PathLike[str]) -> str:
    """Compute the SHA-256 of a file's bytes, 64 lowercase hex digits; read in blocks, so that a large file needs no memory."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


@cache
def _table() -> dict[str, Any]:
    return tomllib.loads(_TABLE.read_text(encoding="utf-8"))


@cache
def _licences() -> dict[str, Licence]:
    return {key: Licence(**terms) for key, terms in _table()["licences"].items()}


@cache
def _by_hash() -> dict[str, Published]:
    return {one.sha256: one for one in published_files() if one.sha256 is not None}


@cache
def _by_name() -> dict[str, Published]:
    """Published files by :func:`_bare` file name, and by the names of short links."""
    found = {_bare(one.file): one for one in published_files()}
    return found | {link: found[_bare(file)] for link, file in _table()["short_links"].items()}


def _published(row: dict[str, Any]) -> Published:
    """Turn one row of the table into a :class:`Published`; a damaged row is a bug of ours.

    Raises:
        ValueError: If a row has other keys or types than it must have.
    """
    known = row.keys() <= _TYPES.keys() <= row.keys() | _OPTIONAL
    if not known or not all(type(value) is _TYPES[key] for key, value in row.items()):
        raise ValueError(f"{_TABLE.name}: wrong row {row}")
    return Published(**row)


def _bare(file_name: str) -> str:
    """Letters and digits of a name, in lower case. mace-torch caches under the name without punctuation, some files with their query."""
    return re.sub(r"[\W_]", "", file_name.lower()).removesuffix("rawtrue")
