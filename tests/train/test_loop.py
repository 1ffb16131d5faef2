"""The loop: it learns, it can be stopped anywhere and goes on to the last bit, and it keeps to its schedule and its time."""

import math
import sys
from itertools import pairwise
from types import SimpleNamespace

import ase.io
import numpy as np
import pytest
import torch

from equinet.datasets import GraphLoader, to_graph
from equinet.graph import collate
from equinet.train import TrainingState, errors, make_potential, predict, prepare, train_step, validate
from equinet.train.loop import FINAL_FRACTION, set_learning_rate

loop = sys.modules["equinet.train.loop"]
STEPS = 4  # of an epoch: 16 frames, 4 at a time


class Reporter:
    """Notes everything, and can stop the training as Ctrl-C does."""

    def __init__(self, stop_after_batch=None, stop_after_epoch=None):
        self.stop_after_batch, self.stop_after_epoch = stop_after_batch, stop_after_epoch
        self.begun, self.batches, self.records, self.averaged, self.improved = [], 0, [], [], []

    def epoch_begins(self, epoch, epochs, batches, done):
        self.begun.append((epoch, batches, done))

    def batch_done(self):
        self.batches += 1
        if self.batches == self.stop_after_batch:
            raise KeyboardInterrupt

    def epoch_done(self, record, state, improved):
        self.records.append(record)
        self.improved.append(improved)
        self.averaged.append({name: value.clone() for name, value in state.averaged_weights().items()})
        if record["epoch"] == self.stop_after_epoch:
            raise KeyboardInterrupt


class StoppedWhileValidating(GraphLoader):
    """Validation frames at which Ctrl-C is pressed."""

    def __iter__(self):
        raise KeyboardInterrupt


def weights_of(potential):
    return {name: value.detach().clone() for name, value in potential.named_parameters()}


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def without_seconds(history):
    return [{key: value for key, value in record.items() if key != "seconds"} for record in history]


def note_energies(potential):
    """A list that fills with the energies of the batches that are trained on."""
    energies = []

    def note(module, args, _):
        if module.training:
            energies.append(args[0].energy)

    potential.register_forward_hook(note)
    return energies


# Learning


def test_training_lowers_the_loss(make_config, make_parts):
    parts = make_parts(make_config(epochs=4, learning_rate=0.02, batch_size=2, ema_decay=0.9))
    with torch.no_grad():
        _, before = validate(parts.potential, parts.data.valid, parts.loss)
    history = parts.fit().history
    assert history[-1]["train_loss"] < 0.8 * history[0]["train_loss"]
    assert history[-1]["valid_loss"] < 0.8 * before


def test_five_frames_are_learned_by_heart(make_config, make_parts, write, sample):
    config = make_config(
        data={"train": write("train.xyz", sample["train"][:8]), "valid": write("same.xyz", sample["train"][3:8])},
        model={"channels": 8, "sh_degree": 2, "radial_hidden": [16], "bessel_functions": 8},
        epochs=120,
        batch_size=5,
        learning_rate=0.03,
    )
    parts = make_parts(config)
    parts.fit()
    after = errors(predict(parts.potential, parts.data.valid, stress=False))
    assert after.frames == 5
    assert after.rmse["forces"] < 0.15 * after.spread["forces"]
    assert after.rmse["energy"] < 0.5 * after.spread["energy"]


def test_energies_are_right_before_the_first_step(make_config):
    """Against interaction energies of 5 eV per atom and total energies of 34, in float32."""
    for seed in range(4):
        config = make_config(seed=seed)
        prepared = prepare(config)
        potential = make_potential(config, prepared)
        assert potential.dtype == torch.float32
        label, prediction = predict(potential, GraphLoader(prepared.graphs["train"], 4), stress=False).pairs["energy"]
        assert label.mean() < -4
        assert abs((prediction - label).mean()) < 0.05 * abs(label.mean())


