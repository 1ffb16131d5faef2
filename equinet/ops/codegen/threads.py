"""Machine code on as many threads as torch uses."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

# Precisions that generated kernels have.
DTYPES = {torch.float32, torch.float64}


@cache
def _workers(number: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(number, thread_name_prefix="equinet")


if hasattr(os, "register_at_fork"):  # threads do not survive a fork, and to wait for one that is gone would never end
    os.register_at_fork(after_in_child=_workers.cache_clear)


def require(holds: bool, *tensors: Tensor) -> None:
    """Check shapes and dtypes before calling native code.

    Args:
        holds: True if the shapes fit together.
        tensors: Floating-point arguments.

    Raises:
        ValueError: If ``holds`` is false, or the dtypes differ or are none that kernels have; says what came.
    """
    dtypes = {each.dtype for each in tensors}
    if not holds or len(dtypes) > 1 or not dtypes <= DTYPES:
        what = ", ".join(f"{tuple(each.shape)} {str(each.dtype).removeprefix('torch.')}" for each in tensors)
        raise ValueError(f"shapes or precisions do not fit together, or are neither float32 nor float64: {what}")


def run_in_parts(
    code: Any, count: int, arrays: Sequence[Tensor], *, smallest: int = 32, added_to: int | None = None
) -> None:
    """Run ``code`` on the items 0 to ``count``, in equal parts on ``torch.get_num_threads()`` threads.

    Args:
        code: Result of :func:`equinet.ops.codegen.llvm.compile_function`; its calls do not hold Python's lock.
        count: Number of items.
        arrays: Arguments of the code, contiguous.
        smallest: Fewer items than this are not worth waking another thread for (about 20 microseconds).
        added_to: Index of the array that all items add to. Every part but the first gets one of its own, and their sum is the result, so
            that it depends on the number of threads in the last digits, but never on which thread comes first.
    """
    parts = max(1, min(torch.get_num_threads(), count // smallest))
    addresses = [each.data_ptr() for each in arrays]
    if parts == 1:
        code(0, count, *addresses)
        return
    bounds = [count * part // parts for part in range(parts + 1)]
    private: list[Tensor] = []
    running: list[Future[None]] = []
    for begin, end in pairwise(bounds[1:]):
        mine = list(addresses)
        if added_to is not None:
            private.append(torch.zeros_like(arrays[added_to]))
            mine[added_to] = private[-1].data_ptr()
        running.append(_workers(parts - 1).submit(code, begin, end, *mine))
    code(0, bounds[1], *addresses)
    for part in running:
        part.result()
    for each in private:
        arrays[added_to].add_(each)  # type: ignore[index]  # there are private arrays only if it is given
