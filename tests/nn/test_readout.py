"""Readouts: linear, with a hidden layer, with two and biases, each equal to its formula."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from equinet.nn import Readout
from equinet.nn.radial import SILU_GAIN


def features() -> Tensor:
    return torch.randn(7, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


def reference(readout: Readout, scalars: Tensor) -> Tensor:
    """Of one node: sums written out, SiLU with a unit second moment between them."""
    x = scalars
    for n, weight in enumerate(readout.network.weights):
        if n:
            x = SILU_GAIN * x / (1 + torch.exp(-x))
        x = torch.stack([(x * column).sum() for column in weight.T]) / math.sqrt(len(weight))
        if n and len(readout.network.biases):
            x = x + readout.network.biases[n - 1]
    return x[0]


@pytest.mark.parametrize(
    ("hidden", "biases", "sizes"),
    [(0, False, (5, 1)), (0, True, (5, 1)), (6, False, (5, 6, 1)), (6, True, (5, 6, 6, 1))],
)
def test_an_energy_is_that_of_the_formula(hidden: int, biases: bool, sizes: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    readout = Readout(5, hidden, biases=biases).double()
    assert readout.network.sizes == sizes
    assert [tuple(bias.shape) for bias in readout.network.biases] == ([(6,), (1,)] if len(sizes) == 4 else [])
    for bias in readout.network.biases:
        assert torch.equal(bias, torch.zeros_like(bias))
        with torch.no_grad():
            bias.normal_()
    expected = torch.stack([reference(readout, each[0]) for each in features()])
    torch.testing.assert_close(readout(features()), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("biases", [False, True])
def test_only_scalars_are_read(biases: bool) -> None:
    readout, other = Readout(5, 6, biases=biases).double(), features()
    other[:, 1:] = 0
    assert torch.equal(readout(features()), readout(other))


def test_without_biases_nothing_goes_to_nothing_with_them_to_a_constant() -> None:
    nothing = torch.zeros(2, 4, 5)
    assert torch.equal(Readout(5, 6)(nothing), torch.zeros(2))
    readout = Readout(5, 6, biases=True)
    with torch.no_grad():
        readout.network.biases[-1].fill_(0.7)
    assert readout(nothing).tolist() == pytest.approx([0.7, 0.7])


def test_a_readout_says_what_it_is() -> None:
    assert "5 → 6 → 6 → 1, biases" in repr(Readout(5, 6, biases=True))
    assert "biases" not in repr(Readout(5, 6).network.extra_repr())