def test_energies_before_the_first_step_miss_no_more_than_the_random_model_adds(make_config):
    config = make_config(model={"cutoff": 5.0})
    prepared = prepare(config)
    potential = make_potential(config, prepared)
    potential.scale.scale.zero_()
    label, prediction = predict(potential, GraphLoader(prepared.graphs["train"], 4), stress=False).pairs["energy"]
    assert abs((prediction - label).mean()) < 1e-3


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(make_config, make_parts):
    first, again, other = (make_parts(make_config(epochs=1, seed=seed)) for seed in (3, 3, 4))
    for parts in (first, again, other):
        torch.rand(5)  # whatever else draws random numbers must not matter
        parts.fit()
    assert same(weights_of(first.potential), weights_of(again.potential))
    assert not same(weights_of(first.potential), weights_of(other.potential))


def test_training_leaves_random_numbers_and_default_dtype_of_the_program_alone(make_config, make_parts):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    make_potential(make_config(), prepare(make_config()))
    assert torch.equal(torch.rand(3), expected)
    make_parts(make_config(epochs=1, dtype="float64")).fit()
    assert torch.get_default_dtype() == torch.float32


@pytest.mark.parametrize(
    "model",
    [
        {
            "first_interaction": "gated",
            "interaction": "gated",
            "envelope_on": "weights",
            "readout_biases": True,
            "zbl": True,
        },
        {"first_interaction": "density", "distance_transform": "agnesi", "edge_channels": 3, "readout_layers": "last"},
        {"first_interaction": "residual", "distance_transform": "soft", "envelope_on": "weights", "readout_hidden": 0},
    ],
)
def test_training_moves_every_weight_of_every_kind_of_model(make_config, make_parts, model):
    parts = make_parts(make_config(epochs=2, model=model))
    before = weights_of(parts.potential)
    losses = [record["valid_loss"] for record in parts.fit().history]
    assert len(losses) == 2
    assert np.isfinite(losses).all()
    for name, weight in weights_of(parts.potential).items():
        assert weight.isfinite().all(), name
        assert not torch.equal(weight, before[name]), name


# Calibration


@pytest.mark.parametrize(
    "model",
    [
        {},
        {"layers": 3, "first_interaction": "density"},
        {"first_interaction": "gated", "interaction": "gated", "zbl": True},
    ],
)
def test_calibration_makes_densities_of_size_one_half_in_every_layer(make_config, model):
    config = make_config(model=model)
    prepared = prepare(config)
    graph = collate(prepared.graphs["train"])
    potential = make_potential(config, prepared)
    sizes = []
    for interaction in potential.model.interactions:
        interaction.register_forward_hook(lambda _, __, out: sizes.append(out[0].square().mean().sqrt().item()))
    before = {name: value for name, value in weights_of(potential).items() if name != "model.bias"}
    potential.eval()(graph)
    assert len(sizes) == potential.model.config.layers
    assert sizes == pytest.approx([0.5] * len(sizes), rel=1e-4)
    for interaction in potential.model.interactions:
        interaction.normalization.mul_(100.0)
    potential.calibrate(graph)
    sizes.clear()
    potential(graph)
    assert sizes == pytest.approx([0.5] * len(sizes), rel=1e-4)
    assert same({name: value for name, value in weights_of(potential).items() if name != "model.bias"}, before)


def test_the_mean_energy_is_right_before_the_first_step(make_config):
    config = make_config(model={"cutoff": 5.0})
    prepared = prepare(config)
    pairs = predict(make_potential(config, prepared), GraphLoader(prepared.graphs["train"], 32), stress=False).pairs
    label, prediction = pairs["energy"]
    assert abs((prediction - label).mean().item()) < 0.005  # eV/atom, of an interaction energy of 5 eV/atom


def test_calibration_on_isolated_atoms_is_refused(make_config, sample):
    potential = make_potential(make_config(), prepare(make_config()))
    lonely = collate([to_graph(atoms, 4.0) for atoms in sample["train"][:3]])
    with pytest.raises(ValueError, match="calibrate on structures whose atoms have neighbours"):
        potential.calibrate(lonely)


# Stopped and gone on

