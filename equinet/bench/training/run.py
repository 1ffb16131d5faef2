"""Training of equinet and mace-torch side by side, in one process, epochs interleaved.

Which package goes first alternates, so that what else the machine does falls on both alike. A time is that of one training
epoch: collation, forward, backward, optimiser step and running mean of the weights; neighbour lists are found once before, and
validation is not counted. Errors are those of the averaged weights.

Both take constant steps of the same optimiser, Adam with AMSGrad, from their own random start. What remains different is each
package's own: initial weights, a weight decay of 5e-7 in mace-torch, the first steps of the running mean, and in mace-torch
many-body products that depend on one another (hence more weights), as ``mace_run_train`` builds them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from equinet.bench.core import EAGER, EQUINET
from equinet.bench.core import record as core
from equinet.bench.core.record import Record, Settings
from equinet.bench.core.timing import Epoch, timed_epoch
from equinet.bench.models.problems import as_mace
from equinet.datasets import GraphLoader, random_split, read_frames, split_isolated
from equinet.models import count_weights
from equinet.train import (
    Prepared,
    RunConfig,
    TrainingState,
    errors,
    make_loss,
    make_optimizer,
    make_potential,
    parse_config,
    predict,
    prepare,
    train_step,
    validate,
)

SIZES = {
    "channels": 64,
    "max_l": 1,
    "sh_degree": 3,
    "correlation": 3,
    "layers": 2,
    "cutoff": 5.0,
    "bessel_functions": 8,
}
HYPERPARAMETERS = {
    "learning_rate": 0.01,
    "schedule": "constant",
    "ema_decay": 0.99,
    "dtype": "float32",
    "device": "cpu",
}
BEFORE, TEST = "before", "test"


@dataclass(frozen=True, kw_only=True)
class Task:
    """Published data to train on, as files of a data folder.

    Attributes:
        train: Training files, the isolated atoms among them.
        test: Test file.
        held_out: Training frames to validate on.
        batch_size: Frames in a training step.
        stress: True if the stress has a weight in the loss.
    """

    train: tuple[str, ...]
    test: str
    held_out: int
    batch_size: int
    stress: bool = False


TASKS = {
    "acac": Task(
        train=("acac/train_300K.xyz.gz", "acac/isolated_atoms.xyz.gz"),
        test="acac/test_MD_300K.xyz.gz",
        held_out=50,
        batch_size=10,
    ),
    "si": Task(train=("mlearn/Si_train.xyz.gz",), test="mlearn/Si_test.xyz.gz", held_out=20, batch_size=5, stress=True),
}


def config_of(name: str, data: Path, seed: int, stress_weight: float) -> RunConfig:
    """equinet's configuration of a task; mace-torch takes its sizes and hyperparameters from it too.

    Args:
        name: One of ``TASKS``.
        data: Folder with its files.
        seed: Seed of split, order and initial weights.
        stress_weight: Weight of the stress in the loss of both, where there is one.

    Raises:
        ValueError: If there is no such task.
    """
    if name not in TASKS:
        raise ValueError(f"`task` must be one of {', '.join(TASKS)}, got {name!r}")
    task = TASKS[name]
    train = [str(data / file) for file in task.train]
    count = len(split_isolated(read_frames(train))[0])
    weight = stress_weight if task.stress else 0.0
    settings = {**HYPERPARAMETERS, "batch_size": task.batch_size, "seed": seed, "stress_weight": weight}
    files = {"train": train, "valid": task.held_out / count, "test": str(data / task.test)}
    return parse_config({"data": files, "model": SIZES, "train": settings})


@dataclass(kw_only=True)
class Row(core.Row):
    """One epoch of one package; the ``task`` is ``"before"`` the first step, ``"epoch 1"`` ..., and ``"test"``.

    Attributes:
        parameters: Number of weights.
        seconds: Wall time of the epoch in seconds.
        cpu_seconds: Processor time of all threads in seconds, steadier on a shared machine.
        loss: Mean loss of the training steps.
        errors: Errors on the validation frames, of ``"test"`` on the test frames, in meV units.
    """

    parameters: int
    seconds: float | None = None
    cpu_seconds: float | None = None
    loss: float | None = None
    errors: dict[str, float] = field(default_factory=dict)

    @property
    def state(self) -> str:
        """``"measured"``."""
        return "measured"


class Trainer(Protocol):
    """A package with its data, weights, optimiser and running mean of the weights.

    Attributes:
        parameters: Number of weights.
    """

    parameters: int

    def train_epoch(self, batches: Sequence[Sequence[int]]) -> Epoch:
        """Train on batches of indices into the training frames."""

    def validate(self) -> dict[str, float]:
        """Errors on the validation frames, with averaged weights."""

    def test(self) -> dict[str, float]:
        """Errors on the test frames, with averaged weights."""

    def describe(self) -> dict[str, Any]:
        """Settings of the package that the configuration does not hold, for JSON."""


class EquinetTrainer:
    """equinet as a trainer: the pieces of :func:`equinet.train.fit`, an epoch at a time.

    ``fit`` itself ends with the weights of the best epoch; here the weights of the last step stay.

    Args:
        config: Configuration of the run.
        prepared: Graphs and statistics of that configuration.
    """

    def __init__(self, config: RunConfig, prepared: Prepared) -> None:
        self.training, self.prepared = config.train, prepared
        self.potential = make_potential(config, prepared)
        self.loss = make_loss(config)
        self.optimizer = make_optimizer(self.potential, config.train)
        self.state = TrainingState(self.potential, self.optimizer, config.train.ema_decay)
        self.loader = GraphLoader(prepared.graphs["train"], config.train.batch_size, config.train.seed)
        self.epoch = 0
        self.parameters = count_weights(self.potential)

    def batches(self, epoch: int) -> list[list[int]]:
        """The batches of an epoch, as indices into the training frames."""
        self.epoch = epoch
        return list(self.loader.order.epoch(epoch))

    def train_epoch(self, batches: Sequence[Sequence[int]]) -> Epoch:
        return timed_epoch(self._steps())

    def validate(self) -> dict[str, float]:
        with self.state.averaged():
            found, score = validate(self.potential, self._held("valid"), self.loss)
        return {"loss": score, **_numbers(found.as_json())}

    def test(self) -> dict[str, float]:
        with self.state.averaged():
            found = errors(predict(self.potential, self._held("test"), stress=self.loss.needs_stress))
        return _numbers(found.as_json())

    def describe(self) -> dict[str, Any]:
        model = repr(self.potential.model).splitlines()
        return {"statistics": asdict(self.prepared.statistics), "loss": repr(self.loss), "model": model}

    def _steps(self) -> Iterator[float]:
        self.potential.train()
        for graph in self.loader.epoch(self.epoch):
            graph = graph.to(self.potential.device)
            yield train_step(self.potential, graph, self.loss, self.optimizer, self.training.clip_gradient)
            self.state.after_step()

    def _held(self, part: str) -> GraphLoader:
        return GraphLoader(self.prepared.graphs[part], batch_size=32)


def require_same(part: str, one: Sequence[float], other: Sequence[float]) -> None:
    """Refuse to compare trainings on frames that differ.

    Args:
        part: "train", "valid" or "test".
        one, other: Energies of the frames, in their order.

    Raises:
        ValueError: If they differ.
    """
    if one != other:
        raise ValueError(f"`data.{part}` gave the two packages other frames; were the files changed meanwhile?")


def trainers_of(config: RunConfig) -> tuple[Trainer, EquinetTrainer]:
    """mace-torch and equinet on the same frames in the same order.

    ``prepare`` keeps graphs and no frames; they are read and split here again, by the same functions.

    Raises:
        ValueError: If mace-torch is not installed, or there are no test frames.
    """
    from equinet.bench.peers.mace_torch.model import require

    require()
    for part in ("train", "test"):
        if getattr(config.data, part) is None:
            raise ValueError(
                f"`data.{part}` is not set; give frames to train on, and frames to test that no training sees"
            )
    from equinet.bench.peers.mace_torch.training import MaceTrainer

    data: Any = config.data
    keys = data.label_keys()
    prepared = prepare(config)
    everything, isolated = split_isolated(read_frames(data.train, keys))
    if isinstance(data.valid, float):
        train, valid = random_split(everything, data.valid, config.train.seed)
    else:
        train, valid = everything, split_isolated(read_frames(data.valid, keys))[0]
    frames = {"train": train, "valid": valid, "test": split_isolated(read_frames(data.test, keys))[0]}
    for part, graphs in prepared.graphs.items():
        require_same(
            part, [atoms.calc.results["energy"] for atoms in frames[part]], [each.energy.item() for each in graphs]
        )
    return MaceTrainer(as_mace(config.model), config.train, frames, isolated), EquinetTrainer(config, prepared)


def compare(
    name: str,
    config: RunConfig,
    epochs: int,
    threads: int,
    command: str = "",
    told: Callable[[Row], None] = lambda row: None,
) -> Record[Row]:
    """Train both packages, epochs interleaved.

    Args:
        name: Name of the data, for tables.
        config: Configuration of both.
        epochs: Epochs of each package.
        threads: Threads of the processor.
        command: Command that repeats this.
        told: Function called with the row of each epoch.

    Returns:
        The rows of both, and in ``about`` what each worked with.
    """
    mace, equinet = trainers_of(config)
    settings = Settings(dtype=config.train.dtype, device=config.train.device, threads=threads)
    record: Record[Row] = Record(command, settings, [{"model": config.model, "train": config.train}])
    record.about |= {"task": name, "frames": len(equinet.prepared.graphs["train"])}
    trainers: Mapping[str, Trainer] = {EAGER: mace, EQUINET: equinet}

    def add(package: str, task: str, found: dict[str, float], epoch: Epoch | None = None) -> None:
        taken = {} if epoch is None else asdict(epoch)
        size = trainers[package].parameters
        row = Row(problem=name, contender=package, task=task, parameters=size, errors=found, **taken)
        record.rows.append(row)
        told(row)

    for package, trainer in trainers.items():
        add(package, BEFORE, trainer.validate())
    for n in range(epochs):
        batches = equinet.batches(n)
        for package in (EAGER, EQUINET) if n % 2 == 0 else (EQUINET, EAGER):
            epoch = trainers[package].train_epoch(batches)
            add(package, f"epoch {n + 1}", trainers[package].validate(), epoch)
    for package, trainer in trainers.items():
        add(package, TEST, trainer.test())
    record.about["details"] = {package: trainer.describe() for package, trainer in trainers.items()}
    return record


def _numbers(values: Mapping[str, float | None]) -> dict[str, float]:
    return {key: value for key, value in values.items() if value is not None}
