"""Powers at points by kernels for GPUs: against torch in every derivative, as torch operators, and as the compiler makes them.

Where there is no GPU the kernels are run by Triton's interpreter, which computes the same, slowly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from assembling import assemble, tiles_as_on_a_gpu
from torch import Tensor, library, nn

from equinet.ops import Bracket, CPDecomposed, GauntFourier, GauntGrid, ManyBodySpec, MatrixProduct, SpeciesGroups
from equinet.ops.codegen import tiles
from equinet.ops.coupling.quadrature import smallest_rule, smallest_rule_in_pairs
from equinet.ops.factorised.algebra import harmonics_at
from equinet.ops.factorised.chains import AlgebraChain, PointKernels, StreamedPowers
from equinet.ops.factorised.powers import PowerManyBody
from equinet.ops.kernels.power import gpu as power_gpu
from equinet.ops.kernels.power import operator as power_operator
from equinet.ops.kernels.power.gpu import KINDS, Form, fold, form_of, unfold

pytestmark = pytest.mark.skipif(tiles.unavailable() is not None, reason=str(tiles.unavailable()))
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}
VECTOR, SCALARS, PLAIN = "eooo", "ee", "...."
FORMS = [
    Form("power", (VECTOR,), 3, "oooe"),
    Form("power", ("oo",), 4, "eo"),  # only one kind of rows
    Form("power", (PLAIN,), 2, ".."),
    Form("product", (VECTOR, SCALARS), 4, "oe"),
    Form("product", (PLAIN, ".."), 3, "..."),
    Form("bracket", (VECTOR, "oeee", "ooe", "eeo", "eeo"), 3, "eo"),
    Form("bracket", (VECTOR, "oeee", "ooe", "eeo", "eeo"), 2, "o"),  # nothing is multiplied further
    Form("bracket", (PLAIN, PLAIN, "..", "..", ".."), 4, ".."),
]


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def random_case(
    form: Form, device: torch.device, nodes: int = 5, channels: int = 3, dtype: torch.dtype = torch.float64
) -> tuple[list[Tensor], Tensor]:
    """Fields and a table of three rows."""
    names = [name for name in "uv" if name in KINDS[form.kind][0]]
    fields = [torch.randn(nodes, form.rows(name), channels, dtype=dtype) for name in names]
    table = torch.randn(3, sum(form.columns), dtype=dtype)
    return [each.to(device).requires_grad_() for each in fields], table.to(device)


def derivatives(value: Tensor, leaves: Sequence[Tensor], order: int) -> list[Tensor]:
    """The value, and the gradients of a random combination of gradients of ... of it."""
    found, draw = [value], torch.Generator().manual_seed(1)
    latest = [value]
    for _ in range(order):
        weighted = [each * torch.randn(each.shape, generator=draw, dtype=each.dtype).to(each.device) for each in latest]
        total = torch.stack([each.sum() for each in weighted]).sum() + latest[0].square().sum()
        latest = list(torch.autograd.grad(total, leaves, create_graph=True, materialize_grads=True))
        found += latest
    return [each.detach() for each in found]


def assert_alike(found: Sequence[Tensor], expected: Sequence[Tensor], tolerance: float) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.shape == theirs.shape
        difference = (ours.double() - theirs.double()).norm() if ours.numel() else torch.zeros(())
        assert difference <= tolerance * theirs.double().norm()


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_every_derivative_agrees_with_torch(form: Form, gpu: torch.device) -> None:
    fields, table = random_case(form, gpu)
    found = derivatives(power_operator.value(fields, table, form), fields, 3)
    expected = derivatives(power_operator.value_in_torch(fields, table, form), fields, 3)
    assert_alike(found, expected, 1e-12)
    assert all(each.abs().max() > 1e-3 for each in expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("nodes", "channels"), [(0, 3), (1, 1), (5, 40), (3, 128), (4100, 1)])
def test_any_number_of_nodes_and_channels(nodes: int, channels: int, dtype: torch.dtype, gpu: torch.device) -> None:
    for form in (FORMS[0], FORMS[4]):
        fields, table = random_case(form, gpu, nodes, channels, dtype)
        found = derivatives(power_operator.value(fields, table, form), fields, 2)
        exact = [each.detach().double().requires_grad_() for each in fields]
        expected = derivatives(power_operator.value_in_torch(exact, table.double(), form), exact, 2)
        if dtype == torch.float64:
            assert_alike(found, expected, 1e-12)
        else:  # random factors are others in float32, so here only what needs none
            assert_alike(found[:1], expected[:1], 1e-6)


def test_float32_errs_no_more_than_torch(gpu: torch.device) -> None:
    form = FORMS[3]
    fields, table = random_case(form, gpu, 50, 32, torch.float32)
    exact = [each.detach().double().requires_grad_() for each in fields]
    expected = first_and_second(power_operator.value_in_torch(exact, table.double(), form), exact)
    theirs = first_and_second(power_operator.value_in_torch(fields, table, form), fields)
    for ours, torch_, right in zip(
        first_and_second(power_operator.value(fields, table, form), fields), theirs, expected, strict=True
    ):
        assert (ours.double() - right).norm() < 2 * (torch_.double() - right).norm() + 1e-7 * right.norm()


def first_and_second(value: Tensor, leaves: Sequence[Tensor]) -> list[Tensor]:
    first = torch.autograd.grad(value.square().sum(), leaves, create_graph=True)
    second = torch.autograd.grad(torch.stack([each.square().sum() for each in first]).sum(), leaves)
    return [value.detach(), *(each.detach() for each in first), *second]


def test_expanded_gradients_and_strided_fields(gpu: torch.device) -> None:
    form = FORMS[3]
    (u, v), table = random_case(form, gpu)
    strided = u.detach().transpose(1, 2).contiguous().transpose(1, 2).requires_grad_()
    for run in (power_operator.value, power_operator.value_in_torch):
        gradients = torch.autograd.grad(run([strided, v.expand(5, -1, -1)], table, form).sum(), (strided, v))
        if run is power_operator.value:
            found = gradients
    assert_alike(found, gradients, 1e-13)


def test_numerical_derivatives(gpu: torch.device) -> None:
    form = Form("product", ("eo", "e"), 3, "o")
    fields, table = random_case(form, gpu, 1, 1)
    assert torch.autograd.gradgradcheck(lambda *fields: power_operator.value(fields, table, form), fields)


def test_only_one_field_needs_a_gradient(gpu: torch.device) -> None:
    (u, v), table = random_case(FORMS[3], gpu)
    for chosen, fields in ((u, [u, v.detach()]), (v, [u.detach(), v])):
        found = derivatives(power_operator.value(fields, table, FORMS[3]), [chosen], 2)
        assert_alike(found, derivatives(power_operator.value_in_torch(fields, table, FORMS[3]), [chosen], 2), 1e-12)


def test_results_are_the_same_bits_every_time(gpu: torch.device) -> None:
    fields, table = random_case(FORMS[5], gpu, 50, 32, torch.float32)
    runs = [first_and_second(power_operator.value(fields, table, FORMS[5]), fields) for _ in range(2)]
    assert all(torch.equal(one, other) for one, other in zip(*runs, strict=True))


def test_operators_keep_torchs_rules(gpu: torch.device) -> None:
    form = Form("product", ("eo", "e"), 2, "o")
    fields, table = random_case(form, gpu, 2, 2)
    g = torch.randn_like(power_operator.value(fields, table, form)).requires_grad_()
    changes = [torch.randn_like(each).requires_grad_() for each in fields]
    operators, rest = power_operator.OPERATORS[2], (*fields, table, str(form))
    library.opcheck(operators.value, rest)
    library.opcheck(operators.gradient, (g, *rest))
    library.opcheck(operators.double_backward, (*changes, g, *rest))


def test_what_the_operators_refuse(gpu: torch.device) -> None:
    fields, table = random_case(FORMS[3], gpu)
    with pytest.raises(RuntimeError, match="`table` requires gradients, and this operator has none in it"):
        power_operator.value(fields, table.requires_grad_(), FORMS[3])
    table = table.detach()
    for wrong in ([fields[0]], [fields[1], fields[0]], [fields[0], fields[1][:2]], [fields[0], fields[1].float()]):
        with pytest.raises(ValueError, match="do not fit together"):
            power_operator.value(wrong, table, FORMS[3])
    with pytest.raises(ValueError, match="do not fit together"):
        power_operator.value(fields, table[:, 1:], FORMS[3])


def test_on_a_cpu_the_operator_says_that_it_is_for_gpus() -> None:
    fields, table = random_case(FORMS[3], torch.device("cpu"))
    with pytest.raises(RuntimeError, match="this operator is for GPUs, and was given tensors on cpu"):
        power_operator.value(fields, table, FORMS[3])


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_a_form_is_read_as_it_is_written(form: Form) -> None:
    assert form_of(str(form)) == form


# Opposite points.


@pytest.mark.parametrize("degree", [*range(20), 35])
def test_rules_for_kernels_are_in_pairs(degree: int) -> None:
    rule = smallest_rule_in_pairs(degree)
    assert rule.in_pairs
    assert rule.degree >= degree
    assert len(rule.points) <= 2 * len(smallest_rule(degree).points)
    values = harmonics_at(rule.points, 3)
    letters = "eoooeeeeeooooooo"
    table, found = fold([values, values * torch.tensor(rule.weights).unsqueeze(1)], [letters, letters])
    assert found == [letters, letters]
    assert 2 * len(table) == len(rule.points)
    whole = torch.cat(unfold(table, Form("power", (letters,), 2, letters)), dim=1)
    expected = torch.cat([values, values * torch.tensor(rule.weights).unsqueeze(1)], dim=1)
    nearest = torch.cdist(whole, expected, p=torch.inf)
    assert nearest.amin(0).max() < 1e-13
    assert nearest.amin(1).max() < 1e-13


def test_rules_without_pairs_are_known() -> None:
    assert [degree for degree in range(16) if not smallest_rule(degree).in_pairs] == [2, 6, 7, 12, 13, 14]
    assert not smallest_rule(132).in_pairs  # an odd number of longitudes
    assert smallest_rule_in_pairs(132).in_pairs
    lopsided = replace(smallest_rule(3), weights=smallest_rule(3).weights * [1, 1, 1, 1, 1, 1 + 1e-9])
    assert not lopsided.in_pairs


@pytest.mark.parametrize("method", [GauntGrid(), Bracket()])
@pytest.mark.parametrize("irreps", ["1x0e+1x1o", "1x0e+1x1o+1x2e+1x3o", "1x1o+1x1e+1x2e+1x2o", "1x0e+1x1e"])
def test_chains_on_the_sphere_take_pairs(method: GauntGrid | Bracket, irreps: str) -> None:
    for correlation in (2, 3, 4):
        executor = method.many_body(ManyBodySpec(irreps, irreps, correlation, 1))
        streamed = [part for part in executor.modules() if isinstance(part, StreamedPowers)]
        assert streamed
        assert all(part.form(correlation).sides == "pm" for part in streamed)


def test_a_point_with_several_opposites_takes_one() -> None:
    """Pseudovectors alone: at the opposite point they are what they are on the other sheet."""
    chain = GauntGrid().power(ManyBodySpec("1x1e", "1x0e+1x2e", 2, 1)).chain.double()  # type: ignore[union-attr]
    assert chain.on_gpu.of_one.form(2).sides == "pm"
    x = torch.randn(4, 3, 2, dtype=torch.float64)
    found = power_operator.value_in_torch([x], chain.on_gpu.of_one.table, chain.on_gpu.of_one.form(2))
    assert_alike(list(found.unbind(1)), chain.products(x, x, 2), 1e-13)


def test_pairs_of_unequal_weight_are_no_pairs() -> None:
    rule = smallest_rule_in_pairs(5)
    weights = torch.tensor(rule.weights).unsqueeze(1)
    tables = [harmonics_at(rule.points, 1), harmonics_at(rule.points, 1) * weights]
    assert len(fold(tables, [VECTOR, VECTOR])[0]) == 6
    tables[1][4] *= 1 + 1e-9
    whole, letters = fold(tables, [VECTOR, VECTOR])
    assert letters == [PLAIN, PLAIN]
    assert torch.equal(whole, torch.cat(tables, dim=1))
    assert fold([torch.randn(8, 4).double(), torch.randn(8, 1).double()], [VECTOR, "e"])[1] == [PLAIN, "."]


# Executors.

EXECUTORS = [
    (GauntGrid(), "3x0e+3x1o", "3x0e+3x1o", 3),
    (GauntGrid(copies=2), "3x0e+3x1o+3x1e", "3x0e+3x1o+3x1e+3x0o", 4),
    (GauntGrid(), "3x0e+3x1o+3x2e", "3x0e+3x1o+3x2e", 2),
    (GauntGrid(), "3x0e+3x1o+3x2e+3x3o", "3x0e+3x1o", 3),
    (GauntGrid(bracket=True), "3x1o+3x2e", "3x0e+3x1e", 3),
    (Bracket(), "3x1o+3x1e", "3x1o+3x1e", 4),
    (CPDecomposed(rank=7), "3x0e+3x1o", "3x0e+3x1o+3x2e", 3),
    (CPDecomposed(rank=5, copies=2), "3x0e+3x1o+3x1e", "3x1e", 2),
]


def built(method: object, spec: ManyBodySpec, device: torch.device, dtype: torch.dtype) -> nn.Module:
    return method.many_body(spec).to(device, dtype)  # type: ignore[attr-defined]


def run_executor(executor: nn.Module, nodes: int, dtype: torch.dtype, device: torch.device) -> list[Tensor]:
    """Result, first and second gradients in features and weights."""
    spec, draw = executor.spec, torch.Generator().manual_seed(3)
    numel = executor.weight_numel
    x = torch.randn(nodes, spec.irreps_in.dim // spec.channels, spec.channels, generator=draw, dtype=torch.float64)
    weight = torch.randn(2, numel, spec.channels, generator=draw, dtype=torch.float64)
    leaves = [each.to(device, dtype).requires_grad_() for each in (x, weight)]
    groups = SpeciesGroups((torch.arange(nodes) % 2).to(device))
    return first_and_second(executor(*leaves, groups), leaves)


@pytest.mark.parametrize(
    ("method", "irreps_in", "irreps_out", "correlation", "dtype"),
    [(*case, torch.float64) for case in EXECUTORS] + [(*case, torch.float32) for case in EXECUTORS[::3]],
)
def test_executors_agree_with_torch(
    method: object, irreps_in: str, irreps_out: str, correlation: int, dtype: torch.dtype, gpu: torch.device
) -> None:
    spec = ManyBodySpec(irreps_in, irreps_out, correlation, 2)
    executor = built(method, spec, gpu, dtype)
    with without_kernels():
        expected = run_executor(built(method, spec, gpu, torch.float64), 5, torch.float64, gpu)
    with counted() as calls:
        found = run_executor(executor, 5, dtype, gpu)
    assert {"value", "gradient", "double_backward"} <= set(calls)
    assert_alike(found, expected, TOLERANCE[dtype])
    empty = torch.zeros(0, spec.irreps_in.dim // 3, 3, dtype=dtype, device=gpu)
    groups = SpeciesGroups(torch.zeros(0, dtype=torch.int64, device=gpu))
    weight = torch.zeros(2, executor.weight_numel, 3, dtype=dtype, device=gpu)
    assert executor(empty, weight, groups).shape == (0, spec.irreps_out.dim // 3, 3)


class without_kernels:  # reads as a statement
    """Executors take their way for a CPU."""

    def __enter__(self) -> None:
        self._patch = pytest.MonkeyPatch()
        self._patch.setattr(tiles, "runs_on", lambda *_: False)

    def __exit__(self, *_: object) -> None:
        self._patch.undo()


class counted:
    """Names of the kernels that ran."""

    def __enter__(self) -> list[str]:
        calls: list[str] = []
        run: Callable[..., None] = power_gpu.run
        self._patch = pytest.MonkeyPatch()
        self._patch.setattr(power_gpu, "run", lambda function, *rest: (calls.append(function), run(function, *rest)))
        return calls

    def __exit__(self, *_: object) -> None:
        self._patch.undo()


@pytest.mark.parametrize("method", [method for method, *_ in EXECUTORS[:1] + EXECUTORS[4:7]])
def test_the_backend_torch_has_no_kernels(method: GauntGrid, gpu: torch.device) -> None:
    spec = ManyBodySpec("2x0e+2x1o", "2x0e+2x1o+2x1e", 3, 2)
    for backend in ("torch", "reference"):
        executor = built(type(method)(**{**vars(method), "backend": backend}), spec, gpu, torch.float64)
        assert not any(isinstance(part, StreamedPowers) for part in executor.modules())
        assert "kernels" not in repr(executor)
        with counted() as calls:
            run_executor(executor, 3, torch.float64, gpu)
        assert calls == []


def test_a_representation_says_where_kernels_run(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = ManyBodySpec("2x0e+2x1o", "2x0e+2x1o", 3, 2)
    gaunt, terms = GauntGrid().many_body(spec), CPDecomposed(rank=6).many_body(spec)
    assert "(of_one): StreamedPowers(12 points, in pairs; on GPUs by kernels)" in repr(gaunt)
    assert "TermChain(\n    on GPUs by kernels" in repr(terms)
    monkeypatch.setattr(tiles, "unavailable", lambda: "Triton is not there")
    assert "on GPUs by torch too: Triton is not there" in repr(gaunt)
    assert "kernels" not in repr(terms)


def test_which_transforms_have_kernels() -> None:
    spec = ManyBodySpec("2x0e+2x1o+2x2e+2x3o", "2x3o", 4, 2)  # degree 15: in steps on a CPU
    chains = [
        method.many_body(spec).chain
        for method in (GauntGrid(), GauntGrid(transform="separable"), GauntFourier(), MatrixProduct())
    ]
    assert all(type(chain) is AlgebraChain for chain in chains)
    assert [chain.in_kernel for chain in chains] == [True, False, False, False]
    u, v = torch.randn(2, 3, 16, 2)
    ours, theirs = chains[0].on_gpu.of_two, chains[1]
    found = power_operator.value_in_torch([u, v], ours.table, ours.form(4))
    assert_alike(list(found.unbind(1)), theirs.products(u, v, 4), 1e-5)


def test_two_fields_in_a_pointwise_chain(gpu: torch.device) -> None:
    """As when a product's maps are read off: the same numbers, but not one tensor."""
    chain = GauntGrid().power(ManyBodySpec("2x0e+2x1o", "2x0e+2x1o", 3, 2)).chain.to(gpu, torch.float64)  # type: ignore[union-attr]
    u, v = torch.randn(2, 3, 4, 2, dtype=torch.float64, device=gpu)
    for other in (v, u.clone(), u):
        with counted() as calls:
            found = chain.products(u, other, 3)
        assert calls == ["value"]
        assert_alike(found, chain.products_in_torch(u, other, 3), 1e-13)


