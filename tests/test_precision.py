"""Products of matrices: float32 unless something coarser is chosen, whatever others did to torch's switches; and what is said then."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from torch import Tensor
from torch.autograd import gradcheck
from typer.testing import CliRunner

from equinet.checkpoint import save_potential
from equinet.cli import app
from equinet.datasets import SAMPLE
from equinet.graph import from_atoms
from equinet.md import CoarseProducts, EquinetCalculator
from equinet.ops import precision
from equinet.ops.precision import (
    affine,
    chosen,
    formulas,
    formulas_only,
    full_float32,
    matmul,
    matmul_precision,
    require_available,
)
from equinet.potential import Potential
from equinet.train import Loss, evaluate_file, train_step
from equinet.verify.backends import require_backend_match

MakePotential = Callable[..., Potential]
CPU, CUDA = torch.device("cpu"), torch.device("cuda")
HAS_SWITCHES = hasattr(torch.backends.cuda.matmul, "fp32_precision")


@pytest.fixture(autouse=True)
def switches_as_they_were() -> Iterator[None]:
    """Torch as it comes before and after every test."""

    def reset() -> None:
        torch.set_float32_matmul_precision("highest")
        if HAS_SWITCHES:
            for owner in (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul):
                owner.fp32_precision = "none"

    reset()
    yield
    reset()


@pytest.fixture
def pair() -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(0)
    return torch.randn(40, 24, generator=random), torch.randn(24, 8, generator=random)


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected.double()).norm() / expected.double().norm())


# ---- the products


def test_by_default_it_is_torchs_product_to_the_last_bit(pair: tuple[Tensor, Tensor]) -> None:
    a, b = pair
    assert chosen() == "ieee"
    assert torch.equal(matmul(a, b), a @ b)
    assert torch.equal(affine(a, b.T, b[0]), torch.nn.functional.linear(a, b.T, b[0]))
    assert matmul(a.double(), b.double()).dtype == torch.float64


def test_bf16_rounds_what_is_multiplied_and_nothing_else(pair: tuple[Tensor, Tensor]) -> None:
    a, b = pair
    rounded = a.bfloat16().double() @ b.bfloat16().double()
    with matmul_precision("bf16"):
        found = matmul(a, b)
        shifted = affine(a, b.T, b[0])
    assert found.dtype == torch.float32
    assert relative(found, rounded) < 1e-6  # summed in float32: bfloat16 would give 2e-3
    assert 1e-3 < relative(found, a.double() @ b.double()) < 5e-3
    assert torch.equal(shifted, found + b[0])


def test_derivatives_are_products_of_the_same_kind_even_after_the_choice(pair: tuple[Tensor, Tensor]) -> None:
    a, b = pair[0].requires_grad_(), pair[1]
    g = torch.randn(40, 8, generator=torch.Generator().manual_seed(1)).requires_grad_()
    with matmul_precision("bf16"):
        value = matmul(a, b)
    (gradient,) = torch.autograd.grad(value, a, g, create_graph=True)
    assert relative(gradient.detach(), g.detach().bfloat16().double() @ b.bfloat16().double().T) < 1e-6
    v = torch.randn_like(gradient)
    (second,) = torch.autograd.grad(gradient, g, v)
    assert relative(second, v.bfloat16().double() @ b.bfloat16().double()) < 1e-6


def test_the_derivatives_are_those_of_a_product(monkeypatch: pytest.MonkeyPatch) -> None:
    """With no rounding at all, in two orders."""
    monkeypatch.setattr(Tensor, "bfloat16", lambda self: self)
    monkeypatch.setattr(Tensor, "float", lambda self: self)
    a, b = torch.randn(3, 4, dtype=torch.float64), torch.randn(4, 2, dtype=torch.float64)

    def product(a: Tensor, b: Tensor) -> Tensor:
        return precision._Coarse.apply("bf16", a, b)

    assert gradcheck(product, (a.requires_grad_(), b.requires_grad_()))
    assert torch.autograd.gradgradcheck(product, (a, b))


def test_bf16_is_not_for_weights_that_are_trained(pair: tuple[Tensor, Tensor]) -> None:
    a, b = pair
    with matmul_precision("bf16"):
        with pytest.raises(ValueError, match=r'`matmul` "bf16" is for inference.*freeze the weights'):
            matmul(a, b.requires_grad_())
        with torch.no_grad():
            matmul(a, b)


@pytest.mark.parametrize("coarse", ["bf16", "tf32"])
def test_float64_is_not_coarsened(pair: tuple[Tensor, Tensor], coarse: Any) -> None:
    with matmul_precision(coarse), pytest.raises(ValueError, match=f'"{coarse}" coarsens products of float32'):
        matmul(pair[0].double(), pair[1].double())


def test_the_choice_ends_with_its_block_and_is_this_threads_alone() -> None:
    seen: list[str] = []
    with suppress(KeyError), matmul_precision("bf16"):
        thread = threading.Thread(target=lambda: seen.append(chosen()))
        thread.start()
        thread.join()
        with matmul_precision("ieee"):
            seen.append(chosen())
        seen.append(chosen())
        raise KeyError
    assert [*seen, chosen()] == ["ieee", "ieee", "bf16", "ieee"]


def test_formulas_are_for_a_block_too() -> None:
    with suppress(KeyError), formulas():
        assert formulas_only()
        raise KeyError
    assert not formulas_only()


@pytest.mark.parametrize(
    ("word", "device", "dtype", "reason"),
    [
        ("tf23", CPU, torch.float32, "`matmul` must be one of ieee, tf32, bf16, got 'tf23'"),
        ("tf32", CPU, torch.float32, '"tf32" needs a GPU of compute capability 8.0 or higher, and the device is cpu'),
        ("bf16", CPU, torch.float64, '"bf16" coarsens products of float32, but the precision is float64'),
        ("tf32", CUDA, torch.float32, "cuda has 7.5"),
        ("bf16", CUDA, torch.float32, "cuda has 7.5"),
    ],
)
def test_what_cannot_be_had_is_refused(
    word: str, device: torch.device, dtype: torch.dtype, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    with pytest.raises(ValueError, match=reason):
        require_available(word, device, dtype)


@pytest.mark.parametrize("word", ["ieee", "tf32", "bf16"])
def test_an_ampere_has_all_of_it(word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    require_available(word, CUDA, torch.float32)


# ---- torch's switches


def turned() -> dict[str, Callable[[], None]]:
    """Ways in which somebody may have turned them."""
    ways: dict[str, Callable[[], None]] = {
        "allow_tf32": lambda: setattr(torch.backends.cuda.matmul, "allow_tf32", True),
        "high": lambda: torch.set_float32_matmul_precision("high"),
        "medium": lambda: torch.set_float32_matmul_precision("medium"),
    }
    if HAS_SWITCHES:
        ways["of CUDA"] = lambda: setattr(torch.backends.cuda.matmul, "fp32_precision", "tf32")
        ways["of the CPU"] = lambda: setattr(torch.backends.mkldnn.matmul, "fp32_precision", "bf16")
    return ways


def switch(device: torch.device) -> str:
    return precision._switch(device)


@pytest.mark.parametrize("old", [False, True], ids=["now", "torch 2.8"])
@pytest.mark.parametrize("device", [CPU, CUDA], ids=str)
@pytest.mark.parametrize("way", turned())
def test_whoever_turned_a_switch_finds_it_as_it_was_and_within_products_are_float32(
    way: str, device: torch.device, old: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if old:
        if "of" in way:
            pytest.skip("torch 2.8 has one switch")
        monkeypatch.setattr(precision, "_owner", lambda device: None)
    turned()[way]()
    before = [switch(CPU), switch(CUDA)]
    for _ in range(2):
        with suppress(KeyError), full_float32(device):
            assert switch(device) in ("ieee", "highest", "none")
            raise KeyError
        assert [switch(CPU), switch(CUDA)] == before
    if not old and way == "allow_tf32":
        assert torch.backends.cuda.matmul.allow_tf32


@pytest.mark.parametrize("old", [False, True], ids=["now", "torch 2.8"])
def test_tf32_is_switched_on_for_its_own_products_alone(
    pair: tuple[Tensor, Tensor], old: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if old:
        monkeypatch.setattr(precision, "_owner", lambda device: None)
    in_tf32 = precision._in_tf32
    # A CPU has the same switch, whatever it makes of it.
    monkeypatch.setattr(precision, "_in_tf32", lambda device: in_tf32(CUDA))
    a, b = pair[0].requires_grad_(), pair[1].requires_grad_()
    right = Tensor.__matmul__
    states = []
    monkeypatch.setattr(Tensor, "__matmul__", lambda x, y: states.append(switch(CUDA)) or right(x, y))
    with full_float32(CUDA):
        with matmul_precision("tf32"):
            value = matmul(a, b)
        value.sum().backward()
        after = switch(CUDA)
    assert states == (["high"] if old else ["tf32"]) * 3
    assert after in ("highest", "none")


@pytest.mark.parametrize("way", turned())
def test_a_block_that_ends_leaves_the_one_of_another_thread_exact(way: str) -> None:
    turned()[way]()
    before = switch(CPU)
    with ThreadPoolExecutor(1) as other:
        mine = full_float32(CPU)
        with full_float32(CPU):
            other.submit(mine.__enter__).result()
        assert switch(CPU) in ("ieee", "highest", "none")
        other.submit(mine.__exit__, None, None, None).result()
    assert switch(CPU) == before


def test_nothing_is_turned_where_nobody_turned_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "_turn", lambda *_: pytest.fail("turned"))
    for device in (CPU, CUDA):
        with full_float32(device):
            assert switch(device) in ("none", "highest")


def needs_a_cpu_that_rounds() -> None:
    a = torch.randn(256, 256, generator=torch.Generator().manual_seed(0))
    exact = a @ a
    torch.set_float32_matmul_precision("medium")
    rounds = not torch.equal(a @ a, exact)
    torch.set_float32_matmul_precision("highest")
    if not rounds:
        pytest.skip("this CPU multiplies float32 as float32 whatever torch's switch says")


def test_no_switch_reaches_energies_and_forces(make_potential: MakePotential, ethanol: Atoms) -> None:
    needs_a_cpu_that_rounds()
    potential = make_potential(channels=64, radial_hidden=(128, 128)).float()
    graph = from_atoms(ethanol, potential.cutoff)
    before, descriptors = potential(graph), potential.descriptors(graph)
    torch.set_float32_matmul_precision("medium")
    after = potential(graph)
    assert torch.equal(after["energy"], before["energy"])
    assert torch.equal(after["forces"], before["forces"])
    assert torch.equal(potential.descriptors(graph), descriptors)
    assert torch.get_float32_matmul_precision() == "medium"


def test_no_switch_reaches_training(make_potential: MakePotential, ethanol: Atoms) -> None:
    needs_a_cpu_that_rounds()
    weights = []
    for word in ("highest", "medium"):
        potential = make_potential(channels=64, radial_hidden=(128, 128)).float().train()
        graph = from_atoms(ethanol, potential.cutoff)
        graph.energy, graph.weight = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
        graph.forces = torch.zeros(9, 3, dtype=torch.float64)
        torch.set_float32_matmul_precision(word)
        optimizer = torch.optim.SGD(potential.parameters(), lr=1e-3)
        train_step(potential, graph, Loss(energy=1.0, forces=1.0, stress=0.0), optimizer, 10.0)
        weights.append(torch.cat([weight.detach().flatten() for weight in potential.parameters()]))
    assert torch.equal(*weights)


# ---- in a potential


def test_a_calculator_says_once_what_bf16_costs(make_potential: MakePotential, ethanol: Atoms) -> None:
    potential = make_potential()
    forces = {}
    for word in ("ieee", "bf16"):
        ethanol.calc = EquinetCalculator(potential, dtype="float32", matmul=word)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always", CoarseProducts)
            forces[word] = ethanol.get_forces()
            said = [each for each in said if each.category is CoarseProducts]
        assert len(said) == (word == "bf16")
    assert 'matrix products in bf16 (`matmul="bf16"`): against float64 the energy errs by' in str(said[0].message)
    assert str(said[0].message).endswith(", on C2OH6")
    error = ethanol.calc.rounding
    exact = EquinetCalculator(potential).get_forces(ethanol)
    assert error.forces_max == pytest.approx(1e3 * np.abs(forces["bf16"] - exact).max(), rel=1e-6)
    scale = 1e3 * np.sqrt((exact**2).mean())
    assert 1e-4 * scale < error.forces_rms < 0.1 * scale
    assert error.energy > 0
    assert np.abs(forces["ieee"] - exact).max() < 1e-2 * np.abs(forces["bf16"] - exact).max()
    ethanol.positions += 0.01
    with warnings.catch_warnings():
        warnings.simplefilter("error", CoarseProducts)
        ethanol.get_forces()


@pytest.mark.parametrize("kind", ["residual", "density", "gated"])
def test_bf16_reaches_every_kind_of_layer_and_passes_the_gate(
    make_potential: MakePotential, ethanol: Atoms, kind: str
) -> None:
    potential = make_potential(first_interaction=kind, interaction=kind, envelope_on="weights").float()
    potential.requires_grad_(False)
    graph = from_atoms(ethanol, potential.cutoff)
    before = potential(graph)
    with matmul_precision("bf16"):
        coarse = potential(graph)
        assert require_backend_match(potential, graph)
    again = potential(graph)
    assert torch.equal(again["forces"], before["forces"])  # nothing stays behind, not in what is kept of weights either
    error = (coarse["forces"] - before["forces"]).norm() / before["forces"].norm()
    assert 1e-4 < error < 0.1


def test_every_linear_map_is_coarse(
    make_potential: MakePotential, ethanol: Atoms, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Radial network, mixing of channels, mixing by species and readout: forth, and back for forces."""
    potential = make_potential().float().requires_grad_(False)
    shapes = []
    right = precision._Coarse.apply

    class Watched:
        @staticmethod
        def apply(word: str, a: Tensor, b: Tensor) -> Tensor:
            shapes.append((a.shape[1], b.shape[1]))
            return right(word, a, b)

    monkeypatch.setattr(precision, "_Coarse", Watched)
    with matmul_precision("bf16"):
        potential(from_atoms(ethanol, potential.cutoff))
    layers = potential.model.layers
    radial = {tuple(weight.shape) for interaction, _, _ in layers for weight in interaction.radial.weights}
    readout = {tuple(weight.shape) for _, _, readout in layers for weight in readout.network.weights}
    linear = {tuple(weight.shape) for interaction, _, _ in layers for weight in interaction.linear.weights.values()}
    species = {tuple(w.shape[1:]) for interaction, _, _ in layers for w in interaction.species_linear.weights.values()}
    assert radial | readout | linear | species <= set(shapes)
    assert {shape[::-1] for shape in radial | linear} <= set(shapes)


