"""Model files (*.eqn) whose header or tensors somebody edited, behind a checksum that is right."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from child import Wrong
from models import NUMBERS, OTHERS, prediction_of, same, write, written_potential
from torch import Tensor

import equinet
from equinet.checkpoint import read_tensors
from equinet.potential import Potential


def edited_headers(shared: Path) -> Callable[[random.Random, Path], Callable[[], object]]:
    """Valid files whose JSON header or tensors somebody edited: what loads must be what the header states."""
    base, expected = written_potential(shared)
    tensors, header = read_tensors(base)

    def make(source: random.Random, file: Path) -> Callable[[], object]:
        new, changed = json.loads(json.dumps(header)), dict(tensors)
        for _ in range(source.choice((1, 1, 1, 2, 3))):
            if source.random() < 0.8:
                edit(source, new)
            else:
                _edit_tensors(source, changed)
        write(file, changed, new)

        def case() -> None:
            potential = equinet.load(file)
            _require_as_stated(potential, new, changed)
            found = prediction_of(potential)
            if not torch.isfinite(found).all():
                raise Wrong("a prediction is not finite, without a word")
            relevant = {name: new.get(name) for name in RELEVANT} == {name: header[name] for name in RELEVANT}
            edited = changed.keys() != tensors.keys() or any(changed[name] is not tensors[name] for name in tensors)
            if relevant and not edited and not same(potential, expected):
                raise Wrong("another potential, although nothing that decides it was edited")

        return case

    return make


RELEVANT = ("format", "elements", "model", "avg_num_neighbors", "exact_isolated_atoms", "dtype")


def edit(source: random.Random, tree: Any) -> None:
    """Change one value somewhere in a tree of tables and lists, mostly near its root."""
    while True:
        keys = list(tree) if isinstance(tree, dict) else list(range(len(tree)))
        if not keys:
            return
        key = source.choice(keys)
        if isinstance(tree[key], (dict, list)) and tree[key] and source.random() < 0.75:
            tree = tree[key]
            continue
        break
    what = source.choice(("gone", "number", "number", "other", "near", "more", "deep"))
    if what == "gone":
        del tree[key]
    elif what == "number":
        tree[key] = source.choice(NUMBERS)
    elif what == "other":
        tree[key] = source.choice(OTHERS)
    elif what == "near":
        tree[key] = _near(source, tree[key])
    elif what == "more" and isinstance(tree, dict):
        tree[source.choice(("", "extra", str(key).upper(), "architecture", "cutoff", "__class__"))] = source.choice(
            NUMBERS + OTHERS
        )
    else:
        deep: Any = []
        for _ in range(source.choice((3, 100, 900))):
            deep = [deep] if source.random() < 0.5 else {"a": deep}
        tree[key] = deep


def _near(source: random.Random, value: Any) -> Any:
    """A value of the same type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return type(value)(value + source.choice((-1, 1, 2))) if source.random() < 0.7 else str(value)
    if isinstance(value, str):
        return source.choice(
            (
                value.upper(),
                value + "x",
                value[:-1],
                "H",
                "He",
                "Xx",
                "gated",
                "density",
                "mace",
                "gaunt_grid",
                "soft",
                "float16",
                "int64",
            )
        )
    if isinstance(value, list):
        return source.choice(
            (value[::-1], value + value, value[:-1], [*value, "Og"], {str(n): each for n, each in enumerate(value)})
        )
    return value


def _edit_tensors(source: random.Random, tensors: dict[str, Tensor]) -> None:
    name = source.choice(sorted(tensors))
    tensor = tensors[name]
    edits: tuple[Callable[[], Tensor | None], ...] = (
        lambda: None,
        lambda: tensor.double(),
        lambda: tensor.half(),
        lambda: tensor.to(torch.int32),
        lambda: tensor.to(torch.bool),
        lambda: tensor.to(torch.complex64),
        lambda: tensor[..., None].clone(),
        lambda: tensor.T.contiguous() if tensor.ndim == 2 else tensor.ravel(),
        *(
            lambda each=each: torch.full_like(tensor, each, dtype=torch.float64).to(tensor.dtype)
            for each in (math.nan, math.inf, 3e38)
        ),
        lambda: torch.zeros(0),
        lambda: torch.zeros(()),
        lambda: tensor * 1.5,
    )
    new = source.choice(edits)()
    if new is None:
        del tensors[name]
    else:
        tensors[name if source.random() < 0.9 else name + "_more"] = new.clone()


def _require_as_stated(potential: Potential, header: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """A potential has what the header states, and nothing in it was left out without a word."""
    built = potential.model.config.model_dump(mode="json")
    for name, value in header["model"].items() if header["format"] >= 3 else ():
        if name not in built or not _same(built[name], value):
            raise Wrong(f"`model.{name}` is stated but not built: {value!r:.80} against {built.get(name)!r}")
    for name, have in (
        ("avg_num_neighbors", potential.model.avg_num_neighbors),
        ("dtype", str(potential.dtype).removeprefix("torch.")),
    ):
        if not _same(have, header[name]):
            raise Wrong(f"`{name}` is stated but not built: {header[name]!r:.80} against {have!r}")
    if type(header["exact_isolated_atoms"]) is not bool:
        raise Wrong(f"`exact_isolated_atoms` is no truth value: {header['exact_isolated_atoms']!r:.80}")
    if type(header["format"]) is not int or header["format"] < 1:
        raise Wrong(f"`format` is none: {header['format']!r:.80}")
    if not isinstance(header["elements"], list):
        raise Wrong(f"`elements` is no list: {header['elements']!r:.80}")
    for name, tensor in tensors.items():
        if tensor.is_complex() or not tensor.is_floating_point():
            raise Wrong(f"a tensor of {tensor.dtype} became weights: {name}")


def _same(built: Any, stated: Any) -> bool:
    """Equal, and of one type but for whole numbers where fractions may stand."""
    if isinstance(stated, bool) or isinstance(built, bool):
        return built is stated
    if isinstance(stated, (int, float)) and isinstance(built, (int, float)):
        return built == stated
    return type(built) is type(stated) and built == stated
