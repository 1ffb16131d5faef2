"""The two commands, end to end on a few atoms."""

from __future__ import annotations

import json

import pytest
from ase.build import molecule
from ase.io import write
from typer.testing import CliRunner

from equinet.bench.core import memory
from equinet.bench.core.memory import Need
from equinet.bench.models import size
from equinet.bench.models.problems import Structures
from equinet.checkpoint import save_potential
from equinet.cli import app

MODEL = '[data]\ntrain = "none.xyz"\n[model]\nchannels = 4\nmax_l = 0\nsh_degree = 1\ncorrelation = 2\n'


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(
        memory, "needs", lambda worker, batches, tasks, *_: {(b, t): Need(1) for b in batches for t in tasks}
    )
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.toml").write_text(MODEL)
    write(tmp_path / "frames.xyz", [molecule("H2O"), molecule("H2O2")])
    return tmp_path


def run(*arguments: str):
    result = CliRunner().invoke(app, ["bench", *arguments, "--rounds", "3", "--seconds", "0.1"])
    assert result.exit_code == 0, result.output
    return result.output


def test_a_configuration_is_measured_on_structures_of_a_file(folder):
    output = run("model", "--model", "mine.toml", "--atoms", "frames.xyz", "--out", "found")
    for text in (
        "mine   weights: equinet",
        "frames.xyz: 7 atoms",
        "training step",
        "energy + forces",
        "MD step",
        "1 thread",
    ):
        assert text in output
    tree = json.loads((folder / "found" / "model.json").read_text())
    assert tree["problems"][0]["config"]["channels"] == 4
    assert [row["state"] for row in tree["rows"]] == ["measured"] * 3
    assert (folder / "found" / "model.png").stat().st_size > 10_000


def test_a_trained_model_is_measured_with_its_weights(folder, potential):
    save_potential(potential, folder / "trained.eqn")
    output = run("model", "--model", "trained.eqn", "--atoms", "frames.xyz")
    assert "WRONG" not in output
    assert "trained   weights: equinet" in output


def test_cost_against_size_is_shown_with_its_slope(folder, monkeypatch):
    some = [Structures(f"{n} water", (molecule("H2O"),) * n) for n in (2, 4, 8)]
    monkeypatch.setattr(size, "problems", lambda largest: some)
    output = " ".join(run("size", "--model", "mine.toml", "--out", "found").split())
    assert "memory ~ N^" in output
    assert (folder / "found" / "size.png").stat().st_size > 10_000
