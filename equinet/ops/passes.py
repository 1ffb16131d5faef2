"""Gradients that a running backward pass needs, so that an operator computes no others.

Training on forces runs backward twice: once to edge vectors, once to weights. Torch skips an operation none of whose inputs leads to a
requested tensor, but leaves the choice between the inputs of one operation to that operation. The answer is read from the running
pass itself; nothing is promised by the caller, so no requested gradient can be missing.
"""

from __future__ import annotations

from typing import Any

import torch


def is_needed(ctx: Any, *inputs: int) -> bool:
    """Report whether the running backward pass needs a gradient in one of the given inputs.

    Args:
        ctx: First argument of the ``backward`` of a ``torch.autograd.Function`` or of a registered operator.
        inputs: Places among the inputs that are tensors.

    Returns:
        True if ``loss.backward()`` is running, or the pass leads through an input to one of the tensors it was asked for. True as well
        where torch does not say.
    """
    nodes = ctx.next_functions
    for place in inputs:
        node = nodes[place][0]  # None: the input needs no gradient in any pass
        if node is not None and _runs(node):
            return True
    return False


def _runs(node: Any) -> bool:
    try:
        return torch._C._will_engine_execute_node(node)
    except (
        RuntimeError
    ):  # torch refuses to speak of a leaf that `torch.autograd.grad` was asked for, and outside of a pass
        return True
