"""The many-body product: nested form against the reference form, derivatives, odd batches, and a cache that is never stale."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from e3nn import o3
from torch import Tensor, nn

from equinet.ops import ClebschGordan, ManyBodySpec, SpeciesGroups, natural_irreps
from equinet.ops.kernels.node.executor import GeneratedManyBody
from equinet.ops.kernels.node.reference import HornerManyBody, ReferenceManyBody

FORMS = [HornerManyBody, ReferenceManyBody]

# features, result, correlation; two channels more or less so that odd numbers occur
SPECS = {
    "linear": ("3x0e+3x1o+3x2e", "3x0e+3x1o", 1),
    "invariants": ("2x0e+2x1o+2x2e+2x3o", "2x0e", 3),
    "vectors": ("1x0e+1x1o+1x2e", "1x0e+1x1o", 3),
    "up to degree 2": ("5x0e+5x1o+5x2e", "5x0e+5x1o+5x2e", 2),
    "degree 2 alone": ("2x0e+2x1o", "2x2e", 3),
    "four factors": ("3x0e+3x1o+3x2e", "3x0e", 4),
    "four factors with vectors": ("2x0e+2x1o", "2x0e+2x1o+2x2e", 4),
    "scalars": ("1x0e", "1x0e", 4),
    "no scalar": ("2x1o+2x2e", "2x1o+2x0e", 3),
    "unnatural": ("2x0o+2x1e+2x1o", "2x0e+2x1e", 2),
}
SPECIES = torch.tensor([2, 0, 2, 2, 0])  # of three: one is missing


def spec_of(name: str, species: int = 3) -> ManyBodySpec:
    return ManyBodySpec(*SPECS[name], species=species)


def random_inputs(
    spec: ManyBodySpec, species: Tensor, dtype: torch.dtype = torch.float64, seed: int = 0
) -> tuple[Tensor, Tensor, SpeciesGroups]:
    torch.manual_seed(seed)
    paths = ReferenceManyBody(spec).weight_numel
    features = torch.randn(len(species), spec.irreps_in.dim // spec.channels, spec.channels, dtype=torch.float64)
    weight = torch.randn(spec.species, paths, spec.channels, dtype=torch.float64)
    return features.to(dtype), weight.to(dtype), SpeciesGroups(species)


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize(
    "species", [SPECIES, torch.tensor([1]), torch.tensor([0, 0, 0]), torch.tensor([2, 1, 0, 1, 2, 0])]
)
def test_the_nested_form_is_the_reference_one(name: str, species: Tensor) -> None:
    spec = spec_of(name)
    inputs = random_inputs(spec, species)
    fast, reference = HornerManyBody(spec).double(), ReferenceManyBody(spec).double()
    expected = reference(*inputs)
    assert fast.weight_numel == reference.weight_numel
    assert expected.abs().max() > 1e-3
    torch.testing.assert_close(fast(*inputs), expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("name", SPECS)
def test_first_and_second_derivatives_of_the_nested_form_are_the_reference_ones(name: str) -> None:
    spec = spec_of(name)
    features, weight, groups = random_inputs(spec, SPECIES)

    def derivatives(module: nn.Module) -> list[Tensor]:
        torch.manual_seed(6)
        inputs = [features.clone().requires_grad_(), weight.clone().requires_grad_()]
        out = module.double()(*inputs, groups)
        first = torch.autograd.grad(out, inputs, torch.randn_like(out), create_graph=True)
        mixed = sum((g * torch.randn_like(g)).sum() for g in first)
        return [*first, *torch.autograd.grad(mixed, inputs)]

    for ours, theirs in zip(derivatives(HornerManyBody(spec)), derivatives(ReferenceManyBody(spec))):
        assert theirs.abs().max() > 1e-3
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["linear", "vectors", "degree 2 alone", "four factors with vectors"])
def test_derivatives_are_those_of_finite_differences(name: str, form: type[nn.Module]) -> None:
    spec = ManyBodySpec(*(part.replace("2x", "1x").replace("3x", "1x") for part in SPECS[name][:2]), SPECS[name][2], 2)
    features, weight, groups = random_inputs(spec, torch.tensor([1, 0]))
    module = form(spec).double()
    inputs = [features.requires_grad_(), weight.requires_grad_()]
    assert torch.autograd.gradcheck(lambda *x: module(*x, groups), inputs)
    assert torch.autograd.gradgradcheck(lambda *x: module(*x, groups), inputs)


@pytest.mark.parametrize("name", SPECS)
def test_in_single_precision_the_nested_form_errs_at_most_twice_as_much_as_the_reference_one(name: str) -> None:
    spec = spec_of(name)
    fast, reference, exact_form = HornerManyBody(spec), ReferenceManyBody(spec), ReferenceManyBody(spec).double()
    squares = {"fast": 0.0, "reference": 0.0, "fast gradient": 0.0, "reference gradient": 0.0}
    for seed in range(5):
        features, weight, groups = random_inputs(spec, torch.arange(60) % 3, torch.float32, seed)

        def value_and_gradient(
            module: nn.Module,
            dtype: torch.dtype,
            leaves: tuple[Tensor, Tensor] = (features, weight),
            groups: SpeciesGroups = groups,
        ) -> tuple[Tensor, Tensor]:
            inputs = [leaf.to(dtype).requires_grad_() for leaf in leaves]
            out = module(*inputs, groups)
            gradients = torch.autograd.grad(out.sum(), inputs)
            return out.detach().double(), torch.cat([gradient.double().flatten() for gradient in gradients])

        exact, exact_gradient = value_and_gradient(exact_form, torch.float64)
        for label, module in (("fast", fast), ("reference", reference)):
            out, gradient = value_and_gradient(module, torch.float32)
            squares[label] += (out - exact).square().sum().item()
            squares[f"{label} gradient"] += (gradient - exact_gradient).square().sum().item()
    assert squares["fast"] ** 0.5 <= 2 * squares["reference"] ** 0.5
    assert squares["fast gradient"] ** 0.5 <= 2 * squares["reference gradient"] ** 0.5


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["vectors", "up to degree 2", "four factors with vectors", "no scalar", "unnatural"])
def test_the_result_turns_with_the_features(
    name: str,
    form: type[nn.Module],
    orthogonal: Tensor,
    representation: Callable[[o3.Irreps, Tensor], Tensor],
) -> None:
    spec = spec_of(name)
    features, weight, groups = random_inputs(spec, SPECIES)
    module = form(spec).double()
    turned = module(torch.einsum("ab,nbc->nac", representation(spec.irreps_in, orthogonal), features), weight, groups)
    straight = module(features, weight, groups)
    expected = torch.einsum("ab,nbc->nac", representation(spec.irreps_out, orthogonal), straight)
    assert straight.abs().max() > 1e-3
    torch.testing.assert_close(turned, expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize("form", FORMS)
def test_each_weight_multiplies_one_polynomial_of_its_own_species_and_channel(form: type[nn.Module]) -> None:
    spec = spec_of("up to degree 2")
    features, weight, groups = random_inputs(spec, SPECIES)
    module = form(spec).double()
    before = module(features, weight, groups)
    weight = weight.clone()
    weight[2, 0, 3] += 1  # path 0 is the scalar itself
    change = module(features, weight, groups) - before
    expected = torch.zeros_like(change)
    expected[SPECIES == 2, 0, 3] = features[SPECIES == 2, 0, 3]
    torch.testing.assert_close(change, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("form", FORMS)
def test_columns_of_the_weight_are_homogeneous_of_the_degree_their_contents_state(form: type[nn.Module]) -> None:
    spec = spec_of("vectors", species=1)
    features, weight, groups = random_inputs(spec, torch.tensor([0, 0]))
    module = form(spec).double()
    assert len(module.contents) == module.weight_numel == sum(module.paths.values())
    for column, content in enumerate(module.contents):
        alone = torch.zeros_like(weight)
        alone[:, column] = 1
        once, twice = module(features, alone, groups), module(2 * features, alone, groups)
        assert once.abs().max() > 1e-4
        torch.testing.assert_close(twice, 2 ** len(content) * once, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", SPECS)
def test_no_nodes_give_no_rows_and_no_gradient(name: str, form: type[nn.Module]) -> None:
    spec = spec_of(name)
    features, weight, groups = random_inputs(spec, torch.zeros(0, dtype=torch.int64))
    inputs = [features.requires_grad_(), weight.requires_grad_()]
    out = form(spec).double()(*inputs, groups)
    assert out.shape == (0, spec.irreps_out.dim // spec.channels, spec.channels)
    gradients = torch.autograd.grad(out.sum(), inputs)
    assert gradients[0].shape == features.shape
    assert torch.equal(gradients[1], torch.zeros_like(weight))


@pytest.mark.parametrize("form", FORMS)
def test_a_species_that_is_missing_gets_no_gradient(form: type[nn.Module]) -> None:
    spec = spec_of("vectors")
    features, weight, groups = random_inputs(spec, SPECIES)
    weight.requires_grad_()
    (gradient,) = torch.autograd.grad(form(spec).double()(features, weight, groups).square().sum(), weight)
    assert torch.equal(gradient[1], torch.zeros_like(gradient[1]))
    assert gradient[0].abs().max() > 0
    assert gradient[2].abs().max() > 0


@pytest.mark.parametrize("form", FORMS)
def test_nodes_do_not_see_each_other(form: type[nn.Module]) -> None:
    spec = spec_of("invariants")
    features, weight, groups = random_inputs(spec, SPECIES)
    module = form(spec).double()
    together = module(features, weight, groups)
    for n in range(len(SPECIES)):
        alone = module(features[n : n + 1], weight, SpeciesGroups(SPECIES[n : n + 1]))
        torch.testing.assert_close(alone[0], together[n], rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_precision_of_the_result_is_that_of_the_inputs(form: type[nn.Module], dtype: torch.dtype) -> None:
    spec = spec_of("vectors")
    features, weight, groups = random_inputs(spec, SPECIES, dtype)
    assert form(spec).to(dtype)(features, weight, groups).dtype == dtype


@pytest.mark.parametrize("form", FORMS)
def test_an_output_that_no_product_reaches_is_refused(form: type[nn.Module]) -> None:
    with pytest.raises(ValueError, match=r"no product of up to 2 factors of 2x0e\+2x1o reaches 3o"):
        form(ManyBodySpec(natural_irreps(1, 2), "2x3o", 2, 1))


def test_a_method_names_its_executor() -> None:
    spec = spec_of("vectors")
    assert isinstance(ClebschGordan().many_body(spec), GeneratedManyBody)
    assert isinstance(ClebschGordan().many_body(spec).torch_form, HornerManyBody)
    assert isinstance(ClebschGordan("torch").many_body(spec), HornerManyBody)
    assert isinstance(ClebschGordan("reference").many_body(spec), ReferenceManyBody)


def test_an_unknown_backend_is_refused() -> None:
    with pytest.raises(ValueError, match="`backend` must be auto, generated, torch or reference, got 'cuda'"):
        ClebschGordan("cuda")


class Frozen(nn.Module):
    """A many-body product with weights that need no gradient, as in inference, where the nested form keeps its matrices."""

    def __init__(self, form: type[nn.Module] = HornerManyBody) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.spec = spec_of("vectors")
        self.product = form(self.spec)
        weight = torch.randn(self.spec.species, self.product.weight_numel, self.spec.channels)
        self.weight = nn.Parameter(weight, requires_grad=False)

    def forward(self, dtype: torch.dtype = torch.float64) -> Tensor:
        features, _, groups = random_inputs(self.spec, SPECIES, dtype)
        return self.product(features, self.weight, groups)


def check_against_reference(frozen: Frozen, dtype: torch.dtype = torch.float64) -> None:
    features, _, groups = random_inputs(frozen.spec, SPECIES)
    expected = ReferenceManyBody(frozen.spec).double()(features, frozen.weight.double(), groups)
    tolerance = 1e-11 if dtype == torch.float64 else 1e-4
    torch.testing.assert_close(frozen(dtype).double(), expected, rtol=tolerance, atol=tolerance)


def test_frozen_weights_give_the_same_result_again() -> None:
    frozen = Frozen().double()
    assert torch.equal(frozen(), frozen())
    check_against_reference(frozen)


def change_in_place(frozen: Frozen) -> None:
    frozen.weight.mul_(1.5)


def change_by_loading(frozen: Frozen) -> None:
    frozen.load_state_dict({"weight": torch.full_like(frozen.weight, 0.3)})


def change_by_assigning(frozen: Frozen) -> None:
    frozen.load_state_dict({"weight": torch.full_like(frozen.weight, 0.3)}, assign=True)


def change_by_replacing(frozen: Frozen) -> None:
    frozen.weight = nn.Parameter(torch.full_like(frozen.weight, -0.4), requires_grad=False)


def change_by_training(frozen: Frozen) -> None:
    frozen.weight.requires_grad_()
    optimizer = torch.optim.SGD([frozen.weight], lr=0.5)
    frozen().square().sum().backward()
    optimizer.step()
    frozen.weight.requires_grad_(False)


@pytest.mark.parametrize(
    "change", [change_in_place, change_by_loading, change_by_assigning, change_by_replacing, change_by_training]
)
def test_kept_matrices_do_not_outlive_the_weights_they_were_made_of(change: Callable[[Frozen], None]) -> None:
    frozen = Frozen().double()
    before = frozen()
    change(frozen)
    assert (frozen() - before).abs().max() > 1e-3
    check_against_reference(frozen)


def test_kept_matrices_follow_a_change_of_precision() -> None:
    frozen = Frozen().double()
    frozen()
    frozen.float()
    assert frozen(torch.float32).dtype == torch.float32
    check_against_reference(frozen, torch.float32)
    frozen.double()
    assert frozen().dtype == torch.float64
    check_against_reference(frozen)


def test_a_copy_does_not_use_the_matrices_of_its_original() -> None:
    frozen = Frozen().double()
    frozen()
    copied = copy.deepcopy(frozen)
    copied.weight.mul_(-2)
    check_against_reference(copied)
    check_against_reference(frozen)


def test_two_sets_of_weights_in_turn_do_not_mix() -> None:
    spec = spec_of("vectors")
    features, first, groups = random_inputs(spec, SPECIES)
    second = torch.randn_like(first)
    fast, reference = HornerManyBody(spec).double(), ReferenceManyBody(spec).double()
    for weight in (first, second, first, second):
        torch.testing.assert_close(fast(features, weight, groups), reference(features, weight, groups))


def test_kept_matrices_do_not_stop_the_gradient_of_the_features() -> None:
    frozen = Frozen().double()
    features, _, groups = random_inputs(frozen.spec, SPECIES)
    with torch.no_grad():
        frozen.product(features, frozen.weight, groups)
    features.requires_grad_()
    gradients = [
        torch.autograd.grad(form(features, frozen.weight, groups).square().sum(), features)[0]
        for form in (frozen.product, ReferenceManyBody(frozen.spec).double())
    ]
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-10, atol=1e-10)


def test_weights_that_need_a_gradient_get_one_after_they_were_frozen() -> None:
    frozen = Frozen().double()
    frozen()
    frozen.weight.requires_grad_()
    (gradient,) = torch.autograd.grad(frozen().sum(), frozen.weight)
    assert gradient.abs().max() > 1e-3