PLACES = {
    "in the first epoch": {"stop_after_batch": 1},
    "in mid-epoch": {"stop_after_batch": STEPS + 2},
    "after the last batch of an epoch": {"stop_after_batch": 2 * STEPS},
    "at the end of an epoch": {"stop_after_epoch": 2},
}


@pytest.fixture(scope="module")
def uninterrupted(make_parts):
    """A function: the parts of a run that was never stopped, after it; one run for each configuration."""
    done = {}

    def fit(config):
        key = repr(config.train)
        if key not in done:
            done[key] = make_parts(config)
            done[key].fit()
        return done[key]

    return fit


@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("place", PLACES)
def test_a_stopped_training_goes_on_to_the_very_same_weights(
    make_config, make_parts, uninterrupted, tmp_path, place, dtype, ema_decay
):
    config = make_config(dtype=dtype, ema_decay=ema_decay)
    whole, stopped = uninterrupted(config), make_parts(config)
    with pytest.raises(KeyboardInterrupt):
        stopped.fit(Reporter(**PLACES[place]))
    assert stopped.state.step < 3 * STEPS
    stopped.state.save(tmp_path / "state", {})
    del stopped
    again = make_parts(config)
    again.state.restore(tmp_path / "state", {})
    reporter = Reporter()
    state = again.fit(reporter)
    assert state.step == 3 * STEPS
    assert reporter.batches < 3 * STEPS
    assert same(again.potential.state_dict(), whole.potential.state_dict())
    assert same(state.best, whole.state.best)
    assert same(state.mean, whole.state.mean)
    assert without_seconds(state.history) == without_seconds(whole.state.history)
    assert (state.best_epoch, state.best_score) == (whole.state.best_epoch, whole.state.best_score)


def test_a_training_stopped_while_validating_goes_on_to_the_very_same_weights(
    make_config, make_parts, uninterrupted, tmp_path
):
    config = make_config(ema_decay=0.9)
    whole, stopped, again = uninterrupted(config), make_parts(config), make_parts(config)
    stopped.data = stopped.data._replace(valid=StoppedWhileValidating(stopped.data.valid.graphs, 32))
    with pytest.raises(KeyboardInterrupt):
        stopped.fit()
    assert stopped.state.step == STEPS
    stopped.state.save(tmp_path / "state", {})
    again.state.restore(tmp_path / "state", {})
    again.fit()
    assert same(again.potential.state_dict(), whole.potential.state_dict())
    assert without_seconds(again.state.history) == without_seconds(whole.state.history)


def test_a_training_stopped_after_every_step_goes_on_to_the_very_same_weights(make_config, make_parts, tmp_path):
    config = make_config(epochs=2, ema_decay=0.9)
    whole = make_parts(config)
    whole.fit()
    parts = make_parts(config)
    stops = 0
    while stops < 2 * STEPS:
        with pytest.raises(KeyboardInterrupt):
            parts.fit(Reporter(stop_after_batch=1))
        stops += 1
        parts.state.save(tmp_path / "state", {})
        parts = make_parts(config)
        parts.state.restore(tmp_path / "state", {})
    parts.fit()
    assert same(parts.potential.state_dict(), whole.potential.state_dict())
    assert without_seconds(parts.state.history) == without_seconds(whole.state.history)


def test_the_reporter_hears_where_an_epoch_goes_on(make_config, make_parts):
    parts = make_parts(make_config(epochs=2))
    first, second = Reporter(stop_after_batch=STEPS + 3), Reporter()
    with pytest.raises(KeyboardInterrupt):
        parts.fit(first)
    parts.fit(second)
    assert first.begun == [(0, STEPS, 0), (1, STEPS, 0)]
    assert second.begun == [(1, STEPS, 3)]
    assert second.batches == 1


def test_no_frame_is_seen_twice_in_an_epoch_that_was_stopped(make_config, make_parts):
    parts = make_parts(make_config(epochs=1))
    energies = note_energies(parts.potential)
    with pytest.raises(KeyboardInterrupt):
        parts.fit(Reporter(stop_after_batch=1))
    parts.fit()
    expected = torch.stack([graph.energy for graph in parts.data.train.graphs]).flatten()
    assert torch.equal(torch.cat(energies).sort().values, expected.sort().values)


