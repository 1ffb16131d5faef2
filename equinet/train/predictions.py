"""Predictions of a model for structures with or without labels, one batch after the other, and files of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from e3nn import o3
from numpy.typing import NDArray

from equinet.datasets import source
from equinet.datasets.frames import has_volume
from equinet.datasets.predicted import iter_structures, require_ending
from equinet.datasets.published import locate
from equinet.datasets.writing import write_frames
from equinet.graph import AtomicGraph, collate
from equinet.graph.elements import SYMBOLS
from equinet.ops.precision import Precision, matmul_precision
from equinet.potential import Potential

from .evaluate import check_backends, load_for_prediction

if TYPE_CHECKING:
    from ase import Atoms

BATCH_EDGES = 30_000
ENERGY, FORCES, STRESS, DESCRIPTORS = (f"equinet_{name}" for name in ("energy", "forces", "stress", "descriptors"))
NAMES = (ENERGY, FORCES, STRESS, DESCRIPTORS)


def predict_file(
    model: str | os.PathLike[str],
    data: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    descriptors: bool = False,
    dtype: str | None = None,
    device: str = "auto",
    batch_edges: int = BATCH_EDGES,
    matmul: Precision = "ieee",
    advance: Callable[[int, int | None], None] = lambda done, total: None,
    tell: Callable[[str], None] = lambda sentence: None,
) -> int:
    """Predict energies, forces and stresses of the structures of files, and write them beside all that the structures have.

    All structures are read once to refuse those that cannot be predicted before any work is done, and once more to predict them.

    Args:
        model: Model file.
        data: File or files of structures, with or without labels, or names of published sets.
        out: File to write in extended XYZ, also gzipped; it appears, whole, when all structures are done.
        descriptors: True to write the invariant features of every atom too.
        dtype: "float32" or "float64"; by default as the model was saved.
        device: "auto", "cpu", "cuda", ...
        batch_edges: Directed edges at a time.
        matmul: Arithmetic of matrix products, see :mod:`equinet.ops.precision`; other than "ieee", its error on the first frame is told.
        advance: Called with the number of frames done, and in all once they have been counted.
        tell: Called with sentences for the user.

    Returns:
        Number of frames.

    Raises:
        BackendMismatchError: If the potential differs from its formulas.
        FileNotFoundError, ValueError: If a file is not there or damaged, a frame has an element that the model does not know, ``out`` is
            no extended XYZ or one of ``data``, or the model has no descriptors.
        OSError: If ``out`` cannot be written; names the remedy.
    """
    require_ending(out)
    potential = load_for_prediction(model, dtype=dtype, device=device, matmul=matmul)
    columns = invariant_columns(potential) if descriptors else None
    located = [locate(name) for name in ([data] if isinstance(data, (str, os.PathLike)) else data)]
    for each in located:
        if each.note:
            tell(each.note)
    paths = [each.path for each in located]
    if any(os.path.exists(path) and os.path.exists(out) and os.path.samefile(path, out) for path in paths):
        raise ValueError(f"`out` is {os.fspath(out)}, one of the files to read; choose another name")
    count, replaced, first = 0, set[str](), None
    for atoms in iter_structures(paths):
        require_known(potential, atoms)
        replaced |= {*NAMES} & {*atoms.info, *atoms.arrays}
        first = atoms if first is None or len(first) == 1 else first
        count += 1
        advance(count, None)
    if first is None:
        raise ValueError(f"{', '.join(paths)}: there are no frames")
    if replaced:
        tell(f"the frames hold {', '.join(sorted(replaced))} already; they are replaced")
    with matmul_precision(matmul):
        check_backends(potential, [potential.graph(first)], model, matmul, tell)
        predicted = predict_frames(potential, iter_structures(paths), batch_edges=batch_edges, descriptors=columns)
        return write_frames(out, _counted(predicted, count, advance))


def _counted(frames: Iterable[Atoms], total: int, advance: Callable[[int, int | None], None]) -> Iterator[Atoms]:
    for done, atoms in enumerate(frames, start=1):
        yield atoms
        advance(done, total)


def predict_frames(
    potential: Potential,
    frames: Iterable[Atoms],
    *,
    batch_edges: int = BATCH_EDGES,
    descriptors: Sequence[int] | None = None,
) -> Iterator[Atoms]:
    """Predict structures one after the other, as many at a time as have so many edges.

    Args:
        potential: Potential in eval mode.
        frames: Structures; labels are not looked at.
        batch_edges: Directed edges at a time; a structure with more is a batch of its own.
        descriptors: Columns of the descriptors to add, as of :func:`invariant_columns`.

    Yields:
        Copies of the structures with ``equinet_energy`` (eV), ``equinet_stress`` (eV/Å³, tension positive, xx yy zz yz xz xy, where
        there is a volume) in ``info`` and ``equinet_forces`` (eV/Å) in ``arrays``.

    Raises:
        ValueError: If ``batch_edges`` is not positive, or a structure has no atoms or an element that the model does not know.
        FloatingPointError: If a prediction is not finite.
    """
    if batch_edges < 1:
        raise ValueError(f"`batch_edges` must be 1 or more, got {batch_edges}")
    for batch in _batches(potential, frames, batch_edges):
        yield from _predicted(potential, batch, descriptors)


def _batches(
    potential: Potential, frames: Iterable[Atoms], batch_edges: int
) -> Iterator[list[tuple[Atoms, AtomicGraph]]]:
    batch: list[tuple[Atoms, AtomicGraph]] = []
    edges = 0
    for atoms in frames:
        require_known(potential, atoms)
        try:
            graph = potential.graph(atoms)
        except (ValueError, MemoryError) as error:
            raise type(error)(f"{source(atoms)}: {error}") from error
        if batch and edges + graph.num_edges > batch_edges:
            yield batch
            batch, edges = [], 0
        batch.append((atoms, graph))
        edges += graph.num_edges
    if batch:
        yield batch


def _predicted(
    potential: Potential, batch: Sequence[tuple[Atoms, AtomicGraph]], descriptors: Sequence[int] | None
) -> Iterator[Atoms]:
    graph = collate([graph for _, graph in batch])
    found = potential(graph, stress=any(has_volume(atoms) for atoms, _ in batch))
    energies, forces = found.energy.tolist(), found.forces.double().cpu().numpy()
    stresses = None if found.stress is None else found.stress.double().cpu().numpy()
    features = None if descriptors is None else potential.descriptors(graph)[:, list(descriptors)].cpu().numpy()
    end = 0
    for n, (atoms, _) in enumerate(batch):
        start, end = end, end + len(atoms)
        result = atoms.copy()
        result.calc = atoms.calc
        for name in NAMES:
            result.info.pop(name, None)
            result.arrays.pop(name, None)
        if not (np.isfinite(energies[n]) and np.isfinite(forces[start:end]).all()):
            raise FloatingPointError(
                f"{source(atoms)}: the prediction is not finite; are atoms on one spot, or is the model broken?"
            )
        result.info[ENERGY] = energies[n]
        result.arrays[FORCES] = forces[start:end]
        if stresses is not None and has_volume(atoms):
            result.info[STRESS] = _voigt(stresses[n])
        if features is not None:
            result.arrays[DESCRIPTORS] = features[start:end]
        yield result


def _voigt(stress: NDArray[np.float64]) -> NDArray[np.float64]:
    return stress.ravel()[[0, 4, 8, 5, 2, 1]]


def require_known(potential: Potential, atoms: Atoms) -> None:
    """Refuse a structure without atoms or with an element that a model does not know.

    Raises:
        ValueError: Names file, frame and elements.
    """
    if len(atoms) == 0:
        raise ValueError(f"{source(atoms)}: the frame has no atoms; remove it")
    if unknown := sorted(set(atoms.numbers.tolist()) - set(potential.elements)):
        raise ValueError(
            f"{source(atoms)}: holds {', '.join(SYMBOLS[z] for z in unknown)}, which the model does not know (it was made for "
            f"{', '.join(potential.symbols)}); remove the frame, or train a model on data that contain the missing elements"
        )


def invariant_columns(potential: Potential) -> list[int]:
    """Columns of :meth:`equinet.potential.Potential.descriptors` that do not change when a structure is turned or mirrored.

    Raises:
        ValueError: If the model has no features, or none of them is invariant.
    """
    irreps = potential.descriptor_irreps
    even = o3.Irrep("0e")
    columns = [n for (_, ir), part in zip(irreps, irreps.slices()) if ir == even for n in range(part.start, part.stop)]
    if not columns:
        raise ValueError(
            f"the features of {type(potential.model).__name__} are {irreps}, and none of them is invariant (0e)"
        )
    return columns
