"""Training on labels that are weighted, missing, doubtful or in other units, from the configuration to the model file."""

from __future__ import annotations

import json
import re
import tomllib
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from typer.testing import CliRunner

from equinet.checkpoint import load_potential, read_header, save_potential
from equinet.cli import app
from equinet.datasets import LabelKeys, Units, to_graphs
from equinet.datasets.composition import UndeterminedReferences
from equinet.md import EquinetCalculator
from equinet.train import Loss, assemble, evaluate_file, parse_config, prepare, run, to_toml
from equinet.train.finetune import refit_references
from equinet.train.loop import validate
from equinet.train.run import describe


def labelled(atoms: Atoms, **labels: Any) -> Atoms:
    atoms.calc = SinglePointCalculator(atoms, **labels)
    return atoms


def copies(copper: list[Atoms]) -> list[Atoms]:
    return [labelled(atoms.copy(), **atoms.calc.results) for atoms in copper]


def waters(count: int = 8) -> list[Atoms]:
    rng = np.random.default_rng(0)
    shape = np.array([[0, 0, 0], [0.76, 0.59, 0], [-0.76, 0.59, 0]])
    images = [Atoms("OHH", shape + 0.05 * rng.normal(size=(3, 3))) for _ in range(count)]
    return [labelled(a, energy=-999.0 + 0.1 * rng.normal(), forces=rng.normal(size=(3, 3))) for a in images]


@pytest.fixture
def config(write, make_config):
    """A function that makes a configuration of frames, with keys of [data] as keywords."""

    def make(frames: list[Atoms], train: dict[str, Any] | None = None, **data: Any):
        path = write("train.xyz", frames)
        return make_config(data={"train": path, "valid": path, **data}, **{"epochs": 1, **(train or {})})

    return make


def test_the_validation_loss_is_the_training_loss_of_the_same_frames(copper, write, make_parts, config) -> None:
    frames = copies(copper)[:4]
    for atoms, weight in zip(frames, (0.0, 1.0, 2.5, 0.5)):
        atoms.info |= {"weight": weight, "forces_weight": 3.0 if weight == 1 else 1.0}
    parts = make_parts(config(frames))
    loss = Loss(energy=2.0, forces=30.0, stress=5.0)
    (batch,) = list(parts.data.valid)
    parts.potential.eval()
    expected = float(loss(parts.potential(batch, stress=True), batch))
    found, score = validate(parts.potential, parts.data.valid, loss)
    assert score == pytest.approx(expected, rel=1e-6)
    # By hand, for the energies: the frame of weight zero counts in no mean.
    energies = parts.potential(batch)["energy"].detach() - torch.tensor([a.calc.results["energy"] for a in frames])
    weights, sizes = torch.tensor([1.0, 2.5, 0.5]).double(), batch.atoms_per_graph[1:]
    only = validate(parts.potential, parts.data.valid, Loss(energy=1.0, forces=0.0, stress=0.0))[1]
    assert only == pytest.approx(float((weights * (energies[1:] / sizes) ** 2).sum()) / 3, rel=1e-6)
    assert found.rmse["energy"] == pytest.approx(1e3 * float(((energies[1:] / sizes) ** 2).mean().sqrt()), rel=1e-5)


def test_a_weight_of_a_term_multiplies_that_term_alone(copper) -> None:
    frames = copies(copper)[:1]
    (plain,) = to_graphs(read(frames), 4.0)
    frames[0].info["forces_weight"] = 7.0
    (heavy,) = to_graphs(read(frames), 4.0)
    prediction = {"energy": plain.energy + 1, "forces": plain.forces + 1, "stress": plain.stress + 1}
    for term, factor in (("energy", 1.0), ("forces", 7.0), ("stress", 1.0)):
        loss = Loss(**{**dict.fromkeys(("energy", "forces", "stress"), 0.0), term: 1.0})
        torch.testing.assert_close(loss(prediction, heavy), factor * loss(prediction, plain))


def read(frames: list[Atoms]) -> list[Atoms]:
    from equinet.datasets import labelled as checked

    return [checked(atoms) for atoms in frames]


