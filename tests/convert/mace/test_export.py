"""The way back to mace-torch: a model built and filled from ours computes the same, and what MACE lacks is refused."""

from __future__ import annotations

import copy
import itertools
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.io import read, write
from e3nn import o3

from equinet.convert.mace import load_mace
from equinet.convert.mace.couplings import u_matrix
from equinet.convert.mace.export import _many_body_weights, to_mace_arguments, to_mace_state_dict
from equinet.convert.mace.forms import INTERACTIONS
from equinet.graph import collate, from_atoms
from equinet.models import MACE, MACEConfig
from equinet.nn import EnergyScale
from equinet.ops import ManyBodySpec
from equinet.ops.kernels.node.reference import ReferenceManyBody
from equinet.potential import Potential

OLD_E3NN = Path(__file__).resolve().parents[3] / ".reference" / "e3nn-0.4.4"
ELEMENTS = (1, 6, 8)
SHIFT = (-2.0, -5.0, -4.0)
BIAS = (0.3, -0.2, 0.5)
CUTOFF = 4.0
SMALL: dict[str, Any] = {
    "channels": 8,
    "max_l": 1,
    "sh_degree": 2,
    "correlation": 2,
    "cutoff": CUTOFF,
    "radial_hidden": (16,),
    "readout_hidden": 8,
    "exact_isolated_atoms": False,
}
TOLERANCE = 1e-9

# What differs from the small potential of conftest; each a feature that the state must carry.
CASES: dict[str, dict[str, Any]] = {
    "defaults": {},
    "residual first": {"first_interaction": "residual", "max_l": 0, "correlation": 3},
    "plain everywhere": {"first_interaction": "plain", "interaction": "plain", "max_l": 2, "sh_degree": 3},
    "density": {"first_interaction": "density", "interaction": "density_residual", "correlation": 3},
    "density after residual": {"first_interaction": "density_residual", "interaction": "density", "layers": 3},
    "gated": {"first_interaction": "gated", "interaction": "gated", "envelope_on": "weights", "max_l": 2},
    "gated with the envelope on the basis": {
        "first_interaction": "density",
        "interaction": "gated",
        "edge_channels": 4,
    },
    "Agnesi and ZBL": {"distance_transform": "agnesi", "zbl": True, "envelope_power": 6, "bessel_functions": 5},
    "Soft and ZBL": {"distance_transform": "soft", "zbl": True, "first_interaction": "density"},
    "envelope on the weights": {"envelope_on": "weights", "interaction": "density_residual"},
    "few channels on edges": {"edge_channels": 4},
    "few channels on all edges": {"edge_channels": 4, "edge_channels_first": True, "first_interaction": "residual"},
    "readout with biases": {"readout_biases": True},
    "linear readout": {"readout_hidden": 0},
    "last readout alone": {"readout_layers": "last", "layers": 3, "radial_hidden": (16, 12)},
    "one layer": {"layers": 1, "readout_hidden": 0, "correlation": 3},
    "no products": {"correlation": 1},
    "four factors": {"correlation": 4, "sh_degree": 1},
    "features above the harmonics": {"max_l": 2, "sh_degree": 1, "correlation": 3},
}


@pytest.fixture
def exportable(samples: list[Atoms]) -> Callable[..., Potential]:
    """A function that makes a calibrated potential of which MACE has a form, with forces of 1 eV/Å on ``samples``."""

    def make(**overrides: Any) -> Potential:
        config = MACEConfig(**{**SMALL, **overrides})
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(5)
            model = MACE(config, ELEMENTS, 8.0)
            with torch.no_grad():
                for parameter in model.parameters():
                    if parameter.numel() == 1 or parameter.abs().max() < 1e-2 or parameter.std() == 0:
                        parameter.add_(torch.rand(parameter.shape))
        scale = EnergyScale(
            (-13.6, -1029.5, -2041.8), (1.0,) * 3, SHIFT, exact_isolated_atoms=config.exact_isolated_atoms
        )
        potential = Potential(model, scale).double().eval()
        graph = collate([from_atoms(atoms, CUTOFF) for atoms in samples])
        potential.calibrate(graph)
        scale.scale /= potential(graph)["forces"].square().mean().sqrt()
        if model.zbl is not None:
            model.zbl.factor.fill_(0.7)
            model.zbl.radii *= 1.1
        if model.transform is not None:
            model.transform.radii *= 0.9
        with torch.no_grad():
            model.bias.add_(torch.tensor(BIAS))
        return potential

    return make


