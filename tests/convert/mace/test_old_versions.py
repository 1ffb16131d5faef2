"""Files as older versions of mace-torch and e3nn wrote them: read, and the same function as under those versions."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
import torch
from mace_models import CUTOFF, ELEMENTS, assert_same, structures
from old_versions import available_versions, write_all

from equinet.convert.mace import load_mace

# By the case: a model file, and what the model predicts.
Written = dict[str, tuple[Path, dict[str, np.ndarray]]]

# e3nn 0.4.4, which mace-torch pins, has other signs of couplings than today's.
E3NN = "0.4.4"
CASES: dict[str, dict[str, Any]] = {
    "MP-0": {"hidden_irreps": "4x0e+4x1o+4x2e", "correlation": 3, "max_ell": 3},
    "MP-0b": {
        "interaction_cls_first": "RealAgnosticDensityInteractionBlock",
        "interaction_cls": "RealAgnosticDensityResidualInteractionBlock",
        "pair_repulsion": True,
        "distance_transform": "Agnesi",
    },
    "0b": {"pair_repulsion": True, "distance_transform": "Agnesi"},
    "OFF": {"interaction_cls_first": "RealAgnosticInteractionBlock"},
    "heads": {"heads": ["pbe", "scan"], "atomic_energies": [[-1, -2, -3, -4], [-5, -6, -7, -8]]},
    "MH-1": {
        "interaction_cls_first": "RealAgnosticResidualNonLinearInteractionBlock",
        "interaction_cls": "RealAgnosticResidualNonLinearInteractionBlock",
        "apply_cutoff": False,
        "edge_irreps": "2x0e+2x1o",
    },
}
# What was new in a version, and what older ones already had.
WRITTEN = {
    "0.3.4": ("MP-0", "OFF"),
    "0.3.6": ("0b",),
    "0.3.10": ("MP-0b", "heads"),
    "0.3.13": ("MP-0", "heads"),
    "0.3.16": ("MP-0", "MP-0b", "heads", "MH-1"),
}


def arguments_of(case: str, file: Path) -> dict[str, Any]:
    heads = len(CASES[case].get("heads", ["Default"]))
    model = {
        "r_max": CUTOFF,
        "num_bessel": 8,
        "num_polynomial_cutoff": 5,
        "max_ell": 2,
        "interaction_cls": "RealAgnosticResidualInteractionBlock",
        "interaction_cls_first": "RealAgnosticResidualInteractionBlock",
        "num_interactions": 2,
        "hidden_irreps": "4x0e+4x1o",
        "MLP_irreps": "4x0e",
        "atomic_energies": [[-10.0, -20.0, -30.0, -40.0]],
        "avg_num_neighbors": 3.0,
        "atomic_numbers": list(ELEMENTS),
        "correlation": 2,
        "gate": "silu",
        "atomic_inter_scale": [1.7, 0.9][:heads] if heads > 1 else 1.7,
        "atomic_inter_shift": [-0.4, 0.3][:heads] if heads > 1 else -0.4,
        **CASES[case],
    }
    # Couplings reduced by cuEquivariance came later, and are another model.
    return {
        "class": "ScaleShiftMACE",
        "model": model,
        "if_known": {"use_reduced_cg": False},
        "seed": 1,
        "dtype": "float64",
        "factor": 1.3,
        "structures": str(file),
    }


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Written]]:
    """A function: the structures, and what a version writes of all its cases, in one process."""

    @cache
    def of_version(version: str) -> tuple[Path, Written]:
        folder = tmp_path_factory.mktemp(f"mace-{version}")
        ase.io.write(folder / "structures.xyz", structures(), format="extxyz")
        models = {case: arguments_of(case, folder / "structures.xyz") for case in WRITTEN[version]}
        return folder / "structures.xyz", write_all(version, E3NN, models, folder)

    return of_version


@pytest.mark.skipif(
    E3NN not in available_versions("e3nn"), reason="older versions are not here; `make reference` fetches them"
)
@pytest.mark.parametrize(("version", "case"), [(version, case) for version, cases in WRITTEN.items() for case in cases])
def test_a_file_of_an_older_version_is_the_same_function(
    version: str, case: str, files: Callable[[str], tuple[Path, Written]]
) -> None:
    if version not in available_versions("mace"):
        pytest.skip(f"mace-torch {version} is not here; `make reference` fetches it")
    frames, written = files(version)
    path, arrays = written[case]
    heads = CASES[case].get("heads", ["Default"])
    for h, head in enumerate(heads):
        potential = load_mace(path, head=head if len(heads) > 1 else None)
        for i, atoms in enumerate(ase.io.read(frames, ":")):  # with the digits of the file
            theirs = {name: arrays[f"{i}/{h}/{name}"] for name in ("energy", "node_energy", "forces", "virials")}
            assert_same(
                potential, {name: torch.from_numpy(np.atleast_1d(value)) for name, value in theirs.items()}, atoms
            )
