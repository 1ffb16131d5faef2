"""Faults of training that were once there: each test failed before its fault was mended."""

from __future__ import annotations

import math
import os
import shlex
import shutil
import signal
import sys
import tomllib

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from typer.testing import CliRunner

from equinet.checkpoint import load_potential, save_potential
from equinet.cli import app
from equinet.datasets import GraphLoader
from equinet.train import (
    Interrupted,
    errors,
    evaluate_file,
    make_potential,
    parse_config,
    predict,
    prepare,
    read_config,
    run,
    to_toml,
)


def poison(potential):
    with torch.no_grad():
        potential.model.embedding.fill_(math.nan)


def test_predictions_that_are_not_numbers_end_training(make_config, make_parts):
    parts = make_parts(make_config())
    poison(parts.potential)
    with pytest.raises(FloatingPointError):
        parts.fit()


def test_a_learning_rate_that_explodes_is_told(make_config, make_parts):
    parts = make_parts(make_config(learning_rate=10.0, clip_gradient=1e6, schedule="constant", epochs=10))
    with pytest.raises(FloatingPointError):
        parts.fit()


def test_loss_of_nan_prediction_with_label_is_nan(make_config, make_parts):
    parts = make_parts(make_config())
    graph = next(iter(parts.data.valid))
    out = {"energy": graph.energy * math.nan, "forces": graph.forces * math.nan}
    assert not parts.loss(out, graph).isfinite()


def test_evaluating_a_broken_model_does_not_look_like_missing_labels(finished, files, tmp_path):
    p = load_potential(finished.out / "model.eqn")
    with torch.no_grad():
        for weight in p.parameters():
            weight.fill_(1e9)  # as large as a file may have them, and beyond all bounds when multiplied
    save_potential(p, tmp_path / "m.eqn")
    with pytest.raises((FloatingPointError, ValueError)):
        evaluate_file(tmp_path / "m.eqn", files["valid"])


def test_a_molecules_stress_label_does_not_hide_the_stress_error_of_the_others(make_config, write, copper, tmp_path):
    r = run(
        make_config(data={"train": write("cu.xyz", copper), "valid": 0.2}, stress_weight=1.0, epochs=1),
        tmp_path / "out",
    )
    mol = Atoms("Cu2", [[0, 0, 0], [0, 0, 2.3]])
    mol.calc = SinglePointCalculator(mol, energy=1.0, forces=np.ones((2, 3)), stress=np.zeros(6))
    path = write("mixed.xyz", [*copper[:3], mol])
    try:
        found = evaluate_file(r.out / "model.eqn", path).errors
    except ValueError:
        return
    assert math.isfinite(found.mae["stress"])


def test_stress_of_a_slab_without_volume_is_refused(make_config, write, copper, tmp_path):
    slab = copper[0].copy()
    slab.pbc = (1, 1, 0)
    slab.cell[2] = 0
    slab.calc = SinglePointCalculator(slab, energy=1.0, forces=np.ones((4, 3)), stress=np.ones(6))
    with pytest.raises(ValueError, match="stress"):
        prepare(
            make_config(
                data={"train": write("slab.xyz", [*copper[:4], slab]), "valid": write("cu.xyz", copper)},
                stress_weight=1.0,
            )
        )


def test_a_run_without_epochs_is_not_overwritten(make_config, tmp_path):
    run(make_config(epochs=0), tmp_path / "out")
    with pytest.raises(FileExistsError):
        run(make_config(epochs=0, seed=5), tmp_path / "out")


def test_a_run_without_epochs_goes_on(make_config, tmp_path):
    run(make_config(epochs=0), tmp_path / "out")
    run(make_config(epochs=1), tmp_path / "out", resume=True)


@pytest.mark.parametrize("data", [{"e0s": "least_squares"}, {"scale_shift": "per_element"}])
def test_a_run_does_not_go_on_with_other_reference_energies(make_config, tmp_path, data):
    run(make_config(epochs=1), tmp_path / "out")
    with pytest.raises(ValueError, match="another run"):
        run(make_config(epochs=2, data=data), tmp_path / "out", resume=True)


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("train", "seed", -1),
        ("train", "learning_rate", math.inf),
        ("train", "forces_weight", math.inf),
        ("model", "cutoff", math.inf),
        ("model", "radial_hidden", [0]),
        ("model", "radial_hidden", [-4]),
        ("data", "train", []),
        ("data", "valid", 1.5),
        ("data", "e0s", {"H": math.nan}),
    ],
)
def test_a_value_that_cannot_work_is_refused_with_its_key(section, key, value):
    with pytest.raises(ValueError, match=f"{section}.{key}"):
        parse_config(
            {"data": {"train": "a"}} | {section: {**({"train": "a"} if section == "data" else {}), key: value}}
        )


