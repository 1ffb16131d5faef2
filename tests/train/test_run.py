"""A whole run: what it writes, how it goes on, and how it refuses data that cannot work before it writes anything."""

import copy
import json
import resource
import shutil
import signal
import sys

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from equinet.checkpoint import load_potential, read_header
from equinet.datasets import LabelKeys, read_frames, to_graphs
from equinet.runs.interrupt import SIGNALS
from equinet.runs.lock import InUseError, exclusive
from equinet.tensorfile import read_tensors
from equinet.train import Interrupted, evaluate_file, prepare, read_config, run
from equinet.train.report.record import append_json
from equinet.train.run import SilentRun

loop, run_module = sys.modules["equinet.train.loop"], sys.modules["equinet.train.run"]


def tensors_of(path):
    return read_tensors(path)[0]


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def records_of(out):
    lines = (out / "metrics.jsonl").read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key != "seconds"} for line in lines]


def numbers(record):
    """The errors of a JSON record that are there."""
    return {key: value for key, value in record.items() if value is not None}


def is_picture(path):
    content = path.read_bytes()
    return content.startswith(b"\x89PNG") and len(content) > 5000


def labels_of(atoms):
    return dict(atoms.calc.results)


def relabel(atoms, **labels):
    """The frame with these labels and no others."""
    atoms = atoms.copy()
    atoms.calc = SinglePointCalculator(atoms, **labels)
    return atoms


def press_ctrl_c(monkeypatch, *steps):
    """Ctrl-C in the middle of these training steps, counted from 1 over all runs of a test."""
    send(monkeypatch, signal.SIGINT, *steps)


def send(monkeypatch, signal_number, *steps):
    real, count = loop.train_step, iter(range(1, 10**6))

    def step(*args):
        number = next(count)
        for _ in range(steps.count(number)):
            signal.raise_signal(signal_number)
        return real(*args)

    monkeypatch.setattr(loop, "train_step", step)


# What a run leaves behind


def test_a_run_writes_what_it_promises(finished):
    out = finished.out
    assert {path.name for path in out.iterdir()} >= {
        "model.eqn",
        "config.toml",
        "metrics.jsonl",
        "errors.json",
        "plots",
    }
    assert {path.name for path in (out / "plots").iterdir()} == {"history.png", "parity.png"}
    assert all(is_picture(path) for path in (out / "plots").iterdir())
    assert not list(out.rglob("*.partial"))


def test_the_metrics_are_the_history(finished):
    lines = [json.loads(line) for line in (finished.out / "metrics.jsonl").read_text().splitlines()]
    assert lines == finished.state.history
    assert [line["epoch"] for line in lines] == [1, 2, 3]


@pytest.mark.parametrize("part", ["valid", "test"])
def test_errors_agree_with_an_evaluation_of_the_saved_model(finished, files, part):
    written = json.loads((finished.out / "errors.json").read_text())
    assert set(written) == {"train", "valid", "test"}
    found = evaluate_file(finished.out / "model.eqn", files[part]).errors
    assert numbers(found.as_json()) == pytest.approx(numbers(written[part]), rel=1e-6)
    assert finished.errors[part].as_json() == written[part]
    assert written[part]["stress_mae_mev_per_ang3"] is None


def test_errors_of_training_frames_leave_isolated_atoms_out(finished):
    assert finished.errors["train"].frames == 16


def test_the_saved_model_is_the_one_that_was_returned(finished, sample):
    saved = load_potential(finished.out / "model.eqn")
    assert same(dict(saved.state_dict()), dict(finished.potential.state_dict()))
    assert not finished.potential.training


def test_the_saved_model_is_that_of_the_best_epoch(finished):
    best = min(finished.state.history, key=lambda record: record["valid_loss"])
    assert finished.state.best_epoch == best["epoch"]
    assert finished.state.best_score == best["valid_loss"]
    weights = {
        name: value for name, value in tensors_of(finished.out / "model.eqn").items() if name in finished.state.best
    }
    assert same(weights, finished.state.best)
    errors = json.loads((finished.out / "errors.json").read_text())["valid"]
    assert errors["forces_rmse_mev_per_ang"] == pytest.approx(best["valid_forces_rmse_mev_per_ang"], rel=1e-6)


def test_the_model_file_says_where_it_comes_from(finished, make_config, files):
    training = read_header(finished.out / "model.eqn").training
    expected = make_config(data={"test": files["test"]}).model_dump(mode="json")
    for part in ("train", "valid", "test"):  # no folders, which name people and machines
        expected["data"][part] = f"{part}.xyz"
    assert training["config"] == expected
    assert training["epoch"] == finished.state.best_epoch
    assert training["errors"] == json.loads((finished.out / "errors.json").read_text())
    assert training["data_sha256"] == prepare(make_config(data={"test": files["test"]})).digest


