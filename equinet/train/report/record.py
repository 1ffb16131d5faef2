"""Files that a training run writes as it goes: one JSON line per epoch, and JSON files."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from equinet.runs.files import explained, replace_file


def append_json(path: str | os.PathLike[str], record: Mapping[str, Any]) -> None:
    """Add one line to a JSON-lines file, all or nothing.

    Raises:
        OSError: If it cannot be written; names the file and the remedy.
    """
    length = os.path.getsize(path) if os.path.exists(path) else 0
    try:
        with open(path, "a") as file:
            file.write(json.dumps(dict(record)) + "\n")
    except OSError as error:
        with suppress(OSError):
            os.truncate(path, length)  # a full disk takes half a line
        raise explained(error, path) from error


def write_json_lines(path: str | os.PathLike[str], records: Iterable[Mapping[str, Any]]) -> None:
    """Write a JSON-lines file anew."""
    replace_file(path, "".join(json.dumps(dict(record)) + "\n" for record in records))


def write_json(path: str | os.PathLike[str], record: Mapping[str, Any]) -> None:
    """Write a JSON file, indented."""
    replace_file(path, json.dumps(dict(record), indent=1) + "\n")


def write_csv(path: str | os.PathLike[str], rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a table as comma-separated values, with a heading.

    Args:
        path: File to write.
        rows: Values by column, at least one row; all rows have the columns of the first.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    replace_file(path, text.getvalue())
