"""The table of properties: a new label is one row and a model that predicts it, from the file to the calculator."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from typer.testing import CliRunner

from equinet import load
from equinet.cli import app
from equinet.datasets import LabelKeys, read_frames, to_graphs
from equinet.datasets.properties import PROPERTIES, Property, property_named, register_property
from equinet.md import EquinetCalculator
from equinet.models import Model, ModelConfig, NodeOutput, register_model
from equinet.nn import BesselBasis, PolynomialEnvelope
from equinet.ops.edges import as_edges
from equinet.ops.species import as_groups
from equinet.testing import ModelContract
from equinet.train import Loss, assemble, parse_config

DIPOLE = Property(
    name="dipole",
    per="structure",
    shape=(3,),
    unit="e Å",
    symmetry="1o",
    symbol="μ",
    shown_unit="me Å",
    factor=1e3,
    suffix="me_ang",
    centred=False,
)
CHARGES = replace(
    DIPOLE, name="charges", per="atom", shape=(), unit="e", symmetry="0e", symbol="q", shown_unit="me", suffix="me"
)


class PolarConfig(ModelConfig):
    architecture: Literal["polar"] = "polar"


@register_model
class Polar(Model):
    """A sum over pairs, a charge of each element, and a dipole of each atom along its edges."""

    config_class = PolarConfig
    predicts = ("dipole", "charges")
    reaches_beyond_cutoff = None

    def __init__(self, config, elements, avg_num_neighbors):
        super().__init__(config, elements, avg_num_neighbors)
        self.basis, self.envelope = BesselBasis(config.cutoff, 4), PolynomialEnvelope(config.cutoff, 5)
        self.weight = torch.nn.Parameter(torch.randn(len(elements), 4))
        self.charge = torch.nn.Parameter(torch.zeros(len(elements)))

    def forward(self, vectors, species, edges):
        groups = as_groups(species)
        edges = as_edges(edges, len(groups.species))
        lengths = vectors.norm(dim=1, keepdim=True)
        envelope, (sender, receiver) = self.envelope(lengths), groups.species[edges.index]
        of_pair = ((self.weight[sender] + self.weight[receiver]) * self.basis(lengths) * envelope).sum(1, keepdim=True)
        energy, coordination = edges.sum_on_receivers(torch.cat([of_pair, envelope], dim=1)).unbind(1)
        charges = self.charge[groups.species]
        pull = (charges[edges.index[1]] - charges[edges.index[0]]).unsqueeze(1) * envelope * vectors
        dipole = torch.zeros(len(charges), 3, dtype=vectors.dtype).index_add(0, edges.index[1], pull)
        return NodeOutput(energy, coordination, properties={"dipole": dipole.double(), "charges": charges.double()})


@pytest.fixture
def registered() -> Iterator[None]:
    for row in (DIPOLE, CHARGES):
        register_property(row)
    yield
    for row in (DIPOLE, CHARGES):
        del PROPERTIES[row.name]


@pytest.fixture
def frames(tmp_path: Path, registered: None) -> Path:
    """Water, stretched and turned, with energies, forces, dipoles, and charges in half of the frames."""
    rng, images = np.random.default_rng(0), []
    for n in range(12):
        atoms = Atoms(
            "OHH", np.array([[0, 0, 0], [0.76, 0.59, 0], [-0.76, 0.59, 0]]) + rng.normal(scale=0.05, size=(3, 3))
        )
        charges = np.array([-0.8, 0.4, 0.4])
        atoms.calc = SinglePointCalculator(atoms, energy=-10.0 + 0.1 * rng.normal(), forces=rng.normal(size=(3, 3)))
        atoms.info["mu"] = charges @ atoms.positions
        if n % 2:
            atoms.arrays["charges"] = charges
        images.append(atoms)
    ase.io.write(tmp_path / "water.xyz", images)
    return tmp_path / "water.xyz"


def configuration(frames: Path, **train: Any) -> dict[str, Any]:
    return {
        "data": {
            "train": str(frames),
            "valid": 0.25,
            "test": str(frames),
            "keys": {"dipole": "mu"},
            "allow_missing": True,
        },
        "model": {"architecture": "polar", "cutoff": 3.0},
        "train": {"epochs": 6, "batch_size": 3, "device": "cpu", "weights": {"dipole": 10.0, "charges": 1.0}, **train},
    }


def test_labels_of_new_properties_are_read_checked_and_batched(frames: Path) -> None:
    graphs = to_graphs(read_frames(frames, LabelKeys(dipole="mu")), 3.0)
    assert graphs[0].dipole.shape == (1, 3)
    assert graphs[0].charges.isnan().all()
    assert graphs[1].charges.tolist() == [-0.8, 0.4, 0.4]
    images = ase.io.read(frames, ":")
    images[3].info["mu"] = [1.0, 2.0]
    ase.io.write(frames, images)
    with pytest.raises(ValueError, match=r"frame 3: `mu` has shape \(2,\), must be \(3,\)"):
        read_frames(frames, LabelKeys(dipole="mu"))


def test_a_new_label_goes_from_the_file_to_the_calculator_by_its_row_alone(frames: Path, tmp_path: Path) -> None:
    config = tmp_path / "polar.toml"
    config.write_text(
        f'[data]\ntrain = "{frames}"\nvalid = 0.25\ntest = "{frames}"\nkeys = {{ dipole = "mu" }}\nallow_missing = true\n'
        '[model]\narchitecture = "polar"\ncutoff = 3.0\n'
        '[train]\nepochs = 60\nema_decay = 0.0\nforces_weight = 0.0\nbatch_size = 3\ndevice = "cpu"\nlearning_rate = 0.05\nweights = { dipole = 0.1, charges = 10.0 }\n'
    )
    trained = CliRunner().invoke(app, ["train", str(config), "--out", str(tmp_path / "run")])
    assert trained.exit_code == 0, trained.output
    assert "μ me Å" in trained.output
    assert "q me" in trained.output
    errors = json.loads((tmp_path / "run" / "errors.json").read_text())["test"]
    # The charges of the labels are those of elements, which the model can learn exactly; they start at zero.
    assert errors["charges_rmse_me"] < 100
    assert errors["dipole_rmse_me_ang"] < 1000
    assert (tmp_path / "run" / "plots" / "parity.png").stat().st_size > 10_000

    model = tmp_path / "run" / "model.eqn"
    evaluated = CliRunner().invoke(app, ["evaluate", str(model), str(frames), "--json", str(tmp_path / "errors.json")])
    assert evaluated.exit_code == 0, evaluated.output
    assert json.loads((tmp_path / "errors.json").read_text())["charges_rmse_me"] == pytest.approx(
        errors["charges_rmse_me"]
    )

    atoms = ase.io.read(frames)
    atoms.calc = EquinetCalculator(model)
    assert {"dipole", "charges"} <= set(atoms.calc.implemented_properties)
    assert atoms.get_dipole_moment().shape == (3,)
    assert atoms.get_charges() == pytest.approx(load(model).model.charge[[1, 0, 0]].detach().numpy())


def test_a_loss_term_is_the_mean_square_error_of_its_labels(frames: Path) -> None:
    parts = assemble(parse_config(configuration(frames)))
    graph = next(iter(parts.data.valid))
    prediction = parts.potential.train()(graph)
    there = ~graph.charges.isnan()
    expected = 3.0 * (prediction["charges"] - graph.charges)[there].square().mean()
    torch.testing.assert_close(Loss(energy=0.0, forces=0.0, charges=3.0)(prediction, graph), expected)


def test_a_term_that_the_model_does_not_predict_is_refused(frames: Path) -> None:
    config = configuration(frames)
    config["model"] = {"channels": 2, "layers": 1}
    with pytest.raises(ValueError, match=r"the loss gives dipole a weight, but MACE does not predict it"):
        assemble(parse_config(config))


def test_a_frame_without_the_label_is_named_with_its_key(frames: Path) -> None:
    config = configuration(frames)
    config["data"] |= {"allow_missing": False, "keys": {}}
    with pytest.raises(
        ValueError, match=r"have no label `dipole`, .*frame \d+; .* The frame holds: .*mu.* set `data\.keys\.dipole`"
    ):
        assemble(parse_config(config))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train": {"weights": {"dipol": 1.0}}}, r"there is no property 'dipol'; did you mean 'dipole'"),
        ({"train": {"weights": {"energy": 1.0}}}, r"energy has a key of its own"),
        ({"data": {"train": "x.xyz", "keys": {"moment": "m"}}}, r"there is no property 'moment'"),
    ],
)
def test_a_configuration_names_registered_properties_only(change: dict, message: str, registered: None) -> None:
    with pytest.raises(ValueError, match=message):
        parse_config({"data": {"train": "x.xyz"}, **change})


def test_the_model_of_the_test_keeps_the_contract(registered: None) -> None:
    ModelContract(PolarConfig()).check()


def test_the_table_refuses_bad_rows_and_unknown_names() -> None:
    with pytest.raises(ValueError, match="there is a property 'energy' already"):
        register_property(replace(DIPOLE, name="energy"))
    with pytest.raises(ValueError, match=r"`symmetric` is for tensors of shape \(3, 3\)"):
        replace(DIPOLE, symmetric=True)
    with pytest.raises(ValueError, match="`name` must be an identifier"):
        replace(DIPOLE, name="dipole moment")
    with pytest.raises(ValueError, match="there is no property 'force'; did you mean 'forces'"):
        property_named("force")
    with pytest.raises(ValueError, match="there is no property 'moment'"):
        LabelKeys(moment="m")
