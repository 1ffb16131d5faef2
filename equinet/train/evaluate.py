"""Errors of a saved model on files of frames: as a whole, by groups of frames and by elements, and where they are largest."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch

from equinet.checkpoint import load_potential
from equinet.datasets import GraphLoader, LabelKeys, find_labels, read_frames, source, split_isolated, to_graphs
from equinet.datasets.composition import warn_if_undetermined
from equinet.datasets.names import offered
from equinet.datasets.properties import BUILT_IN, PROPERTIES
from equinet.datasets.published import DataFile, Located, locate
from equinet.ops.devices import choose_device
from equinet.ops.precision import Precision, matmul_precision, require_available
from equinet.potential import Potential
from equinet.verify.backends import require_backend_match, rounding

from .breakdown import Extreme, by_key, extremes, missing_labels, usual_keys
from .metrics import Errors, Predictions, errors, predict

if TYPE_CHECKING:
    from ase import Atoms

Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


@dataclass(frozen=True)
class Evaluation:
    """Errors of a model on labelled frames.

    Attributes:
        predictions: Labels and predictions of all frames but isolated atoms.
        errors: Their errors.
        by: Errors of groups of frames: by "file", by a key of the frames such as "config_type", and by "element" (of atoms).
        largest: Frames with the largest errors of each property.
        isolated: Errors of isolated atoms, which are in none of the above; None without, and where there is nothing else.
        missing: Number of frames without a label, by property; frames without a volume need no stress.
        published: File of a published set that was evaluated, if it was one and nothing else.
    """

    predictions: Predictions
    errors: Errors
    by: Mapping[str, Mapping[str, Errors]]
    largest: tuple[Extreme, ...]
    isolated: Errors | None
    missing: Mapping[str, int]
    published: DataFile | None

    def as_json(self) -> dict[str, Any]:
        """Everything but the predictions: the keys of :meth:`Errors.as_json`, and counts, groups and largest errors."""
        return {
            **self.errors.as_json(),
            "frames": self.errors.frames,
            "atoms": self.errors.atoms,
            "isolated_atoms": 0 if self.isolated is None else self.isolated.frames,
            "missing_labels": dict(self.missing),
            "by": {
                key: {
                    name: {"frames": found.frames, "atoms": found.atoms, **found.as_json()}
                    for name, found in groups.items()
                }
                for key, groups in self.by.items()
            },
            "largest": [asdict(extreme) for extreme in self.largest],
            "published": None if self.published is None else self.published.full_name,
        }

    def as_rows(self) -> list[dict[str, Any]]:
        """Errors as rows of a table, one for each group and each property that has labels there."""
        groups = [
            ("all", "", self.errors),
            *((key, name, e) for key, found in self.by.items() for name, e in found.items()),
        ]
        return [
            {
                "by": key,
                "group": name,
                "frames": found.frames,
                "atoms": found.atoms,
                "property": quantity,
                "unit": PROPERTIES[quantity].shown_unit,
                **{kind: getattr(found, kind)[quantity] for kind in ("mae", "rmse", "norm", "largest", "spread")},
            }
            for key, name, found in groups
            for quantity, value in found.mae.items()
            if math.isfinite(value)
        ]

    def sentences(self) -> list[str]:
        """Remarks on what the errors leave out: frames without a label, and isolated atoms."""
        frames = self.errors.frames
        told = [
            f"{name}: no label in {'any frame' if count == frames else f'{count} of {frames} frames'}"
            for name, count in self.missing.items()
            if count
        ]
        if self.isolated is not None:
            told.append(
                f"{self.isolated.frames} isolated atoms are not in these errors; their energies differ from those of the model by up to "
                f"{self.isolated.largest['energy']:.3g} meV"
            )
        return told


def evaluate_file(
    model: str | os.PathLike[str],
    data: Paths,
    keys: LabelKeys = LabelKeys(),  # noqa: B008
    *,
    by: Sequence[str] | None = None,
    dtype: str | None = None,
    device: str = "auto",
    batch_size: int = 32,
    matmul: Precision = "ieee",
    advance: Callable[[int, int], None] = lambda done, total: None,
    tell: Callable[[str], None] = lambda sentence: None,
) -> Evaluation:
    """Predict all frames of one or several files, and compare with their labels.

    First the potential is compared with its formulas on a few atoms (:func:`equinet.verify.backends.require_backend_match`).

    Args:
        model: Model file.
        data: File or files with labelled frames, or names of published sets.
        keys: Names of the labels in the files.
        by: Keys by which errors are split: "file", "element", or a key of the frames' ``info``. By default file, config_type and element,
            where there are several.
        dtype: "float32" or "float64"; by default as the model was saved.
        device: "auto", "cpu", "cuda", ...
        batch_size: Frames at a time.
        matmul: Arithmetic of matrix products, see :mod:`equinet.ops.precision`; other than "ieee", its error on the first frame is told.
        advance: Called with the numbers of batches done and in all.
        tell: Called with sentences for the user.

    Raises:
        BackendMismatchError: If the potential differs from its formulas.
        FileNotFoundError, ValueError: If a file is not there or damaged, a label is wrong, an element is unknown, or no frame
            has any label.
    """
    potential = load_for_prediction(model, dtype=dtype, device=device, matmul=matmul)
    located = [locate(name) for name in ([data] if isinstance(data, (str, os.PathLike)) else data)]
    read = [(each, read_frames(each.path, keys)) for each in located]
    for each in located:
        if each.note:
            tell(each.note)
    frames, isolated = split_isolated([atoms for _, part in read for atoms in part])
    frames, isolated = (frames, isolated) if frames else (isolated, [])
    _require_some_label(located, frames, keys)
    warn_if_undetermined(frames, potential.references)
    if weightless := sum(find_labels(atoms).weight == 0 for atoms in frames):
        tell(f"{weightless} of {len(frames)} frames have weight 0 and count in no error")
    file_of = {id(atoms): _shown_name(each) for each, part in read for atoms in part}
    files, path_of = [file_of[id(atoms)] for atoms in frames], {_shown_name(each): each.path for each in located}
    chosen = usual_keys(frames, files) if by is None else by
    stress = any("stress" in atoms.calc.results for atoms in frames)
    loaders = [
        GraphLoader(to_graphs(part, potential.cutoff, potential.elements), batch_size) for part in (frames, isolated)
    ]
    total, done = sum(map(len, loaders)), itertools.count(1)
    with matmul_precision(matmul):
        check_backends(potential, loaders[0].graphs, model, matmul, tell)
        found, alone = (
            predict(potential, loader, stress=stress, advance=lambda: advance(next(done), total)) for loader in loaders
        )
    wanted = tuple(name for name in (*BUILT_IN, *potential.model.predicts) if name != "stress" or stress)
    return Evaluation(
        found,
        errors(found),
        {key: by_key(found, frames, files, key) for key in chosen},
        extremes(found, frames, [source(atoms).replace(path_of[file], file, 1) for atoms, file in zip(frames, files)]),
        errors(alone) if isolated else None,
        missing_labels(frames, wanted),
        located[0].file if len(located) == 1 else None,
    )


def load_for_prediction(
    model: str | os.PathLike[str], *, dtype: str | None, device: str, matmul: Precision
) -> Potential:
    """Load a model whose weights stay as they are, in a precision and on a device.

    Raises:
        FileNotFoundError, ValueError: If the file is not there or damaged, or the precision or the device is not available.
    """
    if dtype not in (None, "float32", "float64"):
        raise ValueError(f'`dtype` must be "float32" or "float64", got {dtype!r}')
    potential = load_potential(model, device=choose_device(device), dtype=getattr(torch, dtype) if dtype else None)
    require_available(matmul, potential.device, potential.dtype)
    return potential.requires_grad_(False).eval()


def check_backends(
    potential: Potential,
    graphs: Sequence[Any],
    model: str | os.PathLike[str],
    matmul: Precision,
    tell: Callable[[str], None],
) -> None:
    """Compare a potential with its formulas on the first graph with edges, and tell the rounding of coarse matrix products there."""
    first = next((graph for graph in graphs if graph.num_edges), graphs[0])
    require_backend_match(potential, first)
    if matmul != "ieee":
        exact = load_potential(model, device=potential.device, dtype=torch.float64).requires_grad_(False)
        tell(f"matrix products in {matmul}: {rounding(potential, exact, first)}, on the first frame")


def _shown_name(each: Located) -> str:
    return each.path if each.file is None else each.file.full_name


def _require_some_label(located: Sequence[Located], frames: Sequence[Atoms], keys: LabelKeys) -> None:
    if not any(atoms.calc.results for atoms in frames):
        *others, last = (f"`{keys.of(name)}`" for name in BUILT_IN)
        names, arguments = f"{', '.join(others)} or {last}", ", ".join(f"`{name}_key`" for name in BUILT_IN)
        settings = [each.removeprefix("data.") for name in BUILT_IN for each in offered(frames[0], name, keys)]
        found = (
            f"; {source(frames[0])} looks as if it needed {', '.join(map(_as_argument, settings))}" if settings else ""
        )
        raise ValueError(
            f"{', '.join(each.path for each in located)}: no frame has a label called {names}; if they have other names, say so with "
            f"{arguments} (of `keys`){found}"
        )


def _as_argument(setting: str) -> str:
    """``energy_key = "REF_energy"`` as it is typed after a command."""
    argument, _, name = setting.partition(" = ")
    return f"`{argument}` {name}"
