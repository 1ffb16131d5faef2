"""Machine code believes what it is told, so what does not fit is refused before."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import equinet
from equinet.nn import EquivariantLinear, SpeciesLinear
from equinet.ops import ClebschGordan, ManyBodySpec, SpeciesGroups, TensorProductSpec, natural_irreps
from equinet.ops.edges import Edges

SPEC = TensorProductSpec("4x0e+4x1o", "0e+1o", "0e+1o")
MANY = ManyBodySpec("4x0e+4x1o", "4x0e", 2, 2)

pytestmark = pytest.mark.usefixtures("unchecked")


def convolution_inputs() -> list[torch.Tensor]:
    return [torch.randn(3, 4, 4), torch.randn(5, 4), torch.randn(5, 4, 4), torch.randint(3, (2, 5))]


@pytest.mark.parametrize(
    ("which", "wrong"),
    [
        (0, torch.randn(3, 3, 4)),
        (0, torch.randn(3, 4, 5)),
        (0, torch.randn(3, 4, 4).double()),
        (1, torch.randn(5, 9)),
        (1, torch.randn(4, 4)),
        (2, torch.randn(5, 3, 4)),
        (2, torch.randn(6, 4, 4)),
    ],
)
def test_a_convolution_refuses_what_does_not_fit(which: int, wrong: torch.Tensor) -> None:
    inputs = convolution_inputs()
    inputs[which] = wrong
    with pytest.raises(ValueError, match="shapes or precisions do not fit together"):
        ClebschGordan("generated").convolution(SPEC)(*inputs)


def test_edges_of_another_graph_are_refused() -> None:
    inputs = convolution_inputs()
    inputs[3] = Edges(torch.randint(3, (2, 5)), 4)
    with pytest.raises(ValueError, match="do not fit together"):
        ClebschGordan("generated").convolution(SPEC)(*inputs)


@pytest.mark.parametrize("wrong", [3, -1])
def test_an_edge_to_a_node_that_is_not_there_is_refused(wrong: int) -> None:
    inputs = convolution_inputs()
    inputs[3][0, 2] = wrong
    with pytest.raises(IndexError, match=f"an edge names node {wrong}, but there are 3 nodes"):
        ClebschGordan("generated").convolution(SPEC)(*inputs)


def test_a_many_body_product_refuses_what_does_not_fit() -> None:
    product = ClebschGordan("generated").many_body(MANY)
    weight, groups = product.initial_weight(), SpeciesGroups(torch.tensor([0, 1, 1]))
    for features in (torch.randn(3, 9, 4), torch.randn(2, 4, 4), torch.randn(3, 4, 4).double()):
        with pytest.raises((ValueError, RuntimeError), match="do not fit together"):
            product(features, weight, groups)


@pytest.mark.parametrize("wrong", [2, -1])
def test_a_species_without_weights_is_refused(wrong: int) -> None:
    groups = SpeciesGroups(torch.tensor([0, wrong, 1]))
    product = ClebschGordan("generated").many_body(MANY)
    with pytest.raises(IndexError, match=f"a node has species {wrong}, but there are weights for 2"):
        product(torch.randn(3, 4, 4), product.initial_weight(), groups)
    irreps = [ir for _, ir in natural_irreps(1)]
    with pytest.raises(IndexError, match=f"a node has species {wrong}, but there are weights for 2"):
        SpeciesLinear(irreps, irreps, 4, 2)(torch.randn(3, 4, 4), groups)


def test_a_linear_map_refuses_what_does_not_fit() -> None:
    linear = EquivariantLinear({ir: 1 for _, ir in natural_irreps(1)}, 4, 4)
    for features in (torch.randn(3, 5, 4), torch.randn(3, 4, 4).double()):
        with pytest.raises(ValueError, match="do not fit together"):
            linear(features)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_process_makes_threads_of_its_own() -> None:
    """In a process by itself, as a test that hangs should hang alone."""
    script = """
