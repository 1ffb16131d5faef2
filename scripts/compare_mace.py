"""Train equinet and mace-torch side by side: same frames, batches, sizes, loss and learning rate, in one process.

    python scripts/compare_mace.py acac --data FOLDER --out acac.json --plot acac.png

Epochs are interleaved, and which package goes first alternates, so that what else the machine does falls on both alike.
A time is that of one training epoch: collation, forward, backward, optimiser step and running mean of the weights;
neighbour lists are found once before, and validation is not counted. Errors are those of the averaged weights.

Both take constant steps of the same optimiser, Adam with AMSGrad, from their own random start. What remains different is
each package's own: initial weights, a weight decay of 5e-7 in mace-torch, the first steps of the running mean, and in
mace-torch many-body products that depend on one another (hence more weights), as ``mace_run_train`` builds them.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import torch
from mace_reference import MaceTrainer, timed
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter, StrMethodFormatter
from rich.console import Console
from rich.table import Table

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
MACE, EQUINET = "mace-torch", "equinet"
COLORS = {MACE: "#9aa5b1", EQUINET: "#2166ac"}
CLOCKS = {"seconds": "s", "cpu_seconds": "CPU s"}
FORCES = "forces_rmse_mev_per_ang"
SHOWN = {
    "energy_rmse_mev_per_atom": "energy (meV/atom)",
    FORCES: "forces (meV/Å)",
    "stress_rmse_mev_per_ang3": "stress (meV/Å³)",
}


@dataclass(frozen=True, kw_only=True)
class Task:
    """What to train on."""

    train: tuple[str, ...]
    """Training files, the isolated atoms among them, from the data folder."""
    test: str
    """Test file."""
    held_out: int
    """Training frames to validate on."""
    batch_size: int
    """Frames in a training step."""
    stress: bool = False
    """Whether to train on stress."""


TASKS = {
    "acac": Task(
        train=("acac/train_300K.xyz.gz", "acac/isolated_atoms.xyz.gz"),
        test="acac/test_MD_300K.xyz.gz",
        held_out=50,
        batch_size=10,
    ),
    "si": Task(train=("mlearn/Si_train.xyz.gz",), test="mlearn/Si_test.xyz.gz", held_out=20, batch_size=5, stress=True),
}


class EquinetTrainer:
    """equinet with the interface of :class:`MaceTrainer`: the pieces of :func:`equinet.train.fit`, an epoch at a time.

    ``fit`` itself ends with the weights of the best epoch; here the weights of the last step stay.

    Args:
        config: The run.
        prepared: Its graphs and statistics.
    """

    def __init__(self, config: RunConfig, prepared: Prepared) -> None:
        self.training, self.prepared = config.train, prepared
        self.potential = make_potential(config, prepared)
        self.loss = make_loss(config)
        self.optimizer = make_optimizer(self.potential, config.train)
        self.state = TrainingState(self.potential, self.optimizer, config.train.ema_decay)
        self.loader = GraphLoader(prepared.graphs["train"], config.train.batch_size, config.train.seed)
        self.parameters = count_weights(self.potential)

    def batches(self, epoch: int) -> list[list[int]]:
        """The batches of an epoch, as indices into the training frames."""
        self.loader.order.epoch = epoch
        return list(self.loader.order)

    def train_epoch(self, epoch: int) -> dict[str, float]:
        """Train on the batches of an epoch; see :func:`timed` for what comes back."""
        return timed(self._steps(epoch))

    def validate(self) -> dict[str, float]:
        """Errors on the validation frames, with averaged weights."""
        with self.state.averaged():
            found, score = validate(self.potential, self._held("valid"), self.loss)
        return {"loss": score, **_numbers(found.as_json())}

    def test(self) -> dict[str, float]:
        """Errors on the test frames, with averaged weights."""
        with self.state.averaged():
            found = errors(predict(self.potential, self._held("test"), stress=self.loss.stress > 0))
        return _numbers(found.as_json())

    def describe(self) -> dict[str, Any]:
        """What the run works with, as JSON can hold it: statistics, and the model with the kernels it chose."""
        return {
            "statistics": asdict(self.prepared.statistics),
            "loss": repr(self.loss),
            "model": repr(self.potential.model).splitlines(),
        }

    def _steps(self, epoch: int) -> Iterator[float]:
        self.potential.train()
        for graph in self.loader.epoch(epoch):
            graph = graph.to(self.potential.device)
            yield train_step(self.potential, graph, self.loss, self.optimizer, self.training.clip_gradient)
            self.state.after_step()

    def _held(self, part: str) -> GraphLoader:
        return GraphLoader(self.prepared.graphs[part], batch_size=32)


def make_config(task: Task, folder: Path, given: argparse.Namespace) -> RunConfig:
    """equinet's configuration of a task; mace-torch takes its sizes and hyperparameters from it too."""
    train = [str(folder / name) for name in task.train]
    count = len(split_isolated(read_frames(train))[0])
    return parse_config(
        {
            "data": {"train": train, "valid": task.held_out / count, "test": str(folder / task.test)},
            "model": SIZES,
            "train": {
                **HYPERPARAMETERS,
                "epochs": given.epochs,
                "batch_size": task.batch_size,
                "seed": given.seed,
                "stress_weight": given.stress_weight if task.stress else 0.0,
            },
        }
    )


