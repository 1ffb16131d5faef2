"""Devices by name."""

from __future__ import annotations

import torch


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