import os, torch
from equinet.ops import ClebschGordan, TensorProductSpec
torch.set_num_threads(2)
product = ClebschGordan("generated").convolution(TensorProductSpec("4x0e+4x1o", "0e+1o", "0e+1o"))
run = lambda: product(torch.ones(100, 4, 4), torch.ones(300, 4), torch.ones(300, 4, 4), torch.arange(600).view(2, 300) % 100)
before = run()
child = os.fork()
if child == 0:
    os._exit(0 if torch.equal(run(), before) else 1)
print(os.waitpid(child, 0)[1])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.strip() == "0", done.stderr


OPTIMISED = """
import torch
assert False, "assertions are left out"
from equinet.nn import EquivariantLinear
from equinet.ops import ClebschGordan, GauntGrid, ManyBodySpec, SpeciesGroups, TensorProductSpec, natural_irreps
from equinet.ops.kernels.linear.maps import Block, Plan, mix
from equinet.ops.kernels.linear.operator import outer, product

edges = torch.randint(3, (2, 5))
nodes, harmonics, weight = torch.randn(3, 4, 4), torch.randn(5, 4), torch.randn(5, 4, 4)
spec, groups = TensorProductSpec("4x0e+4x1o", "0e+1o", "0e+1o"), SpeciesGroups(torch.tensor([0, 1, 1]))
many = ClebschGordan("generated").many_body(ManyBodySpec("4x0e+4x1o", "4x0e", 2, 2))
linear = EquivariantLinear({ir: 1 for _, ir in natural_irreps(1)}, 4, 4)
plan = [0, 4, 0, 4], [1.0], 4, 4
for made in (ClebschGordan("generated"), GauntGrid(backend="generated")):
    convolution = made.convolution(spec)
    calls = {
        "features": lambda: convolution(nodes[:, :3], harmonics, weight, edges),
        "channels": lambda: convolution(torch.randn(3, 4, 5), harmonics, weight, edges),
        "harmonics": lambda: convolution(nodes, torch.randn(5, 9), weight, edges),
        "weights": lambda: convolution(nodes, harmonics, weight[:, :3], edges),
        "edges": lambda: convolution(nodes, harmonics[:4], weight, edges),
        "powers": lambda: many(torch.randn(3, 9, 4), many.initial_weight(), groups),
        "powers of other nodes": lambda: many(nodes[:2], many.initial_weight(), groups),
        "linear": lambda: linear(torch.randn(3, 5, 4)),
        "linear map by other weights": lambda: mix(nodes, [torch.randn(8, 4)], Plan((Block(0, 4, 0, 4, 1.0),), 4, 4)),
        "linear operator": lambda: product(nodes, torch.randn(7), None, None, *plan, False, 4),
        "linear outer": lambda: outer(nodes, torch.randn(3, 5, 4), None, None, *plan, 16),
    }
    for name, call in calls.items():
        try:
            call()
        except (ValueError, RuntimeError):
            continue
        print("taken:", name, made)
print("done")
"""


def test_what_does_not_fit_is_refused_without_assertions_too() -> None:
    """In one process of its own, which a wrong size would kill."""
    done = subprocess.run(
        [sys.executable, "-O", "-c", OPTIMISED], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stdout.split("\n")) == (0, ["done", ""]), done.stderr


def test_nothing_that_native_code_relies_on_is_an_assertion() -> None:
    """``python -O`` leaves assertions out; the contracts of ``equinet.testing`` are nothing else, and must hold with it too."""
    package = Path(equinet.__file__).parent
    for folder in ("ops/kernels", "ops/codegen", "testing"):
        sources = sorted((package / folder).rglob("*.py"))
        assert sources
        for source in sources:
            found = [node.lineno for node in ast.walk(ast.parse(source.read_text())) if isinstance(node, ast.Assert)]
            assert not found, f"{source}, lines {found}: raise an error, which `python -O` does not leave out"
