"""Train mace-torch on given frames and given batches: the other side of a side-by-side comparison with equinet.

Everything that decides the result is mace-torch's own and is called, not rewritten: neighbour lists, ``AtomicData`` and
its collation, statistics, model, loss, optimiser and parameter groups, gradient clipping, exponential moving average,
learning-rate schedule. What is not an argument here keeps the default of ``mace_run_train``, read from its own argument
parser. Four things differ from ``mace_run_train``, all on purpose:

* the caller gives the order of the data, so that two packages can train on the same batches, and a last partial batch
  is kept (``mace_run_train`` drops it);
* the exponential moving average is on (``mace_run_train`` leaves it off unless asked with ``--ema``);
* the initial weights are drawn right after ``torch.manual_seed(seed)``, whatever was computed before;
* the shift is the mean interaction energy per atom, as for ``--model ScaleShiftMACE``; the default ``--model MACE`` is
  the same class with a shift of zero. Pass ``use_shift=False`` for that.

Energies are in eV, lengths in Å, stress is (1/V) ∂E/∂ε in eV/Å³ with tension positive, which is ASE's sign and MACE's.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import ase.io
import e3nn
import mace.data
import mace.modules
import mace.tools
import numpy as np
import torch
from ase import Atoms
from e3nn import o3
from mace.tools import torch_geometric
from mace.tools.scripts_utils import LRScheduler, get_optimizer, get_params_options
from mace.tools.train import preserve_grad_state, take_step
from torch_ema import ExponentialMovingAverage

DTYPES = {"float32": torch.float32, "float64": torch.float64}
KEYS = mace.data.KeySpecification(
    info_keys={"energy": "REF_energy", "stress": "REF_stress"}, arrays_keys={"forces": "REF_forces"}
)


@contextmanager
def mace_defaults(dtype: str, jit_mode: str | None = None) -> Iterator[None]:
    """Give mace-torch the process-wide settings it reads, and put the old ones back, also after an error.

    mace-torch takes the dtype of all it builds (data, constants, weights, losses) from torch's global default; it has no
    argument for it. ``jit_mode`` is e3nn's way to run its generated code.
    """
    if dtype not in DTYPES:
        raise ValueError(f"`dtype` must be one of {sorted(DTYPES)}, but is {dtype!r}")
    dtype_before = torch.get_default_dtype()
    jit_mode_before = e3nn.get_optimization_defaults()["jit_mode"]
    torch.set_default_dtype(DTYPES[dtype])
    try:
        e3nn.set_optimization_defaults(jit_mode=jit_mode or jit_mode_before)
        yield
    finally:
        e3nn.set_optimization_defaults(jit_mode=jit_mode_before)
        torch.set_default_dtype(dtype_before)


def read_frames(path: str | Path) -> list[Atoms]:
    """All frames of an extended-XYZ file, gzipped or not.

    A gzipped file is unpacked in memory first: ASE seeks while it reads, which is slow inside gzip.
    """
    path = Path(path)
    data = path.read_bytes()
    text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode()
    return ase.io.read(io.StringIO(text), ":", format="extxyz")


def reference_config(atoms: Atoms, *, with_forces: bool = True, with_stress: bool = False) -> mace.data.Configuration:
    """One frame as mace-torch's ``Configuration``, with the raw stored results under the keys mace-torch expects.

    The results are taken from the calculator's store, not through ``get_forces()``, which would apply constraints.

    Raises:
        ValueError: If the frame carries no energy, or no forces or stress where these are asked for.
    """
    results = atoms.calc.results if atoms.calc is not None else {}
    wanted = ["energy"] + ["forces"] * with_forces + ["stress"] * with_stress
    missing = [name for name in wanted if name not in results]
    if missing:
        raise ValueError(
            f"`atoms` ({atoms.get_chemical_formula()}) must carry {wanted}, but has no {missing}; "
            f"stored results: {sorted(results)}"
        )
    frame = Atoms(atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
    frame.info["REF_energy"] = float(results["energy"])
    if with_forces:
        frame.arrays["REF_forces"] = np.asarray(results["forces"], dtype=float)
    if with_stress:
        frame.info["REF_stress"] = np.asarray(results["stress"], dtype=float)  # Voigt xx yy zz yz xz xy, or 3x3
    return mace.data.config_from_atoms(frame, key_specification=KEYS)


def build_mace(
    elements: Sequence[int],
    e0s: Mapping[int, float],
    avg_num_neighbors: float,
    scale: float,
    shift: float,
    *,
    channels: int = 64,
    max_l: int = 1,
    sh_degree: int = 3,
    correlation: int = 3,
    cutoff: float = 5.0,
    num_bessel: int = 8,
    first_interaction: str = "RealAgnosticInteractionBlock",
    use_reduced_cg: bool = False,
    seed: int = 1,
    dtype: str = "float32",
    jit_mode: str | None = None,
) -> mace.modules.ScaleShiftMACE:
    """A two-layer MACE as ``mace_run_train`` builds it; torch's default dtype and random state are left as they were.

    Args:
        elements: Atomic numbers, ascending; their order is the order of the one-hot species.
        e0s: Energy of the isolated atom of each element, in eV, by atomic number.
        avg_num_neighbors: What the sum over neighbours is divided by.
        scale: Factor on the interaction energy of each atom, in eV.
        shift: What is added to the interaction energy of each atom, in eV.
        channels: Multiplicity of each degree of the hidden features.
        max_l: Highest degree of the hidden features, all of natural parity: 1 gives ``64x0e+64x1o``.
        sh_degree: Highest degree of the spherical harmonics of an edge.
        correlation: How many neighbour densities are multiplied, in each layer.
        cutoff: Radius of the neighbourhood, in Å.
        num_bessel: Number of radial basis functions.
        first_interaction: Name of the first layer's interaction. ``--model MACE`` takes RealAgnosticInteractionBlock,
            ``--model ScaleShiftMACE`` RealAgnosticResidualInteractionBlock.
        use_reduced_cg: Build the symmetric contraction on cuEquivariance's reduced basis: fewer paths, another model.
            ``mace_run_train`` says no by default; the class itself says yes.
        seed: Seed of the initial weights.
        dtype: ``"float32"`` or ``"float64"``.
        jit_mode: e3nn's ``"eager"``, ``"script"`` or ``"inductor"``; none keeps e3nn's own choice, which is ``"script"``
            in the e3nn that mace-torch pins and ``"eager"`` in newer e3nn with torch 2.10 or later.

    Raises:
        ValueError: If the elements are not ascending, an element has no energy, or the interaction is unknown.
    """
    elements = [int(z) for z in elements]
    if elements != sorted(set(elements)):
        raise ValueError(f"`elements` must be distinct and ascending atomic numbers, but is {elements}")
    missing = [z for z in elements if z not in e0s]
    if missing:
        raise ValueError(f"`e0s` must give an energy for every element, but has none for atomic numbers {missing}")
    if first_interaction not in mace.modules.interaction_classes:
        raise ValueError(
            f"`first_interaction` must be one of {sorted(mace.modules.interaction_classes)}, "
            f"but is {first_interaction!r}"
        )
    hidden_irreps = o3.Irreps([(channels, (degree, (-1) ** degree)) for degree in range(max_l + 1)])
    with mace_defaults(dtype, jit_mode), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return mace.modules.ScaleShiftMACE(
            r_max=cutoff,
            num_bessel=num_bessel,
            num_polynomial_cutoff=5,
            max_ell=sh_degree,
            interaction_cls=mace.modules.interaction_classes["RealAgnosticResidualInteractionBlock"],
            interaction_cls_first=mace.modules.interaction_classes[first_interaction],
            num_interactions=2,
            num_elements=len(elements),
            hidden_irreps=hidden_irreps,
            MLP_irreps=o3.Irreps("16x0e"),
            atomic_energies=np.array([[e0s[z] for z in elements]]),  # (heads, elements)
            avg_num_neighbors=avg_num_neighbors,
            atomic_numbers=elements,
            correlation=correlation,
            gate=mace.modules.gate_dict["silu"],
            pair_repulsion=False,
            distance_transform="None",
            radial_MLP=[64, 64, 64],
            radial_type="bessel",
            atomic_inter_scale=np.array([scale]),  # one per head
            atomic_inter_shift=np.array([shift]),
            heads=["Default"],
            use_reduced_cg=use_reduced_cg,
        )


def reference_energies(
    configs: Sequence[mace.data.Configuration], elements: Sequence[int], isolated_atoms: Sequence[Atoms] | None = None
) -> dict[int, float]:
    """E0 of each element in eV: the energies of the isolated atoms, or mace-torch's least-squares fit to the frames.

    Raises:
        ValueError: If isolated atoms are given but not for every element, or a frame has more than one atom.
    """
    if isolated_atoms is None:
        table = mace.tools.AtomicNumberTable(list(elements))
        return {z: float(e0) for z, e0 in mace.data.compute_average_E0s(list(configs), table).items()}
    e0s = {}
    for atoms in isolated_atoms:
        if len(atoms) != 1:
            raise ValueError(f"`isolated_atoms` must be frames of one atom, but one has {len(atoms)}")
        e0s[int(atoms.numbers[0])] = reference_config(atoms, with_forces=False).properties["energy"]
    missing = [z for z in elements if z not in e0s]
    if missing:
        raise ValueError(f"`isolated_atoms` must cover every element, but has no atomic numbers {missing}")
    return {z: e0s[z] for z in elements}


def evaluate(
    model: mace.modules.ScaleShiftMACE,
    loader: torch_geometric.dataloader.DataLoader,
    configs: Sequence[mace.data.Configuration],
    e0s: Mapping[int, float],
    loss_fn: torch.nn.Module,
    *,
    with_stress: bool,
    device: str,
) -> dict[str, float]:
    """Errors of the model on frames, summed in float64 against the float64 references.

    Args:
        loader: The frames of ``configs``, in their order.
        configs: The references.
        e0s: Energies of the isolated atoms, in eV.
        with_stress: Whether to compute the stress and its errors.

    Returns:
        ``loss``, the mean over frames, and RMSE and MAE of ``energy`` (meV/atom: the total energy over the number of
        atoms), ``forces`` (meV/Å, over components) and ``stress`` (meV/Å³, over the nine components, so that a shear
        counts twice). ``interaction_energy`` is the energy error without the E0s: in float32, E0s of thousands of eV
        round the total energy to about a meV, in reference and prediction; these two entries do without that rounding.
    """
    deltas: dict[str, list[np.ndarray]] = {"energy": [], "interaction_energy": [], "forces": [], "stress": []}
    loss, first = 0.0, 0
    with preserve_grad_state(model):
        for batch in loader:
            batch = batch.to(device)
            output = model(batch.to_dict(), training=False, compute_force=True, compute_stress=with_stress)
            loss += loss_fn(pred=output, ref=batch).item() * batch.num_graphs
            members = configs[first : first + batch.num_graphs]
            first += batch.num_graphs
            value = {
                name: output[name].detach().cpu().double().numpy()
                for name in ("energy", "interaction_energy", "forces", "stress")
                if output[name] is not None
            }
            atoms = np.array([len(config.atomic_numbers) for config in members])
            energy = np.array([config.properties["energy"] for config in members])
            e0 = np.array([sum(e0s[int(z)] for z in config.atomic_numbers) for config in members])
            deltas["energy"].append((value["energy"] - energy) / atoms)
            deltas["interaction_energy"].append((value["interaction_energy"] - (energy - e0)) / atoms)
            deltas["forces"].append(
                value["forces"] - np.concatenate([config.properties["forces"] for config in members])
            )
            if with_stress:
                deltas["stress"].append(value["stress"] - batch.stress.cpu().double().numpy())
    errors = {"loss": loss / first}
    for name, parts in deltas.items():
        if parts:
            delta = 1000 * np.concatenate(parts)  # eV to meV
            errors[f"{name}_rmse"] = float(np.sqrt(np.mean(delta**2)))
            errors[f"{name}_mae"] = float(np.mean(np.abs(delta)))
    return errors


def train_mace(
    train_atoms: Sequence[Atoms],
    valid_atoms: Sequence[Atoms],
    test_atoms: Sequence[Atoms],
    *,
    epochs: int,
    batches: Sequence[Sequence[Sequence[int]]],
    isolated_atoms: Sequence[Atoms] | None = None,
    batch_size: int = 10,
    lr: float = 0.01,
    seed: int = 1,
    dtype: str = "float32",
    energy_weight: float = 1.0,
    forces_weight: float = 100.0,
    stress_weight: float = 0.0,
    channels: int = 64,
    max_l: int = 1,
    sh_degree: int = 3,
    correlation: int = 3,
    cutoff: float = 5.0,
    num_bessel: int = 8,
    first_interaction: str = "RealAgnosticInteractionBlock",
    use_shift: bool = True,
    use_reduced_cg: bool = False,
    jit_mode: str | None = None,
    device: str = "cpu",
    verbose: bool = False,
) -> dict:
    """Train mace-torch and report its errors and times.

    The loss is mace-torch's weighted one: mean over frames of the squared energy error per atom, mean over components of
    the squared force error and, if ``stress_weight`` is not zero, mean over nine components of the squared stress error,
    in eV, eV/Å and eV/Å³. Validation and test use the averaged weights.

    Args:
        train_atoms: Frames to train on, with ``energy`` and ``forces`` (and ``stress``) in their calculator's results.
        valid_atoms: Frames evaluated after each epoch; their loss drives the learning-rate schedule.
        test_atoms: Frames evaluated before the first step and after the last epoch.
        epochs: Number of epochs.
        batches: For each epoch, the batches as lists of indices into ``train_atoms``.
        isolated_atoms: One frame for each element, whose energies are the E0s; none means least squares on the frames.
        batch_size: Frames in a batch of the statistics, as ``mace_run_train`` uses it; the training batches are ``batches``.
        lr: Learning rate.
        seed: Seed of the initial weights.
        dtype: ``"float32"`` or ``"float64"``.
        energy_weight: Weight of the energy term of the loss.
        forces_weight: Weight of the force term of the loss.
        stress_weight: Weight of the stress term of the loss; zero leaves the stress out altogether.
        use_shift: Shift the energy of each atom by the mean interaction energy per atom, or by zero.
        device: Where to train.
        verbose: Print a line after each epoch.

    The remaining arguments are those of :func:`build_mace`.

    Returns:
        What JSON can hold: ``seconds_per_epoch`` (training only: collation, forward, backward, step; the frames are
        turned into ``AtomicData`` once, before), ``cpu_seconds_per_epoch`` (processor time of the same, all threads:
        steadier than wall time on a shared machine), ``train_loss`` (mean over the batches of each epoch), ``valid_initial``,
        ``valid`` (one entry per epoch), ``test_initial``, ``test`` (see :func:`evaluate` for the units),
        ``num_parameters``, ``model`` (elements, E0s, statistics), ``settings``, ``versions``.

    Raises:
        ValueError: If ``batches`` does not fit ``epochs`` and ``train_atoms``, a frame lacks a result, or a test frame
            has an element that the others do not have.
    """
    settings = {
        name: value
        for name, value in locals().items()
        if name not in ("train_atoms", "valid_atoms", "test_atoms", "batches", "isolated_atoms")
    }
    if epochs < 1:
        raise ValueError(f"`epochs` must be at least 1, but is {epochs}")
    if len(batches) < epochs:
        raise ValueError(
            f"`batches` must give one list of batches for each of {epochs} epochs, but gives {len(batches)}"
        )
    for epoch, chunks in enumerate(batches):
        indices = [index for chunk in chunks for index in chunk]
        if indices and not 0 <= min(indices) <= max(indices) < len(train_atoms):
            raise ValueError(
                f"`batches[{epoch}]` must index {len(train_atoms)} frames, but reaches from "
                f"{min(indices)} to {max(indices)}"
            )
    with_stress = stress_weight != 0
    train, valid, test = (
        [reference_config(atoms, with_stress=with_stress) for atoms in part]
        for part in (train_atoms, valid_atoms, test_atoms)
    )
    elements = sorted({int(z) for config in train + valid for z in config.atomic_numbers})
    unseen = sorted({int(z) for config in test for z in config.atomic_numbers} - set(elements))
    if unseen:
        raise ValueError(
            f"`test_atoms` must have the elements of the other frames, but also has atomic numbers {unseen}"
        )
    e0s = reference_energies(train, elements, isolated_atoms)

    # mace_run_train's own parser, so that what is not named here is its default and stays so in another version.
    arguments = mace.tools.build_default_arg_parser().parse_args(["--name", "reference", "--train_file", "none"])
    arguments.lr = lr

    with mace_defaults(dtype, jit_mode):
        table = mace.tools.AtomicNumberTable(elements)
        train_data, valid_data, test_data = (
            [mace.data.AtomicData.from_config(config, z_table=table, cutoff=cutoff) for config in part]
            for part in (train, valid, test)
        )

        def loader(data, **how):
            # A generator of its own: the loader would else draw from torch's global random state.
            return torch_geometric.dataloader.DataLoader(data, generator=torch.Generator().manual_seed(seed), **how)

        avg_num_neighbors = mace.modules.compute_avg_num_neighbors(loader(train_data, batch_size=batch_size))
        mean, rms = mace.modules.scaling_classes["rms_forces_scaling"](
            loader(train_data, batch_size=batch_size), np.array([[e0s[z] for z in elements]])
        )
        scale, shift = float(rms.item()), float(mean.item()) if use_shift else 0.0
        model = build_mace(
            elements,
            e0s,
            avg_num_neighbors,
            scale,
            shift,
            channels=channels,
            max_l=max_l,
            sh_degree=sh_degree,
            correlation=correlation,
            cutoff=cutoff,
            num_bessel=num_bessel,
            first_interaction=first_interaction,
            use_reduced_cg=use_reduced_cg,
            seed=seed,
            dtype=dtype,
            jit_mode=jit_mode,
        ).to(device)
        if with_stress:
            loss_fn = mace.modules.WeightedEnergyForcesStressLoss(energy_weight, forces_weight, stress_weight)
        else:
            loss_fn = mace.modules.WeightedEnergyForcesLoss(energy_weight, forces_weight)
        loss_fn = loss_fn.to(device)
        optimizer = get_optimizer(arguments, get_params_options(arguments, model))
        scheduler = LRScheduler(optimizer, arguments)
        ema = ExponentialMovingAverage(model.parameters(), decay=arguments.ema_decay)
        outputs = {"forces": True, "virials": False, "stress": with_stress}

        def errors(data, configs):
            held = loader(data, batch_size=arguments.valid_batch_size)
            return evaluate(model, held, configs, e0s, loss_fn, with_stress=with_stress, device=device)

        result = {
            "package": "mace-torch",
            "num_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
            "seconds_per_epoch": [],
            "cpu_seconds_per_epoch": [],
            "train_loss": [],
            "valid_initial": errors(valid_data, valid),
            "valid": [],
            "test_initial": errors(test_data, test),
        }
        for epoch in range(epochs):
            batched = loader(train_data, batch_sampler=batches[epoch])
            losses = []
            start, cpu_start = time.perf_counter(), time.process_time()
            for batch in batched:
                _, step = take_step(
                    model=model,
                    loss_fn=loss_fn,
                    batch=batch,
                    optimizer=optimizer,
                    ema=ema,
                    output_args=outputs,
                    max_grad_norm=arguments.clip_grad,
                    device=torch.device(device),
                )
                losses.append(float(step["loss"]))
            if torch.device(device).type == "cuda":
                torch.cuda.synchronize()
            result["seconds_per_epoch"].append(time.perf_counter() - start)
            result["cpu_seconds_per_epoch"].append(time.process_time() - cpu_start)
            result["train_loss"].append(float(np.mean(losses)))
            with ema.average_parameters():
                result["valid"].append(errors(valid_data, valid))
            scheduler.step(metrics=result["valid"][-1]["loss"])
            if verbose:
                now = result["valid"][-1]
                print(
                    f"epoch {epoch + 1:4d}  {result['seconds_per_epoch'][-1]:8.2f} s  "
                    f"train loss {result['train_loss'][-1]:10.4f}  "
                    + "  ".join(f"{name} {now[name]:9.3f}" for name in now if name.endswith("_rmse")),
                    flush=True,
                )
        with ema.average_parameters():
            result["test"] = errors(test_data, test)

    result["model"] = {
        "elements": elements,
        "e0s": {str(z): e0s[z] for z in elements},
        "avg_num_neighbors": avg_num_neighbors,
        "scale": scale,
        "shift": shift,
        "hidden_irreps": str(model.products[0].linear.irreps_out),
    }
    result["settings"] = {
        **settings,
        "frames": {"train": len(train), "valid": len(valid), "test": len(test)},
        "jit_mode": jit_mode or e3nn.get_optimization_defaults()["jit_mode"],
        "loss": repr(loss_fn),
        "optimizer": {name: getattr(arguments, name) for name in ("optimizer", "amsgrad", "beta", "weight_decay")},
        "scheduler": {name: getattr(arguments, name) for name in ("scheduler", "lr_factor", "scheduler_patience")},
        "clip_grad": arguments.clip_grad,
        "ema_decay": arguments.ema_decay,
        "threads": torch.get_num_threads(),
    }
    result["versions"] = {
        **{name: version(name) for name in ("mace-torch", "e3nn", "torch", "numpy", "ase")},
        "python": platform.python_version(),
        "machine": platform.machine(),
    }
    return result


def split_frames(frames: Sequence[Atoms], valid_count: int, seed: int = 1) -> tuple[list[Atoms], list[Atoms]]:
    """A seeded permutation of the frames: the last ``valid_count`` are for validation, the others for training."""
    if not 0 < valid_count < len(frames):
        raise ValueError(f"`valid_count` must be between 1 and {len(frames) - 1}, but is {valid_count}")
    order = np.random.default_rng(seed).permutation(len(frames))
    return [frames[i] for i in order[:-valid_count]], [frames[i] for i in order[-valid_count:]]


def epoch_batches(n_train: int, batch_size: int, epochs: int, seed: int = 1000) -> list[list[list[int]]]:
    """Batches of each epoch: a permutation seeded ``seed + epoch``, epochs counted from 0, cut in order; none dropped."""
    orders = [np.random.default_rng(seed + epoch).permutation(n_train).tolist() for epoch in range(epochs)]
    return [[order[i : i + batch_size] for i in range(0, n_train, batch_size)] for order in orders]


def main(arguments: Sequence[str] | None = None) -> None:
    """Train on extended-XYZ files and write the result as JSON."""
    parser = argparse.ArgumentParser(description=main.__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add = parser.add_argument
    add("--train", required=True, help="extended-XYZ file to train on and to take the validation frames from")
    add("--test", required=True, help="extended-XYZ file to test on")
    add("--isolated", help="extended-XYZ file with one isolated atom per element; else E0s by least squares")
    add("--valid-count", type=int, default=50, help="frames held out for validation")
    add("--epochs", type=int, required=True, help="number of epochs")
    add("--out", required=True, help="JSON file to write")
    add("--stress", action="store_true", help="train on stress too, with --stress-weight")
    add("--energy-weight", type=float, default=1.0, help="weight of the energy term of the loss")
    add("--forces-weight", type=float, default=100.0, help="weight of the force term of the loss")
    add("--stress-weight", type=float, default=1.0, help="weight of the stress term of the loss, with --stress")
    add("--batch-size", type=int, default=10, help="frames in a batch")
    add("--lr", type=float, default=0.01, help="learning rate")
    add("--max-l", type=int, default=1, help="highest degree of the hidden features")
    add("--sh-degree", type=int, default=3, help="highest degree of the spherical harmonics")
    add("--correlation", type=int, default=3, help="neighbour densities multiplied in each layer")
    add("--channels", type=int, default=64, help="multiplicity of each degree of the hidden features")
    add("--cutoff", type=float, default=5.0, help="cutoff radius in Å")
    add("--first-interaction", default="RealAgnosticInteractionBlock", help="interaction of the first layer")
    add("--jit-mode", choices=["eager", "script", "inductor"], help="how e3nn runs its code; else e3nn's own choice")
    add("--dtype", choices=sorted(DTYPES), default="float32", help="precision of data and model")
    add("--seed", type=int, default=1, help="seed of the split and of the initial weights")
    add("--threads", type=int, default=1, help="threads torch may use")
    add("--device", default="cpu", help="where to train")
    given = parser.parse_args(arguments)

    torch.set_num_threads(given.threads)
    train_atoms, valid_atoms = split_frames(read_frames(given.train), given.valid_count, given.seed)
    result = train_mace(
        train_atoms,
        valid_atoms,
        read_frames(given.test),
        isolated_atoms=read_frames(given.isolated) if given.isolated else None,
        epochs=given.epochs,
        batches=epoch_batches(len(train_atoms), given.batch_size, given.epochs),
        batch_size=given.batch_size,
        lr=given.lr,
        seed=given.seed,
        dtype=given.dtype,
        energy_weight=given.energy_weight,
        forces_weight=given.forces_weight,
        stress_weight=given.stress_weight if given.stress else 0.0,
        channels=given.channels,
        max_l=given.max_l,
        sh_degree=given.sh_degree,
        correlation=given.correlation,
        cutoff=given.cutoff,
        first_interaction=given.first_interaction,
        jit_mode=given.jit_mode,
        device=given.device,
        verbose=True,
    )
    Path(given.out).write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
