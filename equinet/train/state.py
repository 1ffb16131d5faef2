"""The state of a training run: everything that decides how it goes on, in one file."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from equinet.potential import Potential
from equinet.tensorfile import read_tensors, save_tensors


class TrainingState:
    """Weights, running mean of the weights, optimiser, and the place in the data.

    Everything random after the start is drawn from (seed, epoch), so a run that stopped anywhere and goes on from its
    state gives the same numbers as one that never stopped.

    Args:
        potential: Potential to train.
        optimizer: Its optimiser.
        ema_decay: Decay of the running mean per step; 0 keeps none.

    Attributes:
        epoch: Epochs finished.
        batch: Batches finished in the epoch under way.
        step: Optimiser steps finished.
        seconds: Time spent in training and validation.
        best_score: Lowest validation loss so far.
        history: One record per finished epoch.
    """

    def __init__(self, potential: Potential, optimizer: Optimizer, ema_decay: float = 0.0) -> None:
        self.potential = potential
        self.optimizer = optimizer
        self.ema_decay = ema_decay
        self.mean = {name: value.detach().clone() for name, value in potential.named_parameters()} if ema_decay else {}
        self.best: dict[str, Tensor] = {}
        self.best_score = float("inf")
        self.best_epoch = 0
        self.epoch = self.batch = self.step = 0
        self.seconds = 0.0
        self.running: dict[str, float] = {}
        self.history: list[dict[str, Any]] = []

    @torch.no_grad()
    def after_step(self) -> None:
        """Count an optimiser step and follow the weights with their running mean."""
        self.step += 1
        self.batch += 1
        # A plain mean over the first steps instead of one that remembers the random start.
        decay = min(self.ema_decay, self.step / (self.step + 9))
        for name, value in self.potential.named_parameters():
            if name in self.mean:
                self.mean[name].lerp_(value, 1 - decay)

    def averaged_weights(self) -> dict[str, Tensor]:
        """The weights that are tested and saved."""
        return self.mean or {name: value.detach() for name, value in self.potential.named_parameters()}

    @contextmanager
    def averaged(self) -> Iterator[Potential]:
        """The potential with averaged weights, for the length of a block."""
        with self._weights(self.averaged_weights()):
            yield self.potential

    @contextmanager
    def best_weights(self) -> Iterator[Potential]:
        """The potential with the weights of the best epoch, for the length of a block."""
        with self._weights(self.best or self.averaged_weights()):
            yield self.potential

    @contextmanager
    def _weights(self, weights: dict[str, Tensor]) -> Iterator[None]:
        own = {name: value.detach().clone() for name, value in self.potential.named_parameters()}
        _assign(self.potential, weights)
        try:
            yield
        finally:
            _assign(self.potential, own)

    def end_epoch(self, record: dict[str, Any], score: float) -> bool:
        """Close an epoch; keep its weights if its score is the best so far, and say whether it is."""
        self.epoch += 1
        self.batch = 0
        self.running = {}
        self.history.append(record)
        if score < self.best_score:
            self.best_score, self.best_epoch = score, self.epoch
            self.best = {name: value.clone() for name, value in self.averaged_weights().items()}
            return True
        return False

    def save(self, path: str | os.PathLike[str], identity: Mapping[str, Any]) -> None:
        """Write everything to one file.

        Args:
            path: File to replace.
            identity: Values that must be the same when the run is resumed (configuration, hash of the data).
        """
        tensors = {f"weights.{name}": value for name, value in self.potential.state_dict().items()}
        tensors |= {f"mean.{name}": value for name, value in self.mean.items()}
        tensors |= {f"best.{name}": value for name, value in self.best.items()}
        groups = copy.deepcopy(self.optimizer.state_dict())
        for index, state in groups["state"].items():
            tensors |= {f"optimizer.{index}.{key}": torch.as_tensor(value) for key, value in state.items()}
        header = {
            "kind": "training state",
            "identity": dict(identity),
            "param_groups": groups["param_groups"],
            **{name: getattr(self, name) for name in self._plain},
        }
        save_tensors(path, tensors, header)

    def restore(self, path: str | os.PathLike[str], identity: Mapping[str, Any]) -> None:
        """Take up the state that :meth:`save` wrote.

        Raises:
            ValueError: If the file is damaged or belongs to a run with another configuration or other data.
        """
        tensors, header = read_tensors(path)
        if header.get("kind") != "training state":
            raise ValueError(
                f"{path} holds a {header.get('kind', 'thing of unknown kind')}, not the state of a training"
            )
        changed = [key for key in identity if header["identity"].get(key) != identity[key]]
        if changed:
            key = changed[0]
            raise ValueError(
                f"{path} belongs to another run: `{key}` was {header['identity'].get(key)!r} there and is {identity[key]!r} now. "
                "Set it back, or start afresh in another folder (`out`)"
            )
        parts: dict[str, dict[str, Tensor]] = {"weights": {}, "mean": {}, "best": {}, "optimizer": {}}
        for name, value in tensors.items():
            part, _, rest = name.partition(".")
            parts[part][rest] = value
        self.potential.load_state_dict(parts["weights"])
        device = self.potential.device
        self.mean = {name: value.to(device) for name, value in parts["mean"].items()}
        self.best = {name: value.to(device) for name, value in parts["best"].items()}
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in parts["optimizer"].items():
            index, _, key = name.partition(".")
            state.setdefault(int(index), {})[key] = value
        self.optimizer.load_state_dict({"state": state, "param_groups": header["param_groups"]})
        for name in self._plain:
            setattr(self, name, header[name])

    _plain = ("epoch", "batch", "step", "seconds", "best_score", "best_epoch", "running", "history", "ema_decay")


@torch.no_grad()
def _assign(potential: Potential, weights: dict[str, Tensor]) -> None:
    for name, value in potential.named_parameters():
        value.copy_(weights[name])
