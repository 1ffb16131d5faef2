"""Training of mace-torch on given frames and given batches, for a comparison side by side with equinet.

Everything that decides the result is mace-torch's own and is called, not rewritten: neighbour lists, ``AtomicData`` and
its collation, statistics, model, loss, optimiser and parameter groups, training step, exponential moving average. Sizes
and hyperparameters come from equinet's configuration; what that does not name keeps the default of ``mace_run_train``,
read from its own argument parser. Five things differ from ``mace_run_train``, all on purpose:

* the caller gives the order of the data, so that two packages can train on the same batches, and a last partial batch
  is kept (``mace_run_train`` drops it);
* the learning rate stays as it is (``mace_run_train`` lowers it after 50 epochs without improvement);
* the exponential moving average is on (``mace_run_train`` leaves it off unless asked with ``--ema``);
* the initial weights are drawn right after ``torch.manual_seed(seed)``, whatever was computed before;
* the shift is the mean interaction energy per atom, as for ``--model ScaleShiftMACE``; the default ``--model MACE`` is
  the same class with a shift of zero.

Energies are in eV, lengths in Å, stress is (1/V) ∂E/∂ε in eV/Å³ with tension positive, which is ASE's sign and MACE's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import e3nn
import mace.data
import mace.modules
import mace.tools
import numpy as np
import torch
from ase import Atoms
from ase.stress import voigt_6_to_full_3x3_stress
from mace.tools import torch_geometric
from mace.tools.scripts_utils import get_optimizer, get_params_options
from mace.tools.train import preserve_grad_state, take_step
from torch_ema import ExponentialMovingAverage

from equinet.bench.core.timing import Epoch, timed_epoch
from equinet.models import MACEConfig
from equinet.train import TrainConfig

from .model import build_mace, mace_defaults

KEYS = mace.data.KeySpecification(
    info_keys={"energy": "REF_energy", "stress": "REF_stress"}, arrays_keys={"forces": "REF_forces"}
)
# quantity -> unit in the names of errors, as equinet's Errors.as_json has it
UNITS = {
    "energy": "mev_per_atom",
    "interaction_energy": "mev_per_atom",
    "forces": "mev_per_ang",
    "stress": "mev_per_ang3",
}


class Part(NamedTuple):
    """Frames as mace-torch holds them: the references in float64, and the graphs in the model's precision."""

    configs: list[mace.data.Configuration]
    graphs: list[mace.data.AtomicData]


class Statistics(NamedTuple):
    """Statistics of the training frames that mace-torch uses."""

    e0s: dict[int, float]
    """Energy of the isolated atom of each element, in eV, by ascending atomic number: the order of the one-hot species."""
    avg_num_neighbors: float
    """Divisor of the sum over neighbours."""
    scale: float
    """Factor on the interaction energy of each atom, in eV."""
    shift: float
    """Term added to the interaction energy of each atom, in eV."""


