"""Every tensor product inside a potential: symmetry, derivatives, files, configurations, training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from safetensors import safe_open

import equinet.ops.methods.cp
from equinet.checkpoint import load_potential, save_potential
from equinet.graph import collate, from_atoms
from equinet.models import MACE, MACEConfig
from equinet.models.mace.model import irreps_of_layers
from equinet.ops import SO2, Bracket, ClebschGordan, CPDecomposed, GauntFourier, GauntGrid, MatrixProduct
from equinet.potential import Potential
from equinet.tensorfile import read_tensors, save_tensors
from equinet.train import parse_config, read_config, to_toml
from equinet.train.loop import make_optimizer, train_step
from equinet.train.loss import Loss

MakePotential = Callable[..., Potential]

# The small potential has features up to degree 1, harmonics up to 2, two factors.
PRODUCTS: dict[str, dict[str, Any]] = {
    "exact": {},
    "grid": {"convolution": GauntGrid(), "many_body": GauntGrid()},
    "grid, three factors": {"many_body": GauntGrid(copies=2), "correlation": 3, "sh_degree": 3},
    "grid, weights of degrees": {"convolution": GauntGrid(copies=2, weights="degrees"), "max_l": 2},
    "one weight": {"convolution": GauntGrid(weights="shared")},
    "separable": {
        "convolution": GauntGrid(transform="separable"),
        "many_body": GauntGrid(transform="separable"),
    },
    "Fourier": {"convolution": GauntFourier(), "many_body": GauntFourier(copies=2)},
    "matrices": {"convolution": MatrixProduct(), "many_body": MatrixProduct(), "correlation": 3},
    "CP at exact rank": {"convolution": CPDecomposed(rank=24), "many_body": CPDecomposed(rank=24)},
    "frame of the edge": {"convolution": SO2(), "max_l": 2},
    "pseudotensors, exact": {"pseudotensors": True},
    "pseudotensors, grid with bracket": {
        "pseudotensors": True,
        "convolution": GauntGrid(bracket=True),
        "many_body": GauntGrid(bracket=True),
        "correlation": 3,
    },
    "pseudotensors, matrices": {
        "pseudotensors": True,
        "convolution": MatrixProduct(weights="degrees"),
        "many_body": MatrixProduct(),
    },
    "pseudotensors, frame of the edge": {"pseudotensors": True, "convolution": SO2()},
}


def energy_and_forces(potential: Potential, *structures: Atoms) -> tuple[torch.Tensor, torch.Tensor]:
    out = potential(collate([from_atoms(atoms, potential.cutoff) for atoms in structures]))
    return out["energy"], out["forces"]


@pytest.mark.parametrize("name", PRODUCTS)
def test_energies_turn_with_the_structure(
    name: str, make_potential: MakePotential, ethanol: Atoms, orthogonal: torch.Tensor
) -> None:
    potential = make_potential(**PRODUCTS[name], seed=3)
    turned = ethanol.copy()
    turned.positions = ethanol.positions @ orthogonal.numpy().T
    energy, forces = energy_and_forces(potential, ethanol)
    energy_turned, forces_turned = energy_and_forces(potential, turned)
    assert forces.abs().max() > 0.05
    torch.testing.assert_close(energy_turned, energy, rtol=0, atol=1e-8)
    torch.testing.assert_close(forces_turned, forces @ orthogonal.T, rtol=0, atol=1e-8)


@pytest.mark.parametrize("name", PRODUCTS)
def test_forces_are_minus_the_gradient(name: str, make_potential: MakePotential, ethanol: Atoms) -> None:
    potential = make_potential(**PRODUCTS[name], seed=4)
    _, forces = energy_and_forces(potential, ethanol)
    direction = np.random.default_rng(0).normal(size=ethanol.positions.shape)
    step = 1e-4

    def energy(times: int) -> float:
        moved = ethanol.copy()
        moved.positions += times * step * direction
        return energy_and_forces(potential, moved)[0].item()

    gradient = (8 * (energy(1) - energy(-1)) - (energy(2) - energy(-2))) / (
        12 * step
    )  # errs with the fourth power of the step
    assert gradient == pytest.approx(-(forces.numpy() * direction).sum(), rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("name", PRODUCTS)
def test_a_saved_model_comes_back_the_same(
    name: str, make_potential: MakePotential, ethanol: Atoms, triclinic: Atoms, tmp_path: Path
) -> None:
    potential = make_potential(**PRODUCTS[name], seed=5)
    save_potential(potential, tmp_path / "model.eqn")
    loaded = load_potential(tmp_path / "model.eqn")
    assert loaded.model.config == potential.model.config
    for ours, theirs in zip(
        energy_and_forces(loaded, ethanol, triclinic), energy_and_forces(potential, ethanol, triclinic)
    ):
        assert torch.equal(ours, theirs)


def test_a_model_brings_its_own_decomposition(
    make_potential: MakePotential, ethanol: Atoms, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    potential = make_potential(many_body=CPDecomposed(rank=12))
    save_potential(potential, tmp_path / "model.eqn")

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a model that is loaded must not look for factors again")

    monkeypatch.setattr(equinet.ops.methods.cp, "cp_factors", refuse)
    loaded = load_potential(tmp_path / "model.eqn")
    assert torch.equal(energy_and_forces(loaded, ethanol)[0], energy_and_forces(potential, ethanol)[0])
    with safe_open(tmp_path / "model.eqn", framework="pt") as file:
        factors = [name for name in file.keys() if "factor_" in name]  # noqa: SIM118
        assert len(factors) == 6  # three matrices in each of two layers
        assert all(file.get_tensor(name).dtype == torch.float64 for name in factors)


@pytest.mark.parametrize(("factors", "moves"), [("als", False), ("trainable", True)])
def test_a_decomposition_is_trained_only_on_request(
    make_potential: MakePotential, ethanol: Atoms, factors: Any, moves: bool
) -> None:
    potential = make_potential(many_body=CPDecomposed(rank=8, factors=factors)).train()
    before = {name: value.clone() for name, value in potential.state_dict().items() if ".factors." in name}
    graph = collate([from_atoms(ethanol, potential.cutoff)])
    graph.energy, graph.forces = torch.zeros(1).double(), torch.ones(9, 3).double()
    graph.weight = torch.ones(1).double()
    config = parse_config({"data": {"train": "x"}}).train
    train_step(potential, graph, Loss(energy=1.0, forces=1.0, stress=0.0), make_optimizer(potential, config), 10.0)
    changed = [not torch.equal(value, before[name]) for name, value in potential.state_dict().items() if name in before]
    assert len(changed) == 6
    assert all(changed) if moves else not any(changed)


def test_the_error_of_a_truncated_decomposition_falls_with_the_rank(
    make_potential: MakePotential, ethanol: Atoms
) -> None:
    torch.manual_seed(0)
    turn = torch.linalg.qr(torch.randn(3, 3).double())[0]
    turn = turn * torch.linalg.det(turn)
    turned = ethanol.copy()
    turned.positions = ethanol.positions @ turn.numpy().T
    errors = []
    for rank in (8, 14, 24):
        potential = make_potential(many_body=CPDecomposed(rank=rank))
        forces, forces_turned = (energy_and_forces(potential, atoms)[1] for atoms in (ethanol, turned))
        errors.append(((forces_turned - forces @ turn.T).norm() / forces.norm()).item())
    assert errors[0] > 3 * errors[1] > 1e-3
    assert errors[2] < 1e-10


def test_grid_and_fourier_are_one_function_of_the_same_weights(make_potential: MakePotential, ethanol: Atoms) -> None:
    grid = make_potential(convolution=GauntGrid(copies=2), many_body=GauntGrid())
    fourier = make_potential(convolution=GauntFourier(copies=2), many_body=GauntFourier(), seed=1)
    fourier.load_state_dict(grid.state_dict())
    for ours, theirs in zip(energy_and_forces(grid, ethanol), energy_and_forces(fourier, ethanol)):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", [name for name in PRODUCTS if "CP" not in name])
def test_the_reference_backend_is_the_same_function(name: str, make_potential: MakePotential, ethanol: Atoms) -> None:
    overrides = dict(PRODUCTS[name])
    fast = make_potential(**overrides, seed=6)
    for role in ("convolution", "many_body"):
        method = overrides.get(role, ClebschGordan())
        overrides[role] = type(method)(**{**vars(method), "backend": "reference"})
    reference = make_potential(**overrides, seed=7)
    reference.load_state_dict(fast.state_dict())
    assert "Reference" in repr(reference)
    for ours, theirs in zip(energy_and_forces(fast, ethanol), energy_and_forces(reference, ethanol)):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-8)


def test_features_hold_pseudotensors_only_where_products_reach_them() -> None:
    config = MACEConfig(channels=2, max_l=1, sh_degree=2, correlation=3, pseudotensors=True)
    first, second = irreps_of_layers(config)
    assert {str(ir) for ir in first.density} == {"0e", "1o", "2e"}  # scalars times harmonics are true tensors
    assert "1e" in {str(ir) for ir in first.result}
    assert "0o" not in {str(ir) for ir in first.result}  # no triple of one channel has a handedness
    assert {str(ir) for ir in second.density} == {"0e", "0o", "1e", "1o", "2e", "2o"}
    assert [str(ir) for ir in second.result] == ["0e"]
    assert [str(ir) for ir in irreps_of_layers(config.model_copy(update={"pseudotensors": False}))[0].result] == [
        "0e",
        "1o",
    ]


def test_a_model_says_which_irreps_it_passes_between_atoms(make_potential: MakePotential) -> None:
    assert str(make_potential().model.hidden_irreps) == "8x0e+8x1o"
    both = make_potential(pseudotensors=True, correlation=3, sh_degree=3)
    assert str(both.model.hidden_irreps) == "8x0e+8x1o+8x1e"
    assert "MACE(8x0e+8x1o+8x1e, 2 layers" in repr(both)


@pytest.mark.parametrize(
    ("overrides", "why"),
    [
        ({"convolution": Bracket()}, r"Bracket.* cannot do the convolution .*: 0e x 0e -> 0e has even l1 \+ l2 \+ l3"),
        ({"many_body": SO2()}, "SO2.* cannot do the many-body product .*: a frame needs a direction"),
        ({"many_body": Bracket()}, "all its products of .* with themselves vanish"),
        ({"convolution": GauntGrid(), "pseudotensors": True}, r"has odd l1 \+ l2 \+ l3.*bracket = true"),
        (
            {"max_l": 2, "sh_degree": 1, "correlation": 1, "many_body": GauntGrid()},
            "none of its products .* is 2x?2?e?",
        ),
    ],
)
def test_a_product_that_cannot_do_it_says_why(overrides: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        MACE(MACEConfig(**{"channels": 2, **overrides}), [1, 8], 8.0)


def test_a_configuration_names_products_with_arguments(tmp_path: Path) -> None:
    file = tmp_path / "train.toml"
    file.write_text(
        '[data]\ntrain = "x.xyz"\n[model]\nconvolution = "gaunt_grid"\nmany_body = { method = "cp", rank = 24 }\n'
    )
    config = read_config(file, ["model.convolution={ method = 'gaunt_grid', copies = 2 }"])
    assert config.model.convolution == GauntGrid(copies=2)
    assert config.model.many_body == CPDecomposed(rank=24)
    (tmp_path / "again.toml").write_text(to_toml(config))
    assert read_config(tmp_path / "again.toml", []) == config


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("fft", "there is no tensor product called 'fft'; choose one of: cg, gaunt_grid"),
        ({"method": "cp"}, "the tensor product 'cp' needs `rank`"),
        ({"method": "gaunt_grid", "copys": 2}, "has no argument `copys`; did you mean `copies`?"),
        ({"method": "gaunt_grid", "copies": 0}, "`copies` must be a whole number from 1 to 64, got 0"),
        (3, "a tensor product is a name or a table"),
    ],
)
def test_a_configuration_that_names_no_product_is_refused(value: Any, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse_config({"data": {"train": "x.xyz"}, "model": {"many_body": value}})


def test_a_backend_is_not_part_of_a_saved_model(make_potential: MakePotential, tmp_path: Path) -> None:
    reference = ClebschGordan(backend="reference")
    save_potential(make_potential(convolution=reference, many_body=reference), tmp_path / "model.eqn")
    assert load_potential(tmp_path / "model.eqn").model.config.convolution == ClebschGordan()


def test_a_file_of_format_1_is_read(make_potential: MakePotential, ethanol: Atoms, tmp_path: Path) -> None:
    potential = make_potential(max_l=2)
    save_potential(potential, tmp_path / "new.eqn")
    tensors, header = read_tensors(tmp_path / "new.eqn")
    old = {}
    for name, value in tensors.items():
        stem, _, last = name.rpartition(".")
        old[f"{stem}.{last[:-1]}" if last in ("0e", "1o", "2e", "3o") else name] = value
    assert set(old) != set(tensors)
    header["format"] = 1
    del header["model"]["pseudotensors"]
    save_tensors(tmp_path / "old.eqn", old, header)
    for ours, theirs in zip(
        energy_and_forces(load_potential(tmp_path / "old.eqn"), ethanol), energy_and_forces(potential, ethanol)
    ):
        assert torch.equal(ours, theirs)
