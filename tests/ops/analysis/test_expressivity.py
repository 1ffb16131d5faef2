"""What methods can express and how equivariant they are: the papers' numbers, found on the executors."""

from __future__ import annotations

import json
import math

import pytest
import torch
from e3nn import o3

from equinet.ops import (
    SO2,
    Bracket,
    ClebschGordan,
    CPDecomposed,
    GauntFourier,
    GauntGrid,
    ManyBodySpec,
    MatrixProduct,
    TensorProductSpec,
    explain,
    natural_irreps,
)
from equinet.ops.analysis import compare, usual_methods
from equinet.ops.analysis.equivariance import RandomTurns
from equinet.ops.coupling.clebsch_gordan import clebsch_gordan
from equinet.ops.coupling.cp import coupling_tensor, cp_factors
from equinet.ops.coupling.pairings import bracket, gaunt
from equinet.ops.coupling.polynomials import covariants
from equinet.ops.coupling.quadrature import smallest_rule
from equinet.ops.factorised.algebra import harmonics_at
from equinet.ops.factorised.convolution import FactorisedConvolution


def even_irreps(max_l: int) -> str:
    """Every degree with even parity: a view of SO(3), where all couplings are allowed."""
    return "+".join(f"{l}e" for l in range(max_l + 1))


def everything(max_l: int, max_out: int | None = None) -> TensorProductSpec:
    """Degrees 0 to L with degrees 0 to L into 0 to 2 L, all couplings of SO(3)."""
    return TensorProductSpec(
        even_irreps(max_l), even_irreps(max_l), even_irreps(2 * max_l if max_out is None else max_out)
    )


def natural(l1: int, l2: int, l3: int) -> TensorProductSpec:
    """True tensors only, as in MACE."""
    return TensorProductSpec(natural_irreps(l1), natural_irreps(l2), natural_irreps(l3))


# Expressivity


@pytest.mark.parametrize(("max_l", "paths"), [(1, 6), (2, 19), (3, 44), (4, 85), (5, 146)])
def test_clebsch_gordan_is_as_expressive_as_there_are_paths(max_l: int, paths: int) -> None:
    found = explain(everything(max_l), ClebschGordan())
    assert (found.full, found.reached, found.expressivity) == (paths, paths, paths)
    assert found.weights == found.weights_dimension == paths