class MaceTrainer:
    """mace-torch with its data, weights, optimiser and running mean of the weights.

    The loss is mace-torch's weighted one: mean over frames of the squared energy error per atom, mean over components of
    the squared force error and, if its weight is not zero, mean over nine components of the squared stress error, in eV,
    eV/Å and eV/Å³.

    Args:
        architecture: Sizes of the model.
        training: Loss weights, learning rate, batch size, seed, precision, device, clipping, decay of the running mean.
        frames: Frames by part (``train``, ``valid``, ``test``) with ``energy`` and ``forces`` (and ``stress``, if it
            has a weight) in their calculator's results.
        isolated: One frame for each element, whose energies are the E0s; none means least squares on the training frames.

    Attributes:
        parameters: Number of weights.
        statistics: Statistics of the training frames.
        model: With the weights of the last step.

    Raises:
        ValueError: If a frame lacks a result, or an element has no isolated atom.
    """

    def __init__(
        self,
        architecture: MACEConfig,
        training: TrainConfig,
        frames: Mapping[str, Sequence[Atoms]],
        isolated: Sequence[Atoms] = (),
    ) -> None:
        self.training = training
        self.with_stress = training.stress_weight > 0
        configs = {
            part: [reference_config(atoms, with_stress=self.with_stress) for atoms in members]
            for part, members in frames.items()
        }
        elements = sorted({int(z) for atoms in frames["train"] for z in atoms.numbers})
        e0s = reference_energies(configs["train"], elements, isolated)
        # mace_run_train's own parser, so that what is not named here is its default and stays so in another version.
        self.arguments = mace.tools.build_default_arg_parser().parse_args(
            ["--name", "reference", "--train_file", "none"]
        )
        self.arguments.lr = training.learning_rate
        self.arguments.clip_grad = training.clip_gradient
        self.arguments.ema_decay = training.ema_decay
        with mace_defaults(training.dtype):
            table = mace.tools.AtomicNumberTable(elements)
            self.parts = {
                part: Part(
                    members,
                    [mace.data.AtomicData.from_config(c, z_table=table, cutoff=architecture.cutoff) for c in members],
                )
                for part, members in configs.items()
            }
            self.statistics = measure(self._loader("train", batch_size=training.batch_size), e0s)
            model = build_mace(architecture, seed=training.seed, **self.statistics._asdict())
            self.model = model.to(training.device)
            self.loss = make_loss(training).to(training.device)
            self.optimizer = get_optimizer(self.arguments, get_params_options(self.arguments, self.model))
            self.ema = ExponentialMovingAverage(self.model.parameters(), decay=self.arguments.ema_decay)
        self.parameters = sum(p.numel() for p in self.model.parameters() if p.requires_grad)

    def train_epoch(self, batches: Sequence[Sequence[int]]) -> Epoch:
        """Train on batches of indices into the training frames."""
        with mace_defaults(self.training.dtype):
            return timed_epoch(self._steps(batches))

    def validate(self) -> dict[str, float]:
        """Errors on the validation frames, with averaged weights; see :func:`errors`."""
        return self._errors("valid")

    def test(self) -> dict[str, float]:
        """Errors on the test frames, with averaged weights; see :func:`errors`."""
        return self._errors("test")

    def describe(self) -> dict[str, Any]:
        """Settings of mace-torch that equinet's configuration does not hold, for JSON."""
        asked = ("optimizer", "amsgrad", "beta", "weight_decay", "clip_grad", "ema_decay")
        return {
            "statistics": {**self.statistics._asdict(), "e0s": list(self.statistics.e0s.values())},
            "loss": repr(self.loss),
            "e3nn_jit_mode": e3nn.get_optimization_defaults()["jit_mode"],
            **{name: getattr(self.arguments, name) for name in asked},
        }

    def _steps(self, batches: Sequence[Sequence[int]]) -> Iterator[float]:
        for batch in self._loader("train", batch_sampler=batches):
            _, step = take_step(
                model=self.model,
                loss_fn=self.loss,
                batch=batch,
                optimizer=self.optimizer,
                ema=self.ema,
                output_args={"forces": True, "virials": False, "stress": self.with_stress},
                max_grad_norm=self.arguments.clip_grad,
                device=torch.device(self.training.device),
            )
            yield float(step["loss"])

    def _errors(self, part: str) -> dict[str, float]:
        loader = self._loader(part, batch_size=self.arguments.valid_batch_size)
        predictions, loss, device = [], 0.0, self.training.device
        with mace_defaults(self.training.dtype), self.ema.average_parameters(), preserve_grad_state(self.model):
            for batch in loader:
                batch = batch.to(device)
                output = self.model(batch.to_dict(), training=False, compute_stress=self.with_stress)
                loss += self.loss(pred=output, ref=batch).item() * batch.num_graphs
                predictions.append(
                    {name: output[name].detach().cpu().double().numpy() for name in UNITS if output[name] is not None}
                )
        configs = self.parts[part].configs
        found = {name: np.concatenate([p[name] for p in predictions]) for name in predictions[0]}
        return {"loss": loss / len(configs), **errors(found, configs, self.statistics.e0s)}

    def _loader(self, part: str, **how: Any) -> torch_geometric.dataloader.DataLoader:
        # A generator of its own: the loader would else draw from torch's global random state.
        generator = torch.Generator().manual_seed(self.training.seed)
        return torch_geometric.dataloader.DataLoader(self.parts[part].graphs, generator=generator, **how)


