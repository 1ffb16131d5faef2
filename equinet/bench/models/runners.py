"""Runners of whole models: the protocol for every package, and equinet as one of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from ase import Atoms

from equinet.bench.core import EQUINET
from equinet.checkpoint import load_potential
from equinet.graph.atomic_graph import collate, from_atoms
from equinet.md import EquinetCalculator
from equinet.models import count_weights
from equinet.potential import Potential
from equinet.train import Loss, TrainConfig, make_optimizer, train_step

FORCES, TRAINING, DYNAMICS = "energy + forces", "training step", "MD step"
TASKS = (TRAINING, FORCES, DYNAMICS)

# Of the training step, the same for every package: loss weights 1 and 100, gradients clipped at 10, as by default.
SETTINGS = TrainConfig.model_validate({})
LOSS = Loss(energy=SETTINGS.energy_weight, forces=SETTINGS.forces_weight)


@dataclass(frozen=True)
class Prediction:
    """Energies without those of the isolated atoms, and forces.

    Attributes:
        energy: ``(graphs,)`` eV, float64.
        forces: ``(nodes, 3)`` eV/Å, float64.
    """

    energy: np.ndarray
    forces: np.ndarray

    def error(self, truth: Prediction) -> float:
        """The larger of the relative errors of energies and of forces, each in the Euclidean norm.

        Relative to 1 eV and 1 eV/Å where they are smaller: in a relaxed structure large contributions cancel.
        """
        pairs = ((self.energy, truth.energy), (self.forces, truth.forces))
        return max(relative_error(value, true, least=1.0) for value, true in pairs)


class Runner(Protocol):
    """A built contender: a model of one package, in one precision on one device.

    ``load`` comes first. What :meth:`task` gives is ready to be timed: everything that is done once per batch, as
    neighbour lists, is done; but dynamics finds its own.

    Attributes:
        name: Name in tables.
        parameters: Number of weights.
        note: Remark for readers of the numbers, or an empty text.
    """

    name: str
    parameters: int
    note: str

    def load(self, frames: Sequence[Atoms], labels: Prediction | None = None) -> None:
        """Make one batch of the structures; ``labels`` are what a training step is to learn."""

    def predict(self) -> Prediction:
        """Energies and forces of the batch."""

    def gradient(self) -> tuple[float, np.ndarray]:
        """Loss of the batch and its derivative with respect to the embedding of the elements, ``(species, channels)``.

        By the training step that is timed, so that forces are differentiated again. Weights stay as they are.
        """

    def task(self, name: str) -> Callable[[], None]:
        """A function that does the task of this name, ``TRAINING`` or ``FORCES``, once; weights stay as they are."""

    def cannot(self, task: str) -> str:
        """Return the reason why a task is not possible, or an empty text."""

    def calculator(self) -> Any:
        """The package's own ASE calculator."""


def relative_error(value: np.ndarray, truth: np.ndarray, least: float = 0.0) -> float:
    """|value - truth| / |truth|; infinite if a value is not finite.

    Args:
        value: Computed numbers.
        truth: Correct numbers.
        least: Root mean square that the truth counts as if its own is smaller.
    """
    error = float(np.linalg.norm(value - truth) / max(np.linalg.norm(truth), least * truth.size**0.5))
    return error if np.isfinite(error) else float("inf")


@dataclass(frozen=True)
class Batch:
    """Structures to compute together.

    Attributes:
        frames: Structures.
        size: Number of directed edges, to which memory is nearly proportional.
    """

    frames: tuple[Atoms, ...]
    size: int


class Recipe(ABC):
    """A contender (:class:`equinet.bench.core.record.Contender`) that another process can build too.

    Attributes:
        name: Name in tables.
        absent: None: what cannot be built says so when it is tried.
    """

    name: str
    absent: str | None = None

    @abstractmethod
    def build(self, weights: Any = None) -> Runner:
        """Build it; ``weights`` is a ScaleShiftMACE whose weights mace-torch's runners take."""

    def work(self, built: Runner, load: Batch, task: str) -> None:
        """Do a task once, neighbour lists included."""
        atoms = sum(len(frame) for frame in load.frames)
        labels = Prediction(np.zeros(len(load.frames)), np.zeros((atoms, 3)))
        built.load(load.frames, None if task == FORCES else labels)
        built.task(task)()