@pytest.mark.parametrize("name", ["a\nb.xyz", "a\tb.xyz"])
def test_any_path_can_be_written(name):
    c = parse_config({"data": {"train": name}})
    assert parse_config(tomllib.loads(to_toml(c))) == c


def test_files_beside_the_configuration_come_first(tmp_path, monkeypatch):
    for f in ("here", "project"):
        (tmp_path / f).mkdir()
    (tmp_path / f / "frames.xyz").touch()
    (tmp_path / "project" / "c.toml").write_text('[data]\ntrain = "frames.xyz"\n')
    monkeypatch.chdir(tmp_path / "here")
    assert os.path.abspath(read_config("../project/c.toml").data.train) == str(tmp_path / "project" / "frames.xyz")


def test_a_written_configuration_can_be_used_from_elsewhere(tmp_path, monkeypatch, files):
    (tmp_path / "project").mkdir()
    shutil.copy(files["train"], tmp_path / "project" / "frames.xyz")
    (tmp_path / "project" / "c.toml").write_text(
        '[data]\ntrain = "frames.xyz"\n[model]\nchannels=2\n[train]\nepochs=0\n'
    )
    monkeypatch.chdir(tmp_path)
    run(read_config("project/c.toml"), tmp_path / "out")
    monkeypatch.chdir("/")
    prepare(read_config(tmp_path / "out" / "config.toml"))


def test_a_key_in_the_wrong_section_names_the_right_one():
    with pytest.raises(ValueError, match=r"did you mean `train\.epochs`"):
        parse_config({"data": {"train": "a", "epochs": 3}})


def test_a_union_is_named_by_its_key_alone():
    with pytest.raises(ValueError, match=r"`data\.e0s`"):
        parse_config({"data": {"train": "a", "e0s": "x"}})


def test_a_refused_resume_names_the_key(finished, make_config, files):
    with pytest.raises(ValueError, match=r"`train\.learning_rate` was 0\.01"):
        run(make_config(data={"test": files["test"]}, learning_rate=0.02), finished.out, resume=True)


@pytest.mark.parametrize("seed", range(4))
def test_energies_start_within_the_spread(make_config, seed):
    c = make_config(seed=seed)
    p = prepare(c)
    pot = make_potential(c, p)
    found = predict(pot, GraphLoader(p.graphs["train"], 32), stress=False)
    l, q = found.pairs["energy"]
    assert 1e3 * abs((q - l).mean()) < 0.5 * errors(found).spread["energy"], 1e3 * (q - l).mean()


def test_a_second_ctrl_c_in_the_first_epoch_promises_nothing(make_config, tmp_path, monkeypatch):
    loop = sys.modules["equinet.train.loop"]
    real = loop.train_step

    def step(*arguments):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        return real(*arguments)

    monkeypatch.setattr(loop, "train_step", step)
    with pytest.raises(Interrupted) as stopped:
        run(make_config(), tmp_path / "out")
    monkeypatch.undo()
    run(make_config(), stopped.value.out, resume=True)


def test_the_command_to_go_on_can_be_pasted(make_config, tmp_path, monkeypatch):
    loop = sys.modules["equinet.train.loop"]
    real = loop.train_step
    monkeypatch.setattr(loop, "train_step", lambda *a: (signal.raise_signal(signal.SIGINT), real(*a))[1])
    (tmp_path / "tiny.toml").write_text(to_toml(make_config()))
    stopped = CliRunner().invoke(app, ["train", str(tmp_path / "tiny.toml"), "--out", str(tmp_path / "my run")])
    assert stopped.exit_code == 130
    monkeypatch.undo()
    command = shlex.split(stopped.stderr.partition("To go on: ")[2])
    assert command[:2] == ["equinet", "train"]
    assert str(tmp_path / "my run") in command
    assert "--resume" in command
    result = CliRunner().invoke(app, command[1:])
    assert result.exit_code == 0, result.output


def test_an_interrupted_loader_still_knows_its_length(make_config, make_parts):
    parts = make_parts(make_config())
    epoch = parts.data.train.epoch(0, skip=2)
    next(epoch)
    assert len(parts.data.train) == 4


def test_a_line_of_metrics_cut_short_by_a_crash_is_dropped(finished, make_config, files, tmp_path):
    out = shutil.copytree(finished.out, tmp_path / "out")
    with open(out / "metrics.jsonl", "a") as f:
        f.write('{"epoch": 4, "tr')
    run(make_config(data={"test": files["test"]}), out, resume=True)