def test_a_table_for_kernels_needs_one_way_to_the_points() -> None:
    chain = GauntGrid().power(ManyBodySpec("2x0e+2x1o", "2x0e+2x1o", 3, 2)).chain  # type: ignore[union-attr]
    points = chain.algebra
    points.register_constant("to_right", 2 * points._originals["to_right"])
    factor = ManyBodySpec("1x0e+1x1o", "1x0e+1x1o", 2, 1).irreps_in
    with pytest.raises(ValueError, match="`points` must take both of its inputs to values in the same way"):
        PointKernels(points, factor, factor)


def test_trained_factors_get_their_gradient(gpu: torch.device) -> None:
    method = CPDecomposed(rank=5, factors="trainable")
    executor = built(method, ManyBodySpec("2x0e+2x1o", "2x0e+2x1o", 3, 2), gpu, torch.float64)
    with counted() as calls:
        run_executor(executor, 3, torch.float64, gpu)
        x = torch.randn(3, 4, 2, dtype=torch.float64, device=gpu)
        weight = torch.randn(2, executor.weight_numel, 2, dtype=torch.float64, device=gpu)
        value = executor(x, weight, SpeciesGroups(torch.zeros(3, dtype=torch.int64, device=gpu)))
    assert calls == []
    gradients = torch.autograd.grad(value.square().sum(), list(executor.parameters()))
    assert len(gradients) == 3
    assert all(gradient.abs().max() > 0 for gradient in gradients)


