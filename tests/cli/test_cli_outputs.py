"""What a command is to write is looked at before it does any work, and errors without words are told by their kind."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

import equinet.cli
from equinet.checkpoint import save_potential
from equinet.cli import app
from equinet.cli.outputs import OUTPUT_FILE, OUTPUT_FOLDER, OUTPUT_PICTURE, OutputFile, OutputFolder, outputs_of
from equinet.datasets import SAMPLE
from equinet.potential import Potential

PLAIN = {"COLUMNS": "220", "TERM": "dumb", "NO_COLOR": "1", "FORCE_COLOR": None}


@pytest.fixture(autouse=True)
def wide_consoles(monkeypatch):
    for console in (equinet.cli.console, equinet.cli.errors_to):
        monkeypatch.setattr(console, "_width", 400)


@pytest.fixture
def tiny_model_file(potential: Potential, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.eqn"
    save_potential(potential, path)
    return path


def refused(*arguments: object) -> str:
    """The one sentence with which the program refuses to begin."""
    result = CliRunner(env=PLAIN).invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 1, f"{result.output}\n{result.exception!r}"
    assert not result.stdout
    assert result.stderr.strip().count("\n") == 0
    return result.stderr.strip()


def commands(group, words=()):
    inner = getattr(group, "commands", None)
    if inner is None:
        return {words: group}
    return {key: each for name, command in inner.items() for key, each in commands(command, (*words, name)).items()}


COMMANDS = commands(typer.main.get_command(app))
OUTPUTS = [
    pytest.param(words, param, mark, id=f"{'-'.join(words)}-{param.name}")
    for words, command in COMMANDS.items()
    for param in command.params
    if (mark := outputs_of(command.callback).get(param.name))
]


def is_argument(param):
    return param.param_type_name == "argument"


def needed(words, without):
    """Arguments that a command cannot do without: names of files that are not there, so that any work would end in another error."""
    found = []
    for param in COMMANDS[words].params:
        if param.required and param is not without:
            found += [f"no_{param.name}"] if is_argument(param) else [param.opts[0], f"no_{param.name}"]
    return found


def test_every_option_that_names_what_is_written_is_such_a_type():
    for words, command in COMMANDS.items():
        for param in command.params:
            text = (getattr(param, "help", None) or "").lower()
            writes = param.name in ("out", "json_file", "parity") or any(
                word in text for word in ("to write", "folder for", "into this")
            )
            assert writes == (param.name in outputs_of(command.callback)), f"{' '.join(words)} {param.opts}"
    assert len(OUTPUTS) >= 16


@pytest.mark.parametrize(("words", "param", "mark"), OUTPUTS)
def test_a_place_that_cannot_be_written_to_is_refused_before_any_work(words, param, mark, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "file"
    file.write_text("here\n")
    suffix = next(iter(getattr(mark, "suffixes", ())), "")
    bad = {tmp_path / f"nowhere/x{suffix}": "there is no folder", file / f"x{suffix}": "is a file"}
    if isinstance(mark, OutputFolder):
        bad = {file: "is a file, and results are", file / "x" / "y": "is a file, and results are"}
    for path, reason in bad.items():
        given = [str(path)] if is_argument(param) else [param.opts[0], str(path)]
        message = refused(*words, *needed(words, param), *given)
        assert message.startswith(f"error: {param.opts[0] if given[1:] else '`out`'}: ")
        assert reason in message
    assert os.listdir(tmp_path) == ["file"]
    assert file.read_text() == "here\n"


def test_a_folder_where_a_file_is_meant_is_refused(tmp_path):
    assert (
        OUTPUT_FILE.why_not(tmp_path)
        == f"{tmp_path} is a folder, and a file is to be written; add a name, as in {tmp_path}/NAME"
    )
    assert "is a folder" in str(OUTPUT_FILE.why_not(Path()))


def test_a_folder_without_permission_is_refused(tmp_path, monkeypatch):
    # Whoever runs the tests may be allowed everything, so that the system is not asked.
    file, locked = tmp_path / "file", tmp_path / "locked"
    file.touch()
    locked.mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) not in (file, locked))
    assert "file may not be written to" in str(OUTPUT_FILE.why_not(file))
    assert f"the folder {locked} may not be written to" in str(OUTPUT_FILE.why_not(locked / "x"))
    assert f"the folder {locked} may not be written to" in str(OUTPUT_FOLDER.why_not(locked / "x" / "y"))
    assert OUTPUT_FILE.why_not(tmp_path / "x") is OUTPUT_FOLDER.why_not(tmp_path / "x" / "y") is None


def test_a_picture_must_have_the_name_of_one():
    assert OutputFile((".png", ".pdf")).why_not(Path("x.txt")) == "x.txt must end in .png, .pdf"
    assert OUTPUT_PICTURE.why_not(Path("x.png")) is None


def test_the_folder_that_train_chooses_is_looked_at_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").touch()
    (tmp_path / "a.toml").write_text('[data]\ntrain = "nowhere.xyz"\n')
    assert "--out: " in (message := refused("train", "a.toml"))
    assert "runs is a file, and results are to be written into a folder" in message


def test_a_negative_number_of_steps_is_refused(tmp_path, tiny_model_file):
    message = refused("md", tiny_model_file, SAMPLE["test"], "--steps", -5, "--out", tmp_path / "a.traj")
    assert message == "error: --steps must be 0 or more, those before a resume included, got -5"
    assert os.listdir(tmp_path) == []


def test_a_run_of_no_steps_has_no_time_per_step(tmp_path, tiny_model_file):
    arguments = ["md", tiny_model_file, SAMPLE["test"], "--steps", 0, "--out", tmp_path / "a.traj"]
    result = CliRunner(env=PLAIN).invoke(app, [str(each) for each in arguments])
    assert result.exit_code == 0, result.output
    assert "nvt: 0 steps, " in result.stdout
    assert "nan" not in result.stdout


@pytest.mark.parametrize("arguments", [["99999999999x0e", "1x1e"], ["99999999999x0e", "--correlation", 2]])
def test_more_channels_than_memory_holds_are_refused_by_their_bound(arguments):
    assert refused("explain", *arguments) == (
        "error: features must have 1 to 16,384 channels, but 99999999999x0e has 99,999,999,999"
    )


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError(), "there is not enough memory for this (MemoryError)"),
        (ValueError(), "ValueError without a message, in spec_from_text (test_cli_outputs.py, line "),
        (OSError(), "OSError without a message, in "),
    ],
)
def test_an_error_without_words_is_told_by_its_kind(error, words, monkeypatch):
    def spec_from_text(*_):
        raise error

    monkeypatch.setattr("equinet.cli.questions.spec_from_text", spec_from_text)
    assert f"error: {words}" in refused("explain", "4x0e", "0e")


def test_what_the_library_logs_is_shown_while_a_command_runs_and_not_after(monkeypatch, capsys):
    logger = logging.getLogger("equinet")

    def spec_from_text(*_):
        logger.info("making code [of something] takes a while")
        logger.debug("nobody wants to know")
        raise ValueError("enough")

    monkeypatch.setattr("equinet.cli.questions.spec_from_text", spec_from_text)
    result = CliRunner(env=PLAIN).invoke(app, ["explain", "4x0e", "0e"])
    assert result.stderr.splitlines() == ["making code [of something] takes a while", "error: enough"]
    assert not logger.handlers
    assert not logger.isEnabledFor(logging.INFO)
