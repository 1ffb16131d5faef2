"""`equinet data list|show|get`, `equinet predict`, and `equinet evaluate` with groups: what is printed and written."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import ase.io
import pytest
from toy_set import serving, toy_set
from typer.testing import CliRunner

import equinet.cli
from equinet.checkpoint import save_potential
from equinet.cli import app
from equinet.datasets import SAMPLE
from equinet.datasets.published import cache_folder

PLAIN = {"TERM": "dumb", "NO_COLOR": "1", "FORCE_COLOR": None}


@pytest.fixture(autouse=True)
def narrow_consoles(monkeypatch):
    for console in (equinet.cli.console, equinet.cli.errors_to):
        monkeypatch.setattr(console, "_width", 80)


@pytest.fixture
def server():
    with serving() as running:
        yield running


@pytest.fixture
def toys(monkeypatch, tmp_path, server):
    with toy_set(monkeypatch, tmp_path, server.base) as placed:
        server.files |= {f"/{name}.xyz": content for name, content in placed.content.items()}
        yield placed


@pytest.fixture
def model(potential, tmp_path) -> Path:
    save_potential(potential, tmp_path / "model.eqn")
    return tmp_path / "model.eqn"


def call(*arguments: object, code: int = 0):
    result = CliRunner(env=PLAIN).invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, f"{result.output}\n{result.exception!r}"
    return result


def test_list_and_show_fit_into_80_columns():
    for arguments in (("list",), ("show", "acac"), ("show", "rmd17/aspirin/train_01"), ("show", "mattersim_bench")):
        printed = call("data", *arguments).stdout
        assert max(map(len, printed.splitlines())) <= 80
    assert "3bpa" in call("data", "list").stdout


def test_show_suggests_the_nearest_set():
    assert "did you mean acac?" in call("data", "show", "acaq", code=1).stderr


def test_get_fetches_a_set_and_finds_it_the_second_time(toys, server):
    toys.put(cache_folder(), "converted")
    printed = call("data", "get", "toy").stdout
    assert printed.count("fetched to") == 3
    assert printed.count("is here:") == 1
    assert call("data", "get", "toy").stdout.count("is here:") == 4
    assert len(server.requests) == 3


def test_get_of_a_training_file_brings_its_isolated_atoms(toys):
    assert call("data", "get", "toy/train").stdout.count("fetched to") == 2


def test_get_tells_of_every_file_that_it_cannot_have(toys):
    result = call("data", "get", "--all", code=1)
    assert result.stdout.count("fetched to") == 3
    assert re.search("toy/converted is in none of .*, and cannot be fetched", result.stderr)
    assert "1 of 4 files are missing" in result.stderr


def test_get_wants_a_name_or_all():
    assert "or say --all" in call("data", "get", code=1).stderr
    assert "or say --all" in call("data", "get", "acac", "--all", code=1).stderr


def test_predict_writes_a_file_and_says_so(model, tmp_path):
    out = tmp_path / "out.xyz"
    printed = call("predict", model, SAMPLE["test"], "--out", out, "--descriptors").stdout
    frames = ase.io.read(out, ":")
    assert f"{len(frames)} frames in {out}" in printed.replace("\n", "")
    assert {"equinet_forces", "equinet_descriptors"} <= set(frames[0].arrays)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "p.traj"], "--out: p.traj must end in .xyz"),
        (["--out", "p.xyz", "--dtype", "half"], "--dtype must be"),
        (["--out", "p.xyz", "--batch-edges", "0"], "--batch-edges must be 1 or more"),
    ],
)
def test_what_cannot_be_predicted_is_told_in_one_sentence(model, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert message in call("predict", model, SAMPLE["test"], *arguments, code=1).stderr.replace("\n", " ")


def test_evaluate_shows_groups_and_writes_them(model, tmp_path):
    out, rows = tmp_path / "errors.json", tmp_path / "errors.csv"
    files = [SAMPLE["test"], SAMPLE["valid"]]
    printed = call("evaluate", model, *files, "--json", out, "--csv", rows).stdout
    assert max(map(len, printed.splitlines())) <= 80
    for heading in ("By file", "By config_type", "By element", "Largest errors"):
        assert heading in printed
    written = json.loads(out.read_text())
    values = {(row["by"], row["group"], row["property"]): row for row in csv.DictReader(rows.read_text().splitlines())}
    assert float(values["element", "O", "forces"]["rmse"]) == written["by"]["element"]["O"]["forces_rmse_mev_per_ang"]
    assert float(values["all", "", "energy"]["mae"]) == written["energy_mae_mev_per_atom"]
    only = call("evaluate", model, *files, "--by", "element").stdout
    assert "By element" in only
    assert "By file" not in only


def test_evaluate_takes_a_published_set_by_name(toys, model):
    printed = call("evaluate", model, "toy/test").stdout
    assert "Theirs (published)" in printed
    assert "model.eqn on toy/test" in printed.replace("\n", "")


def test_a_file_that_hides_a_published_set_is_told(toys, model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    toys.put(tmp_path, "test").rename(tmp_path / "toy" / "test")
    for arguments in (["evaluate", model, "toy/test"], ["predict", model, "toy/test", "--out", "out.xyz"]):
        printed = call(*arguments).stdout
        assert "toy/test is a file of yours; the published set toy/test has the same name and is not used" in printed
        assert "Theirs (published)" not in printed
