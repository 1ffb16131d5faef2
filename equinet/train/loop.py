"""The training loop. It builds nothing: model, data, loss, optimiser and state come from outside."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, Protocol

import torch
from torch import nn
from torch.optim import Optimizer

from equinet.datasets import GraphLoader
from equinet.graph.atomic_graph import AtomicGraph
from equinet.nn.prediction import Prediction
from equinet.ops.precision import full_float32
from equinet.potential import Potential

from .config import TrainConfig
from .loss import Loss
from .metrics import Errors, errors, mean_squares, predict
from .state import TrainingState

FINAL_FRACTION = 0.01


class Data(NamedTuple):
    """Batches to train on and batches to validate on."""

    train: GraphLoader
    valid: GraphLoader


class Reporter(Protocol):
    """Receives the events of a training, to show or store them."""

    def epoch_begins(self, epoch: int, epochs: int, batches: int, done: int) -> None:
        """Training of one of ``epochs`` epochs starts; ``done`` of its batches were finished before an interruption."""

    def batch_done(self) -> None:
        """One optimiser step is done."""

    def epoch_done(self, record: dict[str, Any], state: TrainingState, improved: bool) -> None:
        """An epoch and its validation are done."""


class Predict(Protocol):
    """Makes predictions of a batch that can be differentiated in the potential's weights."""

    def __call__(self, graph: AtomicGraph, *, stress: bool = False) -> Prediction: ...


class Silent:
    """A reporter that says nothing."""

    def epoch_begins(self, epoch: int, epochs: int, batches: int, done: int) -> None: ...

    def batch_done(self) -> None: ...

    def epoch_done(self, record: dict[str, Any], state: TrainingState, improved: bool) -> None: ...


def fit(
    potential: Potential,
    data: Data,
    loss: Loss,
    optimizer: Optimizer,
    config: TrainConfig,
    *,
    state: TrainingState | None = None,
    reporter: Reporter | None = None,
    predict: Predict | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> TrainingState:
    """Train a potential.

    Args:
        potential: Potential to train; its energy scale should already be set from the training data.
        data: Training and validation batches.
        loss: Loss to minimise.
        optimizer: An optimiser of the potential's parameters.
        config: Epochs, schedule, time limit, running mean, clipping.
        state: State to begin with; by default at the beginning. It is kept up to date, so whoever holds it can save it at any
            time, after an interruption too.
        reporter: Is told about every step and epoch.
        predict: Function that computes the predictions to train on, by default the potential itself; for example
            :class:`equinet.accelerate.compilation.CompiledTraining` of it.
        clock: Seconds by which time is measured and ``max_minutes`` kept; ``time.process_time`` on a machine that others use.

    Returns:
        The final state. The potential itself ends with the weights of the epoch with the lowest validation loss; to train on
        later, save the state before ``fit`` returns, as :func:`equinet.train.run` does after every epoch.

    Raises:
        FloatingPointError: If the loss is no longer finite; says where.
        KeyboardInterrupt: Passed on. Raised by the reporter, it comes between two steps and ``state`` is whole; see
            :mod:`equinet.runs.interrupt`.
    """
    state = state or TrainingState(potential, optimizer, config.ema_decay)
    reporter = reporter or Silent()
    batches = len(data.train)
    while state.epoch < config.epochs and not _out_of_time(state, config):
        potential.train()
        reporter.epoch_begins(state.epoch, config.epochs, batches, state.batch)
        for graph in data.train.epoch(state.epoch, skip=state.batch):
            began = clock()
            set_learning_rate(optimizer, config, state, config.epochs * batches)
            value = train_step(potential, graph.to(potential.device), loss, optimizer, config.clip_gradient, predict)
            if not math.isfinite(value):
                raise FloatingPointError(
                    f"the loss is {value} in epoch {state.epoch + 1}, batch {state.batch + 1}; lower `train.learning_rate` "
                    f"(now {config.learning_rate:g}) or look for wrong labels in the training data"
                )
            state.after_step()
            state.running["loss"] = state.running.get("loss", 0.0) + value
            state.seconds += clock() - began
            reporter.batch_done()
            if _out_of_time(state, config):
                break  # a long epoch is closed early rather than let it run on past the limit
        began = clock()
        with state.averaged():
            found, score = validate(potential, data.valid, loss)
        state.seconds += clock() - began
        record = _record(state, optimizer, found, score)
        reporter.epoch_done(record, state, state.end_epoch(record, score))
    potential.load_state_dict({**potential.state_dict(), **(state.best or state.averaged_weights())})
    potential.eval()
    return state


def _record(state: TrainingState, optimizer: Optimizer, found: Errors, score: float) -> dict[str, Any]:
    """Record of an epoch, as it is shown and stored."""
    return {
        "epoch": state.epoch + 1,
        "step": state.step,
        "learning_rate": optimizer.param_groups[0]["lr"],
        "train_loss": state.running["loss"] / max(state.batch, 1),
        "valid_loss": score,
        **{f"valid_{key}": number for key, number in found.as_json().items() if number is not None},
        "seconds": state.seconds,
    }


def train_step(
    potential: Potential,
    graph: AtomicGraph,
    loss: Loss,
    optimizer: Optimizer,
    clip_gradient: float,
    predict: Predict | None = None,
) -> float:
    """One step of the optimiser; returns the loss before it. See :func:`fit`."""
    weights = [weight for weight in potential.parameters() if weight.requires_grad]
    optimizer.zero_grad(set_to_none=True)
    value = loss((predict or potential)(graph, stress=loss.needs_stress), graph)
    with full_float32(potential.device):
        value.backward(inputs=weights)
    nn.utils.clip_grad_norm_(weights, clip_gradient)
    optimizer.step()
    return value.item()


def validate(potential: Potential, batches: Iterable[AtomicGraph], loss: Loss) -> tuple[Errors, float]:
    """Errors on validation frames, and the loss they amount to, weighted as in training."""
    predictions = predict(potential, batches, stress=loss.needs_stress)
    found, squares = errors(predictions), mean_squares(predictions)
    score = sum(loss.weights[name] * squares[name] for name in loss.terms if name in squares)
    return found, score if math.isfinite(score) else math.inf


def set_learning_rate(optimizer: Optimizer, config: TrainConfig, state: TrainingState, total_steps: int) -> None:
    """Fall along a cosine (or stay), by the share of steps or of time that is used up."""
    used = state.step / max(total_steps, 1)
    if config.max_minutes is not None:
        used = max(used, state.seconds / (60 * config.max_minutes))
    factor = 1.0
    if config.schedule == "cosine":
        factor = FINAL_FRACTION + (1 - FINAL_FRACTION) * 0.5 * (1 + math.cos(math.pi * min(used, 1.0)))
    for group in optimizer.param_groups:
        group["lr"] = config.learning_rate * factor


def make_optimizer(potential: Potential, config: TrainConfig) -> Optimizer:
    """The optimiser MACE uses: Adam with AMSGrad."""
    return torch.optim.Adam(potential.parameters(), lr=config.learning_rate, amsgrad=True, fused=True)


def _out_of_time(state: TrainingState, config: TrainConfig) -> bool:
    return config.max_minutes is not None and state.seconds >= 60 * config.max_minutes
