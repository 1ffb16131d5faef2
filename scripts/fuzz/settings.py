"""Configurations of training runs (TOML) with wrong keys, types, numbers and syntax."""

from __future__ import annotations

import json
import math
import os
import random
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from child import Wrong
from models import NUMBERS, OTHERS

from equinet.train.config import RENAMED, describe_keys, read_config, to_toml

EXAMPLE = """[data]
train = "train.xyz"
valid = 0.1
energy_key = "energy"
e0s = { H = -13.6, C = -1029.0 }
[model]
channels = 16
max_l = 1
cutoff = 4.5
radial_hidden = [16, 16]
convolution = "cg"
many_body = { method = "cp", rank = 24 }
[train]
epochs = 5
learning_rate = 0.01
schedule = "cosine"
dtype = "float32"
weights = {}
"""
ODD_LINES = (
    "[data", "[[data]]", "data = 3", "[data.train]", 'a."b".c = 1', "= 3", "x = ", 'x = "', "x = '''", "x = 1979-05-27", "x = 0xdead", "x = 1__0", "\x00",
    "[model]", "[train]\nepochs = 7", "[other]", "model.architecture = 'x'", "x = [" + "[" * 400, "[a" + ".a" * 400 + "]",
    "x = " + "[" * 50_000,
    "x = " + "{a=" * 20_000, "x = " + "[" * 50_000, "x = " + "{a=" * 20_000, "x = 1" + "0" * 5000, "# é \ufffd", "\ufeff", "x = nan",
)  # fmt: skip
SETTINGS = (
    "model.channels=32", "model.channels=", "model.channels", "=", "a.b.c.d=1", "model=3", "model.channels.x=3", "train.seed=-1", "train.epochs=1e3", "data.train=[]", "train.weights={dipole=1}",
    "model.architecture=mace", "model.architecture=[]", "data.e0s={H=nan}", "train.device=\x00", "x..y=1", "data.train=a\nb", "model.cutoff=inf", 'data.keys={energy="x"}', "train.max_minutes=0",
)  # fmt: skip


def configurations(shared: Path) -> Callable[[random.Random, Path], Callable[[], object]]:
    """Configurations as text or as changed trees; what is read must be what stands there, and be written so again."""
    keys = [key for key, _, _ in describe_keys()]

    def make(source: random.Random, file: Path) -> Callable[[], object]:
        settings = [source.choice(SETTINGS)] if source.random() < 0.15 else []
        content = source.choice((_text, _tree, _tree))(source, keys)
        file.write_bytes(content)
        again = file.with_name("again.toml")

        def case() -> None:
            try:
                config = read_config(file, settings)
            except ValueError as error:
                if settings and "`settings`" in str(error):  # which is where the fault is, not in the file
                    raise ValueError(f"{file}: {error}") from error
                raise
            if not settings:
                _require_as_written(tomllib.loads(content.decode()), config.model_dump(mode="json"), file.parent)
            again.write_text(to_toml(config))
            if read_config(again) != config:
                raise Wrong("the configuration that is written is another one")

        return case

    return make


def _text(source: random.Random, keys: list[str]) -> bytes:
    lines = EXAMPLE.splitlines(keepends=True)
    for _ in range(source.choice((1, 1, 2))):
        at = source.randrange(max(1, len(lines)))
        lines = lines or ["\n"]
        lines[at : at + 1] = source.choice(
            (
                [],
                [lines[at], lines[at]],
                [source.choice(ODD_LINES) + "\n", lines[at]],
                [lines[at][: source.randrange(len(lines[at]) + 1)]],
            )
        )
    content = bytearray("".join(lines).encode())
    if content and source.random() < 0.3:
        content[source.randrange(len(content))] = source.randrange(256)
    return bytes(content)


def _tree(source: random.Random, keys: list[str]) -> bytes:
    """Valid TOML with values that may be none."""
    tree = tomllib.loads(EXAMPLE)
    for _ in range(source.choice((1, 1, 2, 3))):
        section, name = source.choice(keys).split(".")
        if source.random() < 0.1:
            name = source.choice(
                (name + "s", name.upper(), "", "é", "a.b", "model_config", *(key.split(".")[1] for key in RENAMED))
            )
        value = source.choice(
            (
                *NUMBERS,
                *OTHERS,
                {"method": "cp"},
                {"method": "cp", "rank": -1},
                {"method": 3},
                {"method": "cp", "rank": 10**9},
                {"H": "x"},
                {"Xx": 1.0},
                {"H": 1},
                [10**9],
                [0.5],
                ["a", 1],
            )
        )
        if not isinstance(tree[section], dict):
            continue
        if value is None:
            tree[section].pop(name, None)
        elif source.random() < 0.05:
            tree[section] = value
        else:
            tree[section][name] = value
    return "".join(f"{_quoted(section)} = {_toml(values)}\n" for section, values in tree.items()).encode()


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return (
            "{ "
            + ", ".join(f"{_quoted(key)} = {_toml(item)}" for key, item in value.items() if item is not None)
            + " }"
        )
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return _quoted(value) if isinstance(value, str) else repr(value)


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _require_as_written(written: Any, read: Any, folder: Path, place: str = "") -> None:
    """Every value that was written is in what was read, and of its type but for whole numbers that stand for fractions."""
    if place in ("data.train", "data.valid", "data.test", "train.start_from"):
        names = [written] if isinstance(written, str) else written
        if isinstance(names, list):
            written = [os.path.abspath(folder / name) for name in names]
            read = [read] if isinstance(read, str) else read
    if isinstance(written, dict) and isinstance(read, dict):
        for key, value in written.items():
            if key not in read:
                raise Wrong(f"`{place}.{key}` got lost without a word")
            _require_as_written(value, read[key], folder, f"{place}.{key}".lstrip("."))
        return
    numbers = all(isinstance(each, (int, float)) and not isinstance(each, bool) for each in (written, read))
    same = (float(written) == read if numbers and isinstance(read, float) else written == read) and (
        numbers or type(written) is type(read)
    )
    if not same or (isinstance(read, float) and not math.isfinite(read)):
        raise Wrong(f"`{place}` became another value: {written!r:.80} was read as {read!r:.80}")