def test_a_frame_of_weight_zero_changes_no_number_of_a_run(copper, write, make_config, tmp_path: Path) -> None:
    """But its presence in the batches: with one batch of everything even the training is the same."""
    frames = copies(copper)
    frames[0].info["config_weight"] = 1
    bad = copies(copper)[0]
    bad.calc.results |= {"energy": -5000.0, "forces": np.full((4, 3), 900.0)}
    bad.info["config_weight"] = 0
    histories = []
    for name, part in (("good", frames), ("all", [*frames, bad])):
        path = write(f"{name}.xyz", part)
        data = {"train": path, "valid": path, "weight_key": "config_weight"}
        result = run(make_config(data=data, epochs=2, batch_size=20, dtype="float64"), tmp_path / name)
        histories.append([record["valid_loss"] for record in result.state.history])
        assert result.errors["valid"].rmse["energy"] < 1e4
    np.testing.assert_allclose(histories[1], histories[0], rtol=1e-6)


def test_weights_that_the_configuration_does_not_name_are_refused(copper, config) -> None:
    frames = copies(copper)
    frames[2].info["config_weight"] = 0.5
    with pytest.raises(
        ValueError, match=r'frame 2: frames carry `config_weight` \(0\.5\).*data\.weight_key = "config_w'
    ):
        prepare(config(frames))
    prepare(config(frames, weight_key="config_weight"))
    prepare(config(frames, weight_key=""))


def test_kinds_of_frames_have_weights(copper, config) -> None:
    frames = copies(copper)
    for n, atoms in enumerate(frames):
        atoms.info["config_type"] = "bulk" if n % 2 else "strained slab"
    graphs = prepare(config(frames, config_type_weights={"strained slab": 0.25})).graphs["train"]
    assert [float(graph.weight) for graph in graphs[:2]] == [0.25, 1.0]
    with pytest.raises(
        ValueError, match="names bluk, and no frame is of that kind; the kinds are: bulk, strained slab"
    ):
        prepare(config(frames, config_type_weights={"bluk": 2.0}))


def test_term_weights_decide_the_identity_of_a_run(copper, config) -> None:
    frames = copies(copper)
    before = prepare(config(frames)).digest
    frames[0].info["forces_weight"] = 2.0
    assert prepare(config(frames)).digest != before


def test_labels_in_hartree_and_bohr_train_as_those_in_ev(copper, config) -> None:
    hartree, bohr = 27.211386024367243, 0.5291772105638411
    atomic = []
    for atoms in copies(copper):
        other = Atoms(atoms.numbers, atoms.positions / bohr, cell=atoms.cell[:] / bohr, pbc=True)
        energy, forces, stress = (atoms.calc.results[name] for name in ("energy", "forces", "stress"))
        other.info |= {"e": energy / hartree, "v": -stress * atoms.get_volume() / hartree}
        other.arrays["f"] = forces / hartree * bohr
        atomic.append(other)
    expected = prepare(config(copies(copper)))
    units = {"energy": "Hartree", "length": "Bohr"}
    found = prepare(config(atomic, energy_key="e", forces_key="f", virial_key="v", units=units))
    for name in ("positions", "energy", "forces", "stress"):
        for one, other in zip(expected.graphs["train"], found.graphs["train"]):
            torch.testing.assert_close(other[name], one[name], rtol=1e-6, atol=1e-6)
    assert found.statistics.reference == pytest.approx(expected.statistics.reference, rel=1e-6)


