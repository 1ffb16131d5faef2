"""`equinet explain`: tables for all methods or one, for two inputs or one with itself, and mistakes told in one sentence."""

from __future__ import annotations

import json
import re

import pytest
from typer.testing import CliRunner

import equinet.cli
from equinet.cli import app
from equinet.cli.questions import method_from_text, spec_from_text
from equinet.ops import CPDecomposed, GauntGrid, ManyBodySpec, TensorProductSpec, explain
from equinet.ops.analysis import label

PLAIN = {"COLUMNS": "100", "TERM": "dumb", "NO_COLOR": "1", "FORCE_COLOR": None}


@pytest.fixture(autouse=True)
def terminal_of_100_columns(monkeypatch):
    for console in (equinet.cli.console, equinet.cli.errors_to):
        monkeypatch.setattr(console, "_width", 100)


def call(*arguments):
    return CliRunner(env=PLAIN).invoke(app, ["explain", *map(str, arguments)])


def works(*arguments):
    result = call(*arguments)
    assert result.exit_code == 0, f"{result.output}\n{result.exception!r}"
    return result.stdout


def fails(*arguments):
    result = call(*arguments)
    assert result.exit_code == 1, f"{result.output}\n{result.exception!r}"
    message = result.stderr.strip()
    assert message.startswith("error: ")
    assert "\n" not in message
    return message


def test_all_methods_side_by_side():
    printed = works("32x0e+32x1o", "0e+1o")
    rows = {
        line.split()[0]: line.split() for line in printed.splitlines() if re.search(r" \d+/\d+ .* (yes|no)\s*$", line)
    }
    assert list(rows) == [
        "cg", "gaunt_grid", "gaunt_grid:bracket", "gaunt_fourier", "bracket", "matrix", "cp:rank=12", "so2",
    ]  # fmt: skip
    assert rows["cg"][1:4] == ["5/5", "5", "5"]
    assert rows["gaunt_grid"][1:4] == ["4/5", "4", "2"]
    assert rows["gaunt_grid"][-1] == "no"
    assert "refused, gaunt_grid and gaunt_fourier: 1o x 1o -> 1e has odd" in printed
    assert max(map(len, printed.splitlines())) <= 100
    assert "…" not in printed


def test_one_method_in_full(tmp_path):
    printed = works("32x0e+32x1o", "0e+1o", "--method", "gaunt_grid", "--json", tmp_path / "found.json")
    row = next(line for line in printed.splitlines() if line.strip().startswith("1e "))
    assert row.split() == ["1e", "-", "1o", "x", "1o"]
    expected = explain(TensorProductSpec("32x0e+32x1o", "0e+1o", "0e+1o+1e"), GauntGrid()).as_json()
    assert json.loads((tmp_path / "found.json").read_text()) == json.loads(json.dumps(expected))


def test_chosen_methods_side_by_side(tmp_path):
    methods = ["--method", "cp:rank=5", "--method", '{ method = "cp", rank = 6 }']
    works("4x0e+4x1o", "0e+1o", "0e+1o", *methods, "--json", tmp_path / "found.json")
    rough, exact = json.loads((tmp_path / "found.json").read_text())["methods"]
    assert (rough["method"], exact["method"]) == ("cp:rank=5", "cp:rank=6")
    assert rough["equivariance_error"]["float64"] > 1e-3
    assert exact["equivariance_error"]["float64"] < 1e-12


def test_a_second_input_with_channels():
    printed = works("8x0e+8x1o", "8x0e+8x1o", "0e+1o", "--method", "cg")
    assert "8x0e+8x1o ⊗ 8x0e+8x1o, 4 paths summed: 2 to 0e, 2 to 1o" in printed
    assert "per row; all channels" in printed


def test_a_product_with_itself():
    printed = works("8x0e+8x1o", "0e", "--correlation", 3, "--method", "cg")
    assert "8x0e+8x1o ^ 1..3 -> 8x0e" in printed
    assert "5 of 5, dimension" in printed
    assert "1 of 1" in printed
    assert "weights" in works("8x0e+8x1o", "--correlation", 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["32x0e+foo", "0e"], "IRREPS1 is no list of irreps, got '32x0e+foo'; write for example 32x0e+32x1o"),
        (["32x0e", ""], "IRREPS2 is no list of irreps, got ''"),
        (["32x0e", "0e", "vector"], "IRREPS_OUT is no list of irreps, got 'vector'"),
        (["32x0e", "4x0e+4x1o"], "as 0e+1o, or has as many channels, 32 of each irrep, got 4x0e+4x1o"),
        (["32x0e"], "what is 32x0e to be multiplied with? Add a second input"),
        (["32x0e", "0e", "0e", "--correlation", "3"], "IRREPS1 [IRREPS_OUT], got 0e and 0e after 32x0e"),
        (["32x0e+16x1o", "0e"], "every irrep must have the same number of channels"),
        (["32x0e", "0e", "2e"], "no coupling of 32x0e with 1x0e reaches 1x2e"),
        (["4x0e", "--correlation", "9"], "--correlation must be 1 to 7, got 9"),
        (["4x33e", "0e"], "degrees go up to 32, but 33e is of degree 33; leave it out"),
        (
            ["4x0e", "0e", "--method", "gaunt"],
            "there is no tensor product called 'gaunt'; did you mean 'gaunt_grid'? Choose one of: cg",
        ),
        (["4x0e", "0e", "--method", "cp"], "the tensor product 'cp' needs `rank`"),
        (["4x0e", "0e", "--method", "cp:rank"], "`rank` must be a whole number from 1 to 256, got True"),
        (["4x0e", "0e", "--method", "cp:rnk=3"], "did you mean `rank`?"),
        (["4x0e", "0e", "--method", "cp:rank=x"], "`rank` must be a whole number from 1 to 256, got 'x'"),
        (["4x0e", "0e", "--method", "{ method = cp }"], "a method is a name or a table such as"),
    ],
)
def test_a_mistake_is_told_in_one_sentence(arguments, message):
    assert message in fails(*arguments)


def test_methods_are_written_as_they_are_read():
    for method in (GauntGrid(), GauntGrid(bracket=True, copies=2, weights="degrees"), CPDecomposed(rank=7)):
        assert method_from_text(label(method)) == method
    assert method_from_text(' { method = "cp", rank = 7, weights = "shared" }') == CPDecomposed(
        rank=7, weights="shared"
    )
    assert method_from_text("cp: rank = 7, weights = 'shared'") == CPDecomposed(rank=7, weights="shared")


def test_outputs_are_by_default_what_can_be_reached():
    assert str(spec_from_text("8x0e+8x1o", "0e+1o").outputs) == "1x0e+1x1o+1x1e"
    assert spec_from_text("8x1o", "0e+1o+2e").paths == TensorProductSpec("8x1o", "0e+1o+2e", "0e+1e+1o+2e+2o").paths
    features = spec_from_text("8x0e+8x1o", None, correlation=2)
    assert features == ManyBodySpec("8x0e+8x1o", "8x0e+8x1o", 2, 1)
    assert spec_from_text("8x0e+8x1o", "0e", correlation=2) == ManyBodySpec("8x0e+8x1o", "8x0e", 2, 1)