def test_the_written_configuration_gives_the_same_model_again(finished, tmp_path):
    again = run(read_config(finished.out / "config.toml"), tmp_path / "again")
    assert same(tensors_of(tmp_path / "again" / "model.eqn"), tensors_of(finished.out / "model.eqn"))
    assert (tmp_path / "again" / "errors.json").read_text() == (finished.out / "errors.json").read_text()
    assert records_of(again.out) == records_of(finished.out)


def test_an_isolated_atom_has_exactly_its_reference_energy(finished, sample):
    label = {atoms.symbols[0]: labels_of(atoms)["energy"] for atoms in sample["train"][:3]}
    reference = dict(zip(finished.potential.symbols, finished.potential.scale.reference.tolist()))
    assert reference == label


def test_isolated_atoms_among_validation_frames_count(make_config, files, tmp_path):
    result = run(make_config(data={"valid": files["train"]}, epochs=1), tmp_path / "out")
    found = evaluate_file(tmp_path / "out" / "model.eqn", files["train"])
    assert (result.errors["train"].frames, result.errors["valid"].frames) == (16, 19)
    # An isolated atom has exactly its reference energy and no force, so that it adds nothing to sums of squares over frames.
    squares = [errors.frames * errors.rmse["energy"] ** 2 for errors in (found.errors, result.errors["valid"])]
    assert squares[0] == pytest.approx(squares[1], rel=1e-5)


def test_without_epochs_the_start_is_the_result(make_config, tmp_path):
    result = run(make_config(epochs=0), tmp_path / "out")
    saved = load_potential(tmp_path / "out" / "model.eqn")
    assert read_header(tmp_path / "out" / "model.eqn").training["epoch"] == 0
    assert saved.symbols == ("H", "C", "O")
    assert set(json.loads((tmp_path / "out" / "errors.json").read_text())) == {"train", "valid"}
    assert result.state.history == []


def test_a_run_in_float64_stays_in_float64(make_config, tmp_path, files):
    run(make_config(dtype="float64", epochs=1), tmp_path / "out")
    saved = load_potential(tmp_path / "out" / "model.eqn")
    assert saved.dtype == torch.float64
    assert read_header(tmp_path / "out" / "model.eqn").dtype == "float64"
    written = json.loads((tmp_path / "out" / "errors.json").read_text())["valid"]
    half = evaluate_file(tmp_path / "out" / "model.eqn", files["valid"], dtype="float32").errors.as_json()
    assert numbers(half) == pytest.approx(numbers(written), rel=1e-4)
    assert half != written


def test_a_folder_is_made_with_all_above_it(make_config, tmp_path):
    run(make_config(epochs=0), tmp_path / "a" / "b" / "out")
    assert (tmp_path / "a" / "b" / "out" / "model.eqn").exists()


# Data


def test_held_out_frames_are_reproducible_and_disjoint(make_config):
    def energies(seed):
        graphs = prepare(make_config(data={"valid": 0.25}, seed=seed)).graphs
        return [[graph.energy.item() for graph in graphs[part]] for part in ("train", "valid")]

    train, valid = energies(1)
    assert (len(train), len(valid)) == (12, 4)
    assert not set(train) & set(valid)
    assert energies(1) == [train, valid]
    assert energies(2) != [train, valid]
    every = [graph.energy.item() for graph in prepare(make_config()).graphs["train"]]
    assert sorted(train + valid) == sorted(every)


def test_several_training_files_count_as_one(make_config, write, sample):
    first, second = write("a.xyz", sample["train"][:9]), write("b.xyz", sample["train"][9:])
    together = prepare(make_config(data={"train": [first, second]}))
    assert together.digest == prepare(make_config()).digest


def test_the_digest_changes_with_everything_training_sees(make_config, write, sample):
    def digest(edit):
        frames = copy.deepcopy(sample["train"])
        edit(frames)
        return prepare(make_config(data={"train": write("frames.xyz", frames)})).digest

    def move(frames):
        frames[5].positions[0, 0] += 0.01

    def pull(frames):
        frames[5].calc.results["forces"][0, 0] += 0.01

    def weigh(frames):
        frames[5].info["weight"] = 2.0

    def raise_reference(frames):
        frames[0].calc.results["energy"] += 0.01

    def swap(frames):
        frames[5], frames[6] = frames[6], frames[5]

    edits = [lambda frames: None, move, pull, weigh, raise_reference, swap]
    assert len({digest(edit) for edit in edits}) == len(edits)


def test_reference_energies_may_come_from_a_table(make_config):
    table = {"H": -10.0, "C": -50.0, "O": -100.0, "N": -70.0}
    assert prepare(make_config(data={"e0s": table})).statistics.reference == (-10.0, -50.0, -100.0)


