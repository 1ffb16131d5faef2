"""Models of mace-torch as potentials: the same energies, forces and virial; what has no form is refused by name."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import preloaded
import pytest
import torch
from mace_models import CUTOFF, ELEMENTS, assert_same, config_of, output_of, random_mace, structures

import equinet
from equinet.checkpoint import load_potential, save_potential
from equinet.convert.mace import load_mace, read_mace
from equinet.convert.mace.architecture import architecture_of
from equinet.convert.mace.load import potential_of
from equinet.graph import collate, from_atoms

pytest.importorskip(
    "mace.modules", reason="mace-torch is not installed; CONTRIBUTING.md says how to put it beside equinet"
)

GATED = {"first_interaction": "gated", "interaction": "gated", "envelope_on": "weights"}
# Every value of every axis, and all of what the files in use have.
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "plain first": {"max_l": 1, "correlation": 3, "sh_degree": 3, "channels": 8},
    "residual": {"first_interaction": "residual", "max_l": 0, "correlation": 3},
    "residual, degree 2": {"first_interaction": "residual", "max_l": 2},
    "density, Agnesi, ZBL": {
        "first_interaction": "density",
        "interaction": "density_residual",
        "distance_transform": "agnesi",
        "zbl": True,
    },
    "density only": {"first_interaction": "density", "interaction": "density", "distance_transform": "soft"},
    "density residual": {"first_interaction": "density_residual", "interaction": "density_residual", "max_l": 0},
    "plain only": {"interaction": "plain", "correlation": 1, "max_l": 2},
    "gated": {**GATED, "max_l": 1, "correlation": 3, "zbl": True},
    "gated, fewer channels on edges": {**GATED, "edge_channels": 2, "max_l": 2, "distance_transform": "agnesi"},
    "gated after residual": {**GATED, "first_interaction": "residual", "edge_channels": 2, "edge_channels_first": True},
    "gated, envelope on the basis": {"first_interaction": "gated", "interaction": "gated", "max_l": 0},
    "envelope on weights": {"envelope_on": "weights", "first_interaction": "density"},
    "correlation 4": {"correlation": 4, "sh_degree": 1, "max_l": 1},
    "degree 1": {"sh_degree": 1},
    "results that single densities do not reach": {"sh_degree": 1, "max_l": 2},
    "degree 4": {"sh_degree": 4, "correlation": 2, "max_l": 0},
    "one layer": {"layers": 1, "readout_hidden": 0, "max_l": 0, "first_interaction": "residual"},
    "three layers, last read": {"layers": 3, "readout_layers": "last"},
    "biases": {"readout_biases": True},
    "other sizes": {"bessel_functions": 10, "envelope_power": 6, "radial_hidden": (5, 6, 7), "cutoff": 3.5},
}


REDUCED = ("plain first", "residual, degree 2", "density, Agnesi, ZBL", "gated", "correlation 4")


@pytest.mark.parametrize(
    ("name", "reduced"), [(name, False) for name in ARCHITECTURES] + [(name, True) for name in REDUCED]
)
def test_a_file_gives_the_energies_forces_and_virial_of_mace_torch(name: str, reduced: bool, tmp_path: Path) -> None:
    config = config_of(**ARCHITECTURES[name])
    mace = random_mace(config, reduced=reduced)
    torch.save(mace, tmp_path / "mace.model")
    potential = load_mace(tmp_path / "mace.model")
    assert potential.model.config == config
    assert (potential.elements, potential.dtype, potential.training) == (ELEMENTS, torch.float64, False)
    for atoms in structures():
        assert_same(potential, output_of(mace, atoms), atoms)


@pytest.mark.parametrize(
    "overrides", [{}, {"readout_biases": True, "zbl": True}, {"layers": 1, "readout_hidden": 0, "max_l": 0}]
)
def test_each_head_gives_its_own_energies(overrides: dict[str, Any]) -> None:
    heads = ("pbe", "r2scan", "coupled cluster")
    mace = random_mace(config_of(**overrides), heads)
    energies = set()
    for head in heads:
        potential = load_mace(mace, head=head)
        for atoms in structures():
            assert_same(potential, output_of(mace, atoms, head), atoms)
        energies.add(potential(from_atoms(structures()[0], CUTOFF))["energy"].item())
    assert len(energies) == 3
    with pytest.raises(
        ValueError, match="this model has 3 heads, which give different energies: choose one of 'pbe', 'r2scan'"
    ):
        load_mace(mace)
    with pytest.raises(ValueError, match="this model has no head 'PBE', but 'pbe', 'r2scan', 'coupled cluster'"):
        load_mace(mace, head="PBE")


@pytest.mark.parametrize("overrides", [{"zbl": True}, {**GATED, "distance_transform": "agnesi"}])
def test_a_file_in_single_precision_is_as_good_as_single_precision_is(overrides: dict[str, Any]) -> None:
    mace = random_mace(config_of(**overrides)).float()
    single, double = load_mace(mace), load_mace(mace, dtype=torch.float64)
    assert (single.dtype, double.dtype) == (torch.float32, torch.float64)
    rounded = [output_of(mace, atoms, dtype="float32")["forces"].double() for atoms in structures()]
    mace = mace.double()
    for atoms, theirs in zip(structures(), rounded):
        exact = output_of(mace, atoms)
        assert_same(double, exact, atoms, relative=1e-6)  # constants of ours are not rounded
        error = (theirs - exact["forces"]).abs().max().item() / exact["forces"].abs().max().item()
        assert_same(single, exact, atoms, relative=max(1e-5, 2 * error))


def test_a_batch_gives_what_each_structure_gives() -> None:
    mace = random_mace(config_of())
    batch = load_mace(mace)(collate([from_atoms(atoms, CUTOFF) for atoms in structures()]))
    singles = torch.cat([output_of(mace, atoms)["energy"] for atoms in structures()])
    torch.testing.assert_close(batch["energy"], singles, rtol=1e-12, atol=0)


@pytest.mark.parametrize("heads", [("Default",), ("a", "b")])
def test_a_model_without_scale_and_shift(heads: tuple[str, ...]) -> None:
    from mace import modules

    mace = random_mace(config_of(zbl=len(heads) == 1), heads)
    plain = modules.MACE.__new__(modules.MACE)
    plain.__dict__.update(mace.__dict__)
    plain._modules = {name: module for name, module in mace._modules.items() if name != "scale_shift"}
    for head in heads:
        potential = load_mace(plain, head=head)
        for atoms in structures():
            assert_same(potential, output_of(plain, atoms, head), atoms)


def test_elements_in_any_order() -> None:
    mace = random_mace(config_of(**GATED, zbl=True))
    expected = [output_of(mace, atoms) for atoms in structures()]
    shuffled = random_mace(config_of(**GATED, zbl=True))
    _reorder(shuffled, [2, 0, 3, 1])
    assert shuffled.atomic_numbers.tolist() == [8, 1, 14, 6]
    potential = load_mace(shuffled)
    assert potential.elements == ELEMENTS
    for atoms, theirs in zip(structures(), expected):
        assert_same(potential, theirs, atoms)


@torch.no_grad()
def _reorder(mace: Any, order: list[int]) -> None:
    """The same function with its species in another order."""
    mace.atomic_numbers.copy_(mace.atomic_numbers[order])
    mace.atomic_energies_fn.atomic_energies.copy_(mace.atomic_energies_fn.atomic_energies[:, order])
    flat = [mace.node_embedding.linear.weight]
    for interaction, product in zip(mace.interactions, mace.products):
        flat += [interaction.source_embedding.weight, interaction.target_embedding.weight]
        for contraction in product.symmetric_contractions.contractions:
            for weight in (contraction.weights_max, *contraction.weights):
                weight.copy_(weight[order])
    for weight in flat:
        weight.copy_(weight.view(len(order), -1)[order].reshape(weight.shape))


def test_couplings_are_taken_from_the_file() -> None:
    mace = random_mace(config_of(correlation=3)).requires_grad_(False)
    before = [output_of(mace, atoms) for atoms in structures()]
    contraction = mace.products[0].symmetric_contractions.contractions[1]
    for name, weight in (("U_matrix_3", contraction.weights_max), ("U_matrix_2", contraction.weights[0])):
        getattr(contraction, name)[..., 1] *= -2.0  # another sign and size, as another version of e3nn might have
        weight[:, 1] /= -2.0
    for atoms, theirs in zip(structures(), before):
        assert_same(load_mace(mace), theirs, atoms)
    contraction.U_matrix_2 += torch.randn(contraction.U_matrix_2.shape, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"U_matrix_2 of .* is no set of equivariant polynomials; it is damaged"):
        load_mace(mace)


def test_what_was_loaded_can_be_saved_and_trained(tmp_path: Path) -> None:
    mace = random_mace(config_of(**GATED, zbl=True, distance_transform="agnesi"), ("a", "b"))
    potential = equinet.load_mace(mace, head="b")
    save_potential(potential, tmp_path / "potential.eqn")
    again = load_potential(tmp_path / "potential.eqn")
    graph = from_atoms(structures()[0], CUTOFF)
    assert torch.equal(again(graph)["forces"], potential(graph)["forces"])
    again.train()(graph)["forces"].square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in again.parameters() if p is not again.model.bias)


def test_neither_mace_torch_nor_its_code_is_needed(tmp_path: Path) -> None:
    torch.save(random_mace(config_of(**GATED)), tmp_path / "mace.model")
    code = (
        "import sys; sys.modules['mace'] = None\n"
        "import equinet\n"
        f"print(equinet.load_mace({str(tmp_path / 'mace.model')!r}).symbols)"
    )
    done = preloaded.run([sys.executable, "-c", code])
    assert done.stdout.strip() == "('H', 'C', 'O', 'Si')", done.stderr


def _with_gate(name: str) -> Any:
    mace = random_mace(config_of())
    mace.readouts[-1].non_linearity.acts[0].f = getattr(torch, name)
    return mace


def _with_trained_frequencies() -> Any:
    mace = random_mace(config_of())
    mace.radial_embedding.bessel_fn.bessel_weights *= 1.01
    return mace


def _with_another_radial_activation() -> Any:
    mace = random_mace(config_of())
    mace.interactions[0].conv_tp_weights[1].act.f = torch.tanh
    return mace


def _with_another_layer_norm() -> Any:
    mace = random_mace(config_of(**GATED))
    mace.interactions[1].density_fn.net[1].eps = 0.1
    return mace


def _with_weight(module: str, name: str) -> Any:
    mace = random_mace(config_of())
    setattr(mace.get_submodule(module), name, torch.nn.Parameter(torch.ones(2)))
    return mace


def _foreign_class(name: str, path: str) -> Any:
    """A model in which a part calls itself something else."""
    from mace.modules import blocks

    mace = random_mace(config_of())
    part = mace.get_submodule(path)
    part.__class__ = type(
        name, (type(part),), {"__module__": blocks.__name__, "__reduce_ex__": torch.nn.Module.__reduce_ex__}
    )
    setattr(blocks, name, part.__class__)
    return mace


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: _with_gate("tanh"), "the gate .*tanh of the readout"),
        (_with_trained_frequencies, "trained frequencies of the Bessel functions"),
        (lambda: random_mace(config_of()).half(), "weights in torch.float16"),
        (_with_another_radial_activation, "the activation .*tanh of a radial network"),
        (_with_another_layer_norm, "a layer norm with eps = 0.1"),
        (lambda: _with_weight("interactions.1", "extra"), r"the weights interactions\.1\.extra"),
        (lambda: _with_weight("products.0.linear", "bias"), r"the weights products\.0\.linear\.bias"),
        (lambda: _foreign_class("GaussianBasis2", "radial_embedding.bessel_fn"), "the radial basis GaussianBasis2"),
        (lambda: _foreign_class("OtherInteractionBlock", "interactions.1"), "the interaction OtherInteractionBlock"),
        (lambda: _foreign_class("GeneralReadoutBlock", "readouts.1"), "the readout GeneralReadoutBlock"),
        (
            lambda: _foreign_class("LoRADenseLinear", "interactions.0.linear_up"),
            "LoRA adapters .`interactions.0.linear_up`.",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_has_no_form_is_refused_by_name(make: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=f"this model cannot be converted; equinet has no form for .*{reason}"):
        load_mace(make())


def test_all_reasons_are_named_together() -> None:
    mace = _with_gate("tanh")
    mace.radial_embedding.bessel_fn.bessel_weights *= 1.01
    with pytest.raises(ValueError, match=r"trained frequencies .*; nor for the gate"):
        architecture_of(read_mace(mace))


def _with_shape(name: str) -> Any:
    mace = random_mace(config_of())
    mace.get_parameter(name).data = torch.ones(7)
    return mace


def _with_irreps(value: str) -> Any:
    mace = random_mace(config_of())
    mace.interactions[0].target_irreps = value
    return mace


@pytest.mark.parametrize(
    "make",
    [
        lambda: _with_weight("products.0.linear", "b" * 10_000 + "\n"),
        lambda: _foreign_class("B" * 10_000, "radial_embedding.bessel_fn"),
        lambda: _with_irreps("x" * 10_000),
        lambda: _with_shape("interactions.0.linear_up.weight"),
        lambda: _with_shape("interactions.0.conv_tp_weights.layer0.weight"),
        lambda: _with_shape("node_embedding.linear.weight"),
    ],
    ids=range(6),
)
def test_whatever_a_file_holds_is_told_in_part_and_on_one_line(tmp_path: Path, make: Any) -> None:
    path = tmp_path / "long.model"
    torch.save(make(), path)
    with pytest.raises(ValueError, match=r"long\.model: ") as caught:
        load_mace(path)
    assert len(str(caught.value)) < 1500
    assert str(caught.value).isprintable()


def test_another_kind_of_model_is_refused() -> None:
    with pytest.raises(ValueError, match="equinet has no form for the model class Linear"):
        load_mace(torch.nn.Linear(2, 3))
    with pytest.raises(ValueError, match="this Sequential cannot be written to a file, and so not be converted"):
        load_mace(torch.nn.Sequential(type("Local", (torch.nn.Module,), {})()))


# A tensor in place of a module is indexed by a name, of which torch warns before it raises.
@pytest.mark.filterwarnings("ignore:Using a non-tuple sequence")
@pytest.mark.parametrize(
    "overrides", [{"zbl": True, "distance_transform": "agnesi"}, {**GATED, "readout_biases": True}]
)
def test_whatever_is_wrong_with_a_file_is_one_error(overrides: dict[str, Any]) -> None:
    """Every attribute of every module in turn is missing, or is something else; then it is refused, or does not matter."""
    file = io.BytesIO()
    torch.save(random_mace(config_of(**overrides)), file)
    refused = 0
    for _, module in (mace := read_mace(file)).modules():
        parts = [module.attributes.get(name) or {} for name in ("_parameters", "_buffers", "_modules")]
        for holder in (module.attributes, *parts):
            for name in [name for name in holder if not name.startswith("_")]:
                kept = holder.pop(name)
                for wrong in (..., torch.zeros(3)):
                    if wrong is not ...:
                        holder[name] = wrong
                    try:
                        architecture = architecture_of(mace)
                        potential_of(mace, architecture, architecture.heads[0])
                    except ValueError:
                        refused += 1
                holder[name] = kept
    assert refused > 100


def calculator_of(*models: Any, **arguments: Any) -> Any:
    from mace.calculators import MACECalculator

    return MACECalculator(models=list(models), device="cpu", default_dtype="float64", **arguments)


def test_a_calculator_of_mace_torch_is_taken_for_its_model() -> None:
    mace = random_mace(config_of())
    potential = load_mace(calculator_of(mace))
    for atoms in structures():
        assert_same(potential, output_of(mace, atoms), atoms)


def test_the_head_of_a_calculator_is_taken_unless_another_is_named() -> None:
    mace = random_mace(config_of(), ("pbe", "r2scan"))
    calculator = calculator_of(mace, head="r2scan")
    for given, head in ((None, "r2scan"), ("pbe", "pbe")):
        potential = load_mace(calculator, head=given)
        assert_same(potential, output_of(mace, structures()[0], head), structures()[0])


def test_a_committee_is_refused() -> None:
    models = [random_mace(config_of()), random_mace(config_of(), seed=1)]
    with pytest.raises(ValueError, match=r"this MACECalculator holds 2 models, .* `load_mace\(it.models\[0\]\)`"):
        load_mace(calculator_of(*models))
    with pytest.raises(ValueError, match=r"this list holds 2 models, and a potential is one; pass them one by one$"):
        load_mace(models)


def test_a_calculator_in_other_units_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`energy_units_to_eV` = 27\.2, .* make the calculator without"):
        load_mace(calculator_of(random_mace(config_of()), energy_units_to_eV=27.2))


@pytest.mark.parametrize("source", [None, 3, {"weights": torch.ones(1)}, []])
def test_what_is_no_model_at_all_is_refused(source: Any) -> None:
    with pytest.raises(TypeError, match=rf"`source` must be a model file of mace-torch .*got {type(source).__name__}$"):
        load_mace(source)
