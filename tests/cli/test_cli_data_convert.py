"""`equinet data convert` writes files and says how many frames; errors are one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from equinet.cli import app
from equinet.datasets import read_frames

TEXT = '2\nREF_energy=-1.5 Properties=species:S:1:pos:R:3:REF_forces:R:3 pbc="F F F"\nH 0 0 0 0 0 0.1\nH 0 0 0.7 0 0 -0.1\n'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "in.xyz").write_text(TEXT * 3)
    return tmp_path / "in.xyz"


def test_frames_are_converted_there_and_back(file: Path, tmp_path: Path) -> None:
    names = ["--energy-key", "REF_energy", "--forces-key", "REF_forces"]
    result = CliRunner().invoke(app, ["data", "convert", str(file), str(file), str(tmp_path / "all.aselmdb"), *names])
    assert result.exit_code == 0, result.output
    assert "6 frames in" in result.output
    result = CliRunner().invoke(app, ["data", "convert", str(tmp_path / "all.aselmdb"), str(tmp_path / "out.xyz.gz")])
    assert result.exit_code == 0, result.output
    assert [atoms.calc.results["energy"] for atoms in read_frames(tmp_path / "out.xyz.gz")] == [-1.5] * 6


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("out.cif", "has no suffix of a format that keeps all of a frame"),
        ("in.xyz", "is there already; remove it or choose another name"),
        ("nowhere/out.xyz", "there is no folder"),
    ],
)
def test_a_wrong_output_is_one_sentence(out: str, message: str, file: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["data", "convert", str(file), str(tmp_path / out)])
    assert result.exit_code == 1
    assert message in " ".join(result.output.split())
    assert "Traceback" not in result.output