def make_trainers(config: RunConfig) -> tuple[MaceTrainer, EquinetTrainer]:
    """Both packages on the same frames in the same order.

    ``prepare`` keeps graphs and no frames; they are read and split here again, by the same functions.
    """
    prepared = prepare(config)
    everything, isolated = split_isolated(read_frames(config.data.train))
    train, valid = random_split(everything, config.data.valid, config.train.seed)
    frames = {"train": train, "valid": valid, "test": read_frames(config.data.test)}
    for part, graphs in prepared.graphs.items():
        energies = [atoms.calc.results["energy"] for atoms in frames[part]]
        assert [graph.energy.item() for graph in graphs] == energies, f"other {part} frames"
    return MaceTrainer(config.model, config.train, frames, isolated), EquinetTrainer(config, prepared)


def compare(mace: MaceTrainer, equinet: EquinetTrainer, epochs: int, console: Console) -> dict[str, dict[str, Any]]:
    """Train both, epochs interleaved.

    Returns:
        By package ``parameters``, ``before`` (validation errors before the first step), ``epochs`` (of each, ``seconds``,
        ``cpu_seconds``, mean training ``loss``, ``valid``), ``test`` and ``details``.
    """
    trainers = {MACE: mace, EQUINET: equinet}
    found: dict[str, dict[str, Any]] = {
        package: {"parameters": trainer.parameters, "before": trainer.validate(), "epochs": []}
        for package, trainer in trainers.items()
    }
    for epoch in range(epochs):
        batches = equinet.batches(epoch)
        for package in (MACE, EQUINET) if epoch % 2 == 0 else (EQUINET, MACE):
            record = mace.train_epoch(batches) if package == MACE else equinet.train_epoch(epoch)
            record["valid"] = trainers[package].validate()
            found[package]["epochs"].append(record)
            seconds, forces = record["seconds"], record["valid"][FORCES]
            line = f"epoch {epoch + 1}  {package:10}  {seconds:7.2f} s  forces {forces:8.2f} meV/Å"
            console.print(line, style="dim", highlight=False)
    for package, trainer in trainers.items():
        found[package] |= {"test": trainer.test(), "details": trainer.describe()}
    return found


def ratios(found: dict[str, dict[str, Any]], clock: str) -> list[float]:
    """mace-torch's time over equinet's, for each pair of neighbouring epochs; above one, equinet is faster."""
    return [m[clock] / e[clock] for m, e in zip(found[MACE]["epochs"], found[EQUINET]["epochs"])]


def make_table(found: dict[str, dict[str, Any]], title: str) -> Table:
    """Weights, times, and validation and test errors of both packages."""
    packages = [found[MACE], found[EQUINET]]
    table = Table(title=title, caption="errors are RMSE on validation frames; test: on test frames")
    for heading in ("", MACE, EQUINET, "mace / equinet"):
        table.add_column(heading, justify="right")
    table.add_row("weights", *(f"{p['parameters']:,}" for p in packages))
    for clock, label in CLOCKS.items():
        columns = [*([record[clock] for record in p["epochs"]] for p in packages), ratios(found, clock)]
        table.add_section()
        table.add_row(f"{label} per epoch, median", *(f"{median(values):.2f}" for values in columns))
        table.add_row("range", *(f"{min(values):.2f} – {max(values):.2f}" for values in columns))
    for key, label in SHOWN.items():
        if key not in packages[0]["test"]:
            continue
        table.add_section()
        table.add_row(f"{label} before", *(f"{p['before'][key]:.2f}" for p in packages))
        for n in range(len(packages[0]["epochs"])):
            table.add_row(f"epoch {n + 1}", *(f"{p['epochs'][n]['valid'][key]:.2f}" for p in packages))
        table.add_row("test", *(f"{p['test'][key]:.2f}" for p in packages))
    return table


