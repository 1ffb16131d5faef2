"""What is computed: paths, rows, and what a description refuses."""

from __future__ import annotations

import dataclasses

import pytest
from e3nn import o3

from equinet.ops import ManyBodySpec, TensorProductSpec, natural_irreps
from equinet.ops.spec import Path


@pytest.mark.parametrize(("max_degree", "paths"), [(0, 4), (1, 10), (2, 17), (3, 23)])
def test_mace_has_its_published_number_of_paths(max_degree: int, paths: int) -> None:
    spec = TensorProductSpec(natural_irreps(max_degree, 8), natural_irreps(3), natural_irreps(3))
    assert len(spec.paths) == paths
    assert sum(spec.paths_per_output.values()) == paths


def test_paths_are_all_triangles_of_the_right_parity() -> None:
    spec = TensorProductSpec("2x0e+2x1o+2x1e+2x2e", "0e+1o+2e", "0e+0o+1e+1o+2e+2o+3o")
    found = {(str(spec.irreps_in1[p.i1].ir), str(spec.irreps_in2[p.i2].ir), str(p.out)) for p in spec.paths}
    expected = {
        (str(a.ir), str(b.ir), str(out.ir))
        for a in spec.irreps_in1
        for b in spec.irreps_in2
        for out in spec.outputs
        if abs(a.ir.l - b.ir.l) <= out.ir.l <= a.ir.l + b.ir.l and a.ir.p * b.ir.p == out.ir.p
    }
    assert found == expected
    assert len(spec.paths) == len(expected)


def test_natural_parities_couple_only_to_even_sums_of_degrees() -> None:
    spec = TensorProductSpec(natural_irreps(2), natural_irreps(3), natural_irreps(3))
    assert all((p.i1 + p.i2 + p.out.l) % 2 == 0 for p in spec.paths)


def test_paths_are_ordered_by_output_then_first_then_second_input() -> None:
    spec = TensorProductSpec("4x0e+4x1o", "0e+1o", "1o+0e")  # the order in which outputs are asked for does not matter
    zero, one = o3.Irrep("0e"), o3.Irrep("1o")
    assert spec.paths == (Path(0, 0, zero), Path(1, 1, zero), Path(0, 1, one), Path(1, 0, one))


def test_rows_hold_every_component_of_every_path_once() -> None:
    spec = TensorProductSpec(natural_irreps(2, 3), natural_irreps(3), natural_irreps(3))
    rows = [spec.row_of(n) for n in range(len(spec.paths))]
    assert [len(r) for r in rows] == [p.out.dim for p in spec.paths]
    assert sorted(row for block in rows for row in block) == list(range(spec.rows))
    assert spec.rows == sum(p.out.dim for p in spec.paths)


def test_within_an_output_components_are_slow_and_paths_fast() -> None:
    spec = TensorProductSpec("0e+1o", "0e+1o", "0e+1o")  # two paths into each output
    assert [spec.row_of(n) for n in range(4)] == [[0], [1], [2, 4, 6], [3, 5, 7]]


def test_a_spec_reads_as_a_formula() -> None:
    product = TensorProductSpec("8x0e+8x1o", "0e+1o", "0e+1o")
    assert str(product) == "8x0e+8x1o ⊗ 0e+1o, 4 paths: 2 to 0e, 2 to 1o"
    assert str(ManyBodySpec("8x0e+8x1o", "8x0e", 3, 2)) == "8x0e+8x1o ^ 1..3 -> 8x0e, 2 species"


def test_specs_are_values() -> None:
    assert TensorProductSpec("2x0e", "0e", "0e") == TensorProductSpec("2x0e", "0e", "0e")
    spec = ManyBodySpec("2x0e", "2x0e", 1, 1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        spec.correlation = 2


def test_unequal_channels_are_refused() -> None:
    with pytest.raises(ValueError, match="same number of channels"):
        TensorProductSpec("2x0e+3x1o", "0e", "0e")
    with pytest.raises(ValueError, match="same number of channels"):
        ManyBodySpec("2x0e+3x1o", "2x0e", 2, 1)


def test_a_second_input_with_channels_makes_a_pair_product() -> None:
    spec = TensorProductSpec("4x0e+4x1o", "4x0e+4x1o", "0e+1o")
    assert spec.pair
    assert str(spec) == "4x0e+4x1o ⊗ 4x0e+4x1o, 4 paths summed: 2 to 0e, 2 to 1o"
    assert spec.copies == {o3.Irrep("0e"): 1, o3.Irrep("1o"): 1}
    assert spec.rows == 4
    assert [spec.row_of(n) for n in range(4)] == [[0], [0], [1, 2, 3], [1, 2, 3]]


def test_of_one_channel_it_is_a_pair_product_if_it_says_so() -> None:
    assert not TensorProductSpec("0e+1o", "0e+1o", "0e+1o").pair
    spec = TensorProductSpec("0e+1o", "0e+1o", "0e+1o", pair=True)
    assert spec.pair
    assert spec.rows == 4
    assert spec != TensorProductSpec("0e+1o", "0e+1o", "0e+1o")


def test_a_second_input_has_one_channel_or_as_many_as_the_first() -> None:
    words = (
        "`irreps_in2` has 2 channels and must have as many as `irreps_in1`, {}, in a pair product, else one; got 2x0e"
    )
    for first, pair, channels in (("3x0e", None, 3), ("3x0e", True, 3), ("2x0e", False, 2)):
        with pytest.raises(ValueError, match=words.format(channels)):
            TensorProductSpec(first, "2x0e", "0e", pair)
    with pytest.raises(ValueError, match="`irreps_in2` has 1 channels and must have as many"):
        TensorProductSpec("2x0e", "0e", "0e", pair=True)


def test_an_output_that_nothing_reaches_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no coupling of 2x0e with 1x0e reaches 1x1o"):
        TensorProductSpec("2x0e", "0e", "1o")


@pytest.mark.parametrize("correlation", [0, 8, -1])
def test_a_correlation_out_of_range_is_refused(correlation: int) -> None:
    with pytest.raises(ValueError, match=f"`correlation` must be 1 to 7, got {correlation}"):
        ManyBodySpec("2x0e", "2x0e", correlation, 1)


def test_no_species_are_refused() -> None:
    with pytest.raises(ValueError, match="`species` must be 1 or more, got 0"):
        ManyBodySpec("2x0e", "2x0e", 1, 0)


def test_an_irrep_named_twice_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`irreps_in` must name each irrep once, got 2x0e\+2x0e"):
        ManyBodySpec("2x0e+2x0e", "2x0e", 1, 1)
    with pytest.raises(ValueError, match="`irreps_out` must name each irrep once"):
        ManyBodySpec("2x0e", "2x0e+2x0e", 1, 1)


def test_many_body_channels_that_differ_are_refused() -> None:
    with pytest.raises(ValueError, match="channels must agree, got 2x0e -> 3x0e"):
        ManyBodySpec("2x0e", "3x0e", 1, 1)


@pytest.mark.parametrize("channels", [0, 16_385, 10**30])
def test_more_channels_than_any_computer_holds_are_refused_by_the_bound(channels: int) -> None:
    sentence = f"features must have 1 to 16,384 channels, but {channels}x0e has {channels:,}"
    with pytest.raises(ValueError, match=sentence):
        TensorProductSpec(f"{channels}x0e", "1o", "1o")
    with pytest.raises(ValueError, match=sentence):
        ManyBodySpec(f"{channels}x0e", f"{channels}x0e", 2, 1)
