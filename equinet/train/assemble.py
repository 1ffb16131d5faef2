"""Assembly of a training run: everything objects, made from the configuration, which stays behind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.optim import Optimizer

from equinet.datasets import GraphLoader, Statistics
from equinet.datasets.loader import edges_of, label_counts
from equinet.datasets.published import is_set_name
from equinet.datasets.store import StoredGraphs
from equinet.graph import AtomicGraph
from equinet.graph.neighbors import available_memory
from equinet.potential import Potential
from equinet.tables import Block

from .config import RunConfig, TrainConfig, to_toml
from .finetune import with_model_of_start
from .loop import Data, Predict, make_optimizer
from .loss import Loss
from .prepare import Prepared, make_loss, make_potential, prepare
from .published import PublishedFiles
from .state import TrainingState
from .stored import workers_of

EVALUATION_BATCH = 32
LATER: tuple[tuple[str, Any], ...] = (("architecture", "mace"), ("weights", {}), ("batch_edges", None))


@dataclass(frozen=True)
class Parts:
    """Everything a training run works with.

    Attributes:
        potential: The potential to train.
        graphs: Labelled graphs by part: train, valid and, if given, test.
        data: Batches to train and to validate on.
        loss: Loss.
        optimizer: Optimiser of the potential's parameters.
        state: State, at the beginning of the run.
        settings: Epochs, schedule, limits.
        predict: Function that computes the predictions to train on, if not the potential itself.
        statistics: Statistics of the training frames.
        isolated: Number of isolated-atom frames that were set apart.
        origin_of_references: Source of the reference energies, in words.
        remarks: Lines about the data to show before the first step.
        start: File of the model that training starts from; None for fresh weights.
        identity: Values that must be the same when the run is resumed.
        provenance: Description of model and data for the model file: resolved configuration, hash of the data.
        configuration: The resolved configuration as TOML.
        published: Published files that the configuration names.
    """

    potential: Potential
    graphs: Mapping[str, Sequence[AtomicGraph]]
    data: Data
    loss: Loss
    optimizer: Optimizer
    state: TrainingState
    settings: TrainConfig
    predict: Predict | None
    statistics: Statistics
    isolated: int
    origin_of_references: str
    remarks: tuple[Block, ...]
    start: str | None
    identity: Mapping[str, Any]
    provenance: Mapping[str, Any]
    configuration: str
    published: PublishedFiles


def assemble(config: RunConfig) -> Parts:
    """Read the data of a configuration and build everything that trains on it.

    Args:
        config: Whole configuration of a run.

    Raises:
        FileNotFoundError, ValueError: If something is wrong with data, model or settings; names file, frame and remedy.
        MemoryError: If a training step on the largest batch would not fit into memory.
    """
    config = with_model_of_start(config)
    prepared = prepare(config)
    potential = make_potential(config, prepared)
    settings = config.train
    _refuse_if_too_large(prepared.graphs["train"], potential, settings)
    loss = make_loss(config)
    loss.require_predicted(potential)
    optimizer = make_optimizer(potential, settings)
    start = settings.start_from
    refit = ", refit to the labels" if settings.start_e0s == "refit" else ""
    return Parts(
        potential=potential,
        graphs=prepared.graphs,
        data=Data(
            _loader(config, prepared.graphs["train"], settings.batch_size, settings.seed),
            _loader(config, prepared.graphs["valid"], EVALUATION_BATCH),
        ),
        loss=loss,
        optimizer=optimizer,
        state=TrainingState(potential, optimizer, settings.ema_decay),
        settings=settings,
        predict=_compiled(potential) if settings.compile else None,
        statistics=prepared.statistics,
        isolated=prepared.isolated,
        origin_of_references=prepared.statistics.reference_origin if start is None else f"of {start}{refit}",
        remarks=prepared.remarks,
        start=start,
        identity=_identity(config, prepared),
        provenance={
            "config": _without_folders(config),
            "data_sha256": prepared.digest,
            "labels": label_counts(prepared.graphs["train"]),
        },
        configuration=to_toml(config),
        published=prepared.published,
    )


def _compiled(potential: Potential) -> Predict:
    from equinet.accelerate.compilation import (
        CompiledTraining,  # whose imports take longer than reading thousands of frames
    )

    return CompiledTraining(potential)


def _loader(config: RunConfig, graphs: Sequence[AtomicGraph], batch_size: int, seed: int | None = None) -> GraphLoader:
    """Batches by edges if the configuration says so, else of so many graphs."""
    edges = config.train.batch_edges
    return GraphLoader(
        graphs, batch_size if edges is None else None, seed, batch_edges=edges, workers=workers_of(config, graphs)
    )


def _without_folders(config: RunConfig) -> dict[str, Any]:
    """The configuration with bare file names: a model file is handed on, and folders name people and machines."""
    tree = config.model_dump(mode="json")
    for section, key in (("data", "train"), ("data", "valid"), ("data", "test"), ("train", "start_from")):
        value = tree[section][key]
        if isinstance(value, str):
            tree[section][key] = _without_folder(value)
        elif isinstance(value, list):
            tree[section][key] = [_without_folder(each) for each in value]
    return tree


def _without_folder(name: str) -> str:
    return name if is_set_name(name, Path()) else Path(name).name


def _identity(config: RunConfig, prepared: Prepared) -> dict[str, Any]:
    """Values that decide the numbers of a run. More epochs or minutes and another device may come; other numbers may not."""
    meaning = config.model_dump(mode="json", exclude={"train": {"epochs", "max_minutes", "device"}})
    return {
        "frames": prepared.digest,
        **{f"data.{key}": meaning["data"][key] for key in ("e0s", "scale_shift")},
        # Keys that came later count where they say something, so that older runs can be resumed.
        **{
            f"{section}.{key}": value
            for section in ("model", "train")
            for key, value in meaning[section].items()
            if (key, value) not in LATER
        },
    }


def _refuse_if_too_large(graphs: Sequence[AtomicGraph], potential: Potential, settings: TrainConfig) -> None:
    """Estimate the peak memory of a training step on the largest batch and compare it with what is free."""
    by_edges, count = settings.batch_edges is not None, 1 if settings.batch_edges is not None else settings.batch_size
    largest = np.sort(edges_of(graphs.largest(count) if isinstance(graphs, StoredGraphs) else graphs))[-count:]
    edges = max(int(largest.sum()), settings.batch_edges or 0)
    per_edge = potential.model.numbers_per_edge
    if per_edge is None:
        return
    # Forces and their gradient keep about eight copies of messages and weights (7 to 9 measured for max_l 0 to 2).
    size = 8 * edges * per_edge * potential.dtype.itemsize
    free = available_memory() if potential.device.type == "cpu" else float(torch.cuda.mem_get_info(potential.device)[0])
    if size > free:
        raise MemoryError(
            f"a training step on {'a full batch' if by_edges else f'the largest {count} frames'} ({edges} edges) needs about "
            f"{size / 1e9:.1f} GB and {free / 1e9:.1f} GB are free; lower `train.{'batch_edges' if by_edges else 'batch_size'}`, `model.cutoff` (now {potential.cutoff:g} Å) or the size of the "
            "model (for MACE `model.channels`)"
        )
