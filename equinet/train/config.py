"""The configuration of a training run: one TOML file, every key explained here and nowhere else."""

from __future__ import annotations

import difflib
import glob
import json
import os
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticKnownError

from equinet.datasets import LabelKeys, Units
from equinet.datasets.properties import BUILT_IN, property_named
from equinet.datasets.published import is_set_name
from equinet.models import AnyModelConfig, MACEConfig, model_class
from equinet.models.base import LONGEST_REASON, Real, Truth, Whole, problems
from equinet.quotes import quoted, shortened

# Keys that configurations were written with before, and those that say the same now.
RENAMED = {"model.residual_first": "model.first_interaction", "model.density_normalization": "model.interaction"}


# Of one term of the loss; the squares of gradients, which Adam adds up, stay within float32.
Weight = Annotated[Real, Field(ge=0, le=1e12)]


def _registered(name: str) -> str:
    if name in BUILT_IN:
        raise ValueError(f"{name} has a key of its own, ending in _key or _weight")
    return property_named(name).name


def _known_units(units: dict[str, str]) -> dict[str, str]:
    Units(**units)
    return units


def _truth_or_properties(value: Any) -> bool | list[str]:
    if isinstance(value, (list, tuple)):
        return [property_named(str(name)).name for name in value]
    if not isinstance(value, (bool, np.bool_)):
        raise PydanticKnownError("bool_type")
    return bool(value)


def _finding(name: str) -> str:
    from equinet.datasets.doctor import require_names

    require_names([name])
    return name