def test_epochs_have_different_orders(make_config, make_parts):
    parts = make_parts(make_config(epochs=2))
    energies = note_energies(parts.potential)
    parts.fit()
    first, second = torch.cat(energies[:STEPS]), torch.cat(energies[STEPS:])
    assert not torch.equal(first, second)
    assert torch.equal(first.sort().values, second.sort().values)


# Schedule


def learning_rate(config, *, step, seconds=0.0, total_steps=1000):
    optimizer = SimpleNamespace(param_groups=[{"lr": None}, {"lr": None}])
    set_learning_rate(optimizer, config.train, SimpleNamespace(step=step, seconds=seconds), total_steps)
    rates = {group["lr"] for group in optimizer.param_groups}
    assert len(rates) == 1
    return rates.pop()


def test_the_constant_schedule_keeps_the_rate_to_the_end(make_config):
    config = make_config(schedule="constant", learning_rate=0.5, max_minutes=1.0)
    assert {learning_rate(config, step=step, seconds=60.0) for step in (0, 1, 999)} == {0.5}


def test_the_cosine_falls_to_a_hundredth(make_config):
    config = make_config(schedule="cosine", learning_rate=0.5)
    rates = [learning_rate(config, step=step) for step in range(1001)]
    assert all(after < before for before, after in pairwise(rates))
    assert rates[0] == 0.5
    assert rates[500] == pytest.approx(0.5 * (1 + FINAL_FRACTION) / 2)
    assert rates[-1] == pytest.approx(0.5 / 100)


def test_the_schedule_follows_the_time_when_time_is_limited(make_config):
    config = make_config(schedule="cosine", learning_rate=0.5, max_minutes=2.0)
    half = 0.5 * (1 + FINAL_FRACTION) / 2
    assert learning_rate(config, step=100, seconds=60.0) == pytest.approx(half)
    assert learning_rate(config, step=100, seconds=120.0) == pytest.approx(0.5 / 100)
    assert learning_rate(config, step=100, seconds=500.0) == pytest.approx(0.5 / 100)
    assert learning_rate(config, step=500, seconds=1.0) == pytest.approx(half)  # fast: the epochs end first
    unlimited = make_config(schedule="cosine", learning_rate=0.5)
    assert learning_rate(unlimited, step=100, seconds=1e6) == pytest.approx(0.5, rel=0.05)


def test_the_last_step_of_a_run_has_almost_the_smallest_rate(make_config, make_parts):
    parts = make_parts(make_config(epochs=6, learning_rate=0.1, batch_size=2))
    rates = [record["learning_rate"] for record in parts.fit().history]
    assert max(rates) > 0.05
    assert 0.1 / 100 < rates[-1] < 1.2 * 0.1 / 100


# Time


@pytest.fixture
def clock():
    """A clock on which every training step takes one second, and so does every validation."""
    ticks = iter(range(10**6))
    return lambda: float(next(ticks))


def test_training_stops_when_its_time_is_up(make_config, make_parts, clock):
    state = make_parts(make_config(epochs=1000, max_minutes=10 / 60)).fit(clock=clock)
    assert [record["step"] for record in state.history] == [STEPS, 2 * STEPS]
    assert [record["seconds"] for record in state.history] == [5.0, 10.0]


def test_an_epoch_longer_than_the_time_is_closed_early(make_config, make_parts, clock):
    parts = make_parts(make_config(epochs=1000, max_minutes=12 / 60))
    energies = note_energies(parts.potential)
    state = parts.fit(clock=clock)
    assert [record["step"] for record in state.history] == [STEPS, 2 * STEPS, 2 * STEPS + 2]
    assert len(energies) == 2 * STEPS + 2
    assert state.best_epoch in (1, 2, 3)
    # the mean is over the two steps that were taken
    assert state.history[2]["train_loss"] == pytest.approx(state.history[1]["train_loss"], rel=0.5)


