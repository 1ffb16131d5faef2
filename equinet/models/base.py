"""The seam for models: what every architecture provides, and the registry by which a configuration finds it.

A model is a :class:`Model` with a :class:`ModelConfig`. Training, model files, calculators, checks and benchmarks use these two
alone. :func:`register_model` adds an architecture, as does an entry point of the group ``equinet.models`` that names the class.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from importlib.metadata import entry_points
from itertools import pairwise
from typing import Annotated, Any, ClassVar, NamedTuple

import numpy as np
import torch
from e3nn import o3
from jaxtyping import Float, Int
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SerializeAsAny, Strict, ValidationError
from torch import Tensor, nn

from equinet.graph.elements import HEAVIEST
from equinet.ops.devices import made_on_cpu
from equinet.ops.edges import Edges
from equinet.ops.species import SpeciesGroups
from equinet.quotes import quoted, shortened

# Of what is wrong with a configuration: how many reasons are told, and the length of one that a check of ours gives.
MOST_PROBLEMS, LONGEST_REASON = 3, 360
DEFAULT = "mace"
ENTRY_POINTS = "equinet.models"


def _of_python(value: Any) -> Any:
    """NumPy's scalars as those of Python, in which numbers and truth values can be told apart."""
    return value.item() if isinstance(value, np.generic) else value


# Numbers and truth values of a configuration: no text, true is not 1, and 0 is not false. Each field of numbers adds an upper bound, above
# all that the field uses and so low that no file makes loading it take minutes or gigabytes by one number.
Whole = Annotated[int, BeforeValidator(_of_python), Strict()]
Real = Annotated[float, BeforeValidator(_of_python), Strict()]
Truth = Annotated[bool, BeforeValidator(_of_python), Strict()]


class ModelConfig(BaseModel):
    """Base of the configurations of all architectures; a subclass narrows ``architecture`` to its own name."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    architecture: str = DEFAULT
    """Name of the architecture; it decides which other keys [model] may have."""
    cutoff: Real = Field(5.0, gt=0, le=100)
    """Radius in Å beyond which atoms do not see each other directly."""
    exact_isolated_atoms: Truth = True
    """An atom alone has exactly its reference energy. False: MACE's form, in which the shift stays with it."""


class NodeOutput(NamedTuple):
    """Per-node outputs of a model.

    Attributes:
        energy: ``(nodes,)``, dimensionless; :class:`equinet.nn.EnergyScale` makes it eV.
        coordination: ``(nodes,)``, smooth count of neighbours, which goes to zero for an atom that leaves; it switches the
            energy of the node on if ``exact_isolated_atoms``.
        features: ``(nodes, dim, channels)``, equivariant features after the last layer; None if the model has none.
        repulsion: ``(nodes,)`` in eV, added to the scaled energy; None without a repulsion.
        properties: Further properties by name, ``(nodes, ...)`` each, in their units; those per structure are summed over nodes.
    """

    energy: Tensor
    coordination: Tensor
    features: Tensor | None = None
    repulsion: Tensor | None = None
    properties: Mapping[str, Tensor] = {}  # never written to