class DataConfig(BaseModel):
    """Files of frames and the names of their labels."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    train: str | Annotated[list[str], Field(min_length=1)]
    """File, folder or pattern such as dir/*.xyz, or several of them, with training frames: extended XYZ, outputs of VASP and other codes, databases, npz, HDF5, also packed; dir/*.aselmdb is streamed, not held in memory; or published sets by name, as "acac/train_300K" (`equinet data list`). Isolated atoms in them give the E0s."""
    valid: str | Annotated[Real, Field(gt=0, lt=1)] = 0.1
    """File, folder, pattern or published set with validation frames, or the fraction of the training frames to hold out for validation."""
    test: str | None = None
    """File, folder, pattern or published set with test frames; used once, at the end."""
    e0s: Literal["auto", "isolated", "least_squares"] | dict[str, Annotated[Real, Field(ge=-1e7, le=1e7)]] = "auto"
    """Reference energies: from isolated-atom frames, by least squares, or a table { H = -13.6, ... } in eV."""
    scale_shift: Literal["global", "per_element"] = "global"
    """One energy scale and shift for all atoms, or one for each element."""
    energy_key: str = "energy"
    """Name of the total energy in the files."""
    forces_key: str = "forces"
    """Name of the forces in the files."""
    stress_key: str = "stress"
    """Name of the stress in the files, six numbers xx yy zz yz xz xy or nine."""
    stress_sign: Literal["tension", "compression"] = "tension"
    """Sign of the stress in the files: a positive one pulls the cell together (ASE, equinet), or is a pressure (VASP)."""
    virial_key: str = ""
    """Name of a virial W in the files, in the unit of energy; the stress is -W / volume. Empty if there is none."""
    units: Annotated[dict[Literal["energy", "length", "forces", "stress"], str], AfterValidator(_known_units)] = {}
    """Units in the files, { energy = "Hartree", length = "Bohr" }; by default eV and Ang, forces and stress those of energy and length."""
    weight_key: str = "weight"
    """Name of a frame's weight in the loss; 1 where a frame has none. "config_weight" takes MACE's, and "" counts all frames alike."""
    config_type_key: str = "config_type"
    """Name of a frame's kind in the files, a word."""
    config_type_weights: dict[str, Annotated[Real, Field(ge=0, le=1e6)]] = {}
    """Factors of the weights of frames by their kind, { AIMD = 1.0, dimer = 0.1 }; "Default" is that of frames without a kind."""
    keys: dict[Annotated[str, AfterValidator(_registered)], str] = {}
    """Names of further registered properties in the files, { dipole = "dipole_dft" }; by default their own."""
    allow_missing: Annotated[bool | list[str], BeforeValidator(_truth_or_properties)] = False
    """Accept frames that lack a weighted label as long as others have it; or only for some labels, ["stress"]."""
    accept: list[Annotated[str, AfterValidator(_finding)]] = []
    """Findings of `equinet data doctor` to train in spite of, ["forces-outlier"]; it names them, and so does the refusal."""
    workers: Annotated[Whole, Field(ge=0, le=1000)] | None = None
    """Processes that read frames and find neighbours ahead of the model; by default up to four for stores (*.aselmdb), none for frames in memory."""

    def label_keys(self, optional: Sequence[str] = ()) -> LabelKeys:
        """Names, units and weights of all labels in the files; ``optional``: properties that nothing is trained on."""
        own = {name: getattr(self, f"{name}_key") for name in BUILT_IN}
        return LabelKeys(
            weight=self.weight_key,
            virial=self.virial_key,
            config_type=self.config_type_key,
            type_weights=self.config_type_weights,
            units=Units(**self.units),
            stress_sign=self.stress_sign,
            optional=optional,
            **own,
            **self.keys,
        )


class TrainConfig(BaseModel):
    """Settings of the training."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    epochs: Whole = Field(100, ge=0, le=1_000_000)
    """Passes over the training frames."""
    batch_size: Whole = Field(10, ge=1, le=1_000_000)
    """Frames in one optimiser step."""
    batch_edges: Annotated[Whole, Field(ge=1, le=10**12)] | None = None
    """Most edges (neighbours of all atoms) in one optimiser step, in place of batch_size, for frames of many sizes: steps of nearly equal cost."""
    learning_rate: Real = Field(0.01, gt=0, le=10)
    """Highest step size of Adam."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """Let the learning rate fall along a cosine to a hundredth, or keep it."""
    start_from: str | None = None
    """Model file (*.eqn) to begin with instead of fresh weights: its architecture, elements and energy scale hold, [model] may stay empty."""
    start_e0s: Literal["keep", "refit"] = "keep"
    """Reference energies of that model: as they are, or shifted for each element by least squares, so that its energies meet the labels; for labels of another code or functional."""
    seed: Whole = Field(1, ge=0, lt=2**63)
    """Decides initial weights, order of frames and held-out frames."""
    max_minutes: Annotated[Real, Field(gt=0, le=1e7)] | None = None
    """Stop after so many minutes of training and validation, if the epochs are not over before; the schedule then follows the time."""
    energy_weight: Weight = 1.0
    """Weight of the squared error of the energy per atom, in (eV/atom)⁻²."""
    forces_weight: Weight = 100.0
    """Weight of the squared error of a force component, in (eV/Å)⁻²."""
    stress_weight: Weight = 0.0
    """Weight of the squared error of a stress component, in (eV/Å³)⁻²; 100 is a good start for solids."""
    weights: dict[Annotated[str, AfterValidator(_registered)], Weight] = {}
    """Weights of the squared errors of further registered properties, { dipole = 1.0 }, in their units to the power -2."""
    ema_decay: Real = Field(0.99, ge=0, lt=1)
    """The tested and saved weights are a running mean over about 1 / (1 - decay) steps; 0 turns it off."""
    clip_gradient: Real = Field(10.0, gt=0, le=1e12)
    """Longest gradient of all weights together; longer ones are shortened."""
    dtype: Literal["float32", "float64"] = "float32"
    """Precision of weights and arithmetic; energies are summed in float64 in any case."""
    device: str = "auto"
    """"auto" (CUDA if there is one), "cpu", "cuda", "cuda:1", ..."""
    compile: Truth = False
    """Put the training step through torch.compile, minutes before the first step; docs/compile.md says when it pays."""

    @model_validator(mode="after")
    def _one_size(self) -> Self:
        if self.batch_edges is not None and self.batch_size != type(self).model_fields["batch_size"].default:
            raise ValueError(
                f"`train.batch_size` ({self.batch_size}) and `train.batch_edges` ({self.batch_edges}) are two sizes of one batch; leave out one"
            )
        return self


class RunConfig(BaseModel):
    """A whole run."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    data: DataConfig
    """Frames."""
    model: Annotated[AnyModelConfig, Field(default_factory=MACEConfig)]
    """Architecture; its key `architecture` decides which others there are."""
    train: Annotated[TrainConfig, Field(default_factory=TrainConfig)]
    """Training."""


def read_config(path: str | os.PathLike[str], settings: Sequence[str] = ()) -> RunConfig:
    """Read a TOML file and apply ``a.b=value`` settings on top.

    Data files named in the configuration are looked for beside it, those named in ``settings`` from the working directory.
    The paths come back absolute, so that the saved configuration works from anywhere; names of published sets stay.

    Args:
        path: The configuration.
        settings: Assignments such as ``"model.channels=64"``; values are TOML, bare words are strings.

    Raises:
        FileNotFoundError: If the file is not there.
        ValueError: If it is no TOML, a key is unknown (names the nearest known one), or a value is not allowed.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no configuration {path}")
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # bytes that are no text, too many digits, too many brackets
        raise ValueError(f"{path} is not valid TOML: {shortened(str(error), LONGEST_REASON)}") from error
    _make_absolute(tree, path.parent)
    for setting in settings:
        _apply(tree, setting)
    _make_absolute(tree, Path.cwd())
    return parse_config(tree, str(path))


def parse_config(tree: Mapping[str, Any], origin: str = "the configuration") -> RunConfig:
    """Check a tree of plain values.

    Raises:
        ValueError: If a key is unknown (names the nearest known one) or a value is not allowed.
    """
    sections = _sections(tree, origin)
    for key, known in _unknown_keys(tree, sections):
        elsewhere = [other for other, _, _ in describe_keys() if other.split(".")[-1] == key.split(".")[-1]]
        renamed = [RENAMED[key]] if key in RENAMED else []
        near = renamed or elsewhere or difflib.get_close_matches(key, known, n=1, cutoff=0.0)
        raise ValueError(f"{origin}: there is no key `{shortened(key)}`; did you mean `{near[0]}`?")
    try:
        return RunConfig.model_validate(tree)
    except ValidationError as error:
        raise ValueError(f"{origin}: {problems(error, 2)}") from error


def data_config(files: Sequence[str], settings: Sequence[str] = ()) -> DataConfig:
    """The [data] section of a configuration that has training files only, with ``data.key=value`` settings on top.

    Raises:
        ValueError: If a key is unknown (names the nearest known one) or a value is not allowed.
    """
    tree: dict[str, Any] = {"data": {"train": list(files)}}
    for setting in settings:
        _apply(tree, setting)
    return parse_config(tree, "`settings`").data


def to_toml(config: RunConfig) -> str:
    """The configuration in full, as TOML, with every key's explanation above it."""
    lines: list[str] = []
    values = config.model_dump()
    for section, model in config:
        lines.append(f"[{section}]")
        for name, value in values[section].items():
            description = type(model).model_fields[name].description or ""
            lines += [f"# {line}" for line in description.splitlines()]
            lines.append(f"# {name} is not set" if value is None else f"{name} = {_toml(value)}")
        lines.append("")
    return "\n".join(lines)


def describe_keys(
    architecture: str = MACEConfig.model_fields["architecture"].default,
) -> Iterator[tuple[str, str, str]]:
    """(key, default, explanation) of every key, for help and documentation; those of [model] belong to ``architecture``."""
    for section, model in _sections({"model": {"architecture": architecture}}).items():
        for name, inner in model.model_fields.items():
            default = (
                "required" if inner.is_required() else _toml(inner.default) if inner.default is not None else "not set"
            )
            yield f"{section}.{name}", default, inner.description or ""


def _apply(tree: dict[str, Any], setting: str) -> None:
    key, equals, text = setting.partition("=")
    parts = key.strip().split(".")
    if not equals or len(parts) < 2 or not all(parts):
        raise ValueError(f"`settings` must read section.key=value, e.g. model.channels=64, got {quoted(setting)}")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()  # a bare word or path is a string
    branch = tree
    for part in parts[:-1]:
        branch = branch.setdefault(part, {})
        if not isinstance(branch, dict):
            raise ValueError(f"`settings`: in {quoted(setting)} `{shortened(part)}` is a value, not a section")
    branch[parts[-1]] = value


def _sections(tree: Mapping[str, Any], origin: str = "the configuration") -> dict[str, type[BaseModel]]:
    """Configuration class of each section; that of [model] is the one its key ``architecture`` names.

    Raises:
        ValueError: If there is no such architecture.
    """
    model = tree.get("model")
    name = model.get("architecture") if isinstance(model, Mapping) else None
    try:
        architecture = model_class(name).config_class if isinstance(name, str) else MACEConfig
    except ValueError as error:
        raise ValueError(f"{origin}: `model.architecture`: {error}") from error
    return {"data": DataConfig, "model": architecture, "train": TrainConfig}


def _unknown_keys(tree: Mapping[str, Any], sections: Mapping[str, type[BaseModel]]) -> Iterator[tuple[str, list[str]]]:
    """Keys that no section has, each with the keys it may have been meant for."""
    everywhere = [f"{section}.{name}" for section, model in sections.items() for name in model.model_fields]
    for section, values in tree.items():
        if section not in sections:
            yield section, [*sections, *everywhere]
        elif isinstance(values, Mapping):
            fields = sections[section].model_fields
            for name in values:
                if name not in fields:
                    yield f"{section}.{name}", [f"{section}.{known}" for known in fields]


def _make_absolute(tree: dict[str, Any], folder: Path) -> None:
    train, data = tree.get("train"), tree.get("data")
    if isinstance(train, dict) and isinstance(train.get("start_from"), str):
        train["start_from"] = os.path.abspath(folder / train["start_from"])
    if not isinstance(data, dict):
        return
    for key in ("train", "valid", "test"):
        value = data.get(key)
        if isinstance(value, str):
            data[key] = _absolute(value, folder)
        elif key == "train" and isinstance(value, list):
            data[key] = [_absolute(name, folder) if isinstance(name, str) else name for name in value]


def _absolute(name: str, folder: Path) -> str:
    """A file, folder or pattern from anywhere, and the name of a published set; brackets and stars of ``folder`` itself are no pattern."""
    if is_set_name(name, folder):
        return name
    path = Path(name).expanduser()
    if not path.is_absolute() and glob.has_magic(name) and not (folder / path).exists():
        return os.path.join(glob.escape(os.path.abspath(folder)), name)
    return os.path.abspath(folder / path)


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)  # a TOML basic string has JSON's escapes
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_toml_key(key)} = {_toml(item)}" for key, item in value.items()) + " }"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return repr(value)


def _toml_key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else json.dumps(key, ensure_ascii=False)
