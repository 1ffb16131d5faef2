"""`equinet bench tp`, `conv`, `product`: tables, files, pictures, and mistakes told in one sentence."""

from __future__ import annotations

import csv
import json

import pytest
from typer.testing import CliRunner

import equinet.cli
from equinet.cli import app

PLAIN = {"COLUMNS": "80", "TERM": "dumb", "NO_COLOR": "1", "FORCE_COLOR": None}
QUICK = ("--budget", "0.1", "--rounds", "9", "--only", "cg, torch", "--only", "e3nn", "--only", "open")


@pytest.fixture(autouse=True)
def small_roofs_and_80_columns(monkeypatch):
    monkeypatch.setattr("equinet.bench.products.ceilings.MATRIX", {"cpu": 64})
    monkeypatch.setattr("equinet.bench.products.ceilings.LARGE", {"cpu": 1 << 18})
    for console in (equinet.cli.console, equinet.cli.errors_to):
        monkeypatch.setattr(console, "_width", 80)


def call(*arguments):
    return CliRunner(env=PLAIN).invoke(app, ["bench", *map(str, arguments)])


def works(*arguments):
    result = call(*arguments)
    assert result.exit_code == 0, f"{result.output}\n{result.exception!r}"
    return result.stdout


def test_a_convolution_with_all_files(tmp_path):
    printed = works("conv", "4x0e+4x1o", "0e+1o", "--nodes", 6, "--neighbours", 3, "--out", tmp_path / "new", *QUICK)
    assert "6 nodes, 18 edges" in printed
    assert "baseline" in printed
    assert "absent, openequivariance: its kernels are for CUDA" in " ".join(printed.split())
    assert max(map(len, printed.splitlines()[:-1])) <= 80  # the last line names files, for copying
    assert "…" not in printed
    header = next(line for line in printed.splitlines() if "times faster" in line)
    assert header.rstrip().endswith("MB")
    rows = [line.rstrip() for line in printed.splitlines() if " double " in line]
    assert rows
    assert all(len(line) == len(header.rstrip()) for line in rows)  # no column is cut
    found = json.loads((tmp_path / "new" / "bench.json").read_text())
    assert found["settings"]["dtype"] == "float32"
    assert found["machine"]["threads"] == 1
    (problem,) = found["problems"]
    assert problem["baseline"] == "e3nn"
    exact = {row["task"]: row for row in found["rows"] if row["contender"] == "ours: cg, torch"}
    assert exact["forward"]["expressivity"]["reached"] == exact["forward"]["expressivity"]["full"] == 5
    assert max(row["error"] for row in exact.values()) < 1e-5
    for one in exact.values():
        assert one["timing"]["rounds"] == len(one["timing"]["seconds"]) >= 3
        assert one["times_faster"]["low"] <= one["times_faster"]["value"]
        assert one["flops"] > 0 < one["bytes"]
    (absent,) = [row for row in found["rows"] if row["contender"] == "openequivariance"]
    assert absent["state"] == "absent"
    lines = list(csv.DictReader((tmp_path / "new" / "bench.csv").read_text().splitlines()))
    assert [line["task"] for line in lines if line["contender"] == "e3nn"] == ["forward", "backward", "double"]
    assert "| ours: cg, torch | 5/5 | 5 |" in (tmp_path / "new" / "bench.md").read_text()
    assert (tmp_path / "new" / "bench.png").read_bytes().startswith(b"\x89PNG")


def test_the_papers_microbenchmarks_by_degree(tmp_path):
    sizes = ("--channels", 2, "--pairs", 4, "--degrees", "1-2")
    printed = works("tp", "--mode", "mimo", *sizes, "--dtype", "float64", "--out", tmp_path, *QUICK)
    assert "mimo L=1" in printed
    assert "mimo L=2" in printed
    found = json.loads((tmp_path / "bench.json").read_text())
    errors = [row["error"] for row in found["rows"] if row["error"] is not None]
    assert 0 < max(errors) < 1e-12
    assert (tmp_path / "bench.png").exists()


def test_a_many_body_product_without_files():
    printed = works("product", "2x0e+2x1o", "2x0e", "--correlation", 2, "--nodes", 5, "--species", 2, *QUICK)
    assert "2x0e+2x1o ^ 1..2 -> 2x0e, 2 species" in " ".join(printed.split())
    assert "written" not in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tp", "--degrees", "0"], "--degrees must lie in 1 to 16, got 0"),
        (["conv", "--problem", "mace"], "there is no problem called 'mace'; a name is mace-CHANNELSxL"),
        (["conv", "8x0e"], "what is 8x0e to be multiplied with?"),
        (["conv", "--method", "gaunt"], "there is no tensor product called 'gaunt'"),
        (["conv", "--only", "nobody"], "no contender contains nobody; there are: ours: cg"),
        (["conv", "--budget", "0", "--only", "cg, torch"], "--budget must be more than 0 seconds"),
    ],
)
def test_a_mistake_is_told_in_one_sentence(arguments, message):
    result = call(*arguments)
    assert result.exit_code == 1, f"{result.output}\n{result.exception!r}"
    assert result.stderr.startswith("error: ")
    assert message in result.stderr


@pytest.mark.parametrize("command", ["tp", "conv", "product"])
def test_help_teaches(command):
    printed = works(command, "--help")
    assert f"equinet bench {command}" in printed
    assert "--budget" in printed
