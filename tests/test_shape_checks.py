"""Annotations of shapes are checked while tests run: wrong arrays raise, and tracing is left alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import shape_checks
import torch
from e3nn import o3
from jaxtyping import Float, TypeCheckError
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from equinet.graph.atomic_graph import edge_vectors
from equinet.nn.radial import envelope
from equinet.ops.coupling.quadrature import SphereRule
from equinet.ops.layout import to_mul_ir

POSITIONS, EDGE_INDEX, SHIFTS = torch.eye(3), torch.tensor([[0, 1], [1, 2]]), torch.zeros(2, 3)


def test_right_arrays_pass():
    assert edge_vectors(POSITIONS, EDGE_INDEX, SHIFTS).shape == (2, 3)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ((POSITIONS[:, :2], EDGE_INDEX, SHIFTS), "positions"),
        ((POSITIONS, EDGE_INDEX.T.repeat(2, 1), SHIFTS), "edge_index"),
        ((POSITIONS, EDGE_INDEX, torch.zeros(1, 3)), "shifts"),
        ((POSITIONS, EDGE_INDEX.double(), SHIFTS), "edge_index"),
        ((POSITIONS.long(), EDGE_INDEX, SHIFTS), "positions"),
        ((POSITIONS.numpy(), EDGE_INDEX, SHIFTS), "positions"),
    ],
    ids=[
        "axis of fixed size",
        "another fixed size",
        "axes of one name",
        "kind of dtype",
        "integers for floats",
        "numpy",
    ],
)
def test_an_array_of_another_shape_or_dtype_raises_and_is_named(arguments, named):
    with pytest.raises(TypeCheckError, match=f"typechecking parameter '{named}'"):
        edge_vectors(*arguments)


def test_results_are_checked_against_the_axes_of_the_arguments():
    assert to_mul_ir(torch.zeros(4, 3, 2), o3.Irreps("2x1o")).shape == (4, 6)
    wrong = shape_checks.checked(_drops_a_row)
    with pytest.raises(TypeCheckError, match="return value"):
        wrong(torch.zeros(2, 3))


def test_arrays_of_dataclasses_are_checked():
    with pytest.raises(TypeCheckError, match="typechecking parameter 'weights'"):
        SphereRule("two points", 0, np.zeros((2, 3)), np.zeros(3))


def test_nothing_is_checked_while_a_graph_is_written_down():
    graph = make_fx(lambda x: envelope(x, 6), tracing_mode="symbolic")(torch.rand(3))
    assert graph(torch.rand(5)).shape == (5,)


def test_torch_compile_reads_a_checked_function():
    compiled = torch.compile(envelope, fullgraph=True, backend="eager")
    assert torch.equal(compiled(POSITIONS, 6), envelope(POSITIONS, 6))


def test_checks_can_be_left_out_for_what_equinet_itself_refuses():
    with shape_checks.unchecked():
        assert edge_vectors(POSITIONS, EDGE_INDEX, SHIFTS[:1]).shape == (2, 3)
    with pytest.raises(TypeCheckError):
        edge_vectors(POSITIONS, EDGE_INDEX, SHIFTS[:1])


def test_a_package_that_is_imported_already_cannot_be_checked():
    with pytest.raises(RuntimeError, match="imported already"):
        shape_checks.install("equinet")


def test_an_annotation_that_cannot_be_evaluated_raises():
    with pytest.raises(NameError, match="Unknown"):
        shape_checks.checked(_takes_an_unknown)(torch.zeros(1))


@pytest.mark.parametrize("wrong", [torch.zeros(2, 4), torch.zeros(3), torch.zeros(2, 3).long(), np.zeros((2, 3)), None])
def test_a_call_that_passed_excuses_only_calls_of_the_same_shapes_and_dtypes(wrong):
    function = shape_checks.checked(_copies)
    for rows in (1, 2, 2):
        assert function(torch.zeros(rows, 3)).shape == (rows, 3)
    for _ in range(2):
        with pytest.raises(TypeCheckError, match="typechecking parameter 'x'"):
            function(wrong)
    with pytest.raises(TypeCheckError, match="typechecking parameter 'x'"):
        function(x=wrong)


@pytest.mark.parametrize(
    "wrong", [torch.zeros(3, 3), torch.zeros(2, 3).double().long(), None, np.zeros((2, 3)), (torch.zeros(2, 3),)]
)
def test_every_new_kind_of_result_is_checked_though_the_arguments_passed_before(wrong):
    function = shape_checks.checked(_gives)
    assert function(torch.zeros(2, 3), torch.ones(2, 3)).shape == (2, 3)
    for _ in range(2):
        with pytest.raises(TypeCheckError, match="return value"):
            function(torch.zeros(2, 3), wrong)
    assert function(torch.zeros(2, 3), torch.ones(2, 3)).shape == (2, 3)
    assert function(torch.zeros(3, 3), torch.ones(3, 3)).shape == (3, 3)
    with pytest.raises(TypeCheckError, match="return value"):
        function(torch.zeros(3, 3), torch.ones(2, 3))


def test_results_of_tuples_are_told_apart_by_their_items():
    function = shape_checks.checked(_gives_two)
    assert function(torch.zeros(2, 3), (torch.zeros(2), None)) is not None
    for wrong in ((torch.zeros(3), None), (torch.zeros(2), torch.zeros(3)), (torch.zeros(2),), [torch.zeros(2), None]):
        with pytest.raises(TypeCheckError, match="return value"):
            function(torch.zeros(2, 3), wrong)


def test_axes_computed_from_values_and_lists_are_checked_at_every_call():
    computed, listed = shape_checks.checked(_harmonics), shape_checks.checked(_first)
    x = torch.zeros(3)
    assert computed(1, x) is x
    with pytest.raises(TypeCheckError, match="return value"):
        computed(2, x)
    assert listed([x]) is x
    with pytest.raises(TypeCheckError, match="typechecking parameter 'each'"):
        listed([x[None]])


def test_the_function_runs_once_whether_its_result_is_known_or_new():
    calls = []
    function = shape_checks.checked(_noting(calls))
    for rows, size in ((2, 2), (2, 2), (2, 3)):
        function(torch.zeros(rows), size)
    assert calls == [2, 2, 3]


def _copies(x: Float[Tensor, "rows 3"]) -> Float[Tensor, "rows 3"]:
    return x.clone()


def _gives(x: Float[Tensor, "rows 3"], result: Any) -> Float[Tensor, "rows 3"]:
    return result


def _gives_two(x: Float[Tensor, "rows 3"], result: Any) -> tuple[Float[Tensor, " rows"], Float[Tensor, " rows"] | None]:
    return result


def _harmonics(degree: int, x: Tensor) -> Float[Tensor, "2*{degree}+1"]:  # noqa: F821
    return x


def _first(each: list[Float[Tensor, " rows"]]) -> Tensor:
    return each[0]


def _noting(calls: list[int]) -> Callable[..., Tensor]:
    def function(x: Float[Tensor, " rows"], size: int) -> Float[Tensor, " size"]:
        calls.append(size)
        return x.new_zeros(size)

    return function


def _drops_a_row(x: Float[Tensor, "rows 3"]) -> Float[Tensor, "rows 3"]:
    return x[1:]


def _takes_an_unknown(x: Unknown | Float[Tensor, " rows"]) -> None:  # noqa: F821
    """Its annotation would be no check at all if it were passed over."""
