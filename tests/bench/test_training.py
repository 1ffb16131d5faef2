"""equinet and mace-torch trained side by side: the same frames in the same batches, every epoch told, nothing timed by a test."""

from __future__ import annotations

import csv
import json
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from equinet.bench.core import EAGER, EQUINET
from equinet.bench.core.record import Record, Settings
from equinet.bench.core.report import write
from equinet.bench.core.timing import timed_epoch
from equinet.bench.training.report import FORCES, SUITE, ratios
from equinet.bench.training.run import BEFORE, TEST, Row, compare, config_of, require_same, trainers_of
from equinet.cli import app
from equinet.datasets import SAMPLE
from equinet.train import RunConfig, parse_config

beside_mace = pytest.mark.skipif(
    find_spec("mace") is None, reason="mace-torch is not installed; CONTRIBUTING.md says how to put it here"
)
MODEL = {"channels": 2, "sh_degree": 1, "max_l": 0, "correlation": 2, "cutoff": 3.0, "radial_hidden": [4]}


@pytest.fixture
def config() -> RunConfig:
    data = {"train": str(SAMPLE["valid"]), "valid": 0.5, "test": str(SAMPLE["valid"])}
    return parse_config({"data": data, "model": MODEL, "train": {"device": "cpu", "schedule": "constant"}})


def a_row(package: str, task: str, forces: float, seconds: float | None = None, **more: float) -> Row:
    errors = {FORCES: forces, "energy_rmse_mev_per_atom": 1.5}
    times = {"seconds": seconds, "cpu_seconds": seconds}
    return Row(problem="acac", contender=package, task=task, parameters=1234, errors=errors, **times, **more)


def a_record() -> Record[Row]:
    rows = [a_row(package, BEFORE, 900.0) for package in (EAGER, EQUINET)]
    rows += [a_row(EAGER, "epoch 1", 400.0, 30.0), a_row(EQUINET, "epoch 1", 200.0, 3.0)]
    rows += [a_row(EQUINET, "epoch 2", 100.0, 2.0), a_row(EAGER, "epoch 2", 300.0, 30.0)]
    rows += [a_row(EAGER, TEST, 310.0), a_row(EQUINET, TEST, 110.0)]
    return Record("equinet bench training acac", Settings(), rows=rows, about={"task": "acac", "frames": 450})


def test_ratios_are_of_neighbouring_epochs_whoever_went_first() -> None:
    assert ratios(a_record(), "seconds") == [10.0, 15.0]


def test_a_report_has_a_table_numbers_and_a_picture(tmp_path) -> None:
    assert write(SUITE, a_record(), tmp_path) == [
        "training.json",
        "training.csv",
        "training_table.md",
        "training.png",
    ]
    text = (tmp_path / "training_table.md").read_text()
    assert "| s per epoch, median | 30.00 | 2.50 | 12.50 |" in text
    assert "| epoch 2 | 300.00 | 100.00 |  |" in text
    assert "| test | 310.00 | 110.00 |  |" in text
    tree = json.loads((tmp_path / "training.json").read_text())
    assert tree["mace_over_equinet"]["cpu_seconds"] == [10.0, 15.0]
    lines = list(csv.DictReader((tmp_path / "training.csv").read_text().splitlines()))
    assert [line[FORCES] for line in lines][:3] == ["900.0", "900.0", "400.0"]
    assert (tmp_path / "training.png").stat().st_size > 10_000


def test_an_epoch_is_timed_with_its_mean_loss() -> None:
    found = timed_epoch(iter([1.0, 3.0]))
    assert found.loss == 2.0
    assert found.seconds > 0


@beside_mace
def test_both_packages_train_on_the_same_frames_and_tell_every_epoch(config) -> None:
    told: list[Row] = []
    record = compare("ethanol", config, epochs=2, threads=1, told=told.append)
    assert told == record.rows
    assert [(row.contender, row.task) for row in record.rows] == [
        (EAGER, BEFORE), (EQUINET, BEFORE),
        (EAGER, "epoch 1"), (EQUINET, "epoch 1"),
        (EQUINET, "epoch 2"), (EAGER, "epoch 2"),
        (EAGER, TEST), (EQUINET, TEST),
    ]  # fmt: skip
    for row in record.rows:
        assert np.isfinite(row.errors[FORCES])
        assert (row.seconds is None) == (row.task in (BEFORE, TEST))
    for package in (EAGER, EQUINET):
        losses = [row.loss for row in record.of(contender=package) if row.loss is not None]
        assert losses[1] < losses[0], f"{package} does not learn"
    assert record.about["details"].keys() == {EAGER, EQUINET}
    assert torch.get_default_dtype() == torch.float32


@beside_mace
def test_statistics_of_both_packages_are_those_of_the_same_frames(config) -> None:
    mace, equinet = trainers_of(config)
    frames = equinet.prepared.graphs["train"]
    energies = [configuration.properties["energy"] for configuration in mace.parts["train"].configs]
    assert energies == [graph.energy.item() for graph in frames]
    assert mace.statistics.avg_num_neighbors == pytest.approx(equinet.prepared.statistics.avg_num_neighbors)


@beside_mace
def test_a_configuration_is_trained_by_the_command(config, tmp_path, monkeypatch) -> None:
    from equinet.train import to_toml

    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.toml").write_text(to_toml(config))
    result = CliRunner().invoke(app, ["bench", "training", "mine.toml", "--epochs", "1", "--out", "found"])
    assert result.exit_code == 0, result.output
    assert "mace / equinet" in result.output
    assert "epoch 1" in result.output
    assert (tmp_path / "found" / "training.png").stat().st_size > 10_000


def test_unknown_data_are_refused_with_what_there_is(tmp_path) -> None:
    with pytest.raises(ValueError, match="`task` must be one of acac, si, got 'water'"):
        config_of("water", tmp_path, 1, 1.0)
    result = CliRunner().invoke(app, ["bench", "training", "water"])
    assert result.exit_code == 1
    assert "must be one of acac, si" in result.output


@beside_mace
def test_without_test_frames_there_is_nothing_to_compare(config) -> None:
    settings = config.model_dump(mode="json")
    settings["data"]["test"] = None
    with pytest.raises(ValueError, match=r"`data\.test` is not set"):
        trainers_of(parse_config(settings))


@beside_mace
def test_frames_without_forces_are_refused_by_name(config) -> None:
    from ase.build import molecule

    from equinet.bench.peers.mace_torch.training import reference_config, reference_energies

    atoms = molecule("H2O")
    atoms.calc = type("Labels", (), {"results": {"energy": 1.0}})()
    with pytest.raises(ValueError, match=r"`frames`: H2O has no \['forces'\]"):
        reference_config(atoms, with_stress=False)
    alone = molecule("H")
    alone.calc = type("Labels", (), {"results": {"energy": -13.6}})()
    with pytest.raises(ValueError, match=r"`isolated` must cover every element, but has no atomic numbers \[8\]"):
        reference_energies([], [1, 8], [alone])


def test_trainings_on_other_frames_are_not_compared() -> None:
    require_same("train", [1.0, 2.0], [1.0, 2.0])
    with pytest.raises(ValueError, match=r"`data\.train` gave the two packages other frames"):
        require_same("train", [1.0, 2.0], [2.0, 1.0])
