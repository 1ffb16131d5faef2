"""Code made of the coupling tensor of an algebra: what convolutions and pair products have in common."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from .algebra import Algebra


class TensorCode(ABC):
    """Generated code that runs through the entries of an algebra's tensor, read again when its constants change.

    Args:
        algebra: The product of two inputs.

    Attributes:
        couplings: The couplings that the code runs through.
        product: Their name, as the operator takes it; None while a file is still to bring the constants.

    Raises:
        ValueError: If the constants of ``algebra`` are trained, which code does not see.
    """

    couplings: Any
    product: str | None

    def __init__(self, algebra: Algebra) -> None:
        if any(True for _ in algebra.parameters()):
            raise ValueError('`backend` "generated" has no form for factors that are trained; take "auto" or "torch"')
        # What a model's file may change: the factors of a CP decomposition.
        self._names = list(algebra.state_dict())
        self.read(algebra)

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        if self.product is not None:  # which another process has not heard of
            self._remember()

    def read(self, algebra: Algebra) -> None:
        """Take the couplings from the algebra as it is now."""
        self._seen = [(each, each._version) for each in self._constants(algebra)]
        tensor = copy.deepcopy(algebra).double().cpu().dense()
        self.couplings = self._couplings_of(tensor)
        # Factors that a file is still to bring are no numbers yet.
        self.product = self._remember() if tensor.isfinite().all() else None

    def is_ready(self, algebra: Algebra) -> bool:
        """Read the algebra again if its constants changed; False while a file is still to bring them."""
        if self._names and self._changed(algebra):
            self.read(algebra)
        return self.product is not None

    @abstractmethod
    def _couplings_of(self, tensor: Float[Tensor, "dim1 dim2 dim_out"]) -> Any:
        """Couplings of a tensor."""

    @abstractmethod
    def _remember(self) -> str:
        """Make the couplings known to the operator, by the name that is returned."""

    def _constants(self, algebra: Algebra) -> list[Tensor]:
        return [algebra.get_buffer(name) for name in self._names]

    def _changed(self, algebra: Algebra) -> bool:
        """True if constants differ from those that were read; stand-ins while torch traces do not count."""
        return any(
            type(each) is Tensor and (each is not before or each._version != version)
            for each, (before, version) in zip(self._constants(algebra), self._seen)
        )


def look_again(module: nn.Module, _: object) -> None:
    """Read the constants of an executor's ``algebra`` into its ``code`` again when they came from a file."""
    code, algebra = module.code, module.algebra
    assert isinstance(code, TensorCode)
    assert isinstance(algebra, Algebra)
    code.read(algebra)
