"""`equinet data report` and `equinet data doctor`."""

from __future__ import annotations

import json
from pathlib import Path

import ase.io
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from typer.testing import CliRunner

from equinet.cli import app


@pytest.fixture(scope="module")
def frames() -> list[Atoms]:
    """Shaken copper with the labels of EMT."""
    found = []
    for n in range(8):
        atoms = bulk("Cu", cubic=True).repeat((2, 1, 1))
        atoms.rattle(0.05, seed=n)
        atoms.info["head"] = "a"
        copy = atoms.copy()
        copy.calc = EMT()
        atoms.calc = SinglePointCalculator(atoms, energy=copy.get_potential_energy(), forces=copy.get_forces())
        found.append(atoms)
    return found


def written(path: Path, frames: list[Atoms], sign: float = 1.0, **names: str) -> Path:
    copies = []
    for atoms in frames:
        copy = atoms.copy()
        copy.info[names.get("energy", "energy")] = atoms.get_potential_energy()
        copy.arrays[names.get("forces", "forces")] = sign * atoms.get_forces()
        copies.append(copy)
    ase.io.write(path, copies, format="extxyz")
    return path


def call(*arguments: object) -> tuple[int, str]:
    result = CliRunner(env={"COLUMNS": "80", "TERM": "dumb", "NO_COLOR": "1"}).invoke(
        app, ["data", *map(str, arguments)]
    )
    assert "Traceback" not in result.output
    return result.exit_code, " ".join(result.output.split())


def test_the_report_names_labels_and_unused_keys(tmp_path: Path, frames: list[Atoms]) -> None:
    first, second = written(tmp_path / "a.xyz", frames), written(tmp_path / "b.xyz", frames[:1])
    code, text = call("report", first, second, "--json", tmp_path / "out.json")
    assert code == 0
    assert "1 frame of b.xyz is in a.xyz, too" in text
    said = json.loads((tmp_path / "out.json").read_text())
    assert [part["labels"] for part in said["parts"]] == [{"energy": 8, "forces": 8}, {"energy": 1, "forces": 1}]
    assert [key["name"] for key in said["unused"]] == ["head"]


def test_labels_have_the_names_of_the_settings(tmp_path: Path, frames: list[Atoms]) -> None:
    path = written(tmp_path / "a.xyz", frames, energy="REF_energy", forces="REF_forces")
    keys = ("--set", "data.energy_key=REF_energy", "--set", "data.forces_key=REF_forces")
    call("report", path, "--json", tmp_path / "out.json", *keys)
    said = json.loads((tmp_path / "out.json").read_text())
    assert said["parts"][0]["labels"] == {"energy": 8, "forces": 8}
    assert call("report", path, "--set", "data.enrgy_key=REF_energy") == (
        1,
        "error: --set: there is no key `data.enrgy_key`; did you mean `data.energy_key`?",
    )


def test_the_doctor_is_silent_on_right_frames(tmp_path: Path, frames: list[Atoms]) -> None:
    assert call("doctor", written(tmp_path / "a.xyz", frames)) == (0, "8 frames: nothing found")


def test_the_doctor_refuses_gradients_unless_they_are_accepted(tmp_path: Path, frames: list[Atoms]) -> None:
    path = written(tmp_path / "a.xyz", frames, sign=-1.0)
    code, text = call("doctor", path, "--json", tmp_path / "out.json")
    assert code == 1
    assert "wrong: forces-sign" in text
    (finding,) = json.loads((tmp_path / "out.json").read_text())["findings"]
    assert (finding["name"], finding["severity"]) == ("forces-sign", "refuse")
    code, text = call("doctor", path, "--set", 'data.accept=["forces-sign"]')
    assert code == 0
    assert "accepted: forces-sign" in text


def test_validation_frames_among_the_training_frames_are_told(tmp_path: Path, frames: list[Atoms]) -> None:
    train = written(tmp_path / "a.xyz", frames)
    code, text = call("doctor", train, "--valid", written(tmp_path / "b.xyz", frames[2:4]))
    assert code == 0
    assert "2 of 2 frames of valid are in train, too" in text


def test_an_unknown_finding_and_a_missing_file_are_told(tmp_path: Path, frames: list[Atoms]) -> None:
    path = written(tmp_path / "a.xyz", frames)
    code, text = call("doctor", path, "--set", 'data.accept=["forces-sing"]')
    assert code == 1
    assert "did you mean 'forces-sign'?" in text
    code, text = call("doctor", tmp_path / "none.xyz")
    assert code == 1
    assert "there is no file" in text
