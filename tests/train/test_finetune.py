"""Training that starts from a model that is there: same architecture, same energies before the first step."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from equinet.checkpoint import load_potential, read_header, save_potential
from equinet.graph import AtomicGraph, collate, from_atoms
from equinet.potential import Potential
from equinet.tables import Block, as_text
from equinet.train import prepare, read_config, run
from equinet.train.finetune import mean_gap, refit_references
from equinet.train.run import SilentRun


@pytest.fixture
def begin(make_config, finished):
    """A configuration that starts from the finished run's model and says nothing of the architecture."""
    config = make_config(epochs=1, start_from=str(finished.out / "model.eqn"), learning_rate=1e-12)
    return config.model_copy(update={"model": type(config.model)()})


def test_it_begins_where_the_model_was(begin, finished, tmp_path: Path) -> None:
    result = run(begin, tmp_path / "on")
    start = load_potential(finished.out / "model.eqn")
    graph = collate(prepare(read_config(tmp_path / "on" / "config.toml", [])).graphs["valid"])
    torch.testing.assert_close(
        result.potential.double()(graph)["energy"], start.double()(graph)["energy"], rtol=0, atol=1e-4
    )
    assert result.potential.model.config == finished.potential.model.config
    assert result.potential.elements == finished.potential.elements
    assert torch.equal(result.potential.scale.shift, finished.potential.scale.shift)


def test_the_written_configuration_has_the_architecture_of_the_model(begin, finished, tmp_path: Path) -> None:
    run(begin, tmp_path / "on")
    config = read_config(tmp_path / "on" / "config.toml", [])
    assert config.model == finished.potential.model.config
    again = run(config, tmp_path / "again")
    assert read_header(again.out / "model.eqn").model == read_header(tmp_path / "on" / "model.eqn").model


def test_another_architecture_is_refused(make_config, finished, tmp_path: Path) -> None:
    config = make_config(model={"channels": 5}, epochs=1, start_from=str(finished.out / "model.eqn"))
    with pytest.raises(ValueError, match=r"`model\.channels` is 5, but the model to start from, .*model\.eqn, has \d+"):
        run(config, tmp_path / "on")


def test_an_element_that_the_model_does_not_know_is_refused(begin, copper, write, tmp_path: Path) -> None:
    data = begin.data.model_copy(
        update={"train": write("copper.xyz", copper), "valid": 0.5, "test": None, "e0s": "auto"}
    )
    with pytest.raises(ValueError, match="this model does not know Cu"):
        run(begin.model_copy(update={"data": data}), tmp_path / "on")


def test_a_model_that_is_not_there_is_refused(begin, tmp_path: Path) -> None:
    train = begin.train.model_copy(update={"start_from": str(tmp_path / "no.eqn")})
    with pytest.raises(FileNotFoundError, match=r"there is no file .*no\.eqn"):
        run(begin.model_copy(update={"train": train}), tmp_path / "on")


def test_a_relative_path_is_beside_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "train.toml").write_text('[data]\ntrain = "x.xyz"\n[train]\nstart_from = "old/model.eqn"\n')
    assert read_config(tmp_path / "train.toml", []).train.start_from == str(tmp_path / "old" / "model.eqn")


class Told(SilentRun):
    """Keeps the text of a run."""

    text = ""

    def say(self, block: Block) -> None:
        self.text += as_text([block]) + "\n"


def test_reference_energies_can_be_fitted_to_other_labels(begin, finished, tmp_path: Path) -> None:
    other = load_potential(finished.out / "model.eqn")
    known = other.scale.reference.clone()
    other.scale.reference += torch.linspace(-300, 200, len(known), dtype=torch.float64)  # of another code, say
    save_potential(other, tmp_path / "other.eqn")
    config = begin.model_copy(
        update={"train": begin.train.model_copy(update={"start_from": str(tmp_path / "other.eqn")})}
    )
    kept = run(config, tmp_path / "kept", reporter=(told := Told()))
    assert "eV/atom: training begins with closing that gap" in told.text
    assert torch.equal(kept.potential.scale.reference, other.scale.reference)

    refit = config.model_copy(update={"train": config.train.model_copy(update={"start_e0s": "refit"})})
    result = run(refit, tmp_path / "refit", reporter=(told := Told()))
    assert "frames " in told.text
    assert "closing that gap" not in told.text
    graphs = prepare(read_config(tmp_path / "refit" / "config.toml", [])).graphs["train"]
    ours, start = (float(errors_of(p, graphs)) for p in (result.potential, finished.potential))
    assert ours < start + 1e-3  # eV/atom; the least squares may also take off a mean error of the start


def errors_of(potential: Potential, graphs: list[AtomicGraph]) -> torch.Tensor:
    graph = collate(graphs)
    atoms = torch.bincount(graph.graph_of_node)
    return ((potential.double()(graph)["energy"] - graph.energy) / atoms).square().mean().sqrt()


def test_elements_that_do_not_occur_keep_their_reference_energies(make_potential, ethanol) -> None:
    potential = make_potential()  # of H, C and O
    del ethanol[[atom.index for atom in ethanol if atom.symbol == "O"]]
    graph = from_atoms(ethanol, potential.cutoff)
    graph.energy = potential(graph)["energy"] + 12.0
    before = potential.scale.reference.clone()
    refit_references(potential, [graph])
    assert potential.scale.reference[2] == before[2]
    assert mean_gap(potential, [graph]) == pytest.approx(0, abs=1e-9)
    assert (potential.scale.reference[:2] > before[:2]).all()


def test_energies_without_labels_change_nothing(make_potential, ethanol) -> None:
    potential = make_potential()
    graph = from_atoms(ethanol, potential.cutoff)
    graph.energy = torch.tensor([torch.nan], dtype=torch.float64)
    before = potential.scale.reference.clone()
    refit_references(potential, [graph])
    assert torch.equal(potential.scale.reference, before)
    assert mean_gap(potential, [graph]) == 0


def test_fitting_reference_energies_needs_a_start(make_config, tmp_path: Path) -> None:
    config = make_config(epochs=1, start_e0s="refit")
    with pytest.raises(ValueError, match=r"`train\.start_e0s` is about the model to start from"):
        run(config, tmp_path / "on")