def set_rate_to_zero(optimizer: torch.optim.Optimizer) -> None:
    """Let the optimiser do all its work and move nothing, so that every step that is timed begins with the same weights."""
    for group in optimizer.param_groups:
        group["lr"] = 0.0


@dataclass(frozen=True)
class EquinetRecipe(Recipe):
    """Contender that builds :class:`Equinet`.

    Attributes:
        path: Model file.
        dtype: Name of the precision.
        device: Name of the device.
    """

    path: Path
    dtype: str
    device: str
    name: str = EQUINET

    def build(self, weights: Any = None) -> Equinet:
        """From its file, which has the weights."""
        return Equinet(load_potential(self.path, device=self.device, dtype=getattr(torch, self.dtype)), self.dtype)


class Equinet:
    """This package, by its public interface: what a user of it would run.

    Args:
        potential: The model.
        dtype: Name of its precision.
    """

    name, note = EQUINET, ""

    def __init__(self, potential: Potential, dtype: str) -> None:
        self.potential, self.dtype = potential, dtype
        self.parameters = count_weights(potential)

    def load(self, frames: Sequence[Atoms], labels: Prediction | None = None) -> None:
        graph = collate([from_atoms(frame, self.potential.cutoff) for frame in frames])
        self.isolated = self._isolated(graph)
        if labels is not None:
            graph.energy = torch.from_numpy(labels.energy) + self.isolated
            graph.forces = torch.from_numpy(labels.forces)
            graph.weight = torch.ones(len(frames), dtype=torch.float64)
        self.graph = graph.to(self.potential.device)

    @property
    def edges(self) -> int:
        """Directed edges of the batch."""
        return int(self.graph.edge_index.shape[1])

    def predict(self) -> Prediction:
        self._for_inference()
        output = self.potential(self.graph)
        energy = output["energy"].cpu() - self.isolated
        return Prediction(energy.numpy(), output["forces"].double().cpu().numpy())

    def gradient(self) -> tuple[float, np.ndarray]:
        self._for_training()
        still = torch.optim.SGD(self.potential.parameters(), lr=0.0)
        loss = train_step(self.potential, self.graph, LOSS, still, float("inf"))
        # One array of weights, the same in both packages: of a MACE the embedding of the species.
        gradient = next(self.potential.model.parameters()).grad
        assert gradient is not None
        return loss, gradient.double().cpu().numpy()

    def task(self, name: str) -> Callable[[], None]:
        if name == FORCES:
            self._for_inference()
            return self._infer
        self._for_training()
        optimizer = make_optimizer(self.potential, SETTINGS)
        set_rate_to_zero(optimizer)

        def step() -> None:
            train_step(self.potential, self.graph, LOSS, optimizer, SETTINGS.clip_gradient)

        return step

    def cannot(self, task: str) -> str:
        return ""

    def calculator(self) -> Any:
        return EquinetCalculator(self.potential, device=str(self.potential.device), dtype=self.dtype)

    def _infer(self) -> None:
        self.potential(self.graph)

    def _for_inference(self) -> None:
        self.potential.eval().requires_grad_(False)

    def _for_training(self) -> None:
        self.potential.train().requires_grad_(True)

    def _isolated(self, graph: Any) -> torch.Tensor:
        """Energies of the isolated atoms of every graph, ``(graphs,)`` float64, on the CPU."""
        potential = self.potential
        reference = potential.scale.reference.cpu()[potential.species_of.cpu()[graph.atomic_numbers]]
        return torch.zeros(graph.graph_count, dtype=torch.float64).index_add_(0, graph.graph_of_node, reference)