def test_each_element_may_have_a_scale_of_its_own(make_config, tmp_path):
    result = run(make_config(data={"scale_shift": "per_element"}, epochs=1), tmp_path / "out")
    assert len(set(result.potential.scale.scale.tolist())) == 3


def test_frames_without_a_label_can_be_accepted(make_config, write, sample, tmp_path):
    frames = [*sample["train"][:10], *(relabel(a, energy=labels_of(a)["energy"]) for a in sample["train"][10:])]
    data = {"train": write("frames.xyz", frames), "allow_missing": True}
    result = run(make_config(data=data, epochs=1), tmp_path / "out")
    assert np.isfinite(result.state.history[0]["train_loss"])
    assert np.isfinite(result.errors["train"].rmse["forces"])


def test_energies_alone_can_be_trained_on(make_config, write, sample, tmp_path):
    def only_energy(part):
        return write(f"{part}.xyz", [relabel(a, energy=labels_of(a)["energy"]) for a in sample[part]])

    data = {part: only_energy(part) for part in ("train", "valid")}
    result = run(make_config(data=data, forces_weight=0.0), tmp_path / "out")
    history = result.state.history
    assert history[-1]["train_loss"] < history[0]["train_loss"]
    assert "valid_forces_rmse_mev_per_ang" not in history[0]
    assert result.errors["valid"].as_json()["forces_mae_mev_per_ang"] is None
    assert is_picture(tmp_path / "out" / "plots" / "parity.png")


def test_labels_may_have_other_names(make_config, write, sample, tmp_path):
    def rename(part):
        frames = []
        for atoms in sample[part]:
            other = atoms.copy()
            other.info["dft_energy"] = labels_of(atoms)["energy"]
            if "forces" in labels_of(atoms):
                other.arrays["dft_forces"] = labels_of(atoms)["forces"]
            frames.append(other)
        return write(f"{part}.xyz", frames)

    names = {"energy_key": "dft_energy", "forces_key": "dft_forces"}
    renamed = make_config(data={"train": rename("train"), "valid": rename("valid"), **names}, epochs=1)
    assert prepare(renamed).digest == prepare(make_config()).digest
    run(renamed, tmp_path / "out")
    keys = LabelKeys(energy="dft_energy", forces="dft_forces")
    found = evaluate_file(tmp_path / "out" / "model.eqn", tmp_path / "valid.xyz", keys).errors
    written = json.loads((tmp_path / "out" / "errors.json").read_text())["valid"]
    assert numbers(found.as_json()) == pytest.approx(numbers(written))


# Stress


@pytest.fixture(scope="module")
def strained(make_config, copper, tmp_path_factory):
    """Two runs on copper, without and with stress in the loss, and the file of their frames."""
    folder = tmp_path_factory.mktemp("strained")
    frames = str(folder / "cu.xyz")
    ase.io.write(frames, copper)

    def train(stress_weight):
        config = make_config(
            data={"train": frames, "valid": frames},
            model={"cutoff": 3.5},
            epochs=15,
            batch_size=2,
            learning_rate=0.03,
            ema_decay=0.5,
            seed=2,
            stress_weight=stress_weight,
        )
        return run(config, folder / f"weight-{stress_weight}")

    return train(0.0), train(3000.0), frames


def test_stress_is_trained(strained):
    without, trained, _ = strained
    assert trained.errors["train"].rmse["stress"] < 0.4 * trained.errors["train"].spread["stress"]
    assert trained.errors["train"].rmse["stress"] < 0.5 * without.errors["train"].rmse["stress"]


def test_errors_of_stress_are_written(strained):
    _, result, frames = strained
    written = json.loads((result.out / "errors.json").read_text())
    for part in ("train", "valid"):
        assert written[part]["stress_mae_mev_per_ang3"] > 0
        assert written[part]["stress_rmse_mev_per_ang3"] >= written[part]["stress_mae_mev_per_ang3"]
    found = evaluate_file(result.out / "model.eqn", frames).errors
    assert found.frames == 10
    assert found.as_json() == pytest.approx(written["train"], rel=1e-5)


def test_stress_that_is_not_trained_is_measured_all_the_same(strained):
    result, _, _ = strained
    assert "valid_stress_rmse_mev_per_ang3" not in result.state.history[0]
    assert np.isfinite(result.errors["valid"].rmse["stress"])


