"""The command line: every command works on a tiny model, and what a user can mend is told in one sentence."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys

import ase.io
import pytest
import torch
from typer.testing import CliRunner

import equinet
import equinet.cli
import equinet.cli.demo
import equinet.verify.installation
from equinet.checkpoint import load_potential, read_header
from equinet.cli import app
from equinet.datasets import SAMPLE
from equinet.md import read_run
from equinet.ops import METHODS
from equinet.train import evaluate_file
from equinet.train.config import describe_keys

# Wide, so that tables and help do not break words; without colours.
PLAIN = {"COLUMNS": "220", "TERM": "dumb", "NO_COLOR": "1", "FORCE_COLOR": None}


@pytest.fixture(autouse=True)
def wide_consoles(monkeypatch):
    """Where there is no terminal, as in a worker of pytest-xdist, a console made at import has 80 columns for ever."""
    for console in (equinet.cli.console, equinet.cli.errors_to):
        monkeypatch.setattr(console, "_width", 220)


CONFIG = """
[data]
train = "train.xyz"
valid = "valid.xyz"
[model]
channels = 4
sh_degree = 1
correlation = 2
cutoff = 4.0
bessel_functions = 4
radial_hidden = [8]
readout_hidden = 4
[train]
epochs = 2
batch_size = 4
device = "cpu"
"""

OPTIONS = {
    "keys": ["--architecture"],
    "train": ["--set", "--out", "--resume"],
    "evaluate": [
        "--by",
        "--json",
        "--csv",
        "--parity",
        "--units",
        "--stress-sign",
        "--weight-key",
        "--virial-key",
        "--energy-key",
        "--forces-key",
        "--stress-key",
        "--dtype",
        "--device",
        "--batch-size",
        "--matmul",
    ],
    "predict": ["--out", "--descriptors", "--dtype", "--device", "--batch-edges", "--matmul"],
    "md": [
        "--out",
        "--ensemble",
        "--temperature",
        "--timestep",
        "--steps",
        "--pressure",
        "--friction",
        "--save-every",
        "--seed",
        "--dtype",
        "--device",
        "--matmul",
        "--capture",
        "--resume",
    ],
    "check": ["--max-frames", "--tolerance-float32", "--tolerance-float64", "--json", "--device", "--seed"],
    "convert-mace": ["--head", "--dtype"],
    "convert": ["--out", "--many-body", "--convolution", "--rank", "--copies", "--data", "--json", "--seed"],
    "demo": ["--out"],
    "explain": ["--correlation", "--method", "--json"],
    "doctor": [],
    "show": [],
}


def unstyled(text):
    """Without colours and movements of the cursor, which rich writes if FORCE_COLOR is set."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text).replace("\r", "\n")


def call(*arguments):
    """Run the program in this process."""
    return CliRunner(env=PLAIN).invoke(app, [str(argument) for argument in arguments])


def works(*arguments):
    """Run the program, see it succeed, and give what it printed."""
    result = call(*arguments)
    assert result.exit_code == 0, f"{result.output}\n{result.exception!r}"
    return unstyled(result.stdout)


