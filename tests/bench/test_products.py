"""Who takes part: every backend, other libraries mapped to our formulas, and nobody is timed who is wrong."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

import pytest
import torch

from equinet.bench.core.record import Settings
from equinet.bench.core.timing import threads
from equinet.bench.peers import cuequivariance, openequivariance, peers
from equinet.bench.peers.e3nn import E3nn
from equinet.bench.products import reference, run
from equinet.bench.products.contenders import Ours, OursBuilt, backends_of, ours
from equinet.bench.products.passes import ALLOWED, PASSES, check, checked_nodes, passes, relative_error
from equinet.bench.products.problems import Problem, pair_problem
from equinet.ops import SO2, Bracket, ClebschGordan, CPDecomposed, GauntGrid, ManyBodySpec, TensorProductSpec
from equinet.ops.kernels.edge.reference import ReferenceConvolution

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def small_roofs(monkeypatch):
    monkeypatch.setattr("equinet.bench.products.ceilings.MATRIX", {"cpu": 64})
    monkeypatch.setattr("equinet.bench.products.ceilings.LARGE", {"cpu": 1 << 18})


CONV = Problem("conv", "conv", TensorProductSpec("3x0e+3x1o+3x2e", "0e+1o+2e", "0e+1o+2e+3o"), 6, 4)
PAIRS = Problem("tp", "tp", TensorProductSpec("3x0e+3x1o+3x1e", "0e+1o", "0e+0o+1o+1e+2e"), 7, 1)  # odd paths too
UUU = Problem("uuu", "tp", TensorProductSpec("3x0e+3x1o+3x1e", "3x0e+3x1o", "0e+0o+1o+1e"), 7, 1)
PRODUCT = Problem("product", "product", ManyBodySpec("3x0e+3x1o", "3x0e+3x1o", 3, 3), 8, 0)
DTYPES = (torch.float32, torch.float64)


def errors_of(contender: Any, problem: Problem, dtype: torch.dtype) -> float:
    found = check(contender.build(problem.spec, dtype, CPU), problem)
    assert set(found.errors) == set(PASSES)
    assert found.nodes == problem.nodes
    return max(found.errors.values())


def test_formulas_path_by_path_are_those_of_the_reference_potential():
    for problem in (CONV, PAIRS):
        spec, index = problem.spec, problem.edge_index()
        x = torch.randn(problem.nodes, spec.irreps_in1.dim // 3, 3, dtype=torch.float64)
        y = torch.randn(problem.edges, spec.irreps_in2.dim, dtype=torch.float64)
        w = torch.randn(problem.edges, len(spec.paths), 3, dtype=torch.float64)
        term_by_term = ReferenceConvolution(spec).double()(x, y, w, index)
        torch.testing.assert_close(reference.convolution(spec, x, y, w, index), term_by_term, rtol=0, atol=1e-13)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("problem", [CONV, PAIRS, UUU], ids=lambda p: p.name)
def test_e3nn_computes_what_the_formulas_say(problem, dtype):
    assert 0 < errors_of(E3nn(), problem, dtype) < ALLOWED[dtype]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("problem", [CONV, PAIRS, PRODUCT], ids=lambda p: p.name)
def test_cuequivariance_computes_what_the_formulas_say(problem, dtype):
    pytest.importorskip("cuequivariance_torch", reason="the second independent library is not installed")
    assert 0 < errors_of(cuequivariance.CuEquivariance("naive", "cpu"), problem, dtype) < ALLOWED[dtype]


@pytest.mark.parametrize("problem", [CONV, PAIRS, UUU, PRODUCT], ids=lambda p: p.name)
def test_ours_compute_what_the_formulas_say(problem):
    for contender in ours(problem, [ClebschGordan(), GauntGrid(bracket=True), SO2()], reference=False):
        if contender.absent is None:
            assert errors_of(contender, problem, torch.float64) < ALLOWED[torch.float64]


def test_polynomials_of_another_space_are_refused():
    spec = PRODUCT.spec
    with pytest.raises(ValueError, match="no combinations of ours"):
        reference.same_polynomials(spec, lambda x: (x[:, 1:2].abs() * torch.ones(1, 4)).unsqueeze(0))
    with pytest.raises(ValueError, match="reach 1 dimensions of"):
        reference.same_polynomials(spec, lambda x: torch.nn.functional.pad(x[:, :1], (0, 3)).unsqueeze(0))


@dataclass(frozen=True)
class WithAnotherBackend(ClebschGordan):
    backend: Literal["auto", "quick", "torch", "reference"] = field(default="auto", metadata={"saved": False})

    def __post_init__(self) -> None:
        pass


def test_backends_are_read_from_the_type_so_that_new_ones_take_part():
    assert backends_of(WithAnotherBackend(), reference=False) == ["quick", "torch"]
    assert backends_of(WithAnotherBackend(), reference=True) == ["quick", "torch", "reference"]
    assert "torch" in backends_of(GauntGrid(), reference=False)
    names = [contender.name for contender in ours(CONV, [GauntGrid()], reference=True)]
    assert names[-1] == "ours: gaunt_grid, reference"


def absences(problem: Problem) -> dict[str, str | None]:
    return {contender.name: contender.absent for contender in [*ours(problem, None, False), *peers(problem, CPU)]}


def test_who_cannot_take_part_says_why():
    found = absences(CONV)
    assert found["ours: cg, torch"] is None
    assert found["ours: so2, torch"] is None
    assert "no coupling here is odd" in str(found["ours: gaunt_grid:bracket, torch"])
    assert "its kernels are for CUDA" in str(found["cuequivariance uniform_1d"])
    assert "its kernels are for CUDA" in str(found["openequivariance"])
    assert "harmonics of directions" in str(absences(PAIRS)["ours: so2, torch"])
    assert absences(PAIRS)["ours: gaunt_grid:bracket, torch"] is None
    assert "as many directions as channels" in str(absences(UUU)["ours: so2, torch"])
    assert "cuequivariance naive" not in absences(UUU)
    scalars = replace(CONV, spec=TensorProductSpec("3x0e", "0e+1o", "0e+1o"))
    assert absences(scalars)["ours: gaunt_grid, torch"] == "features are scalars of one kind, where it is cg"
    assert "a frame needs a direction" in str(absences(PRODUCT)["ours: so2, torch"])
    assert openequivariance.OpenEquivariance("conv", "cuda").absent in (
        None,
        "not installed: pip install openequivariance",
    )


def test_expressivity_tells_unequal_things_apart():
    spec = PAIRS.spec
    of = {m: OursBuilt(m, spec, torch.float64, CPU).expressivity for m in (ClebschGordan(), GauntGrid(), Bracket())}
    full, even, odd = of.values()
    assert full.reached == full.full == len(spec.paths)
    assert even.reached + odd.reached == full.full
    assert (even.odd, odd.odd) == (0, odd.reached)
    assert even.weights < full.weights
    exact = OursBuilt(ClebschGordan(), PRODUCT.spec, torch.float64, CPU)
    assert exact.expressivity.reached == exact.expressivity.weights == exact.executor.weight_numel


class Slightly(Ours):
    """A contender whose values are right and whose gradients are not."""

    name = "slightly wrong"

    def build(self, *given):
        built = super().build(*given)
        bind = built.bind

        def wrong(problem):
            bound = bind(problem)
            call = bound.call
            # adds nothing but a gradient
            bound.call = lambda x, y, w: call(x + 1e-3 * (y.sum() - y.sum().detach()), y, w)
            return bound

        built.bind = wrong
        return built


def test_no_time_is_printed_of_what_is_wrong(monkeypatch):
    monkeypatch.setattr(run, "ours", lambda *given: [Slightly(ClebschGordan("torch")), Ours(ClebschGordan("torch"))])
    monkeypatch.setattr(run, "peers", lambda *given: [])
    record = run.measure([CONV], Settings(rounds=9, budget=0.1))
    (wrong,) = record.of(contender="slightly wrong")
    assert "backward off by" in wrong.wrong
    assert "forward" not in wrong.wrong
    assert wrong.timing is None
    right = record.of(contender="ours: cg, torch")
    assert all(row.wrong is None and row.timing is not None for row in right)
    assert [row.task for row in right] == list(PASSES)
    assert record.problems[0].baseline == right[0].contender


def test_an_approximation_may_err_as_much_as_it_says(monkeypatch):
    rough = CPDecomposed(rank=24)
    monkeypatch.setattr(run, "peers", lambda *given: [])
    record = run.measure([CONV], Settings(rounds=9, budget=0.1), methods=[rough])
    assert {row.contender for row in record.rows} == {"ours: cp:rank=24, generated", "ours: cp:rank=24, torch"}
    for row in record.rows:
        assert row.wrong is None
        assert row.expressivity.approximation > 1e-4
    assert all(row.error > 1e-5 for row in record.of(task="forward"))


class ByAnyMeans(Ours):
    """Its second derivatives are not there."""

    name = "first derivatives only"

    def build(self, *given):
        built = super().build(*given)
        bind = built.bind

        def once(problem):
            bound = bind(problem)
            call = bound.call
            bound.call = lambda *leaves: Once.apply(call, *leaves)
            return bound

        built.bind = once
        return built


class Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx, call, *leaves):
        ctx.call = call
        ctx.save_for_backward(*leaves)
        return call(*leaves)

    @staticmethod
    def backward(ctx, gradient):
        if torch.is_grad_enabled():
            raise RuntimeError("no derivative of the derivative")
        leaves = [leaf.detach().requires_grad_() for leaf in ctx.saved_tensors]
        with torch.enable_grad():
            return None, *torch.autograd.grad(ctx.call(*leaves), leaves, gradient)


def test_a_library_without_second_derivatives_is_listed_with_the_reason(monkeypatch):
    monkeypatch.setattr(run, "ours", lambda *given: [ByAnyMeans(ClebschGordan("torch"))])
    monkeypatch.setattr(run, "peers", lambda *given: [])
    record = run.measure([CONV], Settings(rounds=9, budget=0.1))
    _, backward, double = record.rows
    assert backward.wrong is None
    assert backward.timing is not None
    assert double.timing is None
    assert double.failure == "no derivative of the derivative"


def test_inputs_are_drawn_anew_and_harmonics_stay_harmonics():
    bound = Ours(ClebschGordan("torch")).build(CONV.spec, torch.float32, CPU).bind(CONV)
    before = [leaf.clone() for leaf in bound.leaves]
    runs = passes(bound)
    bound.draw()
    assert all(not torch.equal(a, b) for a, b in zip(before, bound.leaves))
    lengths = bound.leaves[1][:, 1:4].norm(dim=1)
    torch.testing.assert_close(lengths, torch.full_like(lengths, 3**0.5))
    for call in runs.values():
        call()
    body = Ours(ClebschGordan("torch")).build(PRODUCT.spec, torch.float32, CPU).bind(PRODUCT)
    features, weight = (leaf.clone() for leaf in body.leaves)
    body.draw()
    assert not torch.equal(features, body.leaves[0])
    assert torch.equal(weight, body.leaves[1])  # parameters


def test_errors_of_shapes_and_of_what_is_not_finite():
    one = torch.ones(3, dtype=torch.float64)
    assert relative_error([one], [2 * one]) == 0.5
    assert relative_error([one[:2]], [one]) == float("inf")
    assert relative_error([one * float("nan")], [one]) == float("inf")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"only": ["nobody"]}, "no contender contains nobody; there are: ours: cg"),
        ({"only": ["cg, torch"], "baseline": "nobody"}, "`baseline` 'nobody' is the name of no contender; there are"),
    ],
)
def test_nobody_to_measure_is_told(given, message):
    with pytest.raises(ValueError, match=message):
        run.measure([pair_problem("siso", 2, 2, 2)], Settings(rounds=9, budget=0.1), **given)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dtype": "float16"}, "`dtype` must be float32 or float64, got float16"),
        ({"device": "meta"}, "`device` must be cpu or cuda, got meta"),
        ({"threads": 0}, "`threads` must be 1 or more"),
        ({"clock": "sun"}, "`clock` must be wall or cpu, got 'sun'"),
        ({"clock": "cpu", "threads": 2}, "`clock` cpu adds up all threads"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Settings(**settings)


def test_cuda_that_is_not_there_is_refused():
    if torch.cuda.is_available():
        pytest.skip("it is there")
    with pytest.raises(ValueError, match="`device` is cuda, but torch finds no CUDA device here"):
        Settings(device="cuda")


def test_threads_are_given_back():
    before = torch.get_num_threads()
    with threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


def test_large_problems_are_checked_on_fewer_nodes():
    built = Ours(ClebschGordan("torch")).build(CONV.spec, torch.float64, CPU)
    assert checked_nodes(built, CONV) == CONV.nodes
    assert 2 < checked_nodes(built, replace(CONV, nodes=10**7)) < 10**6
    assert checked_nodes(built, replace(CONV, neighbours=10**9)) == 2
