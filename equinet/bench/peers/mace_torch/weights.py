"""Models of mace-torch with random weights, in which every part counts.

Fresh weights give densities of 1e-2 and less, whose squares and cubes vanish: two such models would agree whatever happens to
their products.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from ase import Atoms

from equinet.models import MACEConfig

from .model import batch_of, build_mace, mace_defaults


def sized_mace(
    config: MACEConfig, elements: Sequence[int], avg_num_neighbors: float, samples: Sequence[Atoms], seed: int = 0
) -> Any:
    """A float64 ScaleShiftMACE with random weights whose results have the size of real ones.

    Densities, features and energies have a mean square of one on ``samples`` and forces a root mean square of 1 eV/Å.

    Args:
        config: Sizes.
        elements: Atomic numbers, ascending; each must occur in ``samples``.
        avg_num_neighbors: Divisor of the sum over neighbours.
        samples: A few small structures.
        seed: Seed of the weights.
    """
    with mace_defaults("float64"):
        model = build_mace(config, dict.fromkeys(elements, 0.0), avg_num_neighbors, seed=seed).requires_grad_(False)
        give_size(model, samples)
    return model.requires_grad_(True)


def lively_mace(
    config: MACEConfig,
    e0s: Mapping[int, float],
    avg_num_neighbors: float,
    samples: Sequence[Atoms],
    *,
    heads: Sequence[str] = ("Default",),
    seed: int = 0,
    **switches: Any,
) -> Any:
    """A float64 ScaleShiftMACE like :func:`sized_mace`, in which what begins at zero or is the same for all heads is not so either.

    Args:
        config: Sizes.
        e0s: Energy of the isolated atom in eV by atomic number, ascending; those of other heads are shifted.
        avg_num_neighbors: Divisor of the sum over neighbours.
        samples: A few small structures with all elements.
        heads: Names of the sets of energies.
        seed: Seed of the weights.
        switches: Arguments of :func:`~equinet.bench.peers.mace_torch.model.build_mace`.
    """
    with mace_defaults("float64"), torch.random.fork_rng(devices=[]):
        model = build_mace(config, e0s, avg_num_neighbors, heads=heads, seed=seed, **switches)
        model.requires_grad_(False)
        torch.manual_seed(seed + 1)
        for name, weight in model.named_parameters():
            _enliven(name, weight)
        for interaction in model.interactions:
            _smooth(interaction.conv_tp_weights, config.bessel_functions)
        give_size(model, samples)
        of_head = torch.arange(len(heads), dtype=torch.float64)
        model.scale_shift.scale.mul_(1 - 0.3 * of_head)
        model.scale_shift.shift.copy_(-0.4 + 0.7 * of_head)
        model.atomic_energies_fn.atomic_energies.add_(of_head[:, None] * torch.randn(len(e0s)))
    return model.requires_grad_(True)


def _enliven(name: str, weight: torch.Tensor) -> None:
    """Larger weights; and what a fresh gated block begins with near zero: beta, embeddings of species, biases."""
    weight.mul_(1.2)
    if name.endswith(".alpha"):
        weight.fill_(2.0)
    elif name.endswith(".beta"):
        weight.fill_(0.7)
    elif "source_embedding" in name or "target_embedding" in name:
        weight.normal_()
    elif name.endswith("bias"):
        weight.normal_(std=0.3)


def _smooth(radial: torch.nn.Module, waves: int) -> None:
    """Let the nth Bessel function count 1/n of the first, as in trained models.

    With all alike, moving atoms by a rounding of float32 changes forces by 1e-5 of themselves, and then nothing can be said of
    errors in float32.
    """
    first = next(radial.parameters())
    damping = 1 / torch.arange(1, waves + 1)
    if hasattr(radial, "net"):  # of the gated block: (out, in), Bessel functions before the embeddings of the species
        first[:, :waves].mul_(damping)
    else:
        first.mul_(damping[:, None])


def give_size(model: Any, samples: Sequence[Atoms]) -> None:
    """Scale last weights of each part to densities, features and energies of mean square one, and forces of 1 eV/Å."""
    inputs = batch_of(
        samples, model.atomic_numbers.tolist(), float(model.r_max), head=model.heads[0], heads=model.heads
    ).to_dict()
    readouts = [None] * (len(model.interactions) - len(model.readouts)) + list(model.readouts)
    for parts in zip(model.interactions, model.products, readouts):
        for part in (part for part in parts if part is not None):
            last = part.linear_2 if hasattr(part, "linear_2") else part.linear
            last.weight.div_(_size_of_output(part, model, inputs))
    forces = model(inputs, training=False, compute_force=True)["forces"]
    model.scale_shift.scale.div_(float(forces.square().mean().sqrt()))


def _size_of_output(part: torch.nn.Module, model: Any, inputs: dict[str, Any]) -> float:
    """Root mean square of what a part of the model gives; of several results the first."""
    found: list[torch.Tensor] = []
    hook = part.register_forward_hook(lambda _, __, out: found.append(out[0] if isinstance(out, tuple) else out))
    model(inputs, training=False, compute_force=False)
    hook.remove()
    return float(found[0].square().mean().sqrt())
