"""Files as streams of bytes, unpacked on the way, and as lines of bounded length."""

from __future__ import annotations

import bz2
import gzip
import lzma
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from equinet.quotes import shortened

from .places import Place

PACKED: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
CHUNK = 1 << 18  # bytes; stays in the cache of a processor
LONGEST_LINE = 1 << 24  # bytes; a comment with a matrix of 1000 x 1000 numbers
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
OTHER_MARKS = (b"\xff\xfe", b"\xfe\xff")  # of UTF-16


def name_inside(path: Path) -> str:
    """Name of a file without the ending of a packer: ``OUTCAR`` of ``OUTCAR.gz``."""
    return path.stem if path.suffix.lower() in PACKED else path.name


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """Open a file to be read, unpacked if its name ends in .gz, .bz2 or .xz.

    Raises:
        ValueError: If it cannot be read or unpacked, also while it is being read; names the file.
    """
    try:
        opener = PACKED.get(path.suffix.lower())
        with opener(path, "rb") if opener is not None else path.open("rb") as file:
            yield file
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise ValueError(f"{path} cannot be read: {_reason(error, path)}") from error


def _reason(error: Exception, path: Path) -> str:
    told = f"{type(error).__name__}: {shortened(str(error), 200)}"
    if path.suffix.lower() not in PACKED or isinstance(error, PermissionError):
        return told
    if isinstance(error, EOFError):
        return f"{told}; the file was cut short, fetch it again"
    return f"{told}; is it damaged, or not packed as its name ends? Fetch it again or rename it"


@contextmanager
def unpacked(path: Path) -> Iterator[Path]:
    """The file itself, or a temporary one under the name inside for what is packed."""
    if path.suffix.lower() not in PACKED:
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="equinet-") as folder:
        plain = Path(folder, name_inside(path))
        with opened(path) as packed, plain.open("wb") as file:
            shutil.copyfileobj(packed, file, CHUNK)
        yield plain


class Window:
    """The part of a stream that is being read: some bytes in memory, and where in them reading stands.

    Args:
        file: The stream.
        path: Its name, for errors.

    Attributes:
        data: Bytes in memory.
        at: Where the next line begins in them.
        line: Number of that line, from 1.

    Raises:
        ValueError: If the text is in UTF-16.
    """

    def __init__(self, file: IO[bytes], path: Path) -> None:
        self._file, self._path = file, path
        self._chunk = CHUNK
        self.data, self.at, self.line, self.ended = b"", 0, 1, False
        self.more()
        if self.data.startswith(OTHER_MARKS):
            raise ValueError(f"{path} is in UTF-16; save it as UTF-8")
        if self.data.startswith(BYTE_ORDER_MARK):
            self.at = len(BYTE_ORDER_MARK)

    def more(self) -> bool:
        """Read on, twice as far each time that nothing was taken in between. False at the end of the file."""
        self._chunk = CHUNK if self.at else 2 * self._chunk
        new = b"" if self.ended else self._file.read(self._chunk)
        self.ended = not new
        self.data, self.at = self.data[self.at :] + new, 0
        return bool(new)

    def is_over(self) -> bool:
        """True if nothing is left but blanks."""
        while not self.data[self.at :].strip():
            if not self.more():
                return True
        return False

    def whole_lines(self) -> int:
        """End of the last whole line in memory; ``at`` if there is none."""
        return max(self.data.rfind(b"\n", self.at) + 1, self.at)

    def next_line(self, frame: int | None = None) -> bytes | None:
        """The next line without its end, or None at the end of the file.

        Raises:
            ValueError: If the line is longer than any can be.
        """
        searched = self.at
        while (end := self.data.find(b"\n", searched)) < 0:
            held = len(self.data) - self.at
            if held > LONGEST_LINE:
                place = Place(self._path, frame, self.line)
                raise place.error(
                    f"the line is longer than {LONGEST_LINE >> 20} MiB; is this a text file with line ends?"
                )
            if not self.more():
                if not held:
                    return None
                end = len(self.data)
                break
            searched = self.at + held
        found = self.data[self.at : end]
        self.at, self.line = min(end + 1, len(self.data)), self.line + 1
        return found.removesuffix(b"\r")