def fails(*arguments, code=1):
    """Run the program, see it fail without a traceback, and give the sentence it said."""
    result = call(*arguments)
    assert result.exit_code == code, f"{result.output}\n{result.exception!r}"
    assert isinstance(result.exception, SystemExit)
    assert "Traceback" not in result.output
    message = unstyled(result.stderr).strip()
    assert message
    assert message.count("\n") == 0
    assert message.startswith("error: ")
    return message


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A folder with frames and a configuration, and a model trained from them by the command line in `trained`."""
    folder = tmp_path_factory.mktemp("project")
    for part, count in (("train", 3 + 12), ("valid", 4), ("test", 4)):
        ase.io.write(folder / f"{part}.xyz", ase.io.read(SAMPLE[part], f":{count}"))
    (folder / "tiny.toml").write_text(CONFIG)
    (folder / "printed.txt").write_text(works("train", folder / "tiny.toml", "--out", folder / "trained"))
    return folder


@pytest.fixture(scope="module")
def model(project):
    return project / "trained" / "model.eqn"


# Help


def test_the_program_explains_itself():
    printed = works("--help")
    assert "equinet demo" in printed
    for command in OPTIONS:
        assert re.search(rf"^\W*{command}\b", printed, re.MULTILINE), command


@pytest.mark.parametrize("command", OPTIONS)
def test_every_command_explains_its_options(command):
    printed = works(command, "--help")
    for option in OPTIONS[command]:
        assert option in printed
    found = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", printed.partition("Options")[2]))
    assert found - {"--help", "--no-resume"} == set(OPTIONS[command])


def test_every_command_is_known_here():
    assert {command.name or command.callback.__name__ for command in app.registered_commands} == set(OPTIONS)


def test_without_a_command_help_is_shown():
    result = call()
    assert result.exit_code == 2 or result.exit_code == 0
    assert "train" in result.output


def test_the_package_can_be_run():
    result = subprocess.run(
        [sys.executable, "-m", "equinet", "--help"],
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "220", "NO_COLOR": "1", "PYTHONIOENCODING": "utf-8"},
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert all(command in result.stdout for command in OPTIONS)


# Train


def test_training_writes_a_run_and_says_what_to_do_next(project, model):
    printed = (project / "printed.txt").read_text()
    assert "12 train, 4 valid" in printed
    assert f"{project}/trained/model.eqn" in printed
    assert load_potential(model).symbols == ("H", "C", "O")
    assert len((project / "trained" / "metrics.jsonl").read_text().splitlines()) == 2


def test_training_prints_every_epoch_and_the_errors(project):
    printed = (project / "printed.txt").read_text()
    history = [json.loads(line) for line in (project / "trained" / "metrics.jsonl").read_text().splitlines()]
    for record in history:
        columns = [
            f"{record['epoch']}",
            f"{record['train_loss']:.4g}",
            f"{record['valid_energy_rmse_mev_per_atom']:.2f}",
        ]
        columns.append(f"{record['valid_forces_rmse_mev_per_ang']:.2f}")
        assert re.search(r"\s+".join(re.escape(column) for column in columns), printed)
    errors = json.loads((project / "trained" / "errors.json").read_text())
    assert f"{errors['valid']['energy_mae_mev_per_atom']:.2f}" in printed


def test_settings_override_the_configuration(project, tmp_path):
    settings = ["model.channels=2", "train.epochs=1", "data.valid=0.25", "train.dtype=float64"]
    arguments = [part for setting in settings for part in ("--set", setting)]
    works("train", project / "tiny.toml", "--out", tmp_path / "out", *arguments)
    config = read_header(tmp_path / "out" / "model.eqn").training["config"]
    assert (config["model"]["channels"], config["train"]["epochs"]) == (2, 1)
    assert (config["data"]["valid"], config["train"]["dtype"]) == (0.25, "float64")
    assert config["train"]["batch_size"] == 4


def test_without_out_the_run_is_named_after_the_configuration(project, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    works("train", project / "tiny.toml", "--set", "train.epochs=0")
    assert (tmp_path / "runs" / "tiny" / "model.eqn").exists()


def test_resume_goes_on_to_more_epochs(project, tmp_path):
    out = shutil.copytree(project / "trained", tmp_path / "out")
    printed = works("train", out / "config.toml", "--out", out, "--resume", "--set", "train.epochs=3")
    assert "from epoch 3" in printed
    assert [json.loads(line)["epoch"] for line in (out / "metrics.jsonl").read_text().splitlines()] == [1, 2, 3]


def test_the_written_configuration_trains_the_same_model(project, model, tmp_path):
    works("train", project / "trained" / "config.toml", "--out", tmp_path / "out")
    again = load_potential(tmp_path / "out" / "model.eqn").state_dict()
    assert same(again, load_potential(model).state_dict())


# Train: errors


def test_a_run_is_not_overwritten(project):
    assert "already holds a run; add --resume" in fails("train", project / "tiny.toml", "--out", project / "trained")


def test_an_unknown_key_names_the_nearest_known_one(project, tmp_path):
    message = fails("train", project / "tiny.toml", "--out", tmp_path / "out", "--set", "model.chanels=8")
    assert "there is no key `model.chanels`; did you mean `model.channels`?" in message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("epochs=3", "--set must read section.key=value"),
        ("train.epochs=-3", "`train.epochs`: Input should be greater than or equal to 0, got -3"),
        ("data.train=nowhere.xyz", "nowhere.xyz"),
        ("train.device=gpu", "`device` must be"),
        ("model.cutoff=0.2", "raise `model.cutoff`"),
        ("train.stress_weight=1", "frames have no label `stress`"),
    ],
)
def test_a_wrong_setting_is_told_in_one_sentence(project, tmp_path, setting, message):
    assert message in fails("train", project / "tiny.toml", "--out", tmp_path / "out", "--set", setting)
    assert not (tmp_path / "out").exists()


def test_the_version_is_that_of_the_package():
    assert works("--version").strip() == equinet.__version__


def test_a_missing_configuration_is_named(tmp_path):
    assert "there is no configuration" in fails("train", tmp_path / "nowhere.toml")


def test_square_brackets_in_a_message_are_shown(project, tmp_path):
    """Rich would take them for markup and swallow them."""
    setting = "data.train=[red]frames.xyz"
    message = fails("train", project / "tiny.toml", "--out", tmp_path / "out", "--set", setting)
    assert "no file fits the pattern" in message
    assert "/[red]frames.xyz" in message


def test_a_stopped_run_exits_like_a_shell_and_says_how_to_go_on(project, tmp_path, monkeypatch):
    from equinet.runs.interrupt import StopRequested

    def stop(self):
        raise StopRequested(signal.SIGTERM)

    monkeypatch.setattr("equinet.cli.training.TerminalReporter.batch_done", stop)
    out = tmp_path / "out"
    result = call("train", project / "tiny.toml", "--out", out)
    assert result.exit_code == 143
    assert "Traceback" not in result.output
    assert f"equinet train {out}/config.toml --out {out} --resume" in unstyled(result.stderr)


def test_a_run_stopped_while_it_reads_its_frames_says_that_there_is_nothing_to_go_on_with(
    project, tmp_path, monkeypatch
):
    run_module = sys.modules["equinet.train.run"]  # `equinet.train.run` is the function
    monkeypatch.setattr(run_module, "assemble", lambda config: signal.raise_signal(signal.SIGTERM))
    result = call("train", project / "tiny.toml", "--out", tmp_path / "out")
    assert result.exit_code == 143
    assert "stopped before the first step; nothing is lost. To start again: the same command" in unstyled(result.stderr)


def test_a_bug_of_ours_keeps_its_traceback(project, tmp_path, monkeypatch):
    def fault(*_, **__):
        raise KeyError("not the user's fault")

    monkeypatch.setattr("equinet.train.run", fault)
    result = call("train", project / "tiny.toml", "--out", tmp_path / "out")
    assert isinstance(result.exception, KeyError)


# Evaluate


def test_evaluate_prints_and_writes_errors_and_draws_them(project, model, tmp_path):
    arguments = ["--json", tmp_path / "errors.json", "--parity", tmp_path / "parity.png"]
    printed = works("evaluate", model, project / "valid.xyz", *arguments)
    written = json.loads((tmp_path / "errors.json").read_text())
    expected = evaluate_file(model, project / "valid.xyz")
    assert written == json.loads(json.dumps(expected.as_json()))
    in_training = json.loads((project / "trained" / "errors.json").read_text())["valid"]
    assert written["forces_mae_mev_per_ang"] == pytest.approx(in_training["forces_mae_mev_per_ang"], rel=1e-6)
    for value in (written["energy_mae_mev_per_atom"], written["forces_rmse_mev_per_ang"]):
        assert f"{value:.2f}" in printed
    assert (tmp_path / "parity.png").read_bytes().startswith(b"\x89PNG")


def test_evaluate_finds_labels_under_other_names(project, model, tmp_path):
    frames = ase.io.read(project / "valid.xyz", ":")
    for atoms in frames:
        energy, forces = atoms.get_potential_energy(), atoms.get_forces()
        atoms.calc = None
        atoms.info["E"], atoms.arrays["F"] = energy, forces
    ase.io.write(tmp_path / "named.xyz", frames)
    message = fails("evaluate", model, tmp_path / "named.xyz")
    assert "no frame has a label" in message
    assert "--energy-key, --forces-key, --stress-key" in message
    out = tmp_path / "errors.json"
    works("evaluate", model, tmp_path / "named.xyz", "--energy-key", "E", "--forces-key", "F", "--json", out)
    assert evaluate_file(model, project / "valid.xyz").errors.as_json().items() <= json.loads(out.read_text()).items()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.eqn", "valid.xyz"], "there is no file"),
        (["trained/model.eqn", "nowhere.xyz"], "there is no file"),
        (["trained/state.safetensors", "valid.xyz"], "holds a training state, not a potential"),
        (["valid.xyz", "valid.xyz"], "It is not an equinet file"),
        (["trained/model.eqn", "valid.xyz", "--dtype", "float16"], "--dtype must be"),
        (["trained/model.eqn", "valid.xyz", "--device", "gpu"], "--device must be"),
        (["trained/model.eqn", "valid.xyz", "--batch-size", "0"], "--batch-size must be 1 or more"),
    ],
)
def test_what_cannot_be_evaluated_is_told_in_one_sentence(project, monkeypatch, arguments, message):
    monkeypatch.chdir(project)
    assert message in fails("evaluate", *arguments)


# Molecular dynamics


def test_md_writes_a_trajectory_and_a_picture_and_goes_on(project, model, tmp_path):
    out = tmp_path / "run.traj"
    common = ["md", model, project / "test.xyz", "--out", out, "--save-every", 2, "--timestep", 0.1, "--device", "cpu"]
    printed = works(*common, "--steps", 4)
    assert [str(path) in printed for path in (out, tmp_path / "run.png")] == [True, True]
    assert read_run(out).step.tolist() == [0, 2, 4]
    assert (tmp_path / "run.png").read_bytes().startswith(b"\x89PNG")
    works(*common, "--steps", 8, "--resume")
    assert read_run(out).step.tolist() == [0, 2, 4, 6, 8]
    # and is the run that was never stopped
    whole = tmp_path / "whole.traj"
    common[4] = whole
    works(*common, "--steps", 8)
    assert read_run(whole).temperature.tolist() == read_run(out).temperature.tolist()


def test_md_takes_its_settings_from_the_options(project, model, tmp_path):
    out = tmp_path / "run.xyz"
    options = ["--ensemble", "nve", "--temperature", 50, "--timestep", 0.25, "--steps", 3, "--save-every", 1]
    works("md", model, project / "test.xyz", "--out", out, *options, "--dtype", "float32", "--seed", 4)
    run = read_run(out)
    assert run.time_fs.tolist() == [0, 0.25, 0.5, 0.75]
    frames = ase.io.read(out, ":")
    assert len(frames) == 4
    start = ase.io.read(project / "test.xyz", "-1")
    assert abs(frames[0].positions - start.positions).max() < 1e-6


def test_md_does_not_overwrite(project, model, tmp_path):
    out = tmp_path / "run.traj"
    works("md", model, project / "test.xyz", "--out", out, "--steps", 0)
    assert "run.traj" in fails("md", model, project / "test.xyz", "--out", out, "--steps", 0)


def test_md_refuses_an_element_the_model_does_not_know(project, model, tmp_path):
    atoms = ase.io.read(project / "test.xyz")
    atoms.numbers[-1] = 9
    ase.io.write(tmp_path / "fluoride.xyz", atoms)
    message = fails("md", model, tmp_path / "fluoride.xyz", "--out", tmp_path / "run.traj", "--steps", 1)
    assert "does not know F" in message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--ensemble", "npt"], "npt"),
        (["--timestep", "-1"], "--timestep"),
        (["--dtype", "float16"], "--dtype must be"),
        (["--resume"], "run.traj"),
    ],
)
def test_md_that_cannot_work_is_told_in_one_sentence(project, model, tmp_path, options, message):
    assert message in fails("md", model, project / "test.xyz", "--out", tmp_path / "run.traj", "--steps", 1, *options)


def test_an_ensemble_that_does_not_exist_is_refused(project, model, tmp_path):
    result = call("md", model, project / "test.xyz", "--out", tmp_path / "run.traj", "--ensemble", "nph")
    assert result.exit_code == 2
    assert "nph" in result.output


# Show, keys, doctor


def test_show_prints_equations_elements_and_errors(project, model):
    printed = works("show", model)
    errors = json.loads((project / "trained" / "errors.json").read_text())
    assert "H C O" in printed
    assert "A_i" in printed
    assert "eV/Å" in printed
    assert str(errors["valid"]["forces_mae_mev_per_ang"]) in printed


def test_show_of_something_else_is_told_in_one_sentence(project):
    assert "not an equinet file" in fails("show", project / "tiny.toml")


def test_keys_lists_every_key_with_its_explanation():
    printed = works("keys")
    joined = " ".join(re.sub(r"[│┃|]", " ", printed).split())
    for key, default, explanation in describe_keys():
        row = next(line for line in printed.splitlines() if re.search(rf"(?<![\w.]){re.escape(key)}\s", line))
        assert default.split()[0] in row, key
        assert " ".join(explanation.split()[:3]) in joined, key


def test_doctor_tests_every_executor_and_finds_them_right():
    printed = works("doctor")
    assert "WRONG" not in printed
    for name in METHODS:
        errors = r" .*\de-\d+ +\de-\d+ +ok"  # in float32 and float64
        assert re.search(rf"\b{name} conv\.{errors}", printed), name
        assert (re.search(rf"\b{name} many-body{errors}", printed) is None) == (name == "so2"), name
    for package in ("torch", "ase", "e3nn"):
        assert re.search(rf"{package}\W+\d", printed), package


def test_doctor_tells_a_wrong_executor(monkeypatch):
    real = equinet.verify.installation._error
    monkeypatch.setattr("equinet.verify.installation._error", lambda value, oracle: real(value * (1 + 1e-4), oracle))
    tested = equinet.verify.installation.self_test()
    assert len(tested) > 4 * len(METHODS) - 2  # two roles, two precisions; so2 has one role; and other backends
    lines = {(row.product, row.backend, row.device) for row in tested}  # with the errors in both precisions
    assert works("doctor").count("WRONG") == len(lines)


def test_doctor_tells_of_a_package_that_is_not_there(monkeypatch):
    monkeypatch.setitem(
        equinet.verify.installation.OPTIONAL,
        "no-such-package",
        ("no_such_package", "nothing", "pip install it"),
    )
    line = next(line for line in works("doctor").splitlines() if "no-such-package" in line)
    assert "not installed: pip install it" in line


def test_doctor_tells_why_a_package_cannot_be_imported(monkeypatch):
    monkeypatch.setitem(
        equinet.verify.installation.OPTIONAL, "numpy", ("numpy_with_a_typing_error", "nothing", "nothing")
    )
    line = next(line for line in works("doctor").splitlines() if "cannot be imported" in line)
    assert "No module named 'numpy_with_a_typing_error'" in line


# Demonstration


@pytest.fixture
def tiny_demo(project, monkeypatch):
    """The demonstration with a tiny model, twelve frames and twenty steps."""
    files = {part: str(project / f"{part}.xyz") for part in ("train", "valid", "test")}
    model = {"channels": 4, "max_l": 1, "sh_degree": 1, "correlation": 2, "cutoff": 4.0, "radial_hidden": [8]}
    train = {"epochs": 2, "batch_size": 4, "device": "cpu"}
    monkeypatch.setattr(equinet.cli.demo, "CONFIG", {"data": files, "model": model, "train": train})
    monkeypatch.setattr(equinet.cli.demo, "PICOSECOND_STEPS", 20)
    monkeypatch.setattr(equinet.cli.demo, "TIMESTEP", 0.1)


@pytest.mark.usefixtures("tiny_demo")
def test_the_demonstration_names_what_it_wrote_and_it_is_there(tmp_path):
    out = tmp_path / "shown"
    printed = works("demo", "--out", out)
    closing = printed[printed.index("done in") :]
    named = {word.strip(",") for word in re.findall(rf"{re.escape(str(out))}/\S*", closing)}
    assert all(os.path.exists(path) for path in named), named
    results = ["model.eqn", "metrics.jsonl", "errors.json", "config.toml", "nvt.traj", "nve.traj", "plots/"]
    assert {f"{out}/{name}" for name in results} == named
    assert {path.name for path in (out / "plots").iterdir()} == {"history.png", "parity.png", "nvt.png", "nve.png"}
    assert all(path.stat().st_size > 5000 for path in (out / "plots").iterdir())
    error = json.loads((out / "errors.json").read_text())["test"]["forces_rmse_mev_per_ang"]
    assert f"{error:.1f} meV/Å" in closing


@pytest.mark.usefixtures("tiny_demo")
def test_the_second_run_of_the_demonstration_goes_on_from_the_first(tmp_path):
    works("demo", "--out", tmp_path / "shown")
    thermal, free = (ase.io.read(tmp_path / "shown" / name, ":") for name in ("nvt.traj", "nve.traj"))
    assert abs(thermal[-1].positions - free[0].positions).max() == 0
    assert abs(thermal[-1].get_momenta() - free[0].get_momenta()).max() == 0
    assert abs(free[0].get_momenta()).max() > 0


@pytest.mark.usefixtures("tiny_demo")
def test_the_demonstration_does_not_overwrite(tmp_path):
    works("demo", "--out", tmp_path / "shown")
    message = fails("demo", "--out", tmp_path / "shown")
    assert "holds an earlier demonstration; remove the folder" in message
    assert "--resume" not in message  # the demonstration has no such option


def test_the_demonstration_is_made_of_files_that_ship_with_equinet():
    for part, path in equinet.cli.demo.CONFIG["data"].items():
        assert path == str(SAMPLE[part])
        assert os.path.exists(path)
    assert equinet.cli.demo.PICOSECOND_STEPS * equinet.cli.demo.TIMESTEP == 1000
