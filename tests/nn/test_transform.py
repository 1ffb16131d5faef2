"""Transformed distances: equal to their formulas, smooth, with the limits that give them their sense."""

from __future__ import annotations

import copy
import importlib
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from equinet.graph.elements import COVALENT_RADII
from equinet.nn import TRANSFORMS
from equinet.nn.transform import AgnesiTransform, DistanceTransform, SoftTransform

NUMBERS = (1, 8, 26)
RADII = [COVALENT_RADII[z] for z in NUMBERS]
SPECIES = torch.tensor([[0, 0, 0, 1, 1, 2, 2], [0, 1, 2, 1, 2, 2, 0]])


def agnesi(r: float, r1: float, r2: float) -> float:
    """With the published numbers, for atoms of radii r1 and r2."""
    s = r / (0.5 * (r1 + r2))
    return 1 / (1 + 1.0805 * s**0.9183 / (1 + s ** (0.9183 - 4.5791)))


def soft(r: float, r1: float, r2: float) -> float:
    low, high = 0.75 * (r1 + r2), (r1 + r2) * 4 / 3
    return low + (r - low) * 0.5 * (1 + math.tanh(4 / (high - low) * (r - 0.5 * (low + high))))


FORMULAS: dict[str, Callable[[float, float, float], float]] = {"agnesi": agnesi, "soft": soft}


@pytest.fixture(params=TRANSFORMS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def transform(name: str) -> DistanceTransform:
    return TRANSFORMS[name](RADII)


def some_lengths() -> Tensor:
    return torch.linspace(0.3, 5.1, SPECIES.shape[1], dtype=torch.float64)[:, None]


def test_values_are_those_of_the_formula(name: str, transform: DistanceTransform) -> None:
    for r in (0.05, 0.4, 1.0, 1.7, 2.6, 5.9):
        found = transform(torch.full((SPECIES.shape[1], 1), r, dtype=torch.float64), SPECIES)
        expected = [[FORMULAS[name](r, RADII[a], RADII[b])] for a, b in SPECIES.T.tolist()]
        torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-13, atol=0)


def test_values_are_those_of_mace(name: str, transform: DistanceTransform, double_default: None) -> None:
    pytest.importorskip("mace")
    radial = importlib.import_module("mace.modules.radial")
    theirs = {"agnesi": radial.AgnesiTransform, "soft": radial.SoftTransform}[name]()
    r = torch.linspace(0.2, 6, 9, dtype=torch.float64)[:, None]
    edge_index = torch.stack([torch.arange(9) % 3, torch.arange(9) // 3])
    expected = theirs(r, torch.eye(3, dtype=torch.float64), edge_index, torch.tensor(NUMBERS))
    torch.testing.assert_close(transform(r, edge_index), expected, rtol=1e-13, atol=0)


def test_the_order_of_the_two_atoms_does_not_matter(transform: DistanceTransform) -> None:
    assert torch.equal(transform(some_lengths(), SPECIES), transform(some_lengths(), SPECIES.flip(0)))


def test_derivatives_are_those_of_finite_differences(transform: DistanceTransform) -> None:
    r = some_lengths().requires_grad_()
    assert torch.autograd.gradcheck(lambda r: transform(r, SPECIES), r, rtol=1e-6)
    assert torch.autograd.gradgradcheck(lambda r: transform(r, SPECIES), r, rtol=1e-6)


def test_the_agnesi_transform_falls_from_one_to_zero_most_steeply_about_half_a_bond() -> None:
    transform = AgnesiTransform([0.7])
    r = torch.linspace(1e-3, 8, 4000, dtype=torch.float64)[:, None].requires_grad_()
    x = transform(r, torch.zeros(2, len(r), dtype=torch.int64))
    (gradient,) = torch.autograd.grad(x.sum(), r)
    assert (gradient < 0).all()
    assert 0.5 < r[gradient.argmin()].item() < 0.7  # of atoms of 0.7 Å
    ends = transform(torch.tensor([[1e-4], [1e6]], dtype=torch.float64), torch.zeros(2, 2, dtype=torch.int64))
    torch.testing.assert_close(ends, torch.tensor([[1.0], [0.0]], dtype=torch.float64), rtol=0, atol=1e-5)


def test_the_soft_transform_is_the_distance_far_away_and_three_quarters_of_a_bond_close_by() -> None:
    r = torch.tensor([[1e-3], [4.0], [9.0]], dtype=torch.float64)
    found = SoftTransform([0.35])(r, torch.zeros(2, 3, dtype=torch.int64))
    torch.testing.assert_close(found, torch.tensor([[0.525], [4.0], [9.0]], dtype=torch.float64), rtol=0, atol=1e-3)


def test_numbers_stay_double_in_a_single_precision_module_and_are_saved(transform: DistanceTransform) -> None:
    before = transform(some_lengths(), SPECIES)
    single = copy.deepcopy(transform).float()
    assert {value.dtype for value in single.buffers()} == {torch.float64}
    assert single(some_lengths().float(), SPECIES).dtype == torch.float32
    assert torch.equal(single.double()(some_lengths(), SPECIES), before)
    other = type(transform)([1.0, 1.1, 1.2])
    other.load_state_dict(transform.state_dict())
    assert torch.equal(other(some_lengths(), SPECIES), before)


def test_the_numbers_of_the_formula_count_and_not_only_those_published() -> None:
    for transform, name in (
        (AgnesiTransform(RADII), "a"),
        (AgnesiTransform(RADII), "q"),
        (SoftTransform(RADII), "alpha"),
    ):
        before = transform(some_lengths(), SPECIES)
        getattr(transform, name).mul_(1.5)
        assert (transform(some_lengths(), SPECIES) - before).abs().max() > 1e-3


def test_no_rows_make_no_rows(transform: DistanceTransform) -> None:
    empty = torch.empty(0, 1, dtype=torch.float64, requires_grad=True)
    out = transform(empty, torch.empty(2, 0, dtype=torch.int64))
    assert out.shape == (0, 1)
    assert torch.autograd.grad(out.sum(), empty)[0].shape == (0, 1)


def test_a_transform_says_what_it_is() -> None:
    assert repr(AgnesiTransform(RADII)) == "AgnesiTransform(a=1.081, q=0.9183, p=4.579)"
    assert repr(SoftTransform(RADII)) == "SoftTransform(alpha=4)"