class Model(nn.Module, ABC):
    """Base of all architectures: per-node outputs from edge vectors.

    A subclass computes :meth:`forward`, names its ``config_class``, and keeps the signature of ``__init__``. Capabilities that not
    every architecture has are methods beside a property that gives the reason why the model lacks them, or None.

    Args:
        config: Architecture.
        elements: Atomic numbers of the species, ascending; their order is the order of every per-species weight.
        avg_num_neighbors: Mean number of neighbours within the cutoff in the training set.

    Attributes:
        predicts: Names of the properties that :meth:`forward` computes beside the energy.

    Raises:
        ValueError: If ``elements`` are not ascending and distinct, or ``avg_num_neighbors`` is not positive.
    """

    config_class: ClassVar[type[ModelConfig]]
    predicts: ClassVar[tuple[str, ...]] = ()

    def __init__(self, config: ModelConfig, elements: Sequence[int], avg_num_neighbors: float) -> None:
        super().__init__()
        if avg_num_neighbors <= 0:
            raise ValueError(f"`avg_num_neighbors` must be positive, got {avg_num_neighbors}; are there edges at all?")
        elements = tuple(int(z) for z in elements)
        if not elements or not all(a < b for a, b in pairwise((0, *elements, HEAVIEST + 1))):
            raise ValueError(
                f"`elements` must be distinct atomic numbers from 1 to {HEAVIEST} in ascending order, got {elements}"
            )
        self.config: Any = config
        self.elements = elements
        self.avg_num_neighbors = float(avg_num_neighbors)

    @abstractmethod
    def forward(
        self,
        vectors: Float[Tensor, "rows 3"],
        species: SpeciesGroups | Int[Tensor, " nodes"],
        edges: Edges | Int[Tensor, "2 rows"],
    ) -> NodeOutput:
        """Compute the outputs of all nodes, differentiable twice in ``vectors``.

        Args:
            vectors: Displacements from sender to receiver, in Å, none of length zero.
            species: Index of each node's element, or the groups made of it, with which nothing here waits for a device.
            edges: Senders and receivers, each pair once or an ``edge_index`` of single directions; in the order of ``vectors``. A
                model that is :attr:`directed` takes single directions only.
        """

    @property
    def num_species(self) -> int:
        """Number of elements."""
        return len(self.elements)

    @property
    def cutoff(self) -> float:
        """Length of the longest edge the model uses, in Å."""
        return float(self.config.cutoff)

    @property
    def dtype(self) -> torch.dtype:
        """Precision of weights and arithmetic."""
        return self._any_weight().dtype

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self._any_weight().device

    def _any_weight(self) -> Tensor:
        for tensor in self.parameters():
            return tensor
        return next(buffer for buffer in self.buffers() if buffer.is_floating_point())

    @property
    def directed(self) -> bool:
        """True if the two directions of a pair have different weights, so that each direction is computed by itself."""
        return False

    @property
    def headline(self) -> str:
        """The model in one line, for the first lines of a training run."""
        return type(self).__name__

    # Tensor products

    def executors(self) -> dict[str, nn.Module]:
        """Executors of all tensor products by their submodule path, in the order of the computation."""
        return {}

    def reference_executor(self, path: str) -> nn.Module | None:
        """The reference form of the executor at ``path``; None if it is its own reference."""
        return None

    @property
    def numbers_per_edge(self) -> int | None:
        """Count of numbers per edge that a forward pass keeps, from which memory is estimated; None if unknown."""
        return None

    @property
    def layers(self) -> Sequence[Any]:
        """Triples of interaction, many-body product and readout or None, of models that are built so; else none."""
        return ()

    # Optional capabilities, each with the reason why it is absent

    def calibrate(
        self,
        vectors: Float[Tensor, "rows 3"],
        species: Int[Tensor, " nodes"],
        edges: Edges | Int[Tensor, "2 rows"],
        energy_unit: Float[Tensor, " nodes"],
    ) -> None:
        """Choose the constants of a fresh model from a sample of the training structures; by default there are none.

        Args:
            vectors, species, edges: As in :meth:`forward`.
            energy_unit: Size in eV of the model's unit of energy for each node.
        """

    @property
    def not_tabulable(self) -> str | None:
        """Reason why radial networks cannot be replaced by tables; None if they can."""
        return f"{type(self).__name__} has no radial networks that a table could replace"

    def tabulate(self, error: float) -> None:
        """Replace the radial networks by tables, in place: see :meth:`equinet.potential.Potential.tabulate`.

        Raises:
            ValueError: If the model has no form with tables; says why.
        """
        raise ValueError(f"this model cannot be tabulated: {self.not_tabulable}")

    @property
    def reaches_beyond_cutoff(self) -> str | None:
        """Reason why edges longer than the cutoff, if given, may change the outputs; None if they add exactly nothing."""
        return f"{type(self).__name__} does not state that edges beyond the cutoff add exactly nothing"

    @property
    def not_convertible(self) -> str | None:
        """Reason why :func:`equinet.convert.products.convert` cannot exchange tensor products; None if it can."""
        return f"{type(self).__name__} has no layers whose tensor products could be exchanged"

    @property
    def descriptor_irreps(self) -> o3.Irreps | None:
        """Irreps of the features of :class:`NodeOutput`; None if the model has no features."""
        return None


_MODELS: dict[str, type[Model]] = {}


