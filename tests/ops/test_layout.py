"""The one way between equinet's layout and e3nn's."""

from __future__ import annotations

import pytest
import torch
from e3nn import o3

from equinet.ops import from_mul_ir, natural_irreps, to_mul_ir
from equinet.ops.layout import channels_of


@pytest.mark.parametrize("irreps", ["1x0e", "5x0e", "3x0e+3x1o+3x2e", "2x1e+2x0o+2x1o", "4x2e+4x0e"])
def test_there_and_back_changes_nothing(irreps: str) -> None:
    features = torch.randn(7, o3.Irreps(irreps).dim)
    inside = from_mul_ir(features, irreps)
    assert inside.shape == (7, features.shape[1] // channels_of(o3.Irreps(irreps)), channels_of(o3.Irreps(irreps)))
    assert torch.equal(to_mul_ir(inside, irreps), features)


def test_every_number_is_where_e3nn_keeps_it() -> None:
    irreps = o3.Irreps("3x0e+3x1o")
    inside = torch.arange(12.0).reshape(1, 4, 3)  # rows: scalar, x, y, z; columns: channels
    expected = [0, 1, 2, 3, 6, 9, 4, 7, 10, 5, 8, 11]  # e3nn: the scalars, then x, y, z of one channel after another
    assert to_mul_ir(inside, irreps).tolist() == [expected]
    assert torch.equal(from_mul_ir(torch.tensor([expected]).float(), irreps), inside)


def test_a_rotation_acts_on_the_rows_as_e3nn_says_it_acts_on_the_columns() -> None:
    irreps = o3.Irreps("2x0e+2x1o+2x2e")
    turn = irreps.D_from_matrix(o3.rand_matrix())
    features = torch.randn(5, irreps.dim)
    one_copy = o3.Irreps([(1, ir) for _, ir in irreps])
    block = turn[:0].new_zeros(one_copy.dim, one_copy.dim)
    for ours, theirs in zip(one_copy.slices(), irreps.slices()):
        size = ours.stop - ours.start
        block[ours, ours] = turn[theirs.start : theirs.start + size, theirs.start : theirs.start + size]
    inside = torch.einsum("ab,nbc->nac", block, from_mul_ir(features, irreps))
    torch.testing.assert_close(to_mul_ir(inside, irreps), features @ turn.T)


def test_no_nodes_stay_no_nodes() -> None:
    assert from_mul_ir(torch.zeros(0, 8), "2x0e+2x1o").shape == (0, 4, 2)
    assert to_mul_ir(torch.zeros(0, 4, 2), "2x0e+2x1o").shape == (0, 8)


def test_harmonics_have_natural_parity() -> None:
    assert natural_irreps(3, 5) == o3.Irreps("5x0e+5x1o+5x2e+5x3o")
    assert natural_irreps(0) == o3.Irreps("0e")


def test_a_wrong_number_of_columns_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`features` has 9 columns, but 2x0e\+2x1o has 8"):
        from_mul_ir(torch.zeros(3, 9), "2x0e+2x1o")


def test_a_wrong_inner_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`features` is \(3, 2, 4\), but 2x0e\+2x1o asks for \(nodes, 4, channels\)"):
        to_mul_ir(torch.zeros(3, 2, 4), "2x0e+2x1o")


def test_unequal_channels_are_refused() -> None:
    with pytest.raises(ValueError, match=r"same number of channels, but 2x0e\+3x1o has \[2, 3\]"):
        from_mul_ir(torch.zeros(1, 11), "2x0e+3x1o")


def test_no_irreps_are_refused() -> None:
    with pytest.raises(ValueError, match="same number of channels"):
        channels_of(o3.Irreps(""))
