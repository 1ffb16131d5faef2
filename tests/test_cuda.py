"""Whole potentials on a GPU: energies, forces, stress and what training needs, against the CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from ase import Atoms
from torch import Tensor

from equinet.graph import AtomicGraph, collate, from_atoms
from equinet.ops import ClebschGordan, GauntGrid
from equinet.ops.codegen.tiles import Kernel
from equinet.potential import Potential

SMALL: dict[str, Any] = {"channels": 4, "max_l": 1, "sh_degree": 2, "cutoff": 3.0}
MODELS: dict[str, dict[str, Any]] = {
    "cg": {},
    "grid": {"convolution": GauntGrid(), "many_body": GauntGrid(), "correlation": 3},
    "density": {"interaction": "density_residual", "correlation": 3},
    "gated": {"interaction": "gated", "many_body": ClebschGordan()},
}


def gradients_of_loss(
    potential: Potential, graph: AtomicGraph, loss: Callable[[Potential, AtomicGraph], Tensor]
) -> dict[str, Tensor]:
    potential.train()
    potential.zero_grad()
    loss(potential, graph).backward()
    potential.eval()
    return {name: value.grad.cpu() for name, value in potential.named_parameters() if value.grad is not None}


@pytest.fixture
def graph(ethanol: Atoms, triclinic: Atoms) -> AtomicGraph:
    return collate([from_atoms(atoms, SMALL["cutoff"]) for atoms in (ethanol, triclinic)])


@pytest.mark.parametrize("name", MODELS)
def test_a_potential_on_a_gpu_is_the_one_on_the_cpu(gpu, make_potential, graph, force_loss, name, monkeypatch) -> None:
    potential = make_potential(**{**SMALL, **MODELS[name]})
    launched = []
    real = Kernel.__call__
    with monkeypatch.context() as patch:
        patch.setattr(Kernel, "__call__", lambda self, *a: launched.append(self.name) or real(self, *a))
        potential.to(gpu)
        ours = {key: value.cpu() for key, value in potential(graph.to(gpu), stress=True).items()}
        our_gradients = gradients_of_loss(potential, graph.to(gpu), force_loss)
    assert {"edge_forward", "edge_backward", "edge_jvp", "edge_double_backward"} <= set(launched)
    monkeypatch.setattr("equinet.ops.codegen.tiles._interpreted", False)
    potential.to("cpu")
    theirs = potential(graph.to("cpu"), stress=True)
    for key, expected in theirs.items():
        torch.testing.assert_close(ours[key], expected, rtol=1e-10, atol=1e-10, equal_nan=True)
    their_gradients = gradients_of_loss(potential, graph.to("cpu"), force_loss)
    assert our_gradients.keys() == their_gradients.keys()
    for key, expected in their_gradients.items():
        torch.testing.assert_close(our_gradients[key], expected, rtol=1e-9, atol=1e-9 * (1 + float(expected.norm())))