def reference_config(atoms: Atoms, *, with_stress: bool) -> mace.data.Configuration:
    """One frame as mace-torch's ``Configuration``, with the raw stored results under the keys mace-torch expects.

    Raises:
        ValueError: If the frame carries no energy or forces, or no stress where it is asked for.
    """
    results = atoms.calc.results  # not get_forces(), which would apply constraints
    missing = [name for name in ["energy", "forces"] + ["stress"] * with_stress if name not in results]
    if missing:
        raise ValueError(f"`frames`: {atoms.get_chemical_formula()} has no {missing}; add it or leave the frame out")
    frame = Atoms(atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
    frame.info["REF_energy"] = results["energy"]
    frame.arrays["REF_forces"] = results["forces"]
    if with_stress:
        frame.info["REF_stress"] = voigt_6_to_full_3x3_stress(results["stress"])
    return mace.data.config_from_atoms(frame, key_specification=KEYS)


def reference_energies(
    configs: Sequence[mace.data.Configuration], elements: Sequence[int], isolated: Sequence[Atoms]
) -> dict[int, float]:
    """E0 of each element in eV: the energies of the isolated atoms, or mace-torch's least-squares fit to the frames.

    Raises:
        ValueError: If isolated atoms are given but not for every element.
    """
    if not isolated:
        table = mace.tools.AtomicNumberTable(list(elements))
        return {z: float(e0) for z, e0 in mace.data.compute_average_E0s(list(configs), table).items()}
    e0s = {int(atoms.numbers[0]): atoms.calc.results["energy"] for atoms in isolated}
    missing = [z for z in elements if z not in e0s]
    if missing:
        raise ValueError(f"`isolated` must cover every element, but has no atomic numbers {missing}")
    return {z: e0s[z] for z in elements}


def measure(loader: torch_geometric.dataloader.DataLoader, e0s: dict[int, float]) -> Statistics:
    """Mean number of neighbours, root mean square force and mean interaction energy per atom, as ``mace_run_train``."""
    avg_num_neighbors = mace.modules.compute_avg_num_neighbors(loader)
    mean, rms = mace.modules.scaling_classes["rms_forces_scaling"](loader, np.array([list(e0s.values())]))
    return Statistics(e0s, avg_num_neighbors, scale=float(rms.item()), shift=float(mean.item()))


def make_loss(training: TrainConfig) -> torch.nn.Module:
    """mace-torch's weighted loss, with a stress term only where the stress has a weight."""
    weights = training.energy_weight, training.forces_weight
    if training.stress_weight > 0:
        return mace.modules.WeightedEnergyForcesStressLoss(*weights, training.stress_weight)
    return mace.modules.WeightedEnergyForcesLoss(*weights)


def errors(
    found: Mapping[str, np.ndarray], configs: Sequence[mace.data.Configuration], e0s: Mapping[int, float]
) -> dict[str, float]:
    """Errors of predictions in float64, against the float64 references, in meV units and under equinet's names.

    Args:
        found: Predicted ``energy``, ``interaction_energy``, ``forces`` and, if it is to count, ``stress``.
        configs: The references.
        e0s: Energies of the isolated atoms, in eV.

    Returns:
        RMSE and MAE of ``energy`` (meV/atom: the total energy over the number of atoms), ``forces`` (meV/Å, over
        components) and ``stress`` (meV/Å³, over the nine components, so that a shear counts twice).
        ``interaction_energy`` is the energy error without the E0s: in float32, E0s of thousands of eV round mace-torch's
        total energy to about a meV; these two entries do without that rounding.
    """
    atoms = np.array([len(config.atomic_numbers) for config in configs])
    energy = np.array([config.properties["energy"] for config in configs])
    e0 = np.array([sum(e0s[int(z)] for z in config.atomic_numbers) for config in configs])
    deltas = {
        "energy": (found["energy"] - energy) / atoms,
        "interaction_energy": (found["interaction_energy"] - (energy - e0)) / atoms,
        "forces": found["forces"] - np.concatenate([config.properties["forces"] for config in configs]),
    }
    if "stress" in found:
        deltas["stress"] = found["stress"] - np.stack([config.properties["stress"] for config in configs])
    result = {}
    for name, delta in deltas.items():
        result[f"{name}_mae_{UNITS[name]}"] = 1e3 * float(np.mean(np.abs(delta)))
        result[f"{name}_rmse_{UNITS[name]}"] = 1e3 * float(np.sqrt(np.mean(delta**2)))
    return result