def register_model(model_class: type[Model]) -> type[Model]:
    """Register an architecture under the default of ``architecture`` in its configuration class; usable as a decorator.

    Args:
        model_class: Subclass of :class:`Model` with a ``config_class``.

    Returns:
        The same class.

    Raises:
        TypeError: If the class is no :class:`Model`, or lacks a configuration class with a name of its own.
        ValueError: If another class has the name already.
    """
    config_class = getattr(model_class, "config_class", None)
    if not (isinstance(model_class, type) and issubclass(model_class, Model)):
        raise TypeError(f"`model_class` must be a subclass of equinet.models.Model, got {model_class!r}")
    if not (isinstance(config_class, type) and issubclass(config_class, ModelConfig)):
        raise TypeError(
            f"{model_class.__name__} needs `config_class`, a subclass of equinet.models.ModelConfig, got {config_class!r}"
        )
    name_field = config_class.model_fields["architecture"]
    if name_field.annotation is str:
        raise TypeError(
            f'{config_class.__name__} has no name of its own; give it `architecture: Literal["name"] = "name"`'
        )
    name = name_field.default
    if _MODELS.setdefault(name, model_class) is not model_class:
        raise ValueError(f"the architecture {name!r} is {_MODELS[name].__qualname__} already; choose another name")
    return model_class


def model_class(name: str) -> type[Model]:
    """Find an architecture by its name, registered or offered by an installed package.

    Raises:
        ValueError: If there is none, or the package that offers it cannot be imported; says what there is.
    """
    if name not in _MODELS:
        for entry in entry_points(group=ENTRY_POINTS, name=name):
            try:
                register_model(entry.load())
            except Exception as error:  # a foreign package may raise anything, and the reason is what the user needs
                raise ValueError(
                    f"the architecture {name!r} of {entry.value} cannot be loaded: {type(error).__name__}: {error}"
                ) from error
    if name not in _MODELS:
        raise ValueError(
            f"there is no architecture {quoted(name)}; there are: {', '.join(model_names())}. One of another package must be "
            "registered first: install that package, or import the module that calls equinet.models.register_model"
        )
    return _MODELS[name]


def model_names() -> list[str]:
    """Names of all architectures, those of installed packages included."""
    return sorted({*_MODELS, *(entry.name for entry in entry_points(group=ENTRY_POINTS))})


def model_config(value: Any) -> ModelConfig:
    """The configuration that a table of plain values describes, of the class that its key ``architecture`` names.

    Args:
        value: A mapping, in which a missing ``architecture`` means MACE, or a configuration, returned as it is.

    Raises:
        ValueError: If there is no such architecture, or a key or value is not allowed; names the key and what it must be.
    """
    try:
        return _validated(value)
    except ValidationError as error:
        raise ValueError(f"the architecture {problems(error, 1)}") from error


def problems(error: ValidationError, depth: int) -> str:
    """Describe the errors pydantic found in a configuration in one line: keys of so many parts, required and given values."""
    found = error.errors()
    told = "; ".join(
        f"`{shortened('.'.join(str(part) for part in item['loc'][:depth]))}`: "
        + shortened(item["msg"].removeprefix("Value error, "), LONGEST_REASON)
        + (f", got {quoted(item['input'])}" if item["type"] not in ("missing", "value_error") else "")
        for item in found[:MOST_PROBLEMS]
    )
    return told + (f"; and {len(found) - MOST_PROBLEMS} more" if len(found) > MOST_PROBLEMS else "")


def _validated(value: Any) -> ModelConfig:
    """As :func:`model_config`, with pydantic's error, which knows the place within a larger configuration."""
    if isinstance(value, ModelConfig):
        return value
    if not isinstance(value, Mapping):
        raise ValueError(f"a model is described by a table of keys, got {quoted(value)}")
    name = value.get("architecture", DEFAULT)
    if not isinstance(name, str):
        raise ValueError(f"`architecture` must be the name of an architecture, got {quoted(name)}")
    return model_class(name).config_class.model_validate(value)


# A field of other configurations: any architecture, told apart by `architecture`.
AnyModelConfig = Annotated[SerializeAsAny[ModelConfig], BeforeValidator(_validated)]


@made_on_cpu
def build_model(config: ModelConfig, elements: Sequence[int], avg_num_neighbors: float) -> Model:
    """Build the model of a configuration with fresh random weights.

    Args:
        config: Architecture.
        elements: Atomic numbers, ascending.
        avg_num_neighbors: Mean number of neighbours within the cutoff.

    Raises:
        ValueError: If the architecture is unknown or contradicts itself; says why.
    """
    return model_class(config.architecture)(config, elements, avg_num_neighbors)


def count_weights(module: nn.Module) -> int:
    """Number of learnable numbers in a module."""
    return sum(parameter.numel() for parameter in module.parameters())
