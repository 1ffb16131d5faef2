"""Contract of models: the checks that every architecture behind the seam of :mod:`equinet.models.base` must pass."""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from equinet.checkpoint import load_potential, save_potential
from equinet.graph import AtomicGraph, collate, from_atoms
from equinet.models import ModelConfig, build_model, model_config
from equinet.nn import EnergyScale
from equinet.ops.edges import Edges
from equinet.potential import Potential
from equinet.verify.backends import require_backend_match
from equinet.verify.physics import check, own_structures

ELEMENTS = (1, 6, 8)
NEIGHBORS = 8.0


def require(condition: bool | Tensor, message: str) -> None:
    """As ``assert``, which ``python -O`` would leave out.

    Raises:
        AssertionError: If the condition is not true.
    """
    if not condition:
        raise AssertionError(message)


class ModelContract:
    """Checks of one configuration of an architecture.

    :meth:`check` raises AssertionError, naming the property, unless: the configuration survives plain data; outputs have their
    shapes and dtypes, with no atoms and no edges too; energies are smooth in the positions to second order, invariant under rotation,
    inversion, translation and permutation, and additive over structures apart (:func:`equinet.verify.physics.check`); edges beyond the
    cutoff add nothing, or the model says why; every executor has a path and a reference form that agrees; and a file gives the same
    model back.

    Args:
        config: Configuration of the architecture.

    >>> from equinet.models import MACEConfig
    >>> ModelContract(MACEConfig(channels=2, layers=1, radial_hidden=(4,), correlation=2)).check()
    """

    def __init__(self, config: ModelConfig) -> None:
        self.config = config
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = build_model(config, ELEMENTS, NEIGHBORS)
        scale = EnergyScale([-1.0, -2.0, -3.0], [0.8] * 3, [-0.5] * 3, exact_isolated_atoms=config.exact_isolated_atoms)
        self.potential = Potential(model, scale).double().eval()

    def check(self) -> None:
        """Run all checks."""
        self.check_configuration()
        self.check_outputs()
        self.check_empty()
        self.check_training()
        self.check_physics()
        self.check_cutoff()
        self.check_executors()
        self.check_file()

    def check_configuration(self) -> None:
        """Plain data gives the same configuration and the same class back."""
        again = model_config(self.config.model_dump(mode="json"))
        require(again == self.config, f"{self.config!r} comes back from plain data as {again!r}")

    def check_outputs(self) -> None:
        """Outputs have one row per node, and the precision of the model."""
        graph = self._graph()
        for dtype in (torch.float32, torch.float64):
            potential = copy.deepcopy(self.potential).to(dtype)
            edges, vectors = potential.geometry(graph)
            output = potential.model(vectors, potential.groups(graph.atomic_numbers), edges)
            for name in ("energy", "coordination"):
                value = getattr(output, name)
                shape = tuple(value.shape)
                require(shape == (graph.num_nodes,), f"`{name}` has shape {shape}, not one number per node")
                require(value.dtype == dtype, f"`{name}` is {value.dtype} in a model of {dtype}")
            missing = set(potential.model.predicts) - set(output.properties)
            require(not missing, f"`predicts` names {missing}, which `forward` does not return")

    def check_empty(self) -> None:
        """Structures without edges, and a structure of one atom, give finite energies and zero forces."""
        lonely = [atoms for atoms in own_structures(ELEMENTS, self.config.cutoff) if len(atoms) == 1]
        result = self.potential(collate([from_atoms(atoms, self.config.cutoff) for atoms in 2 * lonely]))
        require(result.energy.isfinite().all(), "an atom alone has no finite energy")
        require(not result.forces.any(), "an atom alone has a force")

    def check_training(self) -> None:
        """A loss on forces has a finite gradient in the weights, and a calibration keeps outputs finite."""
        potential = copy.deepcopy(self.potential).train()
        potential.calibrate(self._graph())
        result = potential(self._graph(), stress=True)
        weights = [weight for weight in potential.parameters() if weight.requires_grad]
        loss = result.forces.square().sum() + result.energy.sum()
        gradients = torch.autograd.grad(loss, weights, allow_unused=True, materialize_grads=True)
        require(all(each.isfinite().all() for each in gradients), "a gradient in the weights is not finite")
        require(any(each.any() for each in gradients), "no weight has a gradient")

    def check_physics(self) -> None:
        """Symmetries, additivity and derivatives hold."""
        failures = check(self.potential).failures
        require(not failures, f"physics that does not hold: {failures}")

    def check_cutoff(self) -> None:
        """Edges longer than the cutoff add exactly nothing, or the model says why not."""
        if self.potential.model.reaches_beyond_cutoff:
            return
        species, index = torch.tensor([0, 1]), torch.tensor([[0, 1], [1, 0]])
        vectors = torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, -1.0]], dtype=torch.float64) * (1.5 * self.config.cutoff)
        model = self.potential.model
        far = model(vectors, species, Edges.by_receiver(index, 2)).energy
        alone = model(vectors[:0], species, Edges.by_receiver(index[:, :0], 2)).energy
        changes = "an edge beyond the cutoff changes energies, and the model does not say why"
        require(torch.equal(far, alone), changes)

    def check_executors(self) -> None:
        """Every executor is a submodule, and its reference form gives the same energies and forces."""
        for path, executor in self.potential.model.executors().items():
            same = self.potential.model.get_submodule(path) is executor
            require(same, f"`executors` names {path}, which is another module")
        require_backend_match(self.potential, self._graph())

    def check_file(self) -> None:
        """A model file gives the same energies back, bit for bit."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.eqn"
            save_potential(self.potential, path)
            again = load_potential(path)
        same = torch.equal(again(self._graph()).energy, self._energies())
        require(same, "a model read from its file gives other energies")

    def _graph(self) -> AtomicGraph:
        return collate(
            [from_atoms(atoms, self.config.cutoff) for atoms in own_structures(ELEMENTS, self.config.cutoff)]
        )

    def _energies(self) -> Tensor:
        return self.potential(self._graph()).energy
