"""Limits of the steps and the memory that reading a file may take, multiples of its size: no short file takes minutes or gigabytes."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from torch import Tensor

from .records import Record
from .values import LONGEST_KEY, Storage

# A model of 0.1 MB takes 16 thousand steps and 0.7 MB, one of 38 MB 30 thousand and 1.4 MB: the number of its modules counts, and
# not that of its weights. A step takes microseconds.
LEAST_STEPS = 1_000_000
BYTES_OF_A_STEP = 16
LEAST_BYTES = 16 << 20
BYTES_FOR_A_BYTE = 8
TENSOR = 1000  # bytes of a tensor without its numbers, which are in the file
CONTAINERS = (tuple, list, dict, set, frozenset)


class Budget:
    """Steps and bytes that the pickle of a file may still take.

    Args:
        size: Bytes of the whole file.
    """

    def __init__(self, size: int) -> None:
        self.most_steps = self.steps_left = max(LEAST_STEPS, size // BYTES_OF_A_STEP)
        self.most_bytes = self.bytes_left = LEAST_BYTES + BYTES_FOR_A_BYTE * size

    def take_steps(self, count: int) -> None:
        """Count steps.

        Raises:
            ValueError: If they are more than a file of this size may take; names the limit.
        """
        self.steps_left -= count
        if self.steps_left < 0:
            raise ValueError(
                f"it takes more than {self.most_steps} steps to read, which no model of this size does; it is damaged or a trap"
            )

    def take_bytes(self, count: int) -> None:
        """Count memory.

        Raises:
            ValueError: If it is more than a file of this size may take; names the limit.
        """
        self.bytes_left -= count
        if self.bytes_left < 0:
            raise ValueError(
                f"it takes more than {self.most_bytes} bytes of memory to read, which no model of this size does; it is damaged or a "
                f"trap that copies the same values again and again"
            )

    def take_copies(self, values: Any) -> None:
        """Count the steps of looking at values and copying those that are containers.

        A container in another may become a key. Hashes of tuples are not kept and can be made to collide, so each counts as the
        longest key that there may be.
        """
        self.take_steps(len(values))
        for value in values:
            if isinstance(value, CONTAINERS):
                self.take_steps(len(value))
                self.take_steps(LONGEST_KEY * sum(isinstance(each, (tuple, list)) for each in value))


def size_of(value: Any) -> int:
    """Bytes of a value without those of the values in it."""
    if isinstance(value, (Tensor, Storage)):
        return TENSOR
    if isinstance(value, Record):
        return sys.getsizeof(value) + sys.getsizeof(value.attributes)
    if isinstance(value, np.ndarray):
        return sys.getsizeof(value) + (0 if value.flags.owndata else value.nbytes)
    return sys.getsizeof(value)
