"""Errors by file, configuration type and element, the largest of them, and what is left out: against sums written out."""

from __future__ import annotations

import copy
import csv
import math

import numpy as np
import pytest
from ase import Atoms
from toy_set import toy_set

from equinet.checkpoint import load_potential
from equinet.datasets import LabelKeys, find_labels, read_frames
from equinet.datasets.published import find_file
from equinet.tables import as_text
from equinet.train import Errors, evaluate_file
from equinet.train.report.record import write_csv
from equinet.train.report.tables import comparisons, error_table, extremes_table, group_table


@pytest.fixture(scope="module")
def model(finished):
    return finished.out / "model.eqn"


@pytest.fixture
def mixed(sample, write):
    """Two files: four typed frames of ethanol, one of them far off, and two frames without a type, one without forces."""
    typed = copy.deepcopy(sample["test"][:4])
    for n, atoms in enumerate(typed):
        atoms.info["config_type"] = "odd" if n % 2 else "even"
        atoms.info["temperature"] = 300
    typed[3].calc.results["forces"][5, 1] += 7.0
    typed[2].calc.results["energy"] += 90.0
    plain = copy.deepcopy(sample["valid"][:2])
    for atoms in plain:
        del atoms.info["config_type"]
    del plain[1].calc.results["forces"]
    return [write("typed.xyz", typed), write("plain.xyz", plain)]


@pytest.fixture
def found(model, mixed):
    return evaluate_file(model, mixed)


@pytest.fixture
def differences(model, mixed):
    """Errors of energies per atom and of forces of each frame, from the potential itself, in meV/atom and meV/Å."""
    potential = load_potential(model)
    result = []
    for atoms in read_frames(mixed):
        prediction, labels = potential(atoms), find_labels(atoms)
        energy = 1e3 * (float(prediction.energy) - float(labels["energy"])) / len(atoms)
        forces = 1e3 * (prediction.forces.double().numpy() - labels["forces"]) if "forces" in labels else None
        result.append((atoms, energy, forces))
    return result


def rms(values):
    return float(np.sqrt(np.mean(np.square(np.concatenate([np.ravel(each) for each in values])))))


def test_the_whole_is_the_sum_over_all_files(found, differences):
    assert found.errors.frames == 6
    assert found.errors.rmse["energy"] == pytest.approx(rms([e for _, e, _ in differences]), rel=1e-4)
    assert found.errors.rmse["forces"] == pytest.approx(rms([f for _, _, f in differences if f is not None]), rel=1e-4)


def test_errors_by_configuration_type_are_those_of_its_frames(found, differences):
    by = found.by["config_type"]
    assert set(by) == {"even", "odd", "(without)"}
    for name, errors in by.items():
        own = [(e, f) for atoms, e, f in differences if atoms.info.get("config_type", "(without)") == name]
        assert errors.frames == 2
        assert errors.rmse["energy"] == pytest.approx(rms([e for e, _ in own]), rel=1e-4)
        assert errors.mae["forces"] == pytest.approx(
            float(np.mean(np.abs(np.concatenate([f for _, f in own if f is not None])))), rel=1e-4
        )


def test_errors_by_file_are_those_of_evaluating_it_alone(found, model, mixed):
    for path in mixed:
        alone, part = evaluate_file(model, path).errors, found.by["file"][path]
        assert part.rmse == pytest.approx(alone.rmse, rel=1e-4, nan_ok=True)
        assert part.frames == alone.frames


def test_errors_by_element_are_those_of_its_atoms(found, differences):
    assert set(found.by["element"]) == {"H", "C", "O"}
    for symbol, errors in found.by["element"].items():
        own = [f[np.array(atoms.symbols) == symbol] for atoms, _, f in differences if f is not None]
        assert errors.rmse["forces"] == pytest.approx(rms(own), rel=1e-4)
        assert errors.norm["forces"] == pytest.approx(
            float(np.mean(np.linalg.norm(np.concatenate(own), axis=1))), rel=1e-4
        )
        assert errors.atoms == sum(map(len, own)) + {"H": 6, "C": 2, "O": 1}[symbol]  # one frame has no forces
        assert math.isnan(errors.rmse["energy"])


def test_the_largest_errors_name_file_frame_and_atom(found, mixed):
    forces = next(extreme for extreme in found.largest if extreme.property == "forces")
    energy = next(extreme for extreme in found.largest if extreme.property == "energy")
    assert forces.where == f"{mixed[0]}, frame 3, atom 5 (H)"
    assert forces.error == pytest.approx(abs(forces.prediction - forces.label))
    assert forces.error == pytest.approx(found.errors.largest["forces"])
    assert energy.where == f"{mixed[0]}, frame 2"
    assert energy.error == pytest.approx(1e4, rel=0.1)  # 90 eV on nine atoms


def test_groups_are_those_asked_for(model, mixed):
    assert set(evaluate_file(model, mixed, by=["temperature"]).by) == {"temperature"}
    assert evaluate_file(model, mixed, by=["temperature"]).by["temperature"]["300"].frames == 4
    assert evaluate_file(model, mixed, by=[]).by == {}
    with pytest.raises(
        ValueError, match=r"no frame has 'colour'; `by` can be file, element, .*: config_type, temperature"
    ):
        evaluate_file(model, mixed, by=["colour"])


def test_usual_groups_are_those_of_which_there_are_several(model, mixed):
    assert list(evaluate_file(model, mixed).by) == ["file", "config_type", "element"]
    assert list(evaluate_file(model, mixed[1]).by) == ["element"]


