"""Training of the same potential with every tensor product, for the same time: the table by which to choose one."""

from __future__ import annotations

import json
import multiprocessing
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

import numpy as np
import torch
from ase import units
from ase.md.verlet import VelocityVerlet

from equinet.bench.core import record as core
from equinet.datasets import GraphLoader, read_frames, split_isolated
from equinet.md import EquinetCalculator
from equinet.models import count_weights
from equinet.potential import Potential
from equinet.train import (
    Data,
    RunConfig,
    TrainingState,
    errors,
    fit,
    make_loss,
    make_optimizer,
    make_potential,
    parse_config,
    predict,
    prepare,
)
from equinet.verify.physics import check

NEAR_THE_BEST = 1.1  # methods whose force error is within 10 % of the best are trained with further seeds
MD_STEPS = 50
CHECKED_FRAMES = 5


@dataclass(frozen=True)
class Pair:
    """The two tensor products of a potential, as a configuration would name them.

    Attributes:
        convolution: Product of neighbours' features with harmonics.
        many_body: Product of a node's features with themselves.
        pseudotensors: True if features hold pseudotensors too.
    """

    convolution: Any = "cg"
    many_body: Any = "cg"
    pseudotensors: bool = False

    def __str__(self) -> str:
        extra = " + pseudotensors" if self.pseudotensors else ""
        return f"{in_words(self.convolution)} | {in_words(self.many_body)}{extra}"


def in_words(method: str | Mapping[str, Any]) -> str:
    """A method as short text: ``cp rank=24``."""
    if isinstance(method, str):
        return method
    arguments = (f"{key}={value}" if value is not True else key for key, value in method.items() if key != "method")
    return " ".join([method["method"], *arguments])


GRID_WITH_BRACKET = {"method": "gaunt_grid", "bracket": True}
PAIRS = (
    Pair("cg", "cg"),
    # one product at a time
    Pair("gaunt_grid", "cg"),
    Pair({"method": "gaunt_grid", "copies": 2}, "cg"),
    Pair({"method": "gaunt_grid", "copies": 2, "weights": "degrees"}, "cg"),
    Pair("gaunt_fourier", "cg"),
    Pair("matrix", "cg"),
    Pair({"method": "cp", "rank": 40}, "cg"),
    Pair({"method": "cp", "rank": 40, "weights": "shared"}, "cg"),
    Pair({"method": "cp", "rank": 16}, "cg"),
    Pair("so2", "cg"),
    Pair("cg", "gaunt_grid"),
    Pair("cg", {"method": "gaunt_grid", "copies": 4}),
    Pair("cg", "gaunt_fourier"),
    Pair("cg", "matrix"),
    Pair("cg", {"method": "cp", "rank": 64}),
    Pair("cg", {"method": "cp", "rank": 64, "factors": "trainable"}),
    # both
    Pair("gaunt_grid", "gaunt_grid"),
    Pair("so2", "gaunt_grid"),
    Pair("so2", {"method": "gaunt_grid", "copies": 4}),
    Pair("so2", {"method": "cp", "rank": 64}),
    Pair({"method": "cp", "rank": 40}, {"method": "cp", "rank": 64}),
    Pair("matrix", "matrix"),
    # pseudotensors, which only products with odd paths can use
    Pair("so2", GRID_WITH_BRACKET, True),
    Pair(GRID_WITH_BRACKET, GRID_WITH_BRACKET, True),
    # and what cannot be
    Pair("bracket", "cg"),
    Pair("cg", "so2"),
)


@dataclass(kw_only=True)
class Row(core.Row):
    """Result of one training; ``contender`` is the pair as text, ``absent`` the reason why it cannot be.

    Attributes:
        seed: Seed of weights, order and split.
        weights: Number of learnable weights.
        epochs: Passes over the training frames within the time.
        seconds_per_epoch: Processor time, validation included, in seconds.
        energy_rmse: Error on the test frames, in meV/atom.
        forces_rmse: Error on the test frames, in meV/Å.
        rotation_error: Relative error of forces when structures are rotated, float32.
        inversion_error: Relative error of forces when they are inverted.
        md_steps_per_second: Steps of velocity Verlet, float32, one structure of the test set, per processor second.
    """

    problem: str = "training"
    seed: int
    weights: int = 0
    epochs: int = 0
    seconds_per_epoch: float = 0.0
    energy_rmse: float = 0.0
    forces_rmse: float = 0.0
    rotation_error: float = 0.0
    inversion_error: float = 0.0
    md_steps_per_second: float = 0.0

    @property
    def state(self) -> str:
        """``"refused"`` or ``"measured"``."""
        return "refused" if self.absent else "measured"


NUMBERS = (
    *("weights", "epochs", "seconds_per_epoch", "energy_rmse", "forces_rmse"),
    *("rotation_error", "inversion_error", "md_steps_per_second"),
)

Told = Callable[[int, int, Row], None]


