"""Contenders with one architecture: equinet and its peers, all with the same weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ase import Atoms

from equinet.bench.core import EAGER, EQUINET
from equinet.bench.peers.mace_torch.model import MaceRecipe, require
from equinet.bench.peers.mace_torch.weights import sized_mace
from equinet.graph.atomic_graph import from_atoms
from equinet.verify.backends import reference_potential

from .pair import mean_neighbors, potential_like, potential_of, sample_of, save
from .problems import Architecture, Structures, as_mace, require_elements
from .runners import Batch, Equinet, EquinetRecipe, Prediction, Recipe, Runner, relative_error

SAMPLES = 3  # structures of each problem that weights are sized on and everything is checked on first
EXACT = 1e-8  # relative error between two float64 computations of the same function


@dataclass
class LineUp:
    """Runners, and what they are checked against.

    Attributes:
        architecture: Architecture of all contenders.
        samples: Small structures or pieces of large ones.
        truth: equinet in float64 on the processor, itself checked on the samples against another implementation.
        recipes: Contenders by name, equinet first; other processes build them again, with any weights.
        runners: Built contenders, in the precision to measure.
        refused: Reasons why contenders could not be built, by name.
    """

    architecture: Architecture
    samples: list[Atoms]
    truth: Equinet
    recipes: dict[str, Recipe]
    runners: dict[str, Runner] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)

    def batch(self, frames: Sequence[Atoms]) -> Batch:
        """Structures with their number of directed edges."""
        cutoff = self.architecture.config.cutoff
        return Batch(tuple(frames), sum(int(from_atoms(frame, cutoff).edge_index.shape[1]) for frame in frames))


def line_up(
    architecture: Architecture,
    problems: Sequence[Structures],
    peers: Sequence[str],
    dtype: str,
    device: str,
    folder: Path,
) -> LineUp:
    """Build all contenders, with the weights of mace-torch's model if it takes part.

    Args:
        architecture: Architecture to build.
        problems: Structures, whose elements the model has.
        peers: Names of :mod:`equinet.bench.core`.
        dtype: Name of the precision.
        device: Name of the device.
        folder: Folder for the model file of equinet.

    Raises:
        ValueError: If mace-torch has no such model, or a trained model does not know an element.
        ArithmeticError: If equinet in float64 is not the same function as its oracle.
    """
    samples = [sample_of(frame) for problem in problems for frame in problem.frames[:SAMPLES]]
    elements = tuple(sorted({z for problem in problems for z in problem.elements}))
    config: Any = architecture.config
    mace = None
    neighbors = mean_neighbors(samples, config.cutoff)
    if peers:
        require()
        config = as_mace(config)
        # The one field in which equinet's default is not MACE's.
        config = config.model_copy(update={"exact_isolated_atoms": False})
        mace = sized_mace(config, elements, neighbors, samples)
        potential = potential_like(mace, config)
        oracle: Runner = MaceRecipe(EAGER, config, elements, neighbors, "float64", "cpu").build(mace)
    else:
        if architecture.path is not None:
            require_elements(architecture.path, problems)
        potential = potential_of(architecture, elements, samples, neighbors)
        oracle = Equinet(reference_potential(potential), "float64")
    truth = Equinet(potential, "float64")
    require_same(truth, oracle, samples)
    recipes: dict[str, Recipe] = {EQUINET: EquinetRecipe(save(potential, folder), dtype, device)}
    for name in peers:
        recipes[name] = MaceRecipe(name, config, elements, neighbors, dtype, device)
    lineup = LineUp(architecture, samples, truth, recipes)
    for name, recipe in recipes.items():
        try:
            lineup.runners[name] = recipe.build(mace)
        except ValueError as error:
            lineup.refused[name] = str(error)
    return lineup


def require_same(truth: Runner, oracle: Runner, samples: Sequence[Atoms]) -> None:
    """Refuse to measure what is not the same function, to float64: energies, forces, gradient of the loss.

    Raises:
        ArithmeticError: With the errors.
    """
    gradients = []
    for contender in (truth, oracle):
        contender.load(samples)
    expected = oracle.predict()
    error = truth.predict().error(expected)
    labels = Prediction(expected.energy + 1.0, 0 * expected.forces)
    for contender in (truth, oracle):
        contender.load(samples, labels)
        gradients.append(contender.gradient()[1])
    ours, theirs = gradients
    off = relative_error(ours, theirs)
    if max(error, off) > EXACT:
        raise ArithmeticError(
            f"WRONG: equinet in float64 is not the same function as {oracle.name} on small structures: relative error {error:.1e} "
            f"of energies and forces, {off:.1e} of the gradient of the loss. There is nothing to measure until that is mended"
        )
