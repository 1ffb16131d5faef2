"""A training of a second, what it comes to undisturbed, and what is wrong with a folder after a disturbance."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import ase.io
import torch
from ase import Atoms

from equinet.datasets import SAMPLE
from equinet.runs.files import replace_file
from equinet.tensorfile import read_tensors
from equinet.train import RunConfig, parse_config, read_config, run

MODULE = import_module("equinet.train.run")
FRAMES = {"train": 3 + 6, "valid": 2, "test": 1}  # the sample's first three are isolated atoms
TINY = {
    "channels": 2,
    "max_l": 1,
    "sh_degree": 1,
    "correlation": 2,
    "cutoff": 4.0,
    "bessel_functions": 4,
    "radial_hidden": [8],
    "readout_hidden": 4,
}
PNG, PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"
SECONDS_BETWEEN_STATES = 0.02
# What a file says of the clock and not of the training.
CLOCK = ("seconds",)


def configuration(folder: Path, *, epochs: int = 3, seed: int = 1) -> RunConfig:
    """A configuration with its frames, which are written to a folder."""
    for part, count in FRAMES.items():
        if not (folder / f"{part}.xyz").exists():
            ase.io.write(folder / f"{part}.xyz", ase.io.read(SAMPLE[part], f":{count}"))
    files = {part: str(folder / f"{part}.xyz") for part in FRAMES}
    train = {"epochs": epochs, "batch_size": 2, "seed": seed, "device": "cpu"}
    return parse_config({"data": files, "model": TINY, "train": train})


def structure() -> Atoms:
    """A molecule of the sample."""
    return ase.io.read(SAMPLE["test"], "0")


def train(config: RunConfig, out: Path, *, plots: bool = False) -> None:
    """Begin the training in a folder, or go on with it if there is a state; states are written often.

    Args:
        config: Configuration.
        out: Folder.
        plots: Draw the plots, which take longer than the training; else write a file as plots are written.
    """
    MODULE.SECONDS_BETWEEN_STATES = SECONDS_BETWEEN_STATES
    if not plots:
        MODULE.plot_history = MODULE.plot_parity = lambda what, path: replace_file(path, PNG + PNG_END)
    run(config, out, resume=(out / MODULE.STATE).exists())


def result(out: Path) -> dict[str, Any]:
    """What a finished training says that must not depend on what disturbed it."""
    tensors, header = read_tensors(out / "model.eqn")
    return {
        "model.eqn": {name: tensor.numpy().tobytes() for name, tensor in tensors.items()},
        "header of model.eqn": _without_clock(header),
        "metrics.jsonl": [
            _without_clock(json.loads(line)) for line in (out / "metrics.jsonl").read_text().splitlines()
        ],
        "errors.json": (out / "errors.json").read_bytes(),
        "config.toml": (out / "config.toml").read_bytes(),
        "state": {name: tensor.numpy().tobytes() for name, tensor in read_tensors(out / MODULE.STATE)[0].items()},
        "files": sorted(str(path.relative_to(out)) for path in out.rglob("*")),
    }


def differences(out: Path, expected: dict[str, Any]) -> list[str]:
    """What differs from an undisturbed training."""
    found = result(out)
    wrong = [f"{what} differs" for what in expected if found[what] != expected[what]]
    return [f"files: {found['files']}" if each == "files differs" else each for each in wrong]


def steps_done(out: Path) -> int:
    """Steps that the state knows; -1 without one."""
    return int(read_tensors(out / MODULE.STATE)[1]["step"]) if (out / MODULE.STATE).exists() else -1


def unreadable(out: Path) -> list[str]:
    """Files of a folder that cannot be read, whatever moment the training ended at."""
    wrong = []
    for path in sorted(out.rglob("*")):
        if path.is_dir() or path.name == ".lock" or path.name.endswith(".partial"):
            continue
        try:
            _read(path)
        except Exception as error:  # whatever a reader raises is a lost file
            wrong.append(f"{path.name} cannot be read: {type(error).__name__}: {str(error)[:80]}")
    return wrong


def _read(path: Path) -> None:
    if path.suffix in (".eqn", ".safetensors"):
        tensors, _ = read_tensors(path)
        if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values()):
            raise ValueError("not finite")
    elif path.suffix == ".toml":
        read_config(path)
    elif path.suffix == ".jsonl":
        for line in path.read_text().splitlines():
            json.loads(line)
    elif path.suffix == ".json":
        json.loads(path.read_text())
    elif path.suffix == ".png":
        content = path.read_bytes()
        if not (content.startswith(PNG) and content.endswith(PNG_END)):
            raise ValueError("half a picture")
    else:
        raise ValueError("nobody knows this file")


def _without_clock(values: Any) -> Any:
    if isinstance(values, dict):
        return {key: _without_clock(value) for key, value in values.items() if key not in CLOCK}
    return values