@pytest.mark.parametrize("max_l", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("method", [GauntGrid(), GauntFourier(), MatrixProduct(), GauntGrid(weights="shared")])
def test_one_signal_or_matrix_is_4_l_plus_1(max_l: int, method: GauntGrid) -> None:
    assert explain(everything(max_l), method).expressivity == 4 * max_l + 1


@pytest.mark.parametrize(("max_l", "dimension"), [(1, 1), (2, 5), (3, 9), (4, 13)])
def test_the_bracket_is_4_l_minus_3(max_l: int, dimension: int) -> None:
    assert explain(everything(max_l), Bracket()).expressivity == dimension


def test_copies_share_the_maps_before_them() -> None:
    spec = natural(2, 3, 3)  # 17 paths
    found = {
        kind: explain(spec, GauntGrid(copies=2, weights=kind)).expressivity for kind in ("shared", "filter", "degrees")
    }
    # One set of factors of features and of harmonics, two of outputs; then two of harmonics; then two of everything.
    assert found == {"shared": 9, "filter": 14, "degrees": 17}


@pytest.mark.parametrize(("max_l", "even"), [(1, 5), (2, 14), (3, 30)])
def test_gaunt_has_the_even_paths_the_bracket_the_odd_ones_and_both_all(max_l: int, even: int) -> None:
    spec = everything(max_l)
    methods = (GauntGrid(), Bracket(), GauntGrid(bracket=True, weights="degrees"))
    pointwise, odd, both = (explain(spec, method) for method in methods)
    assert pointwise.reached == even
    for found, parity in ((pointwise, 0), (odd, 1)):
        for path, part in zip(spec.paths, found.parts):
            degrees = spec.irreps_in1[path.i1].ir.l + spec.irreps_in2[path.i2].ir.l + path.out.l
            assert part.reached == (degrees % 2 == parity), part
        assert found.refusal is not None
    assert both.reached == both.full
    assert both.refusal is None
    assert both.expressivity == pointwise.expressivity + odd.expressivity


@pytest.mark.parametrize(("max_l", "copies"), [(1, 1), (2, 2), (3, 3), (4, 4), (5, 5)])
def test_so_many_copies_of_gaunt_reach_all_even_paths(max_l: int, copies: int) -> None:
    assert explain(everything(max_l), GauntGrid(copies=copies, weights="degrees")).expressivity == sum(
        part.reached for part in explain(everything(max_l), GauntGrid()).parts
    )
    if copies > 1:
        found = explain(everything(max_l), GauntGrid(copies=copies - 1, weights="degrees"))
        assert found.expressivity < found.reached


@pytest.mark.parametrize("max_l", [1, 2, 3, 4, 5, 6])
def test_into_degrees_up_to_l_as_many_copies_as_l(max_l: int) -> None:
    spec = natural(max_l, max_l, max_l)
    assert explain(spec, GauntGrid()).expressivity == 3 * max_l + 1
    assert explain(spec, GauntGrid(copies=max_l, weights="degrees")).expressivity == len(spec.paths)
    assert max_l == 1 or explain(spec, GauntGrid(copies=max_l - 1, weights="degrees")).expressivity < len(spec.paths)


@pytest.mark.parametrize(
    ("degrees", "paths", "one", "two"),
    [((1, 3, 3), 10, 8, 10), ((2, 3, 3), 17, 9, 17), ((2, 2, 2), 11, 7, 11), ((3, 3, 3), 23, 10, 20)],
)
def test_two_copies_restore_the_second_convolution_of_mace(degrees, paths, one, two) -> None:
    spec = natural(*degrees)
    assert len(spec.paths) == paths
    assert explain(spec, GauntGrid()).expressivity == one
    both = explain(spec, GauntGrid(copies=2, weights="degrees"))
    assert both.expressivity == two


def test_the_first_convolution_of_mace_is_the_same_by_every_method() -> None:
    spec = natural(0, 3, 3)
    for method in (ClebschGordan(), GauntGrid(), GauntFourier(), MatrixProduct(), SO2()):
        found = explain(spec, method)
        assert (found.expressivity, found.weights_dimension, found.refusal) == (4, 4, None), method


def test_the_frame_of_the_edge_loses_nothing() -> None:
    spec = natural(2, 3, 3)
    found = explain(spec, SO2())
    assert (found.reached, found.expressivity, found.weights_dimension) == (17, 17, 17)
    into = [part.strength for part in found.parts if part.out == "1o"]
    assert into == pytest.approx([1 / math.sqrt(len(into))] * len(into))


def test_weights_per_degree_of_the_filter_are_as_many_independent_numbers() -> None:
    found = {kind: explain(natural(2, 3, 3), GauntGrid(weights=kind)) for kind in ("shared", "filter", "degrees")}
    assert {kind: one.weights for kind, one in found.items()} == {"shared": 1, "filter": 4, "degrees": 3 + 4 + 4}
    assert {kind: one.weights_dimension for kind, one in found.items()} == {"shared": 1, "filter": 4, "degrees": 9}


# Paths and strengths


def test_strengths_are_the_integrals_of_three_harmonics() -> None:
    spec = everything(2, 2)
    for method, formula in ((GauntGrid(), gaunt), (Bracket(), bracket)):
        found = explain(spec, method)
        squares = {path.out: 0.0 for path in spec.paths}
        raw = [formula(spec.irreps_in1[p.i1].ir.l, spec.irreps_in2[p.i2].ir.l, p.out.l) for p in spec.paths]
        for path, value in zip(spec.paths, raw):
            squares[path.out] += value**2
        expected = [value / math.sqrt(squares[path.out] or 1) for path, value in zip(spec.paths, raw)]
        assert [part.strength for part in found.parts] == pytest.approx(expected, abs=1e-12)


def test_paths_are_read_from_what_executes(monkeypatch) -> None:
    """An executor that loses an output is found out, whatever the method says."""
    real = GauntGrid.convolution

    def without_vectors(self, spec):
        executor = real(self, spec)
        executor.algebra.scale_out(torch.tensor([1.0, 0, 0, 0], dtype=torch.float64))
        return executor

    assert explain(natural(1, 1, 1), GauntGrid()).reached == 4
    monkeypatch.setattr(GauntGrid, "convolution", without_vectors)
    found = explain(natural(1, 1, 1), GauntGrid())
    assert [part.name for part in found.parts if part.reached] == ["0e x 0e -> 0e", "1o x 1o -> 0e"]
    assert found.expressivity == 2


def test_a_6j_symbol_that_vanishes_is_a_path_that_is_not_there() -> None:
    spec = TensorProductSpec("0e+3e", "0e+5e", "5e")
    found = explain(spec, MatrixProduct())
    assert {part.name: part.reached for part in found.parts} == {"0e x 5e -> 5e": 1, "3e x 5e -> 5e": 0}
    assert found.expressivity == 1
    assert "6j symbol of 3e x 5e -> 5e vanishes" in found.refusal


def test_a_method_that_reaches_nothing_says_so() -> None:
    found = explain(TensorProductSpec("8x0e+8x1o", "0e", "0e+1o"), Bracket())
    assert (found.reached, found.full, found.expressivity, found.executor) == (0, 2, 0, None)
    assert (found.cost, dict(found.equivariance_error)) == (None, {})
    assert "it reaches nothing" in str(found)


def test_the_reference_potential_reaches_the_same() -> None:
    spec = everything(1)
    for method, reference in (
        (GauntGrid(bracket=True), GauntGrid(bracket=True, backend="reference")),
        (ClebschGordan(), ClebschGordan(backend="reference")),
    ):
        fast, slow = explain(spec, method), explain(spec, reference)
        assert slow.executor == "ReferenceConvolution"
        assert [part.strength for part in slow.parts] == pytest.approx([part.strength for part in fast.parts])
        assert slow.expressivity == fast.expressivity
        assert slow.cost is None


def test_polynomials_that_are_too_many_to_count_one_by_one_are_refused() -> None:
    spec = ManyBodySpec(natural_irreps(6), natural_irreps(1), 5, 1)
    with pytest.raises(
        ValueError, match="4,774 polynomials with 382,745 terms, and they are counted one by one up to 20,000"
    ):
        explain(spec, GauntGrid())


# Many-body products


@pytest.mark.parametrize(
    ("max_l", "max_out", "polynomials"), [(2, 0, 9), (2, 1, 17), (2, 2, 27), (3, 0, 13), (3, 1, 29)]
)
def test_exact_couplings_reach_every_polynomial(max_l: int, max_out: int, polynomials: int) -> None:
    found = explain(ManyBodySpec(natural_irreps(max_l), natural_irreps(max_out), 3, 2), ClebschGordan())
    assert (found.full, found.expressivity, found.weights, found.reached) == (polynomials,) * 4


def test_many_copies_of_gaunt_reach_one_polynomial_for_every_set_of_degrees() -> None:
    """Degrees l1, l2, l3 have one pointwise product; couplings through other intermediates stay out of reach."""
    spec = ManyBodySpec(natural_irreps(2), natural_irreps(1), 3, 1)
    found = explain(spec, GauntGrid(copies=8))
    for part in found.parts:
        basis = covariants(spec.irreps_in, int(part.name), 1)[o3.Irrep(part.out)]
        assert part.reached == len(set(basis.contents)), part
        assert part.full == len(basis.contents)
    assert found.expressivity == found.reached < found.full
    assert explain(spec, GauntGrid()).expressivity < found.expressivity
    assert explain(spec, GauntFourier(copies=8)).expressivity == found.expressivity


def test_powers_share_the_factors_of_their_irreps_among_outputs() -> None:
    spec = ManyBodySpec(natural_irreps(2), natural_irreps(1), 3, 1)
    found = explain(spec, GauntGrid())
    assert found.expressivity <= found.weights
    assert found.expressivity < found.reached


def test_what_no_method_can_do_is_explained_with_the_reason() -> None:
    spec = ManyBodySpec("8x0e+8x1o", "8x0e", 2, 1)
    found = explain(spec, SO2())
    assert found.refusal == "a frame needs a direction, and features multiplied with themselves have none"
    assert (found.expressivity, found.full, found.executor) == (0, 3, None)
    none = explain(ManyBodySpec("8x0e", "8x1o", 3, 1), ClebschGordan())
    assert (none.expressivity, none.full) == (0, 0)
    assert "reaches 1o" in none.refusal
    assert "refused" in str(none)


# Errors


@pytest.mark.parametrize("method", [m for m in usual_methods(everything(1)) if not isinstance(m, CPDecomposed | SO2)])
@pytest.mark.parametrize(
    "spec",
    [
        TensorProductSpec("4x0e+4x1o+4x1e+4x2e", "0e+1e+1o+2o", "0e+0o+1o+1e+2e"),
        natural(2, 3, 3),
        ManyBodySpec("4x0e+4x1o+4x1e", "4x0e+4x0o+4x1e", 3, 2),
    ],
    ids=["both parities", "harmonics", "many-body"],
)
def test_exact_methods_are_equivariant_to_rounding(method, spec) -> None:
    found = explain(spec, method)
    if found.executor is None:
        assert found.reached == 0
        return
    assert found.equivariance_error["float64"] < 1e-14
    assert 1e-9 < found.equivariance_error["float32"] < 1e-6
    assert found.tensor_error is None


def test_a_grid_that_is_one_step_too_small_is_found_out(monkeypatch) -> None:
    monkeypatch.setattr("equinet.ops.methods.gaunt.smallest_rule", lambda degree: smallest_rule(7))
    assert explain(natural(3, 3, 3), GauntGrid()).equivariance_error["float64"] > 0.1


def test_the_error_of_a_decomposition_falls_with_its_rank() -> None:
    spec = everything(1, 1)
    tensor = coupling_tensor(spec.irreps_in1, spec.irreps_in2, spec.outputs)
    found = [explain(spec, CPDecomposed(rank=rank)) for rank in (5, 7, 8)]
    assert [one.tensor_error for one in found] == pytest.approx(
        [cp_factors(tensor, rank).error for rank in (5, 7, 8)], rel=1e-9, abs=1e-14
    )
    errors = [one.equivariance_error["float64"] for one in found]
    assert errors[0] > 0.1 > errors[1] > 1e-3
    assert errors[2] < 1e-12
    assert explain(spec, CPDecomposed(rank=7)).equivariance_error == found[1].equivariance_error


def test_the_error_of_a_decomposition_in_a_many_body_product() -> None:
    spec = ManyBodySpec("4x0e+4x1o", "4x0e+4x1o", 3, 1)
    rough, exact = (explain(spec, CPDecomposed(rank=rank)) for rank in (3, 6))
    assert rough.equivariance_error["float64"] > 1e-2
    assert rough.tensor_error > 1e-2
    assert exact.equivariance_error["float64"] < 1e-12
    assert exact.tensor_error < 1e-12


def test_random_turns_act_as_what_they_are() -> None:
    torch.manual_seed(0)
    turns = RandomTurns(torch.randn(4, 3, 3).double(), 3)
    vectors = torch.eye(3).double().expand(4, 3, 3)
    matrices = turns(vectors, [(1, o3.Irrep("1o"))])
    signs = torch.tensor([1.0, -1.0, 1.0, -1.0]).double()
    torch.testing.assert_close(matrices.det(), signs)
    torch.testing.assert_close(matrices @ matrices.transpose(1, 2), vectors)
    axial = turns(vectors, [(1, o3.Irrep("1e"))])
    torch.testing.assert_close(axial, matrices * signs[:, None, None])
    direction = torch.nn.functional.normalize(torch.randn(4, 3).double(), dim=1)
    turned = torch.einsum("sij,sj->si", matrices, direction)
    before, after = (harmonics_at(points.numpy(), 3)[:, 9:, None] for points in (direction, turned))
    torch.testing.assert_close(turns(before, [(1, o3.Irrep("3o"))]), after)


# What is printed


def test_an_explanation_can_be_read_and_stored() -> None:
    found = explain(TensorProductSpec("32x0e+32x1o", "0e+1o", "0e+1o+1e"), "gaunt_grid")
    printed = str(found)
    for words in ("4 of 5", "1o x 1o -> 1e has odd l1 + l2 + l3", "1o x 1o (0.87)", "kFLOP", "in float64"):
        assert words in " ".join(printed.split()), words
    assert max(map(len, printed.splitlines())) <= 100
    stored = json.loads(json.dumps(found.as_json()))
    assert (stored["reached"], stored["full"], stored["cost"]["bytes_per_edge"]) == (4, 5, 784)
    assert stored["parts"][1] == {
        "name": "1o x 1o -> 0e", "out": "0e", "reached": 1, "full": 1, "strength": pytest.approx(math.sqrt(3) / 2),
    }  # fmt: skip


def test_all_methods_stand_side_by_side() -> None:
    found = compare(natural(1, 1, 1))
    assert [one.method for one in found.explanations] == [
        "cg", "gaunt_grid", "gaunt_grid:bracket", "gaunt_fourier", "bracket", "matrix", "cp:rank=6", "so2",
    ]  # fmt: skip
    printed = str(found)
    assert max(map(len, printed.splitlines())) <= 100
    assert all(one.method in printed for one in found.explanations)
    assert "refused, bracket: 0e x 0e -> 0e has even" in printed
    json.dumps(found.as_json())


def test_a_decomposition_that_takes_minutes_is_left_out_and_that_is_said() -> None:
    spec = natural(4, 0, 4)
    found = compare(spec)
    assert not any(one.method.startswith("cp") for one in found.explanations)
    assert "cp: left out" in str(found)


def test_couplings_of_the_executor_are_those_of_the_spec() -> None:
    """The strength of a path is the number by which the executor's tensor holds the coupling."""
    executor = GauntGrid().convolution(natural(1, 1, 1)).double()
    assert isinstance(executor, FactorisedConvolution)
    block = executor.algebra.dense()[1:4, 1:4, 0:1]
    found = explain(natural(1, 1, 1), GauntGrid()).parts[1]
    torch.testing.assert_close(block, found.strength * clebsch_gordan(1, 1, 0))