@pytest.fixture(name="samples")
def make_samples(ethanol: Atoms, triclinic: Atoms) -> list[Atoms]:
    """A molecule, a small crystal and a slab, with pairs of atoms closer than their covalent radii."""
    slab = Atoms(
        "CO2H2",
        [[0, 0, 0], [1.2, 0.3, 0.1], [0.2, 1.4, 1.1], [0.5, -0.7, -0.3], [2.1, 1.9, 0.7]],
        cell=[[3.4, 0.2, 0], [0, 3.6, 0], [0, 0, 12]],
        pbc=[1, 1, 0],
    )
    return [ethanol, triclinic, slab]


def build_mace(arguments: dict[str, Any]) -> Any:
    modules = pytest.importorskip(
        "mace.modules", reason="mace-torch is not installed; CONTRIBUTING.md says how to get it"
    )
    kinds: dict[str, Callable[[Any], Any]] = {
        "interaction_cls": modules.interaction_classes.__getitem__,
        "interaction_cls_first": modules.interaction_classes.__getitem__,
        "readout_cls": modules.readout_classes.__getitem__,
        "gate": modules.gate_dict.__getitem__,
        "hidden_irreps": o3.Irreps,
        "MLP_irreps": o3.Irreps,
        "edge_irreps": lambda irreps: irreps and o3.Irreps(irreps),
        "atomic_energies": np.array,
    }
    return modules.ScaleShiftMACE(**{name: kinds.get(name, lambda value: value)(v) for name, v in arguments.items()})


def exported(potential: Potential, **arguments: Any) -> Any:
    """A model of mace-torch with the potential's weights; no key is unknown there and none of meaning is missing."""
    mace = build_mace(to_mace_arguments(potential))
    before = {name: value.clone() for name, value in mace.state_dict().items()}
    missing, unexpected = mace.load_state_dict(to_mace_state_dict(potential, **arguments), strict=False)
    assert not unexpected
    for name in missing:  # constants of e3nn's modules, the same in every model of one architecture
        assert before[name].numel() == 0 or name.endswith("output_mask") or "._w3j_" in name, f"{name} is missing"
    return mace


def mace_output(mace: Any, potential: Potential, atoms: Atoms) -> dict[str, torch.Tensor]:
    from mace import data, tools

    table = tools.AtomicNumberTable(list(potential.elements))
    batch = data.AtomicData.from_config(data.config_from_atoms(atoms), z_table=table, cutoff=potential.cutoff)
    loader = tools.torch_geometric.dataloader.DataLoader([batch], batch_size=1)
    return mace(next(iter(loader)).to_dict(), compute_virials=True)


def assert_same(potential: Potential, mace: Any, samples: list[Atoms], tolerance: float = TOLERANCE) -> None:
    for atoms in samples:
        theirs, ours = mace_output(mace, potential, atoms), potential(from_atoms(atoms, CUTOFF), stress=True)
        for name in ("energy", "node_energy", "forces"):
            torch.testing.assert_close(
                theirs[name], ours[name], rtol=tolerance, atol=tolerance, msg=lambda m, n=name: n + m
            )
        assert ours["forces"].abs().max() > 1e-2
        if atoms.pbc.any():
            virial = -ours["stress"] * atoms.get_volume()
            torch.testing.assert_close(theirs["virials"], virial, rtol=tolerance, atol=tolerance)