def test_factors_that_are_loaded_are_those_that_count(gpu: torch.device) -> None:
    spec = ManyBodySpec("2x0e+2x1o", "2x0e+2x1o", 3, 2)
    one, other = (
        built(CPDecomposed(rank=6, backend=backend), spec, gpu, torch.float64) for backend in ("auto", "torch")
    )
    run_executor(one, 2, torch.float64, gpu)
    state = {name: 1.5 * value for name, value in other.state_dict().items()}
    assert set(state) == set(one.state_dict())  # a model saved by one is read by the other
    one.load_state_dict(state)
    other.load_state_dict(state)
    assert_alike(run_executor(one, 2, torch.float64, gpu), run_executor(other, 2, torch.float64, gpu), 1e-12)


def test_constants_come_back_from_another_precision(gpu: torch.device) -> None:
    executor = built(GauntGrid(), ManyBodySpec("2x0e+2x1o", "2x0e+2x1o", 3, 2), gpu, torch.float64)
    before = run_executor(executor, 2, torch.float64, gpu)
    after = run_executor(executor.float().double(), 2, torch.float64, gpu)
    assert all(torch.equal(one, two) for one, two in zip(before, after, strict=True))
    assert isinstance(executor, PowerManyBody)


def test_a_chain_is_one_graph_for_torchs_compiler(gpu: torch.device) -> None:
    chain = GauntGrid().power(ManyBodySpec("2x0e+2x1o", "2x0e+2x1o", 3, 2)).chain.to(gpu, torch.float64)  # type: ignore[union-attr]
    x = torch.randn(3, 4, 2, dtype=torch.float64, device=gpu)
    compiled = torch.compile(chain.on_gpu.of_one, fullgraph=True, backend="aot_eager")
    assert_alike(compiled([x], 3), chain.products(x, x, 3), 1e-13)