def test_settings_of_labels_survive_being_written() -> None:
    data = {
        "train": "a.xyz",
        "units": {"energy": "Hartree", "stress": "GPa"},
        "stress_sign": "compression",
        "virial_key": "virial",
        "config_type_weights": {"strained slab": 0.5, "AIMD": 1.0},
        "allow_missing": ["stress"],
    }
    config = parse_config({"data": data})
    again = parse_config(tomllib.loads(to_toml(config)))
    assert again == config
    keys = again.data.label_keys()
    assert (keys.units, keys.virial) == (Units(energy="Hartree", stress="GPa"), "virial")
    assert (keys.stress_sign, keys.type_weights) == ("compression", {"strained slab": 0.5, "AIMD": 1.0})


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"units": {"energy": "hartree"}}, r"`data\.units`: .*no energy unit 'hartree'; did you mean 'Hartree'"),
        ({"units": {"energi": "eV"}}, r"`data\.units`: Input should be 'energy', 'length', 'forces' or 'stress'"),
        ({"stress_sign": "up"}, r"`data\.stress_sign`: Input should be 'tension' or 'compression'"),
        ({"allow_missing": ["stres"]}, r"there is no property 'stres'; did you mean 'stress'"),
        ({"allow_missing": "stress"}, r"`data\.allow_missing`: Input should be a valid boolean, got 'stress'"),
        ({"config_type_weights": {"a": -1.0}}, r"`data\.config_type_weights`: .*greater than or equal to 0"),
    ],
)
def test_settings_that_mean_nothing_are_refused(data: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_config({"data": {"train": "a.xyz", **data}})


def lines(config) -> str:
    return "\n".join(str(getattr(block, "text", block)) for block in describe(assemble(config)))


def test_labels_are_counted_before_the_first_step(copper, config) -> None:
    frames = copies(copper)
    for atoms in frames[:3]:
        del atoms.calc.results["energy"]
    said = lines(config(frames, allow_missing=["energy"]))
    assert "labels      train: energy 7 of 10, forces 10, stress 10\n" in said
    frames[8].info["forces_weight"] = 2.5
    frames[9].info["weight"] = 0
    assert "energy 6 of 10, forces 9 of 10, stress 9 of 10; 1 of weight 0, left out; weights 1 to 2.5" in lines(
        config(frames, allow_missing=["energy"])
    )


def test_energies_alone_say_that_there_are_no_forces(copper, config) -> None:
    frames = [labelled(atoms.copy(), energy=atoms.calc.results["energy"]) for atoms in copper]
    said = lines(config(frames, {"forces_weight": 0.0}))
    assert "no forces, scale 0." in said
    assert "rms" not in said


def test_curves_of_energy_against_volume_train_on_energies_and_only_on_these(copper, config, tmp_path: Path) -> None:
    frames = [labelled(a.copy(), energy=a.calc.results["energy"] + 4 * n, forces=np.zeros((4, 3))) for n, a in enumerate(copper)]  # fmt: skip
    with pytest.raises(ValueError, match=r"all training forces are zero.*set `train\.forces_weight = 0`.*forces_key"):
        prepare(config(frames))
    assert "forces all zero, scale " in lines(config(frames, {"forces_weight": 0.0}))
    assert run(config(frames, {"forces_weight": 0.0}), tmp_path / "out").errors["valid"].rmse["energy"] < 1e4


def test_an_absurd_stress_that_is_not_trained_on_is_told_of(copper, config) -> None:
    frames = copies(copper)
    for atoms in frames:
        atoms.calc.results["stress"] = atoms.calc.results["stress"] + 1e5
    assert "`stress` of 20 of 20 frames cannot be right" in lines(config(frames))
    with pytest.raises(ValueError, match=r"`stress` has .* eV/Å³; labels of more than 1000"):
        prepare(config(frames, {"stress_weight": 1.0}))


def test_a_label_that_is_there_twice_is_told_of(copper, config) -> None:
    frames = copies(copper)
    frames[1].info["REF_energy"] = frames[1].calc.results["energy"] + 1
    assert "frames hold `energy` and `REF_energy`, which differ in 2 of 20 frames" in lines(config(frames))


def test_a_failed_calculation_is_refused(copper, config) -> None:
    frames = copies(copper)
    frames[4].calc.results["energy"] = -1116.0
    with pytest.raises(ValueError, match=r"energy-outlier: energy -279 eV/atom.*train\.xyz, frame 4"):
        prepare(config(frames))


def test_one_frame_is_validated_on_itself_if_told_so(copper, config, make_config, write) -> None:
    path = write("one.xyz", copies(copper)[:1])
    with pytest.raises(
        ValueError, match=r"one\.xyz: cannot hold out a part of 1 frame.*, as `data\.valid = 0\.1`.*itself"
    ):
        prepare(make_config(data={"train": path, "valid": 0.1}))
    assert len(prepare(make_config(data={"train": path, "valid": path})).graphs["valid"]) == 1


@pytest.fixture(scope="module")
def water_model(make_config, tmp_path_factory) -> Path:
    """A model trained on water alone, without isolated atoms."""
    import ase.io

    folder = tmp_path_factory.mktemp("water")
    ase.io.write(folder / "water.xyz", waters())
    ase.io.write(folder / "h2.xyz", labelled(Atoms("H2", [[0, 0, 0], [0, 0, 0.74]]), energy=-31.0))
    run(make_config(data={"train": str(folder / "water.xyz"), "valid": 0.25}, epochs=1), folder / "out")
    return folder


def test_the_model_file_remembers_which_reference_energies_are_determined(water_model: Path, finished) -> None:
    header = read_header(water_model / "out" / "model.eqn")
    assert header.references.compositions == [{"H": 2, "O": 1}]
    assert header.training["labels"] == {"energy": 6, "forces": 6, "stress": 0}
    assert read_header(finished.out / "model.eqn").references.compositions == []
    assert read_header(finished.out / "model.eqn").references.origin == "isolated atoms"


def test_the_run_says_that_they_are_not_determined(config) -> None:
    said = lines(config(waters()))
    assert re.search(r"E0          H (-33[23]\.\d{4}), O \1 eV", said)
    assert "least squares over the training energies; not determined)" in said
    assert "E0s are not determined: all training frames have H:O = 2:1" in said


def test_the_calculator_warns_once_of_other_compositions(water_model: Path) -> None:
    calculator = EquinetCalculator(water_model / "out" / "model.eqn", device="cpu")
    with warnings.catch_warnings(action="error", category=UndeterminedReferences):
        calculator.get_potential_energy(waters(1)[0])
    hydrogen = Atoms("H2", [[0, 0, 0], [0, 0, 0.74]])
    with pytest.warns(UndeterminedReferences, match=r"H2 is of another composition .*H:O = 2:1.*may be off by any"):
        calculator.get_potential_energy(hydrogen)
    hydrogen.rattle(0.01)
    with warnings.catch_warnings(action="error", category=UndeterminedReferences):
        calculator.get_potential_energy(hydrogen)


def test_evaluate_warns_of_other_compositions_and_takes_units(water_model: Path, tmp_path: Path) -> None:
    model, found = water_model / "out" / "model.eqn", tmp_path / "errors.json"
    arguments = ["evaluate", str(model), str(water_model / "h2.xyz"), "--json", str(found)]
    with warnings.catch_warnings(action="always"):
        said = CliRunner().invoke(app, arguments)
    assert said.exit_code == 0, said.output
    assert "H2 is of another composition" in " ".join(said.output.split())
    in_ev = json.loads(found.read_text())["energy_mae_mev_per_atom"]
    with warnings.catch_warnings(action="ignore"):
        CliRunner().invoke(app, [*arguments, "--units", "energy=Hartree"])
    in_hartree = json.loads(found.read_text())["energy_mae_mev_per_atom"]
    # The prediction, near -666 eV, lies between -31 eV and -31 Hartree.
    assert in_ev + in_hartree == pytest.approx(1e3 * 31 * 26.21138602 / 2, rel=1e-4)


def test_evaluate_offers_other_names_as_flags_and_counts_frames_of_weight_zero(water_model, write, tmp_path) -> None:
    model, frames = water_model / "out" / "model.eqn", waters(3)
    frames[0].info["weight"] = 0
    told: list[str] = []
    predictions = evaluate_file(model, write("some.xyz", frames), device="cpu", tell=told.append).predictions
    assert told == ["1 of 3 frames have weight 0 and count in no error"]
    assert predictions.pairs["energy"][0].isnan().tolist() == [True, False, False]
    with pytest.raises(
        ValueError, match=r"frame 0 looks as if it needed `energy_key` \"energy\", `forces_key` \"forces\""
    ):
        evaluate_file(model, write("some.xyz", frames), LabelKeys(energy="e", forces="f", stress="s"), device="cpu")


def test_what_is_remembered_survives_saving_and_a_damaged_memory_is_refused(water_model: Path, tmp_path: Path) -> None:
    potential = load_potential(water_model / "out" / "model.eqn")
    save_potential(potential, tmp_path / "again.eqn")
    assert load_potential(tmp_path / "again.eqn").references == potential.references
    potential.references = {"compositions": [{"Xx": 2}]}
    save_potential(potential, tmp_path / "bad.eqn")
    with pytest.raises(ValueError, match=r"bad\.eqn is damaged: in its header .*Xx is no element"):
        load_potential(tmp_path / "bad.eqn")


def test_refitted_reference_energies_obey_weights_outliers_and_rank(water_model: Path) -> None:
    potential = load_potential(water_model / "out" / "model.eqn")
    potential.references = {}
    before = potential.scale.reference.clone()
    frames = waters()
    energies = [float(potential(graph)["energy"]) for graph in to_graphs(read(frames), potential.cutoff)]
    for n, (atoms, energy) in enumerate(zip(frames, energies)):
        atoms.calc.results["energy"] = energy + 30.0 + (1e5 if n < 2 else 0.0)
    frames[0].info["weight"] = 0  # and the other is an outlier
    refit_references(potential, to_graphs(read(frames), potential.cutoff))
    np.testing.assert_allclose((potential.scale.reference - before).tolist(), [10, 10], rtol=0, atol=1e-6)
    assert potential.references["compositions"] == [{"H": 2, "O": 1}]
