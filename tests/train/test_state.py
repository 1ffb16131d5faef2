"""The state of a training: the running mean, the best weights, and a file from which it goes on."""

import errno

import pytest
import torch

from equinet.checkpoint import save_potential
from equinet.train import TrainingState, make_optimizer, train_step

IDENTITY = {"data": "abc", "model": {"channels": 4}, "train": {"seed": 1}}
PLAIN = ("epoch", "batch", "step", "seconds", "best_score", "best_epoch", "running", "history", "ema_decay")


def weights_of(potential):
    return {name: value.detach().clone() for name, value in potential.named_parameters()}


def fill(potential, number):
    with torch.no_grad():
        for value in potential.parameters():
            value.fill_(number)


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def all_equal(weights, number):
    return all(torch.all(value == number) for value in weights.values())


@pytest.fixture
def parts(make_config, make_parts):
    return make_parts(make_config(ema_decay=0.9))


@pytest.fixture
def trained(parts):
    """Two epochs of two steps and one step of a third."""
    for epoch in range(3):
        for number, graph in enumerate(parts.data.train.epoch(epoch)):
            if number == 2 or (epoch, number) == (2, 1):
                break
            parts.potential.train()
            train_step(parts.potential, graph, parts.loss, parts.optimizer, 10.0)
            parts.state.after_step()
            parts.state.seconds += 0.25
            parts.state.running["loss"] = parts.state.running.get("loss", 0.0) + 1.0
        if epoch < 2:
            parts.state.end_epoch({"epoch": epoch + 1, "valid_loss": 2.0 - epoch}, 2.0 - epoch)
    return parts


# Running mean


def test_the_running_mean_follows_its_definition(potential):
    fill(potential, 1.0)
    state = TrainingState(potential, None, ema_decay=0.8)
    expected = 1.0
    for step, number in enumerate((2.0, -1.0, 5.0, 3.0, 4.0) * 12, start=1):
        fill(potential, number)
        state.after_step()
        decay = min(0.8, step / (step + 9))
        expected = decay * expected + (1 - decay) * number
    for value in state.averaged_weights().values():
        torch.testing.assert_close(value, torch.full_like(value, expected))


def test_the_running_mean_forgets_the_random_start(potential):
    """A mean with a fixed decay of 0.999 would still be nine tenths random weights after a hundred steps."""
    fill(potential, 1.0)
    state = TrainingState(potential, None, ema_decay=0.999)
    fill(potential, 0.0)
    for _ in range(100):
        state.after_step()
    assert max(value.abs().max() for value in state.averaged_weights().values()) < 1e-6


def test_without_decay_the_weights_themselves_are_tested(potential):
    state = TrainingState(potential, None, ema_decay=0.0)
    fill(potential, 3.0)
    state.after_step()
    assert all_equal(state.averaged_weights(), 3.0)
    with state.averaged() as averaged:
        assert all_equal(weights_of(averaged), 3.0)


def test_a_step_counts(potential):
    state = TrainingState(potential, None, ema_decay=0.9)
    for _ in range(3):
        state.after_step()
    assert (state.step, state.batch, state.epoch) == (3, 3, 0)


def test_the_mean_is_in_place_inside_the_block_and_only_there(potential):
    fill(potential, 1.0)
    state = TrainingState(potential, None, ema_decay=0.9)
    fill(potential, 2.0)
    with state.averaged() as averaged:
        assert averaged is potential
        assert all_equal(weights_of(potential), 1.0)
    assert all_equal(weights_of(potential), 2.0)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("which", ["averaged", "best_weights"])
def test_weights_come_back_after_an_exception(potential, error, which):
    fill(potential, 1.0)
    state = TrainingState(potential, None, ema_decay=0.9)
    state.end_epoch({}, 1.0)
    fill(potential, 2.0)

    def fail_inside():
        with getattr(state, which)():
            assert all_equal(weights_of(potential), 1.0)
            raise error

    with pytest.raises(error):
        fail_inside()
    assert all_equal(weights_of(potential), 2.0)


def test_the_optimizer_still_holds_the_weights_after_a_block(trained):
    """Weights are copied in and out, not exchanged: an optimiser would go on with tensors that no one uses."""
    before = [id(value) for value in trained.potential.parameters()]
    with trained.state.averaged():
        pass
    assert [id(value) for value in trained.potential.parameters()] == before
    assert [id(value) for group in trained.optimizer.param_groups for value in group["params"]] == before


# Best weights


def test_the_best_weights_are_those_of_the_best_epoch(potential):
    state = TrainingState(potential, None, ema_decay=0.0)
    said = []
    for number, score in ((1.0, 5.0), (2.0, 3.0), (3.0, 4.0), (4.0, 3.0)):
        fill(potential, number)
        said.append(state.end_epoch({"epoch": int(number)}, score))
    assert said == [True, True, False, False]
    assert (state.best_epoch, state.best_score, state.epoch) == (2, 3.0, 4)
    fill(potential, 9.0)
    with state.best_weights():
        assert all_equal(weights_of(potential), 2.0)
    assert all_equal(weights_of(potential), 9.0)


def test_the_best_weights_are_the_averaged_ones(potential):
    fill(potential, 1.0)
    state = TrainingState(potential, None, ema_decay=0.9)
    fill(potential, 2.0)
    state.end_epoch({}, 1.0)
    state.after_step()  # moves the mean, must not move what was kept
    assert all_equal(state.best, 1.0)


def test_before_the_first_epoch_the_best_weights_are_the_present_ones(potential):
    fill(potential, 1.0)
    with TrainingState(potential, None, ema_decay=0.9).best_weights():
        assert all_equal(weights_of(potential), 1.0)


