"""What is measured: the papers' microbenchmarks, MACE's products by name, graphs, and operations and bytes by the rule."""

from __future__ import annotations

import pytest
import torch

from equinet.bench.products.ceilings import Ceilings, measure_ceilings
from equinet.bench.products.problems import Problem, degrees_from_text, named_problem, pair_problem
from equinet.bench.products.work import least_bytes, of_passes, useful_flops
from equinet.ops import ManyBodySpec, TensorProductSpec


def test_the_microbenchmarks_of_the_papers():
    assert str(pair_problem("siso", 2, 4, 8).spec) == "4x2e ⊗ 2e, 1 paths: 1 to 2e"
    assert str(pair_problem("siso", 3, 4, 8).spec) == "4x3o ⊗ 3o, 1 paths: 1 to 3e"
    assert [str(out) for out in pair_problem("simo", 2, 4, 8).spec.paths_per_output] == ["0e", "2e", "4e"]
    assert [len(pair_problem("mimo", degree, 4, 8).spec.paths) for degree in range(1, 9)] == [
        4, 11, 23, 42, 69, 106, 154, 215,
    ]  # fmt: skip


def test_outputs_of_one_degree_go_to_twice_that():
    assert max(out.l for out in pair_problem("simo", 8, 1, 8).spec.paths_per_output) == 16


def test_products_of_mace_by_name():
    conv = named_problem("conv", "mace-64x1", 10, 3, 1)
    assert conv.spec == TensorProductSpec("64x0e+64x1o", "0e+1o+2e+3o", "0e+1o+2e+3o")
    assert (conv.nodes, conv.edges, conv.harmonics) == (10, 30, True)
    product = named_problem("product", "mace-8x0", 10, 0, 3)
    assert product.spec == ManyBodySpec("8x0e+8x1o+8x2e+8x3o", "8x0e", 3, 3)
    assert product.edges == 0


def test_a_random_graph_is_regular_sorted_and_nobody_is_its_own_neighbour():
    sender, receiver = Problem("x", "conv", TensorProductSpec("2x0e", "0e", "0e"), 7, 5).edge_index()
    assert torch.bincount(receiver).tolist() == [5] * 7
    assert bool((receiver.diff() >= 0).all())
    assert bool((sender != receiver).all())
    assert int(sender.max()) < 7


def test_pairs_are_multiplied_each_with_its_own():
    sender, receiver = pair_problem("siso", 1, 2, 5).edge_index()
    assert sender.tolist() == receiver.tolist() == list(range(5))


def test_a_smaller_problem_keeps_what_is_computed():
    problem = named_problem("conv", "mace-8x1", 50, 4, 1)
    assert problem.smaller(100) is problem
    assert (problem.smaller(6).nodes, problem.smaller(6).edges, problem.smaller(6).spec) == (6, 24, problem.spec)


def test_degrees_are_written_as_lists_and_ranges():
    assert degrees_from_text("1-3, 5,2") == [1, 2, 3, 5]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: degrees_from_text("3-1"), "`degrees` must read like 3, 1-8 or 1,2,4, got '3-1'"),
        (lambda: degrees_from_text("x"), "`degrees` must read like"),
        (lambda: pair_problem("mimo", 17, 1, 1), "`degrees` must lie in 1 to 16, got 17"),
        (lambda: pair_problem("some", 2, 1, 1), "`mode` must be siso, simo, mimo or uuu, got 'some'"),
        (lambda: named_problem("conv", "mace", 1, 1, 1), "a name is mace-CHANNELSxL, .*mace-64x1"),
        (lambda: named_problem("conv", "mace-8x1", 0, 1, 1), "`nodes` must be 1 or more, got 0"),
        (lambda: named_problem("conv", "mace-8x1", 4, 0, 1), "`neighbours` must be 1 or more, got 0"),
    ],
)
def test_a_mistake_is_told_in_words(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_graph_may_only_name_nodes_that_are_there():
    with pytest.raises(ValueError, match="`graph` names node 4, but there are 3"):
        Problem("x", "conv", TensorProductSpec("2x0e", "0e", "0e"), 3, 1, graph=torch.tensor([[0, 4], [1, 2]]))


def test_useful_operations_of_convolutions_counted_by_hand():
    # 1o x 1o -> 0e: 3 coefficients; matrix 3 x 1, all of it; the weight multiplies the one output.
    channels = 64
    assert useful_flops(TensorProductSpec("64x1o", "1o", "0e")) == 2 * 3 + channels * (2 * 3 + 1)
    # With one channel nothing is shared: three operations for each coefficient.
    assert useful_flops(TensorProductSpec("1x1o", "1o", "0e")) == 3 * 3 + 1
    # MACE's: 172 per channel, and 172 for what channels share.
    assert useful_flops(named_problem("conv", "mace-64x1", 1, 1, 1).spec) == 64 * 172 + 172


def test_useful_operations_of_a_many_body_product_counted_by_hand():
    # s and |v|^2: s, s^2, and x^2, y^2, z^2: 5 terms of 2, and 4 monomials of degree 2.
    assert useful_flops(ManyBodySpec("3x0e+3x1o", "3x0e", 2, 1)) == 3 * (2 * 5 + 4)


def test_passes_count_three_and_nine_times():
    assert of_passes(2.0) == {"forward": 2.0, "backward": 6.0, "double": 18.0}
    assert of_passes(None) == {"forward": None, "backward": None, "double": None}


def test_least_bytes_count_every_tensor_once_a_pass():
    x, y, out = torch.zeros(10), torch.zeros(5), torch.zeros(3)
    found = least_bytes([x, y], out, indices=16)
    assert found["forward"] == 4 * 15 + 12 + 16
    assert found["backward"] == found["forward"] + (4 * 15 + 12) + 4 * 15 + 16
    assert found["double"] == found["backward"] + (4 * 15 + 12 + 4 * 15) + 4 * 15 + 16
    assert least_bytes([x.double()], out.double(), 0)["forward"] == 8 * 13


def test_a_roof_is_the_slower_of_operations_and_bytes():
    roofs = Ceilings(flops=100.0, bandwidth=10.0, in_cache=20.0, bytes=64)
    assert roofs.seconds(200.0, 20.0) == 2.0
    assert roofs.seconds(10.0, 60.0) == 3.0
    assert roofs.fraction(None, 60.0, 6.0) == 0.5


def test_roofs_are_measured(monkeypatch):
    monkeypatch.setattr("equinet.bench.products.ceilings.MATRIX", {"cpu": 16})
    monkeypatch.setattr("equinet.bench.products.ceilings.LARGE", {"cpu": 1 << 16})
    roofs = measure_ceilings(1000, torch.float64, torch.device("cpu"), budget=0.05)
    assert min(roofs.flops, roofs.bandwidth, roofs.in_cache) > 0
