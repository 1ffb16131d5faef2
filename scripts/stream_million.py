"""Memory and speed of streaming: makes a store of many small frames, prepares a training on it, and takes all batches of an epoch.

    python scripts/stream_million.py                     a million frames, about 4 GB in a temporary folder, a quarter of an hour
    python scripts/stream_million.py --frames 20000      a short one

No model is trained. What is printed is the largest resident memory of this process and of its largest worker, and frames per second.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from equinet.datasets import GraphLoader
from equinet.datasets.store import write_store
from equinet.train import parse_config
from equinet.train.prepare import prepare

GRID = np.array([[x, y, z] for x in range(2) for y in range(2) for z in range(2)]) * 1.6
CUTOFF, BATCH_EDGES = 4.0, 2000


def frames(count: int, seed: int) -> Iterator[Atoms]:
    """Random frames of 4 to 8 atoms of H, C and O, every other one periodic, with random labels."""
    rng = np.random.default_rng(seed)
    calculator = SinglePointCalculator(Atoms())
    for n in range(count):
        size = int(rng.integers(4, 9))
        atoms = Atoms(
            rng.choice([1, 6, 8], size), GRID[:size] + rng.normal(0, 0.05, (size, 3)), cell=[7, 7, 7], pbc=n % 2 == 0
        )
        calculator.results = {
            "energy": -10.0 * atoms.numbers.sum() + rng.normal(),
            "forces": rng.normal(0, 1, (size, 3)),
        }
        atoms.calc = calculator
        yield atoms


def memory() -> str:
    """Largest resident memory so far."""
    own, worker = (resource.getrusage(who).ru_maxrss / 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return f"peak memory {own:.0f} MB, of the largest worker {worker:.0f} MB"


def main() -> None:
    """Write, prepare, stream."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=1_000_000)
    parser.add_argument("--files", type=int, default=10)
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(1)
    print(f"after imports: {memory()}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        first = Path(folder) / "0.aselmdb"
        write_store(first, frames(given.frames // given.files, 0))
        for n in range(1, given.files):
            shutil.copy(first, Path(folder) / f"{n}.aselmdb")
        size = sum(path.stat().st_size for path in Path(folder).iterdir())
        report("made and written (the other files are copies)", given.frames // given.files, began)
        print(f"  {size / 1e9:.2f} GB on disk", flush=True)
        data = {"train": f"{folder}/*.aselmdb", "valid": 0.01, "workers": given.workers}
        config = parse_config({"data": data, "model": {"cutoff": CUTOFF}, "train": {"batch_edges": BATCH_EDGES}})
        began = time.perf_counter()
        prepared = prepare(config)
        report("looked through, edges counted, measured", given.frames, began)
        began = time.perf_counter()
        loader = GraphLoader(prepared.graphs["train"], seed=1, batch_edges=BATCH_EDGES, workers=given.workers)
        print(f"{len(loader):,} batches planned in {time.perf_counter() - began:.1f} s; {memory()}", flush=True)
        began, seen, energy, largest = time.perf_counter(), 0, 0.0, 0
        for batch in loader.epoch(0):
            seen += batch.graph_count
            energy += float(batch.energy.sum())
            largest = max(largest, batch.num_edges)
        report("streamed as batches", seen, began)
        assert seen == len(prepared.graphs["train"])
        assert largest <= BATCH_EDGES
    print(f"largest batch {largest} edges; mean energy {energy / seen:.4f} eV", flush=True)


def report(what: str, count: int, began: float) -> None:
    """Print speed and memory of one stage."""
    seconds = time.perf_counter() - began
    print(f"{what}: {count:,} frames in {seconds:.0f} s, {count / seconds:,.0f} frames/s; {memory()}", flush=True)


if __name__ == "__main__":
    main()