def test_molecules_and_stressed_crystals_train_together(make_config, write, sample, copper, tmp_path):
    frames = [*sample["train"][:9], *copper[:4]]
    data = {"train": write("mixed.xyz", frames), "valid": 0.3, "e0s": "least_squares", "allow_missing": True}
    result = run(make_config(data=data, stress_weight=100.0, epochs=2), tmp_path / "out")
    assert all(value.isfinite().all() for value in result.potential.state_dict().values())
    assert np.isfinite(result.state.history[-1]["valid_loss"])


# Never overwritten, and gone on with


def test_a_finished_run_is_not_overwritten(finished, make_config):
    before = {path: path.read_bytes() for path in finished.out.rglob("*") if path.is_file()}
    with pytest.raises(FileExistsError, match=r"already holds a run; add `resume=True` .* or choose another `out`"):
        run(make_config(seed=9), finished.out)
    assert {path: path.read_bytes() for path in finished.out.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("name", ["file", "file/out"])
@pytest.mark.parametrize("resume", [False, True])
def test_a_file_in_place_of_the_folder_is_refused_before_any_work(name, resume, make_config, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("mine")
    monkeypatch.setattr(run_module, "assemble", lambda config: pytest.fail("the data were read"))
    with pytest.raises(NotADirectoryError, match=r"`out` must be a folder, but .*file is a file; choose another name"):
        run(make_config(), tmp_path / name, resume=resume)
    assert (tmp_path / "file").read_text() == "mine"


def test_there_must_be_something_to_go_on_with(make_config, tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no run to go on with; start one without `resume=True`"):
        run(make_config(), tmp_path / "out", resume=True)
    assert not (tmp_path / "out").exists()


def test_a_finished_run_goes_on_to_more_epochs(make_config, tmp_path):
    def config(epochs):
        return make_config(epochs=epochs, schedule="constant")

    run(config(2), tmp_path / "parts")
    longer = run(config(4), tmp_path / "parts", resume=True)
    whole = run(config(4), tmp_path / "whole")
    assert longer.state.epoch == 4
    assert records_of(longer.out) == records_of(whole.out)
    assert same(tensors_of(longer.out / "model.eqn"), tensors_of(whole.out / "model.eqn"))
    assert "epochs = 4" in (longer.out / "config.toml").read_text()


def test_a_finished_run_that_goes_on_without_more_epochs_stays_the_same(finished, make_config, files, tmp_path):
    out = shutil.copytree(finished.out, tmp_path / "out")
    run(make_config(data={"test": files["test"]}), out, resume=True)
    assert same(tensors_of(out / "model.eqn"), tensors_of(finished.out / "model.eqn"))
    assert (out / "errors.json").read_text() == (finished.out / "errors.json").read_text()
    assert (out / "metrics.jsonl").read_text() == (finished.out / "metrics.jsonl").read_text()


def test_metrics_that_the_state_does_not_know_are_dropped(finished, make_config, files, tmp_path):
    """As after a crash between the line and the state."""
    out = shutil.copytree(finished.out, tmp_path / "out")
    with open(out / "metrics.jsonl", "a") as file:
        file.write(json.dumps({"epoch": 4, "train_loss": 0.0}) + "\n")
    run(make_config(data={"test": files["test"]}, epochs=4), out, resume=True)
    assert [record["epoch"] for record in records_of(out)] == [1, 2, 3, 4]
    assert records_of(out)[3]["train_loss"] > 0


@pytest.mark.parametrize(
    ("section", "changes"),
    [
        ("model", {"model": {"channels": 5}}),
        ("train", {"learning_rate": 0.02}),
        ("train", {"dtype": "float64"}),
        ("train", {"batch_size": 8}),
    ],
)
def test_a_run_does_not_go_on_with_another_configuration(finished, make_config, files, section, changes):
    before = {path: path.read_bytes() for path in finished.out.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match=rf"state.safetensors belongs to another run: `{section}.*now\. Set it back"):
        run(make_config(data={"test": files["test"]}, **changes), finished.out, resume=True)
    assert {path: path.read_bytes() for path in finished.out.rglob("*") if path.is_file()} == before


def test_a_run_does_not_go_on_with_other_data(finished, make_config, files):
    with pytest.raises(ValueError, match="belongs to another run: `frames"):
        run(make_config(data={"test": files["valid"]}), finished.out, resume=True)


# Ctrl-C


def test_a_run_stopped_by_ctrl_c_goes_on_to_the_very_same_model(make_config, tmp_path, monkeypatch):
    config = make_config(epochs=2)
    whole = run(config, tmp_path / "whole")
    press_ctrl_c(monkeypatch, 6)
    with pytest.raises(Interrupted, match="stopped in epoch 2 after batch 2; nothing is lost") as stopped:
        run(config, tmp_path / "parts")
    assert (tmp_path / "parts" / "model.eqn").exists()
    assert [record["epoch"] for record in records_of(tmp_path / "parts")] == [1]
    assert read_tensors(tmp_path / "parts" / "state.safetensors")[1]["step"] == 6
    assert stopped.value.out == tmp_path / "parts"
    run(read_config(stopped.value.out / "config.toml"), stopped.value.out, resume=True)
    assert same(tensors_of(tmp_path / "parts" / "model.eqn"), tensors_of(whole.out / "model.eqn"))
    assert records_of(tmp_path / "parts") == records_of(whole.out)
    assert (tmp_path / "parts" / "errors.json").read_text() == (whole.out / "errors.json").read_text()


def test_a_second_ctrl_c_stops_at_once_and_the_last_epoch_is_kept(make_config, tmp_path, monkeypatch):
    config = make_config(epochs=2)
    whole = run(config, tmp_path / "whole")
    press_ctrl_c(monkeypatch, 6, 6)
    with pytest.raises(Interrupted, match=r"stopped at once; the last saved state is in"):
        run(config, tmp_path / "parts")
    run(config, tmp_path / "parts", resume=True)
    assert same(tensors_of(tmp_path / "parts" / "model.eqn"), tensors_of(whole.out / "model.eqn"))
    assert records_of(tmp_path / "parts") == records_of(whole.out)


def test_ctrl_c_works_as_before_when_a_run_is_over(make_config, tmp_path, monkeypatch):
    before = signal.getsignal(signal.SIGINT)
    run(make_config(epochs=1), tmp_path / "done")
    assert signal.getsignal(signal.SIGINT) is before
    press_ctrl_c(monkeypatch, 1)
    with pytest.raises(Interrupted):
        run(make_config(epochs=1), tmp_path / "stopped")
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize("number", SIGNALS, ids=[each.name for each in SIGNALS])
def test_a_run_stopped_by_a_scheduler_goes_on_to_the_very_same_model(number, make_config, tmp_path, monkeypatch):
    config = make_config(epochs=2)
    whole = run(config, tmp_path / "whole")
    with monkeypatch.context() as patch:
        send(patch, number, 6, 6 if number != signal.SIGINT else 0)
        with pytest.raises(Interrupted, match="stopped in epoch 2 after batch 2; nothing is lost") as stopped:
            run(config, tmp_path / "parts")
    assert stopped.value.signal == number
    run(config, tmp_path / "parts", resume=True)
    assert same(tensors_of(tmp_path / "parts" / "model.eqn"), tensors_of(whole.out / "model.eqn"))
    assert records_of(tmp_path / "parts") == records_of(whole.out)


@pytest.mark.parametrize("number", SIGNALS, ids=[each.name for each in SIGNALS])
def test_a_signal_before_the_first_step_stops_at_once_and_changes_nothing(
    number, make_config, finished, tmp_path, monkeypatch
):
    before = signal.getsignal(number)
    shutil.copytree(finished.out, tmp_path / "begun")
    state = (tmp_path / "begun" / "state.safetensors").read_bytes()
    monkeypatch.setattr(run_module, "assemble", lambda config: signal.raise_signal(number))
    for name, there in (("new", False), ("begun", True)):
        with pytest.raises(Interrupted, match="stopped before the first step; nothing is lost") as stopped:
            run(make_config(epochs=1), tmp_path / name, resume=there)
        assert (stopped.value.signal, stopped.value.has_state) == (number, there)
    assert signal.getsignal(number) is before
    assert not (tmp_path / "new").exists()
    assert (tmp_path / "begun" / "state.safetensors").read_bytes() == state


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("moment", ["plot_history", "save_potential"])
def test_a_run_stopped_while_testing_says_so_and_goes_on(moment, number, make_config, finished, tmp_path, monkeypatch):
    config, before = make_config(epochs=1), signal.getsignal(number)
    whole = run(config, tmp_path / "whole")
    real = getattr(run_module, moment)

    def interrupted(*args, **options):
        if moment == "plot_history" or "errors" in options["training"]:
            signal.raise_signal(number)
        real(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(run_module, moment, interrupted)
        with pytest.raises(Interrupted, match="stopped while testing; the training is finished") as stopped:
            run(config, tmp_path / "parts")
    assert stopped.value.signal == number
    assert signal.getsignal(number) is before
    run(config, tmp_path / "parts", resume=True)
    assert same(tensors_of(tmp_path / "parts" / "model.eqn"), tensors_of(whole.out / "model.eqn"))
    assert records_of(tmp_path / "parts") == records_of(whole.out)
    assert (tmp_path / "parts" / "errors.json").read_text() == (whole.out / "errors.json").read_text()


def test_a_full_disk_takes_no_half_line_of_the_metrics(tmp_path, monkeypatch):
    path = tmp_path / "metrics.jsonl"
    append_json(path, {"epoch": 1})
    before, limits = path.read_text(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 5, limits[1]))
    try:
        with pytest.raises(OSError, match=r"metrics.jsonl cannot be written"):
            append_json(path, {"epoch": 2})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_text() == before
    append_json(path, {"epoch": 2})
    assert path.read_text().splitlines() == ['{"epoch": 1}', '{"epoch": 2}']


def test_a_run_with_long_epochs_is_saved_within_them(make_config, tmp_path, monkeypatch):
    config = make_config(epochs=1)
    whole = run(config, tmp_path / "whole")
    monkeypatch.setattr(run_module, "SECONDS_BETWEEN_STATES", 0.0)
    real = loop.train_step

    def die(*args):
        if read_tensors(tmp_path / "parts" / "state.safetensors")[1]["step"] == 3:
            raise SystemExit
        return real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_step", die)
        with pytest.raises(SystemExit):
            run(config, tmp_path / "parts")
    run(config, tmp_path / "parts", resume=True)
    assert same(tensors_of(tmp_path / "parts" / "model.eqn"), tensors_of(whole.out / "model.eqn"))
    assert records_of(tmp_path / "parts") == records_of(whole.out)


def test_a_folder_has_one_run_at_a_time(make_config, finished, tmp_path):
    (tmp_path / "new").mkdir()
    for out, resume in ((finished.out, True), (tmp_path / "new", False)):
        with exclusive(out / ".lock", "x"), pytest.raises(InUseError, match=f"{out} is being written by process"):
            run(make_config(), out, resume=resume)
    assert [each.name for each in (tmp_path / "new").iterdir()] == [".lock"]


def test_two_runs_that_find_no_folder_do_not_share_it(make_config, tmp_path, monkeypatch):
    config, out = make_config(epochs=1), tmp_path / "out"
    assemble = run_module.assemble

    def late(config):  # another run makes the folder while this one reads its data
        with monkeypatch.context() as patch:
            patch.setattr(run_module, "assemble", assemble)
            run(config, out)
        return assemble(config)

    monkeypatch.setattr(run_module, "assemble", late)
    with pytest.raises(FileExistsError, match="already holds a run"):
        run(config, out)
    assert len(records_of(out)) == 1


def test_what_killed_processes_left_half_written_is_cleared_away(make_config, tmp_path):
    out = tmp_path / "out"
    run(make_config(epochs=1), out)
    for name in ("model.eqn", "plots/parity.png"):
        (out / f"{name}.123-4.partial").write_text("half")
    run(make_config(epochs=2), out, resume=True)
    assert not list(out.rglob("*.partial"))


def test_without_generated_kernels_a_run_says_so(make_config, tmp_path, monkeypatch):
    said = []

    class Told(SilentRun):
        def say(self, block):
            said.append(str(getattr(block, "text", block)))

    run(make_config(epochs=0), tmp_path / "with", reporter=Told())
    assert not any("in place of generated kernels" in text for text in said)
    monkeypatch.setattr("equinet.ops.codegen.llvm._reason", "llvmlite cannot be imported")
    run(make_config(epochs=0), tmp_path / "without", reporter=Told())
    (text,) = (text for text in said if "in place of generated kernels" in text)
    assert text == "torch computes in place of generated kernels, several times slower: llvmlite cannot be imported"


# Refused, with file, frame and remedy


def drop_forces(frames):
    frames[7] = relabel(frames[7], energy=labels_of(frames[7])["energy"])


def drop_all_forces(frames):
    frames[:] = [relabel(atoms, energy=labels_of(atoms)["energy"]) for atoms in frames]


def drop_energy(frames):
    frames[7] = relabel(frames[7], forces=labels_of(frames[7])["forces"])


def spoil_energy(frames):
    frames[7].calc.results["energy"] = np.nan


def spoil_force(frames):
    frames[7].calc.results["forces"][2, 1] = np.inf


def shorten_forces(frames):
    for atoms in frames:
        atoms.arrays["dft_forces"] = np.ones((len(atoms), 2))


def zero_forces(frames):
    for atoms in frames[3:]:
        atoms.calc.results["forces"][:] = 0


def spread_out(frames):
    for atoms in frames[3:]:
        atoms.positions *= 10


def put_on_one_spot(frames):
    frames[7].positions[3] = frames[7].positions[5]


def drop_isolated_oxygen(frames):
    del frames[2]


def contradict_isolated_hydrogen(frames):
    frames.insert(1, relabel(frames[0], energy=-13.6))


def unlabel_isolated_hydrogen(frames):
    frames[0].calc = None


def mark_a_molecule_as_isolated(frames):
    frames[7].info["config_type"] = "IsolatedAtom"


def keep_isolated_atoms(frames):
    del frames[3:]


def negative_weight(frames):
    frames[7].info["weight"] = -1.0


def stress_a_molecule(frames):
    frames[7].calc.results["stress"] = np.zeros(6)


FRAME_7 = r"frames\.xyz, frame 7"

REFUSED = {
    "a frame without forces": (
        drop_forces,
        {},
        rf"1 of 16 frames have no label `forces`, first .*{FRAME_7}.*data\.allow_missing = true",
    ),
    "no forces": (
        drop_all_forces,
        {},
        r"16 of 16 frames have no label `forces`, first .*frame 3;.*data\.forces_key.*train\.forces_weight = 0",
    ),
    "no stress": (
        lambda frames: None,
        {"stress_weight": 1.0},
        r"16 of 16 frames have no label `stress`.*train\.stress_weight = 0",
    ),
    "a frame without energy": (drop_energy, {}, rf"have no label `energy`, first .*{FRAME_7}"),
    "energy not finite": (spoil_energy, {}, rf"{FRAME_7}: `energy` has 1 value\(s\) that are not finite; remove"),
    "force not finite": (spoil_force, {}, rf"{FRAME_7}: `forces` has 1 value\(s\) that are not finite; remove"),
    "forces of wrong shape": (
        shorten_forces,
        {"data": {"forces_key": "dft_forces"}},
        r"frames\.xyz, frame \d+: `dft_forces` has shape \(\d, 2\), must be \(\d, 3\); correct the frame",
    ),
    "forces all zero": (zero_forces, {}, r"all training forces are zero.*data\.forces_key"),
    "no edges": (spread_out, {}, r"no two atoms of the 16 training frames .*model\.cutoff.*positions are in Å"),
    "two atoms on one spot": (
        put_on_one_spot,
        {},
        rf"close-atoms: atoms 3 and 5 are 0 Å apart.*{FRAME_7}.*Correct or remove the frames",
    ),
    "an isolated atom missing": (
        drop_isolated_oxygen,
        {},
        r"no reference energy for O \(first seen in .*frames\.xyz, frame 2\).*gave H, C\. Add isolated-atom frames.*least_squares",
    ),
    "two isolated atoms that disagree": (
        contradict_isolated_hydrogen,
        {},
        r"frames\.xyz, frame 1: isolated H has -13\.6 eV, an earlier frame -10\.7.*keep one",
    ),
    "an isolated atom without energy": (
        unlabel_isolated_hydrogen,
        {},
        r"frames\.xyz, frame 0: an isolated atom without an energy; give it one or remove it",
    ),
    "a table without an element": (
        lambda frames: None,
        {"data": {"e0s": {"H": -1.0}}},
        r"no reference energy for C, O \(.*a table gave H.*full table in `data\.e0s`",
    ),
    "a molecule marked as isolated": (
        mark_a_molecule_as_isolated,
        {},
        rf"{FRAME_7}: marked as IsolatedAtom, but it has 9 atoms; correct the frame",
    ),
    "isolated atoms only": (keep_isolated_atoms, {}, r"frames\.xyz holds isolated atoms only"),
    "a negative weight": (negative_weight, {}, rf"{FRAME_7}: `weight` must not be negative, got -1\.0"),
    "stress of a molecule": (
        stress_a_molecule,
        {"stress_weight": 1.0, "data": {"allow_missing": True}},
        rf"{FRAME_7}: has a stress but no periodic direction.*set its `pbc` and cell or remove the label \(1 such",
    ),
    "weights all zero": (
        lambda frames: None,
        {"energy_weight": 0, "forces_weight": 0},
        "weights must not be .* all zero",
    ),
    "a device that is not there": (lambda frames: None, {"device": "gpu"}, "`device` must be .*, got 'gpu'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_training_frames_that_cannot_work_are_refused(make_config, write, sample, tmp_path, case):
    edit, changes, message = REFUSED[case]
    frames = copy.deepcopy(sample["train"])
    edit(frames)
    data = {"train": write("frames.xyz", frames), **changes.get("data", {})}
    config = make_config(data=data, **{key: value for key, value in changes.items() if key != "data"})
    with pytest.raises(ValueError, match=message):
        run(config, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def make_fluoride(frames):
    frames[2].numbers[-1] = 9


def unlabel_second(frames):
    frames[2].calc = None


def leave_one_atom(frames):
    frames[:] = [Atoms("H")]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            make_fluoride,
            r"frames\.xyz, frame 2: holds F, which the model does not know \(it was made for H, C, O\); remove",
        ),
        (unlabel_second, r"1 of 6 frames have no label `energy`, first .*frames\.xyz, frame 2"),
        (leave_one_atom, r"no valid frames besides isolated atoms; see `data\.valid`"),
    ],
)
def test_validation_frames_that_cannot_work_are_refused(make_config, write, sample, tmp_path, edit, message):
    frames = copy.deepcopy(sample["valid"])
    edit(frames)
    with pytest.raises(ValueError, match=message):
        run(make_config(data={"valid": write("frames.xyz", frames)}), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_unknown_element_in_the_test_frames_is_refused_before_training(make_config, write, sample, tmp_path):
    frames = copy.deepcopy(sample["test"])
    make_fluoride(frames)
    with pytest.raises(ValueError, match=r"frames\.xyz, frame 2: holds F"):
        run(make_config(data={"test": write("frames.xyz", frames)}), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("key", ["train", "valid", "test"])
def test_a_missing_file_is_named(make_config, tmp_path, key):
    with pytest.raises(FileNotFoundError, match=r"there is no file nowhere\.xyz"):
        run(make_config(data={key: "nowhere.xyz"}), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_no_frames_is_named(make_config, tmp_path):
    (tmp_path / "frames.xyz").write_text("this is not extended XYZ\n")
    with pytest.raises(
        ValueError,
        match=r"frames\.xyz, frame 0, line 1: here a frame begins, with its number of atoms, but there is 'this is not",
    ):
        run(make_config(data={"train": str(tmp_path / "frames.xyz")}), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_absurd_cutoff_is_refused_before_it_fills_the_memory(make_config, write, copper, tmp_path):
    file = write("cu.xyz", copper)
    with pytest.raises(ValueError, match=r"`model\.cutoff`: .* less than or equal to 100, got 3000"):
        make_config(data={"train": file}, model={"cutoff": 3000.0})
    with pytest.raises(MemoryError, match=r"cu\.xyz, frame 0: a cutoff of 3000 Å .* lower `cutoff` .*are in Å"):
        to_graphs(read_frames(file), 3000.0)


def test_a_batch_too_large_for_the_memory_is_refused(make_config, tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules["equinet.train.assemble"], "available_memory", lambda: 1e5)
    with pytest.raises(
        MemoryError, match=r"largest 4 frames \(288 edges\).*lower `train\.batch_size`, `model\.cutoff`"
    ):
        run(make_config(), tmp_path / "out")
    assert not (tmp_path / "out").exists()


# Evaluating a file


def test_evaluation_tells_isolated_atoms_apart(finished, files):
    found = evaluate_file(finished.out / "model.eqn", files["train"])
    assert (found.errors.frames, found.isolated.frames) == (16, 3)


def test_evaluation_does_not_depend_on_the_batch_size(finished, files):
    one, all_at_once = (
        numbers(evaluate_file(finished.out / "model.eqn", files["test"], batch_size=size).errors.as_json())
        for size in (1, 32)
    )
    assert one == pytest.approx(all_at_once, rel=1e-4)


def test_evaluation_of_frames_without_labels_is_refused(finished, sample, write):
    path = write("bare.xyz", [atoms.copy() for atoms in sample["test"]])
    with pytest.raises(
        ValueError, match=r"bare\.xyz: no frame has a label called `energy`, `forces` or `stress`.*`energy_key`"
    ):
        evaluate_file(finished.out / "model.eqn", path)
    with pytest.raises(ValueError, match="no frame has a label called `E`, `F` or `S`"):
        evaluate_file(finished.out / "model.eqn", path, LabelKeys(energy="E", forces="F", stress="S"))


def test_evaluation_of_an_unknown_element_is_refused(finished, sample, write):
    frames = copy.deepcopy(sample["test"])
    make_fluoride(frames)
    with pytest.raises(ValueError, match=r"frames\.xyz, frame 2: holds F"):
        evaluate_file(finished.out / "model.eqn", write("frames.xyz", frames))


def test_evaluation_in_an_unknown_precision_is_refused(finished, files):
    with pytest.raises(ValueError, match=r"`dtype` must be .* got 'float16'"):
        evaluate_file(finished.out / "model.eqn", files["test"], dtype="float16")


@pytest.mark.parametrize("kept", [0, 7, 200, -1])
def test_a_truncated_model_file_is_refused(finished, files, tmp_path, kept):
    path = tmp_path / "model.eqn"
    path.write_bytes((finished.out / "model.eqn").read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"model\.eqn cannot be read: .*cut short while being copied"):
        evaluate_file(path, files["test"])


def test_a_missing_model_file_is_named(files, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no file .*model\.eqn"):
        evaluate_file(tmp_path / "model.eqn", files["test"])


def test_a_state_is_no_model(finished, files):
    with pytest.raises(ValueError, match=r"state\.safetensors holds a training state, not a potential"):
        evaluate_file(finished.out / "state.safetensors", files["test"])
