"""Files of published sets on this machine: the folders of ``EQUINET_DATA`` and a cache, checked by SHA-256."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Literal

from equinet.runs.files import replace_file

from .card import DataFile

VARIABLE = "EQUINET_DATA"
ENDINGS = (".xyz", ".xyz.gz", ".extxyz", ".extxyz.gz")
CHUNK = 1 << 20
State = Literal["here", "missing", "wrong checksum"]


def cache_folder() -> Path:
    """Folder that fetched files go to: ``equinet/data`` in ``XDG_CACHE_HOME``, by default ``~/.cache``."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(home) / "equinet" / "data"


def folders() -> list[Path]:
    """Folders with one folder per set: those of the environment variable ``EQUINET_DATA``, then the cache."""
    named = [Path(text) for text in os.environ.get(VARIABLE, "").split(os.pathsep) if text]
    return [*named, cache_folder()]


def find_local(file: DataFile) -> Path | None:
    """Find a file of a published set in the folders of ``EQUINET_DATA`` or the cache and verify it; None if it is not there.

    Raises:
        ValueError: If the file that is there is not the published one; names both checksums and the remedy.
    """
    path = _candidate(file)
    if path is None:
        return None
    found = _checksum(path, file)
    if found not in (file.sha256, file.sha256_gz):
        remedy = f"fetch it with `equinet data get {file.full_name}`" if file.url else "make it anew"
        raise ValueError(
            f"{path} is not the published {file.full_name}: its SHA-256 is {found}, must be {file.sha256} (or {file.sha256_gz} as "
            f"the gzipped copy); move it away and {remedy}, or name it by its path to use it as a file of your own"
        )
    return path


def state_of(file: DataFile) -> State:
    """Say whether a file of a published set is on this machine and is the published one."""
    try:
        return "missing" if find_local(file) is None else "here"
    except (ValueError, OSError):
        return "wrong checksum"


def _candidate(file: DataFile) -> Path | None:
    paths = (folder / file.set / f"{file.name}{ending}" for folder in folders() for ending in ENDINGS)
    return next((path for path in paths if path.is_file()), None)


def _checksum(path: Path, file: DataFile) -> str:
    """SHA-256 of a file, of a gzipped one that of its content unless it is the copy on the card; remembered by size and time."""
    status = path.stat()
    stamp = [status.st_size, status.st_mtime_ns]
    memory = cache_folder() / "checksums.json"
    known = _remembered(memory)
    name = str(path.absolute())
    if (entry := known.get(name)) and entry[:2] == stamp:
        return str(entry[2])
    found = sha256_of(path)
    if path.suffix == ".gz" and found != file.sha256_gz:
        found = _sha256_unpacked(path) or found
    with suppress(OSError):  # a cache that cannot be written costs time only
        memory.parent.mkdir(parents=True, exist_ok=True)
        replace_file(memory, json.dumps({**_remembered(memory), name: [*stamp, found]}, indent=1) + "\n")
    return found


def _remembered(memory: Path) -> dict[str, list[object]]:
    try:
        known = json.loads(memory.read_text())
    except (OSError, ValueError):
        return {}
    whole = isinstance(known, dict) and all(isinstance(entry, list) and len(entry) == 3 for entry in known.values())
    return known if whole else {}


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(CHUNK):
            digest.update(piece)
    return digest.hexdigest()


def _sha256_unpacked(path: Path) -> str | None:
    digest = hashlib.sha256()
    try:
        with gzip.open(path) as file:
            while piece := file.read(CHUNK):
                digest.update(piece)
    except (OSError, EOFError, zlib.error):  # cut short or damaged: it is not the published one in any case
        return None
    return digest.hexdigest()