def swap(
    config: RunConfig,
    out: Path,
    *,
    pairs: Sequence[Pair] = PAIRS,
    minutes: float,
    seeds: int,
    jobs: int,
    told: Told = lambda done, total, row: None,
) -> list[Row]:
    """Train every pair, and exact couplings and those near the best with further seeds; write one file per training.

    What is there already is not done again, so a run that was stopped goes on with the same command.

    Args:
        config: Data, architecture and training that all share.
        out: Folder.
        pairs: Products to compare.
        minutes: Processor minutes of training for each.
        seeds: Number of seeds for exact couplings and for pairs whose force error is within 10 % of the best.
        jobs: Trainings at a time, one thread each.
        told: Function called after each training with the number done, the number of all, and its row.

    Raises:
        ValueError: If there are no test frames, or a model to start from is named.
    """
    if config.data.test is None:
        raise ValueError("`data.test` is not set; errors are compared on frames that no training has seen")
    if config.train.start_from is not None:
        raise ValueError("`train.start_from` is set, but every product begins with fresh weights; leave it out")
    out.mkdir(parents=True, exist_ok=True)
    tasks = [(pair, config.train.seed) for pair in pairs]
    rows = _train_all(config, tasks, minutes, out, jobs, told)
    best = min((row.forces_rmse for row in rows if not row.absent), default=0.0)
    near = {row.contender for row in rows if not row.absent and row.forces_rmse <= NEAR_THE_BEST * best}
    near.add(str(Pair()))  # what all others are held against
    again = [(pair, config.train.seed + n) for n in range(1, seeds) for pair in pairs if str(pair) in near]
    return rows + _train_all(config, again, minutes, out, jobs, told)


def _train_all(
    config: RunConfig, tasks: Sequence[tuple[Pair, int]], minutes: float, out: Path, jobs: int, told: Told
) -> list[Row]:
    tree, rows = config.model_dump(mode="json"), []
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        futures = [pool.submit(_train_or_read, tree, pair, seed, minutes, out) for pair, seed in tasks]
        for future in as_completed(futures):
            rows.append(future.result())
            told(len(rows), len(tasks), rows[-1])
    order = [(str(pair), seed) for pair, seed in tasks]
    return sorted(rows, key=lambda row: order.index((row.contender, row.seed)))


def _train_or_read(tree: dict[str, Any], pair: Pair, seed: int, minutes: float, out: Path) -> Row:
    settings = {**tree, "model": {**tree["model"], **asdict(pair)}, "train": {**tree["train"], "seed": seed}}
    settings["train"] |= {"max_minutes": minutes, "epochs": 1_000_000, "device": "cpu"}
    file = out / "trainings" / ("".join(c if c.isalnum() else "-" for c in f"{pair} seed {seed}") + ".json")
    if file.exists():
        known = json.loads(file.read_text())
        if known["settings"] == settings:
            return Row(**known["row"])
    torch.set_num_threads(1)
    row = train_one(parse_config(settings), pair)
    known = {name: value for name, value in asdict(row).items() if value not in (None, ())}
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps({"settings": settings, "row": known}, indent=1))
    return row


def train_one(config: RunConfig, pair: Pair) -> Row:
    """Train one pair and measure it, on one thread."""
    prepared = prepare(config)
    try:
        potential = make_potential(config, prepared)
    except ValueError as error:
        reason = str(error).rpartition(": ")[2]
        return Row(contender=str(pair), seed=config.train.seed, absent=reason)
    loaders = Data(
        GraphLoader(prepared.graphs["train"], config.train.batch_size, config.train.seed),
        GraphLoader(prepared.graphs["valid"], 32),
    )
    optimizer = make_optimizer(potential, config.train)
    state = TrainingState(potential, optimizer, config.train.ema_decay)
    fit(potential, loaders, make_loss(config), optimizer, config.train, state=state, clock=time.process_time)
    found = errors(predict(potential, GraphLoader(prepared.graphs["test"], 32), stress=False))
    keys = config.data.label_keys()
    frames, _ = split_isolated(read_frames(str(config.data.test), keys))
    report = check(potential, frames, max_structures=CHECKED_FRAMES)
    turned, mirrored = (report.worst(name, "float32", "forces") for name in ("rotation", "inversion"))
    return Row(
        contender=str(pair),
        seed=config.train.seed,
        weights=count_weights(potential),
        epochs=state.epoch,
        seconds_per_epoch=state.seconds / max(state.epoch, 1),
        energy_rmse=found.rmse["energy"],
        forces_rmse=found.rmse["forces"],
        rotation_error=turned.relative if turned else 0.0,
        inversion_error=mirrored.relative if mirrored else 0.0,
        md_steps_per_second=steps_per_second(potential, frames[0]),
    )


def steps_per_second(potential: Potential, atoms: Any) -> float:
    """Steps of velocity Verlet per processor second, float32, after a few to warm up."""
    atoms = atoms.copy()
    atoms.calc = EquinetCalculator(potential, device="cpu", dtype="float32")
    spread = np.sqrt(300 * units.kB * atoms.get_masses())  # of a component of each momentum, at 300 K
    atoms.set_momenta(spread[:, None] * np.random.default_rng(0).normal(size=(len(atoms), 3)))
    dynamics = VelocityVerlet(atoms, timestep=0.5 * units.fs)
    dynamics.run(5)
    began = time.process_time()
    dynamics.run(MD_STEPS)
    return MD_STEPS / (time.process_time() - began)


@dataclass(frozen=True)
class Summary:
    """One pair over all its seeds: means, and the spread of the errors where there are several."""

    pair: str
    seeds: int
    means: Mapping[str, float]
    spreads: Mapping[str, float]
    refused: str | None


def summarise(rows: Iterable[Row]) -> list[Summary]:
    """Rows of one pair together, best force error first, refused ones last."""
    by_pair: dict[str, list[Row]] = {}
    for row in rows:
        by_pair.setdefault(row.contender, []).append(row)
    found = []
    for pair, some in by_pair.items():
        values = {name: [float(getattr(row, name)) for row in some] for name in NUMBERS}
        # A median where the machine disturbs, a mean where chance does.
        middle = {n: median(v) if "second" in n else mean(v) for n, v in values.items()}
        spread = {n: stdev(v) if len(v) > 1 else 0.0 for n, v in values.items()}
        found.append(Summary(pair, len(some), middle, spread, some[0].absent))
    return sorted(found, key=lambda item: (item.refused is not None, item.means["forces_rmse"]))
