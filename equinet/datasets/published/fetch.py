"""Downloads of published files: resumed where they broke off, checked by SHA-256, put in place as a whole."""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from equinet.runs.files import explained, make_folder, sync
from equinet.runs.lock import exclusive

from .card import DataFile, find_card
from .local import CHUNK, VARIABLE, cache_folder, folders, sha256_of

SECONDS = 20.0  # without a byte
ATTEMPTS = 3
WHOLE, PART, NOTHING_LEFT = 200, 206, 416


class NotFetchedError(OSError):
    """A published file that is not on this machine could not be fetched; the message says where from and where to put it."""


def fetch(
    file: DataFile,
    *,
    advance: Callable[[int, int | None], None] = lambda done, total: None,
    timeout: float = SECONDS,
) -> Path:
    """Download a file of a published set into the cache, resume an interrupted download, and verify its SHA-256.

    Args:
        file: File of a card.
        advance: Called with the bytes that are there and the bytes in all, None where the server does not say.
        timeout: Seconds to wait for a server that sends nothing.

    Returns:
        The file in the cache.

    Raises:
        NotFetchedError: If there is no network, the server refuses, the download breaks off or has another checksum, or the file
            has no address of its own; says where to get it, its checksum, and where to put it.
        InUseError: If another process fetches the same file.
        OSError: If the cache cannot be written.
    """
    target = cache_folder() / file.set / f"{file.name}.xyz"
    if not file.url:
        raise NotFetchedError(_how_to_make(file, target))
    make_folder(target.parent)
    partial = target.with_name(f"{target.name}.part")
    with exclusive(target.with_name(f".{target.name}.lock"), f"{file.full_name} in the cache", "try again"):
        for attempt in range(1, ATTEMPTS + 1):
            before = _size(partial)
            try:
                _download(file.url, partial, advance, timeout)
                break
            except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
                # A connection that brought something is worth going on with; one that brings nothing is not.
                if attempt == ATTEMPTS or _size(partial) <= before:
                    raise NotFetchedError(_how_to_get(file, target, error, partial)) from error
            except OSError as error:
                raise explained(error, partial) from error
        found = sha256_of(partial)
        if found != file.sha256:
            partial.unlink()
            raise NotFetchedError(
                f"{file.url} brought a file with the SHA-256 {found}, and {file.full_name} has {file.sha256}: it is damaged or "
                "another one, and was removed; try again"
            )
        sync(partial)
        partial.replace(target)
    return target


def _download(url: str, partial: Path, advance: Callable[[int, int | None], None], timeout: float) -> None:
    """Append what is missing of a file; a server that cannot begin in the middle sends all of it."""
    done = _size(partial)
    request = urllib.request.Request(url, headers={"Range": f"bytes={done}-"} if done else {})
    try:
        response = urllib.request.urlopen(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code != NOTHING_LEFT or not done:
            raise
        partial.unlink()  # as long as the whole file or longer, and not yet in place: begin anew
        return _download(url, partial, advance, timeout)
    with response:
        if done and response.status != PART:
            done = 0
        length = response.headers.get("Content-Length")
        total = done + int(length) if length and length.isdigit() else None
        with partial.open("ab" if done else "wb") as file:
            advance(done, total)
            while piece := response.read(CHUNK // 16):
                file.write(piece)
                done += len(piece)
                advance(done, total)
    if total is not None and done < total:
        raise ConnectionError(f"the connection ended after {done} of {total} bytes")


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _how_to_get(file: DataFile, target: Path, error: Exception, partial: Path) -> str:
    kept = f" {_size(partial)} bytes are kept, and the next try goes on from there." if _size(partial) else ""
    reason = str(getattr(error, "reason", "") or error) or type(error).__name__
    return (
        f"{_not_here(file)}, and {file.url} could not be fetched: {reason}.{kept} Fetch it on another machine "
        f"and put it here as {target} (or below a folder of {VARIABLE} as {file.set}/{file.name}.xyz or .xyz.gz); its SHA-256 is "
        f"{file.sha256}"
    )


def _not_here(file: DataFile) -> str:
    return f"{file.full_name} is in none of {', '.join(map(str, folders()))}"


def _how_to_make(file: DataFile, target: Path) -> str:
    return (
        f"{_not_here(file)}, and cannot be fetched: no address has it in this form. It is made from "
        f"{find_card(file.set).origin}: {file.made}. Put it as {target} (or below a folder of {VARIABLE} as {file.set}/{file.name}.xyz or "
        f".xyz.gz); its SHA-256 is {file.sha256}"
    )