def assert_every_weight_counts(potential: Potential, samples: list[Atoms]) -> None:
    graph = collate([from_atoms(atoms, CUTOFF) for atoms in samples])
    energy = potential.train()(graph)["node_energy"]
    potential.eval()
    (energy * torch.linspace(-1, 2, len(energy))).sum().backward()
    for name, weight in potential.model.named_parameters():
        assert weight.grad is not None, f"{name} does not count"
        assert weight.grad.norm() * weight.detach().norm() > 1e-4, f"{name} does not count"


@pytest.mark.usefixtures("double_default")
@pytest.mark.parametrize("case", CASES)
def test_mace_torch_computes_the_same_with_the_exported_weights(case, exportable, samples):
    potential = exportable(**CASES[case])
    if case != "no products":  # then only the scalars of a density count
        assert_every_weight_counts(potential, samples)
    assert_same(potential, exported(potential), samples)


@pytest.mark.usefixtures("double_default")
@pytest.mark.parametrize("signs", ["0.4.4", "0.6"])
def test_u_comes_in_the_signs_asked_for_and_the_weights_belong_to_it(signs, exportable, samples):
    potential = exportable(sh_degree=3, correlation=3)
    state = to_mace_state_dict(potential, signs=signs)
    built = build_mace(to_mace_arguments(potential)).state_dict()  # under the e3nn installed here
    tensors = [name for name in state if "U_matrix" in name]
    assert len(tensors) == 3 * (2 + 1)
    differ = {name for name in tensors if (state[name] - built[name]).abs().max() > 1e-12}
    assert differ == (set() if signs == "0.6" else {"products.0.symmetric_contractions.contractions.1.U_matrix_3"})
    assert_same(potential, exported(potential, signs=signs), samples)


@pytest.mark.usefixtures("double_default")
def test_converted_to_cuequivariance_it_still_computes_the_same_if_the_signs_are_those_of_this_e3nn(
    exportable, samples
):
    pytest.importorskip("cuequivariance_torch", reason="cuequivariance is not installed")
    convert = pytest.importorskip("mace.cli.convert_e3nn_cueq", reason="mace-torch is not installed").run
    # The least in which the signs count: with sh_degree 2 the columns whose sign differs are no functions of their own.
    potential = exportable(sh_degree=3, correlation=3, max_l=1)
    mace = exported(potential, signs="0.6")
    # mace-torch finds its change of basis by a pseudo-inverse, which leaves a little more than rounding.
    assert_same(potential, convert(mace, device="cpu", return_model=True), samples, tolerance=1e-8)


# What a user of mace-torch does with what is in the file named first; results go into the file named second.
IN_MACE = """
import sys
import ase.io, numpy, torch
from e3nn import o3
from mace import data, modules, tools

torch.set_default_dtype(torch.float64)  # of this process alone; mace-torch has no other way to be told
arguments, state = torch.load(sys.argv[1])
for name in ("hidden_irreps", "MLP_irreps"):
    arguments[name] = o3.Irreps(arguments[name])
for name in ("interaction_cls", "interaction_cls_first"):
    arguments[name] = modules.interaction_classes[arguments[name]]
arguments["readout_cls"] = modules.readout_classes[arguments["readout_cls"]]
arguments["gate"] = modules.gate_dict[arguments["gate"]]
arguments["atomic_energies"] = numpy.array(arguments["atomic_energies"])
model = modules.ScaleShiftMACE(**arguments)
built = {name: value.clone() for name, value in model.state_dict().items()}
missing, unexpected = model.load_state_dict(state, strict=False)
assert not unexpected
results = []
for atoms in ase.io.read(sys.argv[3], ":"):
    table = tools.AtomicNumberTable(arguments["atomic_numbers"])
    batch = data.AtomicData.from_config(data.config_from_atoms(atoms), z_table=table, cutoff=arguments["r_max"])
    batch = next(iter(tools.torch_geometric.dataloader.DataLoader([batch], batch_size=1)))
    results.append({name: value.detach() for name, value in model(batch.to_dict()).items() if name in ("energy", "forces")})
torch.save((built, results), sys.argv[2])
"""


