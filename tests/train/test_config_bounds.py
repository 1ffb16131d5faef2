"""Bounds of numbers: every one in a configuration has an upper bound and is no truth value, so that no file fills the memory by one number."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from typing import Any, get_type_hints

import numpy as np
import pytest
from pydantic import BaseModel, ValidationError

from equinet.models import MACEConfig, ModelConfig
from equinet.models.base import model_config
from equinet.ops.methods.registry import BUILT_IN, METHODS, needed_arguments
from equinet.train import RunConfig, parse_config
from equinet.train.config import DataConfig, TrainConfig


def classes(base: type[BaseModel]) -> Iterator[type[BaseModel]]:
    """A class of configurations and those made of it, of equinet: tests register others."""
    yield base
    for kind in base.__subclasses__():
        if kind.__module__.startswith("equinet."):
            yield from classes(kind)


CONFIGS = [DataConfig, TrainConfig, *classes(ModelConfig)]


def numbers_in(schema: Any) -> Iterator[dict[str, Any]]:
    """Schemas of numbers within the schema of a field: in alternatives, lists and tables, too."""
    if isinstance(schema, dict):
        if schema.get("type") in ("integer", "number"):
            yield schema
        for inner in schema.values():
            yield from numbers_in(inner)
    elif isinstance(schema, list):
        for inner in schema:
            yield from numbers_in(inner)


def example(schema: dict[str, Any], number: object) -> Iterator[object]:
    """Values for a field with ``number`` in each place where its schema has one."""
    if schema.get("type") in ("integer", "number"):
        yield number
    for each in schema.get("anyOf", []):
        yield from example(each, number)
    if "items" in schema:
        yield from ([each] for each in example(schema["items"], number))
    if isinstance(schema.get("additionalProperties"), dict):
        yield from ({"H": each} for each in example(schema["additionalProperties"], number))


def fields_with_numbers() -> Iterator[tuple[type[BaseModel], str, dict[str, Any]]]:
    for kind in CONFIGS:
        for name, schema in kind.model_json_schema()["properties"].items():
            if any(numbers_in(schema)):
                yield kind, name, schema


FIELDS = [pytest.param(*each, id=f"{each[0].__name__}.{each[1]}") for each in fields_with_numbers()]


def test_the_fields_with_numbers_are_found() -> None:
    assert {(kind, name) for kind, name, _ in fields_with_numbers()} >= {
        (MACEConfig, "channels"),
        (MACEConfig, "cutoff"),
        (MACEConfig, "radial_hidden"),
        (MACEConfig, "edge_channels"),
        (DataConfig, "e0s"),
        (DataConfig, "valid"),
        (TrainConfig, "weights"),
        (TrainConfig, "max_minutes"),
    }
    sections = RunConfig.model_fields.values()
    assert all(issubclass(field.annotation, tuple(CONFIGS)) for field in sections)  # no section is forgotten


@pytest.mark.parametrize(("kind", "name", "schema"), FIELDS)
def test_every_number_has_an_upper_bound(kind: type[BaseModel], name: str, schema: dict[str, Any]) -> None:
    for number in numbers_in(schema):
        # pydantic writes bounds by their own names where they stand around a validator
        bounds = [number[key] for key in ("maximum", "exclusiveMaximum", "le", "lt") if key in number]
        assert bounds, f"{kind.__name__}.{name} has no upper bound"
        assert max(bounds) <= 2**63
    for value in example(schema, 10**400):
        with pytest.raises(ValidationError):
            kind.model_validate({name: value})


@pytest.mark.parametrize(("kind", "name", "schema"), FIELDS)
@pytest.mark.parametrize("truth", [True, np.True_])
def test_no_number_is_a_truth_value(kind: type[BaseModel], name: str, schema: dict[str, Any], truth: object) -> None:
    values = list(example(schema, truth))
    assert values
    for value in values:
        with pytest.raises(ValidationError) as caught:
            kind.model_validate({name: value})
        about = {problem["type"] for problem in caught.value.errors() if problem["loc"][0] == name}
        assert about & {"int_type", "float_type"}, f"{kind.__name__}.{name} takes {value}"


def truths() -> Iterator[Any]:
    for kind in CONFIGS:
        for name, schema in kind.model_json_schema()["properties"].items():
            if "boolean" in str(schema):
                yield pytest.param(kind, name, id=f"{kind.__name__}.{name}")


def test_the_truth_values_are_found() -> None:
    found = {tuple(each.values) for each in truths()}
    assert found >= {(MACEConfig, "zbl"), (DataConfig, "allow_missing"), (TrainConfig, "compile")}


@pytest.mark.parametrize(("kind", "name"), list(truths()))
def test_no_truth_value_is_a_number_or_a_word(kind: type[BaseModel], name: str) -> None:
    for value in (0, 1, -0.0, 1.0, "true", "yes", "0", np.int64(1)):
        with pytest.raises(ValidationError) as caught:
            kind.model_validate({"train": "a.xyz", name: value} if kind is DataConfig else {name: value})
        assert [(each["loc"], each["type"]) for each in caught.value.errors()] == [((name,), "bool_type")]
    for value in (True, np.False_):
        read = kind.model_validate({"train": "a.xyz", name: value} if kind is DataConfig else {name: value})
        assert getattr(read, name) is bool(value)


@pytest.mark.parametrize(("kind", "name", "schema"), FIELDS)
def test_every_list_of_numbers_is_bounded(kind: type[BaseModel], name: str, schema: dict[str, Any]) -> None:
    if schema.get("type") == "array":
        assert schema["maxItems"] <= 16, f"{kind.__name__}.{name}"


@pytest.mark.parametrize("name", sorted(BUILT_IN))
def test_whole_numbers_of_tensor_products_have_an_upper_bound_and_are_no_truth_values(name: str) -> None:
    kind = METHODS[name]
    hints = get_type_hints(kind)
    needed = dict.fromkeys(needed_arguments(kind), 8)
    for field in fields(kind):
        if hints[field.name] in (int, float):
            for value in (True, 10**6):
                with pytest.raises(ValueError, match=f"`{field.name}` must be a whole number from 1 to"):
                    kind(**{**needed, field.name: value})


def test_what_a_number_must_be_is_told_in_one_sentence() -> None:
    with pytest.raises(
        ValueError, match=r"^the configuration: `model.envelope_power`: .* less than or equal to 64, got 100000$"
    ):
        parse_config({"data": {"train": "a.xyz"}, "model": {"envelope_power": 100000}})
    # As a model file is read:
    with pytest.raises(
        ValueError, match=r"^the architecture `envelope_power`: .* less than or equal to 64, got 100000$"
    ):
        model_config({"architecture": "mace", "envelope_power": 100000})
    with pytest.raises(ValueError, match=r"^the architecture `channels`: Input should be a valid integer, got True$"):
        model_config({"channels": True})


def test_numbers_of_numpy_are_numbers() -> None:
    config = MACEConfig(channels=np.int64(8), cutoff=np.float64(4.5), radial_hidden=(np.int32(8),))
    assert (config.channels, config.cutoff, config.radial_hidden) == (8, 4.5, (8,))
    assert MACEConfig(cutoff=5).cutoff == 5.0
