"""The seam for models: a toy architecture goes through everything a MACE goes through, without an edit of equinet."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Literal

import preloaded
import pytest
import torch
from ase import Atoms
from e3nn import o3
from torch import nn
from toy import Pair, PairConfig
from typer.testing import CliRunner

from equinet import load
from equinet.accelerate.capture import StaticStep
from equinet.cli import app
from equinet.convert.mace import to_mace_arguments
from equinet.convert.products import convert
from equinet.datasets import SAMPLE
from equinet.graph import from_atoms
from equinet.md import EquinetCalculator
from equinet.models import MACE, MACEConfig, Model, ModelConfig, build_model, model_class, model_config, register_model
from equinet.nn import EnergyScale
from equinet.ops import GauntGrid
from equinet.potential import Potential
from equinet.testing import ModelContract


@pytest.fixture
def pair() -> Potential:
    torch.manual_seed(0)
    scale = EnergyScale([-13.6, -1029.5, -2041.8], [0.8] * 3, [-2.0] * 3)
    return Potential(Pair(PairConfig(cutoff=4.0), (1, 6, 8), 8.0), scale).double().eval()


@pytest.mark.parametrize("config", [PairConfig(), PairConfig(functions=2, cutoff=3.0, exact_isolated_atoms=False)])
def test_the_toy_model_keeps_the_contract(config: PairConfig) -> None:
    ModelContract(config).check()


@pytest.mark.parametrize(
    "config",
    [
        MACEConfig(channels=2, layers=2, radial_hidden=(4,), correlation=2),
        MACEConfig(
            channels=2,
            layers=1,
            radial_hidden=(4,),
            interaction="gated",
            first_interaction="gated",
            envelope_on="weights",
        ),
    ],
    ids=["residual", "gated"],
)
def test_mace_keeps_the_contract(config: MACEConfig) -> None:
    ModelContract(config).check()


class Drifting(Pair):
    """Energies that depend on where an edge points: not invariant."""

    def forward(self, vectors, species, edges):
        output = super().forward(vectors, species, edges)
        return output._replace(energy=output.energy + vectors[:, 0].square().sum() if len(vectors) else output.energy)


def test_the_contract_finds_a_model_that_breaks_a_symmetry() -> None:
    contract = ModelContract(PairConfig())
    contract.potential.model.__class__ = Drifting
    with pytest.raises(AssertionError, match=r"physics that does not hold: \[.*rotation"):
        contract.check_physics()


class Featureless(Pair):
    descriptor_irreps = o3.Irreps("4x0e")


def test_a_model_that_promises_features_and_returns_none_is_refused(pair: Potential, ethanol: Atoms) -> None:
    pair.model.__class__ = Featureless
    with pytest.raises(ValueError, match="Featureless has `descriptor_irreps`, and its `forward` returned no features"):
        pair.descriptors(from_atoms(ethanol, pair.cutoff))


class Far(Pair):
    def forward(self, vectors, species, edges):
        output = super().forward(vectors, species, edges)
        return output._replace(energy=output.energy + len(vectors))


def test_the_contract_finds_a_model_that_feels_edges_beyond_the_cutoff() -> None:
    contract = ModelContract(PairConfig())
    contract.potential.model.__class__ = Far
    with pytest.raises(AssertionError, match="an edge beyond the cutoff changes energies"):
        contract.check_cutoff()


def test_the_toy_model_is_trained_saved_evaluated_checked_simulated_and_measured_by_the_command_line(
    tmp_path: Path,
) -> None:
    lines = SAMPLE["train"].read_text().splitlines(keepends=True)
    (tmp_path / "few.xyz").write_text("".join(lines[: 3 * 3 + 30 * 11]))
    (tmp_path / "pair.toml").write_text(
        f'[data]\ntrain = "few.xyz"\ntest = "{SAMPLE["test"]}"\n[model]\narchitecture = "pair"\nfunctions = 4\n'
        "[train]\nepochs = 2\n"
    )

    def equinet(*words: object) -> str:
        done = CliRunner().invoke(app, [str(word) for word in words])
        assert done.exit_code == 0, done.output
        return done.output

    out = tmp_path / "run"
    assert "Pair, " in equinet("train", tmp_path / "pair.toml", "--out", out)
    model = out / "model.eqn"
    assert isinstance(load(model).model, Pair)
    assert load(model).model.config == PairConfig(functions=4)
    equinet("evaluate", model, SAMPLE["test"], "--json", tmp_path / "errors.json")
    assert json.loads((tmp_path / "errors.json").read_text())["forces_rmse_mev_per_ang"] > 0
    equinet("check", model, "--max-frames", 2)
    assert "Pair" in equinet("show", model)
    equinet("md", model, SAMPLE["test"], "--steps", 3, "--out", tmp_path / "md.traj")
    measured = equinet("bench", "model", "--model", model, "--atoms", SAMPLE["test"], "--rounds", 3, "--seconds", 0.1)
    assert "training step" in measured


def test_the_calculator_takes_the_toy_model(pair: Potential, ethanol: Atoms) -> None:
    ethanol.calc = EquinetCalculator(pair, dtype="float32")
    exact = pair.double()
    assert ethanol.get_forces() == pytest.approx(EquinetCalculator(exact).get_forces(ethanol), abs=1e-4)


def test_a_static_step_takes_the_toy_model(pair: Potential, triclinic: Atoms) -> None:
    from equinet.graph import from_atoms

    found, expected = StaticStep(pair)(triclinic, stress=True), pair(from_atoms(triclinic, pair.cutoff), stress=True)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-10, atol=1e-10)


def test_what_the_toy_model_lacks_is_refused_with_the_reason(pair: Potential) -> None:
    with pytest.raises(ValueError, match="Pair has no radial networks that a table could replace"):
        pair.tabulate()
    with pytest.raises(ValueError, match="cannot be exchanged: Pair has no layers"):
        convert(pair, many_body=GauntGrid())
    with pytest.raises(ValueError, match="Pair has no equivariant features"):
        pair.descriptor_irreps  # noqa: B018
    with pytest.raises(ValueError, match="only a MACE can be exported to mace-torch, and this potential is a Pair"):
        to_mace_arguments(pair)


def test_an_edge_beyond_the_cutoff_is_not_taken_for_nothing_unless_the_model_says_so(pair: Potential) -> None:
    class Cautious(Pair):
        reaches_beyond_cutoff = Model.reaches_beyond_cutoff

    pair.model.__class__ = Cautious
    with pytest.raises(ValueError, match="Cautious does not state that edges beyond the cutoff add exactly nothing"):
        StaticStep(pair)


# Registry


def test_a_configuration_chooses_its_architecture() -> None:
    assert model_config({}) == MACEConfig()
    assert model_config({"architecture": "pair", "functions": 2}) == PairConfig(functions=2)
    assert isinstance(build_model(PairConfig(), (1, 8), 3.0), Pair)
    assert model_class("mace") is MACE


def test_an_unknown_architecture_is_named_with_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"there is no architecture 'nequip'; there are: .*mace.*pair"):
        model_config({"architecture": "nequip"})


def with_name(name: str) -> Any:
    class Config(ModelConfig):
        architecture: Literal[name] = name  # type: ignore[valid-type]

    return type("Another", (Pair,), {"config_class": Config})


def test_a_name_is_given_once() -> None:
    with pytest.raises(ValueError, match="the architecture 'mace' is MACE already"):
        register_model(with_name("mace"))


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (nn.Linear, "must be a subclass of equinet.models.Model"),
        (type("Bare", (Model,), {}), "Bare needs `config_class`"),
        (type("Nameless", (Pair,), {"config_class": ModelConfig}), "has no name of its own"),
    ],
)
def test_what_is_no_model_is_not_registered(wrong: Any, reason: str) -> None:
    with pytest.raises((TypeError, ValueError), match=reason):
        register_model(wrong)


@pytest.mark.parametrize("broken", [False, True], ids=["whole", "broken"])
def test_an_installed_package_offers_its_architecture_by_an_entry_point(tmp_path: Path, broken: bool) -> None:
    """No import of the package is written anywhere: the configuration alone names it."""
    info = tmp_path / "somebody-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: somebody\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[equinet.models]\npair = somebody:Pair\n")
    code = "raise OSError('libsomebody.so is missing')" if broken else (Path(__file__).parent / "toy.py").read_text()
    (tmp_path / "somebody.py").write_text(code)
    script = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "from equinet.models import model_config, model_names\n"
        "assert 'pair' in model_names()\n"
        "print(repr(model_config({'architecture': 'pair', 'functions': 3})))"
    )
    done = preloaded.run([sys.executable, "-c", script])
    if broken:
        assert (
            "the architecture 'pair' of somebody:Pair cannot be loaded: OSError: libsomebody.so is missing"
            in done.stderr
        )
    else:
        assert done.stdout.startswith("PairConfig(architecture='pair'"), done.stderr
