"""Machine and versions on which a measurement was made."""

from __future__ import annotations

import datetime
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from equinet import __version__

PACKAGES = (
    *("torch", "e3nn", "numpy", "cuequivariance", "cuequivariance-torch", "cuequivariance-ops-torch-cu13"),
    *("openequivariance", "triton", "ase", "mace-torch", "matscipy", "torch-geometric", "vesin"),
)


def describe(device: torch.device) -> dict[str, Any]:
    """Processor or GPU, threads, load, versions and time, as plain words and numbers."""
    found: dict[str, Any] = {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else processor(),
        "kind": device.type,
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_average": load_average(),
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": {"equinet": __version__} | {name: number for name in PACKAGES if (number := _version(name))},
    }
    if device.type == "cuda":
        found["cuda"] = torch.version.cuda
        found["tf32"] = torch.backends.cuda.matmul.allow_tf32
    return found


def processor() -> str:
    """Name of the processor, as far as the system says."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def load_average() -> float | None:
    """Processes that ran or waited, on average over the last minute; None where the system does not tell."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
