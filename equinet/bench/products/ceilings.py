"""Highest rates of this machine, measured in the same run: the roofs of the roofline."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from equinet.bench.core.timing import Clock, interleaved

MATRIX = {"cpu": 1024, "cuda": 8192}  # rows of the square matrices that are multiplied
LARGE = {"cpu": 1 << 28, "cuda": 1 << 31}  # bytes of a copy that no cache holds
SMALLEST = 1 << 16  # bytes; below it a copy measures the call


@dataclass(frozen=True)
class Ceilings:
    """Best rates seen, for one device, dtype and number of threads.

    Attributes:
        flops: Operations per second of a product of square matrices.
        bandwidth: Bytes per second, read plus written, of a copy of 256 MB (CUDA: 2 GB), which no cache holds.
        in_cache: Bytes per second of a copy as large as the problem; the faster of both counts as the roof.
        bytes: Bytes of that copy.
    """

    flops: float
    bandwidth: float
    in_cache: float
    bytes: int

    @property
    def best_bandwidth(self) -> float:
        return max(self.bandwidth, self.in_cache)

    def seconds(self, flops: float | None, moved: float) -> float:
        """The least time for so many operations and bytes."""
        return max((flops or 0.0) / self.flops, moved / self.best_bandwidth)

    def fraction(self, flops: float | None, moved: float, seconds: float) -> float:
        """Return the fraction of the roofline: the least time over the time it took."""
        return self.seconds(flops, moved) / seconds


def measure_ceilings(
    problem_bytes: int,
    dtype: torch.dtype,
    device: torch.device,
    clock: Clock = time.perf_counter,
    budget: float = 3.0,
) -> Ceilings:
    """Measure them, in turns, and keep the best round of each.

    Args:
        problem_bytes: Bytes that the forward pass of the problem moves.
        dtype: Precision of the matrices; float32 is not TF32, unless torch is set to it.
        device: Device.
        clock: Clock on the processor.
        budget: Approximate time in seconds.
    """
    n = MATRIX[device.type]
    a, b = (torch.randn(n, n, dtype=dtype, device=device) for _ in range(2))
    c = torch.empty_like(a)
    near = max(SMALLEST, problem_bytes)
    pairs = {}
    for name, size in (("large", LARGE[device.type]), ("near", near)):
        half = torch.randn(size // 2 // dtype.itemsize, dtype=dtype, device=device)
        pairs[name] = (half, torch.empty_like(half))
    timings = interleaved(
        {
            "product": lambda: _nothing(torch.mm(a, b, out=c)),
            "large": lambda: _nothing(pairs["large"][1].copy_(pairs["large"][0])),
            "near": lambda: _nothing(pairs["near"][1].copy_(pairs["near"][0])),
        },
        rounds=9,
        budget=budget,
        device=device,
        clock=clock,
    )
    moved = {name: 2 * half.numel() * dtype.itemsize for name, (half, _) in pairs.items()}
    return Ceilings(
        flops=2.0 * n**3 / timings["product"].minimum,
        bandwidth=moved["large"] / timings["large"].minimum,
        in_cache=moved["near"] / timings["near"].minimum,
        bytes=near,
    )


def _nothing(_: torch.Tensor) -> None:
    return None