# What the compiler makes of the kernels, which needs no GPU.

F = "eoooeeeeeooooooo"


def test_no_kernel_of_a_usual_size_spills() -> None:
    cases = [
        (f"power {F} ^ 3 -> eooo", 25, "float32", 80),
        (f"power {F} ^ 3 -> eooo", 25, "float32", 90),
        (f"power {F} ^ 4 -> eoooeeeee", 43, "float32", 90),
        (f"product {F} {F} ^ 4 -> eoooeeeee", 43, "float32", 80),
        (f"product {'.' * 16} {'.' * 16} ^ 2 -> {'.' * 16}", 64, "float32", 90),
        (f"bracket {F[:9]} {'oeeeooooo'} {'oeeeooooo'} {F[:9]} {F[:9]} ^ 3 -> eooo", 16, "float32", 80),
        (f"power {F[:9]} ^ 3 -> eooo", 16, "float64", 80),
        (f"power {F} ^ 3 -> eooo", 25, "float64", 90),
        ("power e ^ 2 -> e", 1, "float32", 90),
    ]
    found = []
    for text, points, name, capability in cases:
        dtype = getattr(torch, name)
        for function in ("value", "gradient", "double_backward"):
            with tiles_as_on_a_gpu():
                numbers = power_gpu.numbers_for(form_of(text), function, dtype, 10**9)
                made = assemble(power_gpu.kernel_for(function, text, dtype, points, 128, numbers), capability)
            what = (text, function, name, capability, numbers)
            found.append([*what, made.registers, made.spilled, made.conversions, made.shared])
    assert len(found) == 3 * len(cases)
    for *what, registers, spilled, conversions, shared in found:
        assert (spilled, conversions, shared) == (0, 0, 0), what
        assert registers <= 224, what
    # Numbers of a thread: as many as there is room for.
    several = {(text, function): numbers // 32 for text, function, *_, numbers, _, _, _, _ in found[:6]}
    assert set(several.values()) == {2, 4}