def test_time_that_was_used_before_a_stop_counts(make_config, make_parts, tmp_path, clock):
    config = make_config(epochs=1000, max_minutes=10 / 60)
    stopped, again = make_parts(config), make_parts(config)
    with pytest.raises(KeyboardInterrupt):
        stopped.fit(Reporter(stop_after_batch=6), clock=clock)
    stopped.state.save(tmp_path / "state", {})
    again.state.restore(tmp_path / "state", {})
    assert again.state.seconds == 7.0
    assert [record["step"] for record in again.fit(clock=clock).history] == [STEPS, 2 * STEPS]


def test_without_epochs_nothing_changes_but_the_mode(make_config, make_parts):
    parts = make_parts(make_config(epochs=0))
    before = weights_of(parts.potential)
    state = parts.fit()
    assert (state.step, state.history) == (0, [])
    assert same(weights_of(parts.potential), before)
    assert not parts.potential.training


# What is kept


@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
def test_the_potential_ends_with_the_weights_of_the_best_epoch(make_config, make_parts, monkeypatch, ema_decay):
    parts = make_parts(make_config(epochs=4, ema_decay=ema_decay))
    scores = iter([3.0, 1.0, 2.0, 1.5])
    real = validate
    monkeypatch.setattr(loop, "validate", lambda *args: (real(*args)[0], next(scores)))
    reporter = Reporter()
    state = parts.fit(reporter)
    assert reporter.improved == [True, True, False, False]
    assert (state.best_epoch, state.best_score) == (2, 1.0)
    assert same(weights_of(parts.potential), reporter.averaged[1])
    assert not same(reporter.averaged[1], reporter.averaged[3])
    assert not parts.potential.training


def test_validation_is_done_with_the_running_mean(make_config, make_parts):
    parts = make_parts(make_config(epochs=1, ema_decay=0.9))
    state = parts.fit()
    score = state.history[0]["valid_loss"]
    assert validate(parts.potential, parts.data.valid, parts.loss)[1] == pytest.approx(score, rel=1e-9)
    plain = make_parts(make_config(epochs=1, ema_decay=0.0)).fit()
    assert plain.history[0]["train_loss"] == state.history[0]["train_loss"]
    assert plain.history[0]["valid_loss"] != pytest.approx(score, rel=1e-3)


def test_the_validation_loss_is_the_loss_of_all_validation_frames(make_config, make_parts):
    parts = make_parts(make_config(dtype="float64"))
    batch = collate(parts.data.valid.graphs)
    _, score = validate(parts.potential, GraphLoader(parts.data.valid.graphs, 4), parts.loss)
    assert score == pytest.approx(parts.loss(parts.potential(batch), batch).item(), rel=1e-9)


def test_a_record_tells_of_its_epoch(make_config, make_parts):
    parts = make_parts(make_config(epochs=2, ema_decay=0.0))
    reporter = Reporter()
    parts.fit(reporter)
    first, second = reporter.records
    assert (first["epoch"], first["step"], second["epoch"], second["step"]) == (1, STEPS, 2, 2 * STEPS)
    assert second["seconds"] > first["seconds"] > 0
    valid = {key for key in first if key.startswith("valid_")}
    assert valid == {
        "valid_loss",
        "valid_energy_mae_mev_per_atom",
        "valid_energy_rmse_mev_per_atom",
        "valid_forces_mae_mev_per_ang",
        "valid_forces_rmse_mev_per_ang",
    }
    energy, forces = first["valid_energy_rmse_mev_per_atom"], first["valid_forces_rmse_mev_per_ang"]
    assert first["valid_loss"] == pytest.approx(1e-6 * (energy**2 + 100 * forces**2), rel=1e-12)


def test_the_training_loss_is_the_mean_over_the_steps_of_an_epoch(make_config, make_parts):
    parts = make_parts(make_config(epochs=2))
    losses, real = [], parts.loss

    class Noting:
        def __getattr__(self, name):
            return getattr(real, name)

        def __call__(self, prediction, graph):
            losses.append(real(prediction, graph))
            return losses[-1]

    parts.loss = Noting()
    with pytest.raises(KeyboardInterrupt):
        parts.fit(Reporter(stop_after_batch=6))
    history = parts.fit().history
    values = [value.item() for value in losses]
    assert history[0]["train_loss"] == pytest.approx(np.mean(values[:STEPS]), rel=1e-12)
    assert history[1]["train_loss"] == pytest.approx(np.mean(values[STEPS:]), rel=1e-12)


