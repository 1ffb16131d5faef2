"""Annotations of shapes are checked while tests run: wrong arrays raise, and tracing is left alone."""

from __future__ import annotations

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


def _drops_a_row(x: Float[Tensor, "rows 3"]) -> Float[Tensor, "rows 3"]:
    return x[1:]


def _takes_an_unknown(x: Unknown | Float[Tensor, " rows"]) -> None:  # noqa: F821
    """Its annotation would be no check at all if it were passed over."""
