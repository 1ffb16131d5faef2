"""A small published set for tests: a card, its files, and a server that has them."""

from __future__ import annotations

import gzip
import hashlib
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import ase.io
import pytest

from equinet.datasets import SAMPLE
from equinet.datasets.published import card

ISOLATED_ATOMS = 3  # the sample's first frames


@dataclass
class ToySet:
    """The set ``toy`` with files atoms, train, test and converted, which has no address.

    Attributes:
        content: Text of each file by its name.
        base: Address before the names of the files.
    """

    content: dict[str, bytes]
    base: str = "http://127.0.0.1:9"  # nothing listens there

    def put(self, folder: Path, name: str, *, packed: bool = False) -> Path:
        """Write a file of the set where it is looked for in a folder."""
        path = folder / "toy" / f"{name}.xyz{'.gz' if packed else ''}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(self.content[name], mtime=5) if packed else self.content[name])
        return path

    def toml(self) -> str:
        """The card."""
        parts = []
        for name, content in self.content.items():
            digests = [hashlib.sha256(each).hexdigest() for each in (content, gzip.compress(content, mtime=0))]
            lines = [f'name = "{name}"', f'role = "{name if name in ("train", "test") else "isolated atoms"}"']
            lines += ["frames = 6", "atoms = [9, 9]", 'elements = ["C", "H", "O"]', 'labels = ["energy", "forces"]']
            lines += [f'url = "{self.base}/{name}.xyz"'] if name != "converted" else []
            lines += ['isolated_atoms = "atoms"'] if name == "train" else []
            lines += [f'sha256 = "{digests[0]}"', f'sha256_gz = "{digests[1]}"']
            parts.append("\n".join(["[[files]]", *lines]))
        return HEAD + "\n\n".join(parts) + PUBLISHED


HEAD = """
title = "Toys"
use = "tests"
about = "Ethanol."
origin = "https://example.org/toys"
licence = "none"
cite = ["Nobody, 2026"]
level_of_theory = "GFN2-xTB"
split = "train and test"
made = "a file in another format"
units = { length = "Å", energy = "eV", forces = "eV/Å" }
keys = { energy = "energy", forces = "forces" }

"""
PUBLISHED = """

[[published]]
file = "test"
trained_on = "train"
source = "A paper"
columns = [
  { property = "energy", kind = "rmse", unit = "meV" },
  { property = "forces", kind = "norm", unit = "eV/Å" },
]
errors = [["Theirs", 18.0, 0.25]]
"""


@contextmanager
def toy_set(monkeypatch: pytest.MonkeyPatch, folder: Path, base: str | None = None) -> Iterator[ToySet]:
    """Put the set ``toy`` in place of the published ones, with an empty cache and no folder of data."""
    frames = ase.io.read(SAMPLE["train"], f":{ISOLATED_ATOMS + 16}")
    parts = {"atoms": frames[:ISOLATED_ATOMS], "train": frames[ISOLATED_ATOMS:]}
    parts["test"] = ase.io.read(SAMPLE["test"], ":6")
    parts["converted"] = parts["test"]
    content = {}
    for name, part in parts.items():
        ase.io.write(folder / f"{name}.xyz", part)
        content[name] = (folder / f"{name}.xyz").read_bytes()
        (folder / f"{name}.xyz").unlink()
    toys = ToySet(content, *([base] if base else []))
    cards = folder / "cards"
    cards.mkdir()
    (cards / "toy.toml").write_text(toys.toml(), encoding="utf-8")
    monkeypatch.setattr(card, "HERE", cards)
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    monkeypatch.delenv("EQUINET_DATA", raising=False)
    card.cards.cache_clear()
    try:
        yield toys
    finally:
        card.cards.cache_clear()


@dataclass
class Server:
    """A server of files on this machine.

    Attributes:
        base: Its address.
        files: Contents by path.
        requests: Header ``Range`` of each request, None without.
        limits: Bytes after which the next answers break off; whole answers when it is empty.
        ranges: False for a server that knows no ``Range``.
        before: Called before each answer.
    """

    base: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    requests: list[str | None] = field(default_factory=list)
    limits: list[int] = field(default_factory=list)
    ranges: bool = True
    before: Callable[[], None] = lambda: None


@contextmanager
def serving() -> Iterator[Server]:
    """Run a server of files within the block."""
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            state.requests.append(wanted)
            state.before()
            content = state.files.get(self.path)
            if content is None:
                self.send_error(404)
                return
            start = int(re.findall(r"bytes=(\d+)-", wanted)[0]) if wanted and state.ranges else 0
            if start and start >= len(content):
                self.send_error(416)
                return
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            limit = state.limits.pop(0) if state.limits else len(content)
            self.wfile.write(content[start : start + limit])

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    state.base = f"http://127.0.0.1:{server.server_port}"
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