def test_mace_torch_with_the_e3nn_it_pins_computes_the_same_and_builds_the_same_u(exportable, samples, tmp_path):
    pytest.importorskip("mace.modules", reason="mace-torch is not installed")
    if not OLD_E3NN.is_dir():
        pytest.skip("e3nn 0.4.4 is not in .reference/e3nn-0.4.4; CONTRIBUTING.md says how to put it there")
    potential = exportable(sh_degree=3, correlation=3)
    arguments, state = to_mace_arguments(potential), to_mace_state_dict(potential)
    files = [str(tmp_path / name) for name in ("model.pt", "results.pt", "samples.xyz")]
    torch.save((arguments, state), files[0])
    write(files[2], samples)
    environment = {"PYTHONPATH": str(OLD_E3NN), "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"}
    subprocess.run([sys.executable, "-W", "ignore", "-c", IN_MACE, *files], check=True, env=os.environ | environment)
    built, results = torch.load(files[1], weights_only=True)
    for name, value in state.items():
        if "U_matrix" in name:
            torch.testing.assert_close(value, built[name], rtol=0, atol=1e-12)
    for atoms, theirs in zip(read(files[2], ":"), results, strict=True):
        ours = potential(from_atoms(atoms, CUTOFF))
        for name in ("energy", "forces"):
            torch.testing.assert_close(theirs[name], ours[name], rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.usefixtures("double_default")
def test_a_potential_in_float32_gives_the_same_numbers_in_float64(exportable):
    single = exportable().float()
    of_single, of_double = to_mace_state_dict(single), to_mace_state_dict(copy.deepcopy(single).double())
    for name, value in of_single.items():
        assert value.dtype == of_double[name].dtype != torch.float32
        torch.testing.assert_close(value, of_double[name], rtol=0, atol=0)


@pytest.mark.usefixtures("double_default")
def test_an_energy_shift_of_all_elements_alike_stays_a_shift(exportable):
    potential = exportable()
    arguments = to_mace_arguments(potential)
    scale = potential.scale.scale[0].item()
    folded = [
        e0 + t + scale * b for e0, t, b in zip(potential.scale.reference.tolist(), SHIFT, potential.model.bias.tolist())
    ]
    assert arguments["atomic_inter_shift"] == 0
    assert arguments["atomic_energies"] == pytest.approx(folded, abs=1e-10)

    potential.scale.shift.fill_(-0.4)
    torch.nn.init.zeros_(potential.model.bias)
    arguments = to_mace_arguments(potential)
    assert arguments["atomic_inter_shift"] == -0.4
    assert arguments["atomic_energies"] == potential.scale.reference.tolist()


@pytest.mark.usefixtures("double_default")
@pytest.mark.parametrize(
    ("case", "reduced"),
    [
        ("residual first", True),
        ("density", False),
        ("gated", False),
        ("Agnesi and ZBL", False),
        ("last readout alone", True),
    ],
)
def test_a_mace_model_comes_back_as_the_same_function_with_the_same_weights_but_those_of_products(
    case, reduced, exportable, samples
):
    arguments = to_mace_arguments(exportable(**CASES[case])) | {
        "atomic_energies": [-13.6, -1029.5, -2041.8],
        "atomic_inter_scale": 1.7,
        "atomic_inter_shift": -0.4,
        "use_reduced_cg": reduced,
    }
    torch.manual_seed(2)
    first = build_mace(arguments)
    with torch.no_grad():
        for parameter in first.parameters():
            parameter.mul_(1.5)
    potential = load_mace(first)
    back = exported(potential)
    assert to_mace_arguments(potential) | {"use_reduced_cg": reduced} == arguments
    for atoms in samples:
        before, after = mace_output(first, potential, atoms), mace_output(back, potential, atoms)
        for name in ("energy", "node_energy", "forces", "virials"):
            torch.testing.assert_close(after[name], before[name], rtol=TOLERANCE, atol=TOLERANCE)
    compared = [name for name in to_mace_state_dict(potential) if "contractions" not in name]
    for name in compared:
        value = first.state_dict()[name]
        torch.testing.assert_close(
            back.state_dict()[name], value, rtol=1e-14, atol=0, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_weights_of_products_are_the_smallest_that_do(exportable):
    """U is overcomplete: what its columns say twice is divided among them, so no weight is larger than it must be."""
    state = to_mace_state_dict(exportable(sh_degree=1, correlation=3))
    here = "products.1.symmetric_contractions.contractions.0."
    u, weight = state[here + "U_matrix_3"], state[here + "weights_max"]
    symmetric = sum(u.permute(*order, 3) for order in itertools.permutations(range(3))).flatten(0, 2)
    _, size, right = torch.linalg.svd(symmetric)
    silent = right[int((size > 1e-9).sum()) :]
    assert len(silent) == 2
    assert weight.abs().max() > 0.1
    torch.testing.assert_close(silent @ weight, torch.zeros(3, 2, 8).double(), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"many_body": "gaunt_grid"}, "no `many_body` by GauntGrid.*equinet convert"),
        ({"convolution": "so2"}, "no `convolution` by SO2.*equinet convert"),
        ({"pseudotensors": True}, "no pseudotensors; train with model.pseudotensors = false"),
        ({"exact_isolated_atoms": True}, "no gate.*train with model.exact_isolated_atoms = false"),
        ({"sh_degree": 0, "max_l": 0}, "harmonics of degree 0.*model.sh_degree >= 1"),
        ({"sh_degree": 4, "correlation": 3}, "couplings up to degree 12.*model.sh_degree = 3"),
        (
            {"sh_degree": 1, "correlation": 5},
            "known up to correlation = 4, and this potential has 5.*model.correlation = 3",
        ),
        ({"layers": 1}, "a single layer.*model.readout_hidden = 0"),
    ],
)
@pytest.mark.parametrize("export", [to_mace_arguments, to_mace_state_dict])
def test_what_mace_has_no_form_of_is_refused(export, overrides, message, exportable):
    potential = exportable(**overrides)
    with pytest.raises(ValueError, match=message):
        export(potential)