def test_training_in_bf16_is_refused(make_potential: MakePotential, ethanol: Atoms) -> None:
    potential = make_potential().float().train()
    with matmul_precision("bf16"), pytest.raises(ValueError, match="is for inference"):
        potential(from_atoms(ethanol, potential.cutoff))


@pytest.mark.parametrize(
    ("word", "dtype", "reason"),
    [
        ("tf32", "float32", "needs a GPU"),
        ("bf16", "float64", "float64; take float32"),
        ("fp8", "float32", "must be one"),
    ],
)
def test_a_calculator_refuses_what_cannot_be_had(potential: Potential, word: Any, dtype: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        EquinetCalculator(potential, device="cpu", dtype=dtype, matmul=word)


def test_the_default_asks_for_nothing_and_says_nothing(potential: Potential, ethanol: Atoms) -> None:
    ethanol.calc = EquinetCalculator(potential, dtype="float32")
    with warnings.catch_warnings():
        warnings.simplefilter("error", CoarseProducts)
        ethanol.get_forces()
    assert ethanol.calc.rounding is None
    assert ethanol.calc.matmul == "ieee"


def test_the_command_line_prints_what_it_costs(make_potential: MakePotential, tmp_path: Any) -> None:
    save_potential(make_potential().float(), tmp_path / "model.eqn")
    model, data = str(tmp_path / "model.eqn"), str(SAMPLE["test"])
    out = str(tmp_path / "md.traj")
    for command, where in (
        (["evaluate", model, data, "--matmul", "bf16"], "on the first frame"),
        (
            ["md", model, data, "--dtype", "float32", "--steps", "2", "--out", out, "--matmul", "bf16"],
            "first structure",
        ),
    ):
        result = CliRunner().invoke(app, command)
        text = " ".join(result.output.split())
        assert result.exit_code == 0, text
        assert "matrix products in bf16: against float64 the energy errs by" in text
        assert where in text
    refused = CliRunner().invoke(app, ["evaluate", model, data, "--matmul", "tf32", "--device", "cpu"])
    assert refused.exit_code == 1
    assert 'error: --matmul "tf32" needs a GPU' in " ".join(refused.output.split())
    exact, coarse = (evaluate_file(model, data, matmul=word).errors.rmse["forces"] for word in ("ieee", "bf16"))
    assert exact != coarse
    assert coarse == pytest.approx(exact, rel=0.1)
