"""A limit on what building a model may allocate, so that a few bytes of a file cannot ask for all memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class AllocationLimit(TorchDispatchMode):
    """Within it, operations that make new arrays from nothing count, and one beyond the limit is refused before it is done.

    Args:
        limit: Bytes that all of them together may take.
    """

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit, self.used = limit, 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Carry out one operation, or refuse it.

        Raises:
            MemoryError: If it is beyond the limit.
        """
        kwargs = kwargs or {}
        if not any(isinstance(each, Tensor) for each in tree_leaves((args, kwargs))) and "device" in kwargs:
            planned = func(*args, **{**kwargs, "device": torch.device("meta")})
            self.used += sum(each.nbytes for each in tree_leaves(planned) if isinstance(each, Tensor))
            if self.used > self.limit:
                raise MemoryError(
                    f"its arrays take more than {self.limit / 1e9:.2g} GB, far more than the weights that are there"
                )
        return func(*args, **kwargs)
