"""What the tests of training share: a dozen frames in files, a tiny model, one finished run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from torch.optim import Optimizer

from equinet.datasets import SAMPLE, GraphLoader
from equinet.potential import Potential
from equinet.train import (
    Data,
    Loss,
    Result,
    RunConfig,
    TrainConfig,
    TrainingState,
    fit,
    make_optimizer,
    make_potential,
    parse_config,
    prepare,
    run,
)
from equinet.train.prepare import make_loss

TINY = {
    "channels": 4,
    "max_l": 1,
    "sh_degree": 1,
    "correlation": 2,
    "cutoff": 4.0,
    "bessel_functions": 4,
    "radial_hidden": [8],
    "readout_hidden": 4,
}
ISOLATED_ATOMS = 3  # the sample's first frames: H, C, O


@dataclass
class Parts:
    """What :func:`equinet.train.fit` takes, made anew from a configuration as a new process would."""

    config: TrainConfig
    potential: Potential
    data: Data
    loss: Loss
    optimizer: Optimizer
    state: TrainingState

    def fit(self, reporter: Any = None, **options: Any) -> TrainingState:
        """Train, beginning at ``state``."""
        parts = (self.potential, self.data, self.loss, self.optimizer, self.config)
        return fit(*parts, state=self.state, reporter=reporter, **options)


@pytest.fixture(scope="session")
def sample() -> dict[str, list[Atoms]]:
    """Frames of the sample as ASE reads them: 3 isolated atoms and 16 frames to train on, 6 to validate, 6 to test."""
    counts = {"train": ISOLATED_ATOMS + 16, "valid": 6, "test": 6}
    return {part: ase.io.read(SAMPLE[part], f":{count}") for part, count in counts.items()}


@pytest.fixture(scope="session")
def files(sample: dict[str, list[Atoms]], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The frames of :func:`sample` as files; a test must not change them."""
    folder = tmp_path_factory.mktemp("frames")
    for part, frames in sample.items():
        ase.io.write(folder / f"{part}.xyz", frames)
    return {part: str(folder / f"{part}.xyz") for part in sample}


@pytest.fixture(scope="session")
def make_config(files: dict[str, str]) -> Callable[..., RunConfig]:
    """A function that makes a configuration of a tiny run; keywords are keys of [train], ``data`` and ``model`` tables."""

    def make(*, data: dict[str, Any] | None = None, model: dict[str, Any] | None = None, **train: Any) -> RunConfig:
        return parse_config(
            {
                "data": {"train": files["train"], "valid": files["valid"], **(data or {})},
                "model": {**TINY, **(model or {})},
                "train": {"epochs": 3, "batch_size": 4, "device": "cpu", **train},
            }
        )

    return make


@pytest.fixture(scope="session")
def make_parts() -> Callable[[RunConfig], Parts]:
    """A function that builds everything for :func:`fit` from a configuration, sharing nothing between two calls."""

    def make(config: RunConfig) -> Parts:
        prepared = prepare(config)
        potential = make_potential(config, prepared)
        optimizer = make_optimizer(potential, config.train)
        return Parts(
            config.train,
            potential,
            Data(
                GraphLoader(prepared.graphs["train"], config.train.batch_size, config.train.seed),
                GraphLoader(prepared.graphs["valid"], 32),
            ),
            make_loss(config),
            optimizer,
            TrainingState(potential, optimizer, config.train.ema_decay),
        )

    return make


@pytest.fixture(scope="session")
def finished(
    make_config: Callable[..., RunConfig], files: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Result:
    """A run of three epochs with a test set; a test must not change its folder."""
    return run(make_config(data={"test": files["test"]}), tmp_path_factory.mktemp("finished") / "out")


@pytest.fixture(scope="session")
def copper() -> list[Atoms]:
    """Ten strained and rattled cells of copper with energy, forces and stress by ASE's EMT."""
    rng = np.random.default_rng(0)
    frames = []
    for n in range(10):
        atoms = bulk("Cu", cubic=True)
        atoms.set_cell(atoms.cell[:] @ (np.eye(3) + 0.03 * rng.normal(size=(3, 3))), scale_atoms=True)
        atoms.rattle(0.06, seed=n)
        atoms.calc = EMT()
        labels = {
            "energy": atoms.get_potential_energy(),
            "forces": atoms.get_forces(),
            "stress": atoms.get_stress(),
        }
        atoms.calc = SinglePointCalculator(atoms, **labels)
        frames.append(atoms)
    return frames


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, Sequence[Atoms]], str]:
    """A function that writes frames into the test's own folder and gives the path."""

    def write_frames(name: str, frames: Sequence[Atoms]) -> str:
        ase.io.write(tmp_path / name, list(frames))
        return str(tmp_path / name)

    return write_frames
