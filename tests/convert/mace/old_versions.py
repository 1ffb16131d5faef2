"""Model files as old versions of mace-torch and e3nn write them, each version from a folder of its own.

``.reference/mace-0.3.6`` and ``.reference/e3nn-0.4.4`` hold what ``pip install --no-deps --target`` puts there.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

REPOSITORY = Path(__file__).resolve().parents[3]
FOLDER = REPOSITORY / ".reference"
INSTALLED_AS = {"mace": "mace-torch", "e3nn": "e3nn"}


def available_versions(package: str = "mace") -> list[str]:
    """Versions of ``mace`` or ``e3nn`` that :func:`write` can use, oldest first, with the installed one."""
    found = {folder.name.partition("-")[2] for folder in FOLDER.glob(f"{package}-*")} | _installed(package)
    return sorted(found, key=lambda version: [int(part) for part in version.split(".")])


def write(
    version: str, e3nn_version: str, arguments: Mapping[str, Any], folder: Path
) -> tuple[Path, dict[str, np.ndarray]]:
    """Build and save one model under these versions; see :func:`write_all`."""
    return write_all(version, e3nn_version, {"": arguments}, folder)[""]


def write_all(
    version: str, e3nn_version: str, models: Mapping[str, Mapping[str, Any]], folder: Path
) -> dict[str, tuple[Path, dict[str, np.ndarray]]]:
    """Build and save models under these versions, all in one process.

    Args:
        version: Of mace-torch.
        e3nn_version: Of e3nn.
        models: Arguments by the names of models: ``class``: ``"MACE"`` or ``"ScaleShiftMACE"``; ``model``: its arguments by
            mace's names, with classes, gates and irreps as text and atomic energies as (heads, elements), an error if the
            version does not know one; ``if_known``: more of them, left out where the version does not know them; ``seed``;
            ``dtype``: of the weights; ``factor``: on all weights; ``structures``: an extended XYZ file, or nothing.
        folder: Where to put the files.

    Returns:
        For each model its file, and arrays: ``state/NAME`` for its ``state_dict``, and for structure i and head h ``i/h/NAME``
        for ``energy``, ``interaction_energy`` (``ScaleShiftMACE`` only), ``node_energy``, ``forces``, ``virials``, ``stress``,
        predicted in float64. ``energy`` and ``node_energy`` have the energies of the isolated atoms in them.
    """
    paths = [FOLDER / f"{package}-{v}" for package, v in (("mace", version), ("e3nn", e3nn_version))]
    for path, package, wanted in zip(paths, INSTALLED_AS, (version, e3nn_version)):
        if wanted not in available_versions(package):
            raise FileNotFoundError(f"{package} {wanted} is neither installed nor in {path.name} of {FOLDER.name}")
    folder.mkdir(parents=True, exist_ok=True)
    files: dict[str, tuple[Path, ...]] = {}
    for name, arguments in models.items():
        stem = folder / f"mace-{version}-e3nn-{e3nn_version}{name}"
        files[name] = tuple(Path(f"{stem}.{end}") for end in ("json", "model", "npz"))
        files[name][0].write_text(json.dumps(dict(arguments), default=str))
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(str(path) for path in paths if path.is_dir()),
        "OMP_NUM_THREADS": "1",
        # e3nn 0.4.4 reads tables of its own with torch.load, which now refuses the slices in them.
        "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1",
    }
    script = Path(__file__).with_name("write_model.py")
    command = [
        sys.executable,
        "-W",
        "ignore",
        str(script),
        *(str(file) for of_one in files.values() for file in of_one),
    ]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    if done.returncode:
        raise RuntimeError(f"mace {version} on e3nn {e3nn_version} failed:\n{done.stderr[-3000:]}")
    written = {}
    for name, (_, model, arrays) in files.items():
        with np.load(arrays) as found:
            written[name] = (model, dict(found))
    return written


def _installed(package: str) -> set[str]:
    try:
        return {metadata.version(INSTALLED_AS[package])}
    except metadata.PackageNotFoundError:
        return set()