def test_scales_that_differ_and_tables_are_refused(exportable):
    potential = exportable()
    potential.scale.scale[1] += 0.1
    with pytest.raises(
        ValueError, match=r'one energy scale for all elements, but H, C, O have .* data.scale_shift = "global"'
    ):
        to_mace_state_dict(potential)
    with pytest.raises(ValueError, match="no tables for radial networks; export the potential from which"):
        to_mace_arguments(exportable().tabulate(1e-3))


def test_mace_torch_has_the_names_and_builds_the_extremes(exportable):
    """What is not refused is buildable; and what is refused for MACE's sake, MACE refuses."""
    modules = pytest.importorskip("mace.modules")
    with pytest.raises(IndexError):
        build_mace(to_mace_arguments(exportable()) | {"max_ell": 0, "hidden_irreps": "8x0e"})
    with pytest.raises(TypeError):
        build_mace(to_mace_arguments(exportable()) | {"readout_cls": "LinearReadoutBlock"})
    assert set(INTERACTIONS.values()) <= set(modules.interaction_classes)


def test_u_matrices_that_do_not_reach_all_polynomials_are_a_bug_that_is_told() -> None:
    product = ReferenceManyBody(ManyBodySpec("2x0e+2x1o", "2x0e", 2, 1))
    u = u_matrix(product.spec.irreps_in, o3.Irrep("0e"), 2, signs="0.6")
    weight = torch.ones(1, product.paths[0, 2], 2, dtype=torch.float64)
    assert _many_body_weights(product, 0, 2, u, weight).isfinite().all()
    with pytest.raises(ArithmeticError, match="do not reach all polynomials of 2 factors"):
        _many_body_weights(product, 0, 2, 0 * u, weight)
