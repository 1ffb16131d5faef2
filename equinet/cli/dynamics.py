"""Molecular dynamics with a progress bar, for the command line and the demonstration."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.console import Console

from equinet.md import Ensemble, Observation, Summary, simulate
from equinet.md.dynamics.simulate import require_steps

from .render import progress

if TYPE_CHECKING:
    from ase import Atoms
    from ase.calculators.calculator import BaseCalculator


def run_with_progress(
    atoms: Atoms, calculator: BaseCalculator, *, console: Console, steps: int, ensemble: Ensemble, **settings: Any
) -> Summary:
    """:func:`simulate` with a progress bar and a closing line.

    Args:
        atoms, calculator, steps, ensemble, settings: See :func:`simulate`.
        console: Terminal.
    """
    require_steps(steps)  # before there is a bar
    with progress(console, "steps") as move:

        def show(step: int, observation: Observation) -> None:
            energy = observation.potential_energy / len(atoms)
            move(step, steps, f"{ensemble}  {observation.temperature:5.0f} K  {energy:.4f} eV/atom")

        summary = simulate(atoms, calculator, steps=steps, ensemble=ensemble, progress=show, **settings)
    closing = f"{ensemble}: {summary.step[-1]} steps"
    if summary.step[-1]:
        closing += f", {1e3 * summary.seconds_per_step:.1f} ms per step"
    if ensemble == "nve":
        closing += f", energy drift {summary.drift_mev_per_atom_per_ps:+.3f} meV/atom/ps"
    else:
        half = len(summary.temperature) // 2
        closing += f", {summary.temperature[half:].mean():.0f} K on average over the second half"
    console.print(closing, highlight=False)
    for note in summary.notes:
        console.print(f"note: {note}", highlight=False)
    return summary
