"""Disk cache of what takes long to make: coupling polynomials, CP factors, machine code.

An entry is found by what it was made from (function, arguments, sources of equinet), so that nothing has to be invalidated. It is a file of
tensors with a checksum (:mod:`equinet.tensorfile`), never a pickle, written all or nothing. What is damaged, of another version, or
not what was asked for is made anew. Results never depend on the cache; without a usable folder they only take longer.

The folder is that of the environment variable ``EQUINET_CACHE`` (``off`` for none), else ``equinet`` in ``XDG_CACHE_HOME``, else
``~/.cache/equinet``. It holds up to :data:`MOST_BYTES`; what was used longest ago goes first. As machine code is run from it, it must
belong to the user and not be writable by others.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from torch import Tensor

from equinet.runs.files import ENDING
from equinet.tensorfile import read_tensors, save_tensors

logger = logging.getLogger("equinet")

Entry = dict[str, Tensor]

FORMAT = 1
VARIABLE = "EQUINET_CACHE"
SUFFIX = ".safetensors"
# Bytes of all entries, and of one.
MOST_BYTES, MOST_BYTES_OF_ONE = 512 * 2**20, 64 * 2**20
# What is made faster, in seconds, is made again: to read a file takes some milliseconds.
WORTHWHILE = 0.1
# Age in seconds at which a half-written file is that of a process that was killed.
FORGOTTEN = 3600.0


def cached(what: str, arguments: Mapping[str, Any], make: Callable[[], Entry], worthwhile: float = WORTHWHILE) -> Entry:
    """Result of ``make()``, from the disk if it was made before from the same arguments by the same equinet.

    Args:
        what: Name of the function, of letters, digits and underscores.
        arguments: All that the result depends on, as JSON can hold it.
        make: Makes the tensors, all of them on the CPU.
        worthwhile: Seconds; what takes less to make is not kept.
    """
    place = folder()
    if place is None:
        return make()
    header = {"kind": "cache", "format": FORMAT, "sources": sources(), "what": what, "arguments": dict(arguments)}
    header = json.loads(json.dumps(header))  # as it will be read
    name = hashlib.sha256(json.dumps(header, sort_keys=True).encode()).hexdigest()[:32]
    path = place / f"{what}-{name}{SUFFIX}"
    found = _read(path, header)
    if found is not None:
        return found
    begin = time.perf_counter()
    made = make()
    seconds = time.perf_counter() - begin
    if seconds >= worthwhile and sum(each.nbytes for each in made.values()) <= MOST_BYTES_OF_ONE:
        _write(path, made, header)
    return made


def folder() -> Path | None:
    """Folder of the cache; None if there is to be none, or if it cannot be used, which is logged once."""
    chosen = os.environ.get(VARIABLE, "")
    return None if chosen == "off" else _usable(chosen, os.environ.get("XDG_CACHE_HOME", ""))


@cache
def _usable(chosen: str, caches: str) -> Path | None:
    try:
        place = Path(chosen or Path(caches or Path.home() / ".cache") / "equinet").expanduser().absolute()
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        reason = _why_unsafe(place) or (None if os.access(place, os.W_OK | os.X_OK) else "it cannot be written")
    except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: there is no home
        place, reason = Path(chosen or "~/.cache/equinet"), str(error)
    if reason is None:
        return place
    logger.warning(
        "%s cannot be the cache of equinet: %s. Couplings and machine code are made anew in every process; set %s to another "
        'folder, or to "off"',
        place,
        reason,
        VARIABLE,
    )
    return None


def _why_unsafe(place: Path) -> str | None:
    """Reason why others could put their code into a folder; None if they cannot."""
    if not hasattr(os, "getuid"):  # Windows: folders in a profile are the user's own
        return None
    state = place.stat()
    if state.st_uid != os.getuid():
        return "it belongs to another user"
    return "others may write there (chmod go-w)" if state.st_mode & 0o022 else None


@cache
def sources() -> str:
    """Digest of the version and the code of equinet.ops, on which results may depend."""
    digest = hashlib.sha256()
    for source in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(source.relative_to(Path(__file__).parent).as_posix().encode())
        digest.update(source.read_bytes())
    return digest.hexdigest()


def _read(path: Path, header: dict[str, Any]) -> Entry | None:
    """Content of an entry; None if there is none, or it is not what its header must be."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # an entry without a checksum is none of ours
            found, there = read_tensors(path)
        if there != header:
            raise ValueError("it was made from something else")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, UserWarning) as error:
        logger.info("an entry of the cache is made anew: %s (%s)", path, error)
        return None
    with suppress(OSError):
        os.utime(path)  # used now; see `_make_room`
    return found


def _write(path: Path, made: Entry, header: dict[str, Any]) -> None:
    """Keep an entry; a full or read-only disk only means that it is not kept."""
    try:
        save_tensors(path, made, header)
        _make_room(path.parent)
    except OSError as error:
        logger.info("%s is not kept: %s", path, error)


def _make_room(place: Path) -> None:
    """Remove entries until all together are small enough, those used longest ago first; and what killed processes left."""
    entries = []
    for path in place.iterdir():
        with suppress(FileNotFoundError):  # others make room too
            state = path.stat()
            if path.name.endswith(ENDING) and time.time() - state.st_mtime > FORGOTTEN:
                path.unlink()
            elif path.suffix == SUFFIX:
                entries.append((state.st_mtime, state.st_size, path))
    total = sum(size for _, size, _ in entries)
    for _, size, path in sorted(entries):
        if total <= MOST_BYTES:
            return
        path.unlink(missing_ok=True)
        total -= size
