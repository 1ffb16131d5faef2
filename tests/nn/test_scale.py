"""From numbers to eV: precision, the gate of isolated atoms, refusals."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from equinet.nn import EnergyScale

REFERENCE, SCALE, SHIFT = [-13.587222780835477, -2041.9816003861354], [0.9, 1.3], [-4.25, -3.5]


@pytest.fixture
def scale() -> EnergyScale:
    return EnergyScale(REFERENCE, SCALE, SHIFT)


def test_energies_are_the_formula(scale: EnergyScale) -> None:
    output, coordination = torch.tensor([0.3, -1.2, 2.0]), torch.tensor([0.7, 3.0, 0.2])
    energies = scale(output, coordination, torch.tensor([1, 0, 1]))
    for n, z in enumerate([1, 0, 1]):
        gate = math.tanh(coordination[n])
        assert energies[n].item() == pytest.approx(
            REFERENCE[z] + gate * (SCALE[z] * output[n].item() + SHIFT[z]), rel=1e-14
        )


def test_an_isolated_atom_has_exactly_its_reference_energy(scale: EnergyScale) -> None:
    energies = scale(torch.tensor([5.0, -3.0]), torch.zeros(2), torch.tensor([0, 1]))
    assert energies.tolist() == REFERENCE


def test_without_the_gate_the_shift_stays_with_the_atom() -> None:
    scale = EnergyScale(REFERENCE, SCALE, SHIFT, exact_isolated_atoms=False)
    energies = scale(torch.zeros(2), torch.zeros(2), torch.tensor([0, 1]))
    assert energies.tolist() == pytest.approx([e + t for e, t in zip(REFERENCE, SHIFT)], rel=1e-14)


@pytest.mark.parametrize("move", [nn.Module.float, nn.Module.half, nn.Module.bfloat16])
def test_references_stay_in_double_precision(scale: EnergyScale, move: type) -> None:
    moved = move(nn.Sequential(scale, nn.Linear(1, 1)))[0]
    for name, values in (("reference", REFERENCE), ("scale", SCALE), ("shift", SHIFT)):
        assert getattr(moved, name).dtype == torch.float64
        assert getattr(moved, name).tolist() == values
    assert moved.state_dict()["reference"].tolist() == REFERENCE


def test_energies_are_double_whatever_the_model_is_in(scale: EnergyScale) -> None:
    energies = scale.float()(torch.tensor([0.5]), torch.tensor([2.0]), torch.tensor([1]))
    assert energies.dtype == torch.float64


def test_a_copy_keeps_the_values(scale: EnergyScale) -> None:
    assert copy.deepcopy(scale).float().reference.tolist() == REFERENCE


def test_references_are_saved_but_not_trained(scale: EnergyScale) -> None:
    assert set(scale.state_dict()) == {"reference", "scale", "shift"}
    assert list(scale.parameters()) == []


def test_the_gate_hands_its_gradient_on(scale: EnergyScale) -> None:
    output, coordination = torch.zeros(1), torch.tensor([0.4], dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(scale(output, coordination, torch.tensor([0])).sum(), coordination)
    assert gradient.item() == pytest.approx(SHIFT[0] * (1 - math.tanh(0.4) ** 2), rel=1e-13)


def test_lists_of_different_length_are_refused() -> None:
    with pytest.raises(ValueError, match="need one value per species, got 2, 1, 2"):
        EnergyScale([0, 0], [1], [0, 0])


@pytest.mark.parametrize("name", ["reference", "scale", "shift"])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_value_that_is_not_finite_is_refused(name: str, bad: float) -> None:
    values = {"reference": [0.0, 0.0], "scale": [1.0, 1.0], "shift": [0.0, 0.0], name: [0.0, bad]}
    with pytest.raises(ValueError, match=f"`{name}` must be finite numbers"):
        EnergyScale(**values)


def test_it_reads_as_an_equation(scale: EnergyScale) -> None:
    assert "E_i = E0_z + tanh(n_i) · (s_z ε_i + t_z) eV" in repr(scale)
    assert "(2 ε_i +0.5) eV" in repr(EnergyScale([1, 2], [2, 2], [0.5, 0.5], exact_isolated_atoms=False))
    assert "tanh" not in repr(EnergyScale([1], [1], [1], exact_isolated_atoms=False))
