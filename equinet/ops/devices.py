"""Devices by name, and independence of torch's default device."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
T = TypeVar("T")


def made_on_cpu(function: Callable[P, T]) -> Callable[P, T]:
    """Decorate a function or ``__init__`` so that what it makes is on the CPU, whatever torch's default device is.

    Numbers are computed when modules are built, and some are remembered for other modules: on a default device "meta" they would be lost.
    """

    @functools.wraps(function)
    def on_cpu(*args: P.args, **kwargs: P.kwargs) -> T:
        with torch.device("cpu"):
            return function(*args, **kwargs)

    return on_cpu


def choose_device(name: str) -> torch.device:
    """The device a name stands for; "auto" is CUDA if there is one, else the CPU.

    Raises:
        ValueError: If there is no such device here, or equinet does not run on it.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f'`device` must be "auto", "cpu", "cuda" or "cuda:N", got {name!r}')
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise ValueError(f'`device` is {name!r}, but torch sees {count} GPUs; "auto" takes what is there')
    return device
