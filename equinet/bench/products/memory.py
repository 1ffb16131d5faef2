"""How much memory a call needs at its peak, beyond what was there before."""

from __future__ import annotations

import ctypes
import gc
import re
from collections.abc import Callable
from pathlib import Path

import torch

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peak_memory(call: Callable[[], None], device: torch.device | str = "cpu") -> int | None:
    """Peak bytes that ``call`` takes on top of what is allocated already; None where that cannot be measured.

    On CUDA what torch's allocator gave out. On the processor the growth of the resident set: Linux forgets its peak when asked
    to; free memory is handed back before, so that it is counted when it is taken again. To a page (4 kB), and libraries that
    keep buffers of their own (matrix products) count where they fetch them during the call.
    """
    device = torch.device(device)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        torch.cuda.synchronize(device)
        return int(torch.cuda.max_memory_allocated(device) - before)
    gc.collect(1)  # young things; to look through all there is takes a second beside large libraries
    try:
        ctypes.CDLL(None).malloc_trim(0)
        CLEAR.write_text("5")  # the peak becomes what is resident now
        before = _resident("VmRSS")
        call()
        return max(0, _resident("VmHWM") - before)
    except (OSError, AttributeError):  # not Linux, not glibc, or not permitted
        return None


def _resident(field: str) -> int:
    match = re.search(rf"^{field}:\s+(\d+) kB", STATUS.read_text(), re.MULTILINE)
    if match is None:
        raise OSError(f"{STATUS} has no {field}")
    return 1024 * int(match[1])