def test_a_score_that_is_not_finite_is_never_the_best(potential):
    state = TrainingState(potential, None)
    assert not state.end_epoch({}, float("inf"))
    assert not state.end_epoch({}, float("nan"))
    assert state.best == {}


def test_an_epoch_ends_with_a_fresh_count(potential):
    state = TrainingState(potential, None)
    state.after_step()
    state.running["loss"] = 3.0
    state.end_epoch({"epoch": 1}, 1.0)
    assert (state.epoch, state.batch, state.running, state.history) == (1, 0, {}, [{"epoch": 1}])


# Saved and restored


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
def test_a_restored_state_is_the_saved_one(make_config, make_parts, tmp_path, dtype, ema_decay):
    config = make_config(dtype=dtype, ema_decay=ema_decay)
    first, second = make_parts(config), make_parts(config)
    for graph in list(first.data.train.epoch(0))[:3]:
        train_step(first.potential.train(), graph, first.loss, first.optimizer, 10.0)
        first.state.after_step()
    first.state.seconds = 1.0 / 3.0
    first.state.end_epoch({"epoch": 1, "valid_loss": 0.1}, 0.1)
    first.state.batch, first.state.running = 2, {"loss": 0.7}
    first.state.save(tmp_path / "state", IDENTITY)
    assert not same(weights_of(second.potential), weights_of(first.potential))
    second.state.restore(tmp_path / "state", IDENTITY)
    assert same(second.potential.state_dict(), first.potential.state_dict())
    assert same(second.state.mean, first.state.mean)
    assert same(second.state.best, first.state.best)
    assert bool(first.state.mean) == bool(ema_decay)
    for name in PLAIN:
        assert getattr(second.state, name) == getattr(first.state, name), name
    mine, other = second.optimizer.state_dict(), first.optimizer.state_dict()
    assert mine["state"].keys() == other["state"].keys()
    assert all(same(mine["state"][index], other["state"][index]) for index in mine["state"])
    for now, then in zip(mine["param_groups"], other["param_groups"]):
        assert {**now, "betas": tuple(now["betas"])} == then


def test_a_restored_state_takes_the_very_same_step(trained, make_config, make_parts, tmp_path):
    trained.state.save(tmp_path / "state", IDENTITY)
    other = make_parts(make_config(ema_decay=0.9))
    other.state.restore(tmp_path / "state", IDENTITY)
    graph = next(iter(trained.data.valid))
    for parts in (trained, other):
        train_step(parts.potential.train(), graph, parts.loss, parts.optimizer, 10.0)
        parts.state.after_step()
    assert same(weights_of(other.potential), weights_of(trained.potential))
    assert same(other.state.mean, trained.state.mean)


def test_saving_changes_nothing(trained, tmp_path):
    before, optimizer = weights_of(trained.potential), trained.optimizer.state_dict()["state"][0]["step"].clone()
    trained.state.save(tmp_path / "state", IDENTITY)
    assert same(weights_of(trained.potential), before)
    assert torch.equal(trained.optimizer.state_dict()["state"][0]["step"], optimizer)


def test_a_state_before_the_first_step_can_be_saved(parts, make_config, make_parts, tmp_path):
    parts.state.save(tmp_path / "state", IDENTITY)
    other = make_parts(make_config(ema_decay=0.9, seed=2))
    other.state.restore(tmp_path / "state", IDENTITY)
    assert same(weights_of(other.potential), weights_of(parts.potential))
    assert (other.state.step, other.state.best, other.state.best_score) == (0, {}, float("inf"))


# Refused


@pytest.mark.parametrize(
    ("key", "value"), [("data", "xyz"), ("model", {"channels": 8}), ("train", {"seed": 2}), ("train", {})]
)
def test_a_state_of_another_run_is_refused_by_the_key_that_differs(trained, tmp_path, key, value):
    trained.state.save(tmp_path / "state", IDENTITY)
    before = weights_of(trained.potential)
    fill(trained.potential, 1.0)
    with pytest.raises(ValueError, match=rf"`{key}.*`out`") as caught:
        trained.state.restore(tmp_path / "state", {**IDENTITY, key: value})
    assert "state belongs to another run" in str(caught.value)
    assert all_equal(weights_of(trained.potential), 1.0)
    trained.state.restore(tmp_path / "state", IDENTITY)
    assert same(weights_of(trained.potential), before)


def test_a_model_file_is_no_state(trained, tmp_path):
    save_potential(trained.potential, tmp_path / "model.eqn")
    with pytest.raises(ValueError, match="holds a potential, not the state of a training"):
        trained.state.restore(tmp_path / "model.eqn", IDENTITY)


def test_a_truncated_state_is_refused(trained, tmp_path):
    path = tmp_path / "state"
    trained.state.save(path, IDENTITY)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ValueError, match=r"state cannot be read.*cut short"):
        trained.state.restore(path, IDENTITY)


def test_a_crash_while_saving_leaves_the_old_state(trained, tmp_path, monkeypatch):
    path = tmp_path / "state"
    trained.state.save(path, IDENTITY)
    before = path.read_bytes()

    def crash(self):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", crash)
    with pytest.raises(OSError, match=r"state cannot be written: the disk is full: make room and go on"):
        trained.state.save(path, {**IDENTITY, "data": "other"})
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["state"]


def test_an_optimizer_is_made_for_all_weights(parts):
    optimizer = make_optimizer(parts.potential, parts.config)
    held = {id(value) for group in optimizer.param_groups for value in group["params"]}
    assert held == {id(value) for value in parts.potential.parameters()}
    assert optimizer.param_groups[0]["lr"] == parts.config.learning_rate