# One step


def test_a_step_returns_the_loss_before_it_and_lowers_it(make_config, make_parts):
    parts = make_parts(make_config(dtype="float64"))
    batch = collate(parts.data.train.graphs)
    parts.potential.train()
    before = parts.loss(parts.potential(batch), batch).item()
    gentle = torch.optim.SGD(parts.potential.parameters(), lr=1e-6)
    assert train_step(parts.potential, batch, parts.loss, gentle, 1e9) == pytest.approx(before, rel=1e-12)
    assert parts.loss(parts.potential(batch), batch).item() < before


@pytest.mark.parametrize("longest", [1e-3, 1e9])
def test_a_long_gradient_is_shortened(make_config, make_parts, longest):
    parts = make_parts(make_config(dtype="float64"))
    batch = collate(parts.data.train.graphs)
    parts.potential.train()
    parts.loss(parts.potential(batch), batch).backward()
    gradient = {name: value.grad.clone() for name, value in parts.potential.named_parameters()}
    length = math.sqrt(sum(value.square().sum().item() for value in gradient.values()))
    assert length > 0.1
    before, step = weights_of(parts.potential), 0.1
    train_step(parts.potential, batch, parts.loss, torch.optim.SGD(parts.potential.parameters(), lr=step), longest)
    factor = min(1.0, longest / length)
    for name, value in parts.potential.named_parameters():
        torch.testing.assert_close(value.detach(), before[name] - step * factor * gradient[name], rtol=1e-5, atol=1e-10)


def test_steps_do_not_add_up_gradients(make_config, make_parts):
    parts = make_parts(make_config())
    graph = next(iter(parts.data.valid))
    parts.potential.train()
    still = torch.optim.SGD(parts.potential.parameters(), lr=0.0)
    gradients = []
    for _ in range(2):
        train_step(parts.potential, graph, parts.loss, still, 1e9)
        gradients.append({name: value.grad.clone() for name, value in parts.potential.named_parameters()})
    assert same(*gradients)


# Failure


@pytest.mark.parametrize(("number", "where"), [(1, "epoch 1, batch 1"), (STEPS + 3, "epoch 2, batch 3")])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_ends_training_and_says_where(make_config, make_parts, number, where, value):
    parts = make_parts(make_config(learning_rate=0.03))
    calls, real = [], parts.loss

    class Spoiled:
        def __getattr__(self, name):
            return getattr(real, name)

        def __call__(self, prediction, graph):
            calls.append(1)
            return real(prediction, graph) * (value if len(calls) == number else 1.0)

    parts.loss = Spoiled()
    with pytest.raises(FloatingPointError, match=rf"the loss is {value} in {where}; lower `train.learning_rate` \(now"):
        parts.fit()
    assert parts.state.step == number - 1


def test_the_first_state_is_made_if_none_is_given(make_config, make_parts):
    parts = make_parts(make_config(epochs=1))
    parts.state = None
    state = parts.fit()
    assert isinstance(state, TrainingState)
    assert (state.epoch, state.ema_decay) == (1, parts.config.ema_decay)


def test_validation_frames_do_not_train(make_config, make_parts, write, sample):
    """Labels of the validation frames reach the choice of the best epoch and nothing else."""
    wrong = [atoms.copy() for atoms in sample["valid"]]
    for atoms, right in zip(wrong, sample["valid"]):
        atoms.calc = right.calc
        atoms.positions *= 1.01
    path = write("wrong.xyz", wrong)
    assert len(ase.io.read(path, ":")) == 6
    first, second = make_parts(make_config(epochs=1)), make_parts(make_config(epochs=1, data={"valid": path}))
    history = first.fit().history, second.fit().history
    assert same(weights_of(first.potential), weights_of(second.potential))
    assert history[0][0]["valid_loss"] != history[1][0]["valid_loss"]