def test_frames_without_a_label_are_counted(found):
    assert found.missing == {"energy": 0, "forces": 1}
    assert found.sentences() == ["forces: no label in 1 of 6 frames"]


def test_molecules_need_no_stress_and_crystals_do(model, sample, write):
    frames = copy.deepcopy(sample["test"][:3])
    for atoms in frames[1:]:
        atoms.set_cell([9.0, 9.0, 9.0])
        atoms.pbc = True
    frames[1].calc.results["stress"] = np.zeros(6)
    found = evaluate_file(model, write("crystals.xyz", frames))
    assert found.missing["stress"] == 1
    assert found.largest[-1].where.endswith("crystals.xyz, frame 1")


def test_isolated_atoms_are_told_apart_unless_there_is_nothing_else(model, files, sample, write):
    found = evaluate_file(model, files["train"])
    assert found.isolated.frames == 3
    assert "3 isolated atoms are not in these errors; their energies differ from those of the model by up to 0 meV" in (
        found.sentences()
    )
    alone = evaluate_file(model, write("atoms.xyz", sample["train"][:3]))
    assert (alone.errors.frames, alone.isolated) == (3, None)


def test_the_numbers_of_a_file_of_values_are_those_of_the_evaluation(found, tmp_path):
    write_csv(tmp_path / "errors.csv", found.as_rows())
    rows = list(csv.DictReader((tmp_path / "errors.csv").read_text().splitlines()))
    assert next(row for row in rows if row["by"] == "all")["rmse"] == str(found.errors.rmse["energy"])
    assert {(row["by"], row["group"]) for row in rows if row["by"] == "element"} == {("element", s) for s in "HCO"}
    assert not any("nan" in row.values() for row in rows)
    by = found.as_json()["by"]["config_type"]
    assert by["even"]["forces_rmse_mev_per_ang"] == found.by["config_type"]["even"].rmse["forces"]


# Tables


def many() -> dict[str, Errors]:
    names = ("energy", "forces", "stress")
    return {
        f"group{n}": Errors(*(dict.fromkeys(names, (n + 1) * 10000.0) for _ in range(5)), frames=n, atoms=n)
        for n in range(20)
    }


def test_tables_fit_into_80_columns_whatever_there_is_to_show():
    for table in (error_table(many()), group_table(many(), "config_type")):
        assert max(map(len, as_text([table], 80).splitlines())) <= 80


def test_a_table_of_groups_shows_the_largest_and_says_how_many_there_are():
    table = group_table(many(), "config_type", most=2)
    assert [row[1] for row in table.rows if row] == ["group19", "group18"] * 3
    assert "the 2 of 20 with the largest errors; all of them: --by config_type" in table.caption


def test_a_part_without_a_label_is_left_out_of_its_section():
    parts = {"a": many()["group1"], "b": Errors({"energy": 1.0}, {"energy": 1.0}, {"energy": 1.0}, {}, {"energy": 1.0})}
    rows = [row[:2] for row in error_table(parts).rows if row]
    assert rows == [("energy (meV/atom)", "a"), ("", "b"), ("forces (meV/Å)", "a"), ("stress (meV/Å³)", "a")]


def test_the_largest_errors_are_a_table_with_one_section_per_property(found):
    text = as_text([extremes_table(found.largest)], 80)
    assert text.count("energy (meV/atom)") == text.count("forces (meV/Å)") == 1


# Published errors


def test_a_published_test_set_is_shown_beside_its_published_errors(model, monkeypatch, tmp_path):
    with toy_set(monkeypatch, tmp_path) as toys:
        monkeypatch.setenv("EQUINET_DATA", str(tmp_path))
        toys.put(tmp_path, "test", packed=True)
        found = evaluate_file(model, "toy/test")
        assert found.published == find_file("toy/test")
        table, source = comparisons(found.errors, found.published)
        assert comparisons(found.errors, None) == comparisons(None, found.published) == []
        assert evaluate_file(model, ["toy/test", tmp_path / "toy" / "test.xyz.gz"]).published is None
    assert [column.heading for column in table.columns] == [
        "model",
        "energy\nRMSE\nmeV/atom",
        "forces\nmean norm\nmeV/Å",
    ]
    own, theirs = table.rows
    assert theirs == ("Theirs (published)", "2.00", "250.00")  # 18 meV of nine atoms, 0.25 eV/Å
    assert own[1:] == (f"{found.errors.rmse['energy']:.2f}", f"{found.errors.norm['forces']:.2f}")
    assert "published for toy/test: A paper; trained on train; its energies of whole frames are divided by 9" in str(
        source
    )


def test_norms_are_those_of_vectors_and_tensors(model, sample, write):
    atoms = Atoms("CO", [[0, 0, 0], [0, 0, 1.2]], cell=[8, 8, 8], pbc=True)
    potential = load_potential(model)
    prediction = potential(atoms, stress=True)
    labels = {"energy": float(prediction.energy), "forces": prediction.forces.double().numpy().copy()}
    labels["forces"][1] += [0.3, 0.0, 0.4]
    atoms.info["e"], atoms.arrays["f"] = labels["energy"], labels["forces"]
    atoms.info["s"] = prediction.stress[0].double().numpy().ravel() + np.eye(3).ravel() * 0.01

    found = evaluate_file(model, write("co.xyz", [atoms]), LabelKeys(energy="e", forces="f", stress="s"))
    assert found.errors.norm["forces"] == pytest.approx(250.0, rel=1e-3)  # 0.5 eV/Å on one of two atoms
    assert found.errors.norm["stress"] == pytest.approx(10 * 3**0.5, rel=1e-3)
    assert found.errors.largest["forces"] == pytest.approx(400.0, rel=1e-3)