def plot(found: dict[str, dict[str, Any]], title: str, path: str) -> None:
    """Validation error of the forces against epochs and against seconds of training, logarithmic."""
    figure = Figure(figsize=(8.4, 3.6), layout="constrained")
    by_epoch, by_time = axes = figure.subplots(1, 2, sharey=True)
    for package, color in COLORS.items():
        records = found[package]["epochs"]
        values = [found[package]["before"][FORCES], *(record["valid"][FORCES] for record in records)]
        seconds = [sum(record["seconds"] for record in records[:n]) for n in range(len(values))]
        style = {"marker": "o" if len(values) < 40 else None, "ms": 4, "color": color, "label": package}
        by_epoch.plot(range(len(values)), values, **style)
        by_time.plot(seconds, values, **style)
    by_epoch.set(xlabel="epoch", ylabel="validation RMSE of forces (meV/Å)", yscale="log")
    by_epoch.xaxis.get_major_locator().set_params(integer=True)
    by_time.set_xlabel("seconds of training")
    by_epoch.legend(frameon=False)
    for ax in axes:
        ax.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        ax.yaxis.set_minor_formatter(LogFormatter(labelOnlyBase=False, minor_thresholds=(2, 0.5)))
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(alpha=0.25, lw=0.5)
    figure.suptitle(title, fontsize=10)
    figure.savefig(path, dpi=150)


def cpu_name() -> str:
    """The processor's model name."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def as_json(found: dict[str, dict[str, Any]], task: Task, config: RunConfig, given: argparse.Namespace) -> str:
    """Everything that was found and what it was found with; files are named from the data folder."""
    names = ("equinet", "mace-torch", "torch", "e3nn", "torch-geometric", "numpy", "ase")
    tree = {
        "task": given.task,
        "files": [*task.train, task.test],
        "versions": {**{name: version(name) for name in names}, "python": platform.python_version()},
        "machine": {"cpu": cpu_name(), "threads": torch.get_num_threads(), "system": platform.platform()},
        "settings": config.model_dump(mode="json", include={"model", "train"}),
        "held_out": task.held_out,
        "mace_over_equinet": {clock: ratios(found, clock) for clock in CLOCKS},
        "packages": found,
    }
    return json.dumps(tree, indent=2) + "\n"


def _numbers(values: dict[str, float | None]) -> dict[str, float]:
    return {key: value for key, value in values.items() if value is not None}


def main(arguments: Sequence[str] | None = None) -> None:
    """Train both packages and print, write and draw what came out."""
    parser = argparse.ArgumentParser(description=main.__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add = parser.add_argument
    add("task", choices=sorted(TASKS), help="what to train on")
    add("--data", type=Path, required=True, help="folder that contains acac/ and mlearn/")
    add("--epochs", type=int, default=5, help="epochs of each package")
    add("--threads", type=int, default=1, help="threads torch may use")
    add("--seed", type=int, default=1, help="seed of split, order and initial weights")
    add("--stress-weight", type=float, default=1.0, help="weight of the stress in the loss of both, where there is one")
    add("--out", type=Path, help="JSON file to write")
    add("--plot", help="PNG file to write")
    given = parser.parse_args(arguments)
    console = Console()
    torch.set_num_threads(given.threads)
    task = TASKS[given.task]
    config = make_config(task, given.data, given)
    mace, equinet = make_trainers(config)
    found = compare(mace, equinet, given.epochs, console)
    threads = f"{given.threads} thread" + "s" * (given.threads > 1)
    title = (
        f"{given.task}, {len(equinet.prepared.graphs['train'])} frames, {cpu_name()}, {threads}, {config.train.dtype}"
    )
    console.print(make_table(found, title))
    if given.out:
        given.out.write_text(as_json(found, task, config, given))
    if given.plot:
        plot(found, title, given.plot)


if __name__ == "__main__":
    main()
