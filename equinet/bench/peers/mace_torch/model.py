"""mace-torch beside equinet: the same architecture, the same weights, by its own public interface.

Only this folder imports mace-torch, and only when something is built: ``equinet`` does not need it.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from e3nn import o3

from equinet.bench.core import COMPILED, CUEQUIVARIANCE, EAGER
from equinet.bench.models.runners import FORCES, LOSS, SETTINGS, TRAINING, Prediction, Recipe, Runner, set_rate_to_zero
from equinet.convert.mace.forms import arguments_of
from equinet.lazy import how_to_install
from equinet.models import MACEConfig
from equinet.ops import ClebschGordan

# What `--against` names. Compiling takes minutes for each model and structure, so it is for who asks for it.
PEERS = {
    "mace": (EAGER, CUEQUIVARIANCE),
    "mace-eager": (EAGER,),
    "mace-cuequivariance": (CUEQUIVARIANCE,),
    "mace-compiled": (COMPILED,),
}
REMEDY = (
    "pip install matscipy torch-ema prettytable h5py lmdb orjson python-hostlist configargparse GitPython torchmetrics "
    "pandas opt_einsum opt_einsum_fx pyyaml && pip install --no-deps mace-torch==0.3.16"
)
FALLBACK = "without cuequivariance-ops-torch its kernels are absent, and cuEquivariance computes by its naive method"


def require() -> None:
    """Refuse if mace-torch cannot be imported.

    Raises:
        ValueError: With what to install.
    """
    try:
        import mace.modules  # noqa: F401
    except ImportError as error:
        raise ValueError(
            f"mace-torch cannot be imported ({error}), and there is nothing to compare with. It pins an older e3nn than "
            f"equinet needs but works with it, hence: {REMEDY}"
        ) from error


@contextmanager
def mace_defaults(dtype: str | torch.dtype) -> Iterator[None]:
    """Give mace-torch the process-wide dtype it reads, and put the old one back, also after an error.

    mace-torch takes the dtype of all it builds (data, constants, weights, losses) from torch's global default; it has no
    argument for it.
    """
    before = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, dtype) if isinstance(dtype, str) else dtype)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of deprecated calls in mace-torch itself
            yield
    finally:
        torch.set_default_dtype(before)


def differs(config: MACEConfig) -> str | None:
    """Return the reason why mace-torch has no such model; None if it has one."""
    if not all(isinstance(method, ClebschGordan) for method in (config.convolution, config.many_body)):
        return "mace-torch has exact couplings (`cg`) only"
    if config.pseudotensors:
        return "pseudotensors are chosen differently"
    if config.layers == 1 and config.readout_hidden > 0:
        return "a single layer has a linear readout there (`readout_hidden = 0`)"
    if config.layers == 1 and config.readout_layers == "last":
        return "a single layer has no readout there if only the last is read"
    if config.layers > 1 and config.readout_hidden == 0:
        return "several layers have no linear last readout there"
    return None


def build_mace(
    config: MACEConfig,
    e0s: Mapping[int, float],
    avg_num_neighbors: float,
    *,
    scale: float = 1.0,
    shift: float = 0.0,
    heads: Sequence[str] = ("Default",),
    use_reduced_cg: bool = False,
    seed: int = 0,
    **switches: Any,
) -> Any:
    """A ScaleShiftMACE as ``mace_run_train`` builds it, in torch's default dtype; torch's random state is left as it was.

    Args:
        config: Sizes.
        e0s: Energy of the isolated atom in eV by atomic number, ascending; the same for all heads.
        avg_num_neighbors: Divisor of the sum over neighbours.
        scale: Factor on the interaction energy of each atom, in eV; the same for all heads.
        shift: Term added to it, in eV.
        heads: Their names.
        use_reduced_cg: True for cuEquivariance's basis of many-body products, which has fewer paths and is another
            model; ``mace_run_train`` leaves it off.
        seed: Seed of the weights.
        switches: Other arguments of mace-torch's, as ``keep_last_layer_irreps=True``.

    Raises:
        ValueError: If mace-torch has no such model; says why.
    """
    from mace import modules

    if reason := differs(config):
        raise ValueError(f"mace-torch cannot be built like this model: {reason}")
    if use_reduced_cg:
        _require_reduced_couplings()
    arguments = arguments_of(config)
    for name in ("interaction_cls", "interaction_cls_first", "readout_cls"):
        arguments[name] = getattr(modules, arguments[name])
    for name in ("hidden_irreps", "edge_irreps", "MLP_irreps"):
        arguments[name] = arguments[name] and o3.Irreps(arguments[name])
    arguments["gate"] = modules.gate_dict[arguments["gate"]]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return modules.ScaleShiftMACE(
            **arguments,
            num_elements=len(e0s),
            atomic_energies=np.array([list(e0s.values())] * len(heads)),  # (heads, elements)
            avg_num_neighbors=avg_num_neighbors,
            atomic_numbers=list(e0s),
            atomic_inter_scale=np.array([scale] * len(heads)),
            atomic_inter_shift=np.array([shift] * len(heads)),
            heads=list(heads),
            use_reduced_cg=use_reduced_cg,
            **switches,
        )


def read_mace(path: Path, head: str, dtype: str) -> Any:
    """A model file as mace-torch's calculator reads it: it is unpickled, and so code in it is run.

    Args:
        path: Model file.
        head: Name of one of its heads, which the calculator requires; the model has all.
        dtype: Precision of its weights.

    Raises:
        ValueError: If that fails; says why.
    """
    require()
    from mace.calculators import MACECalculator

    try:
        with mace_defaults(dtype):
            return MACECalculator(model_paths=path, device="cpu", default_dtype=dtype, head=head).models[0]
    except Exception as error:  # unpickling calls what the file says
        raise ValueError(f"mace-torch cannot read {path.name}: {type(error).__name__}: {error}") from error


def _require_reduced_couplings() -> None:
    """Refuse if mace-torch would quietly take full couplings instead.

    Raises:
        ValueError: With what to install.
    """
    from mace.tools import cg

    if not getattr(cg, "CUET_AVAILABLE", True):
        raise ValueError(
            "mace-torch makes reduced couplings with cuequivariance-torch, which is not installed: "
            + how_to_install("cuequivariance")
        )


@dataclass(frozen=True)
class MaceRecipe(Recipe):
    """Contender that builds :class:`Mace`.

    Attributes:
        name: Form of execution: ``EAGER``, ``CUEQUIVARIANCE`` or ``COMPILED``.
        config: Sizes.
        elements: Atomic numbers, ascending.
        avg_num_neighbors: Divisor of the sum over neighbours.
        dtype: Name of the precision.
        device: Name of the device.
    """

    name: str
    config: MACEConfig
    elements: tuple[int, ...]
    avg_num_neighbors: float
    dtype: str
    device: str

    def build(self, weights: Any = None) -> Runner:
        """Make the runner, with random weights or those of ``weights``, a ScaleShiftMACE; which is copied.

        Raises:
            ValueError: If it cannot run here; says why.
        """
        with mace_defaults(self.dtype):
            model = copy.deepcopy(weights) if weights is not None else self._random()
            model = model.to(device=self.device, dtype=getattr(torch, self.dtype))
            if self.name == CUEQUIVARIANCE:
                model = with_cuequivariance(model, self.device)
        note = FALLBACK if self.name == CUEQUIVARIANCE and find_spec("cuequivariance_ops_torch") is None else ""
        return Mace(self.name, model, self.config.cutoff, self.dtype, note)

    def _random(self) -> Any:
        return build_mace(self.config, dict.fromkeys(self.elements, 0.0), self.avg_num_neighbors)


def with_cuequivariance(model: Any, device: str) -> Any:
    """Convert a model to cuEquivariance by mace-torch's conversion.

    Raises:
        ValueError: If that is not possible; says why.
    """
    if find_spec("cuequivariance_torch") is None:
        raise ValueError(f"cuequivariance-torch is not installed: {how_to_install('cuequivariance')}")
    try:
        from mace.cli.convert_e3nn_cueq import run

        return run(model, device=torch.device(device).type).to(device)
    # Its kernels raise errors of any type on an unsupported device; the row of the table gives the reason.
    except Exception as error:
        raise ValueError(f"mace-torch's conversion to cuEquivariance fails: {type(error).__name__}: {error}") from error


class Mace:
    """Runner of mace-torch, which makes the calls of its training and its calculator.

    Args:
        name: ``EAGER``, ``CUEQUIVARIANCE`` or ``COMPILED``.
        model: A ScaleShiftMACE.
        cutoff: Å.
        dtype: Precision, by name.
        note: Remark for readers of the numbers.
    """

    def __init__(self, name: str, model: Any, cutoff: float, dtype: str, note: str = "") -> None:
        from mace.modules import WeightedEnergyForcesLoss

        self.name, self.model, self.cutoff, self.dtype, self.note = name, model, cutoff, dtype, note
        self.device = next(model.parameters()).device
        self.parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)
        self._compiled: Any = None
        with mace_defaults(dtype):
            self.loss = WeightedEnergyForcesLoss(LOSS.weights["energy"], LOSS.weights["forces"]).to(self.device)

    def load(self, frames: Sequence[Atoms], labels: Prediction | None = None) -> None:
        with mace_defaults(self.dtype):
            self.batch = batch_of(frames, self.model.atomic_numbers.tolist(), self.cutoff, labels).to(self.device)
            self.inputs = self.batch.to_dict()

    def predict(self) -> Prediction:
        output = self._infer()
        energy, forces = (output[key].detach().double().cpu().numpy() for key in ("interaction_energy", "forces"))
        return Prediction(energy, forces)

    def gradient(self) -> tuple[float, np.ndarray]:
        self.model.requires_grad_(True)
        loss = self._step(torch.optim.SGD(self.model.parameters(), lr=0.0), None)
        gradient = self.model.node_embedding.linear.weight.grad.double().cpu().numpy()
        return loss, gradient.reshape(len(self.model.atomic_numbers), -1)

    def task(self, name: str) -> Callable[[], None]:
        if name == FORCES:
            self._infer()

            def infer() -> None:
                self._infer()

            return infer
        self.model.requires_grad_(True)
        # As mace_run_train's, whose groups of parameters differ in their weight decay only.
        optimizer = torch.optim.Adam(self.model.parameters(), amsgrad=True)
        set_rate_to_zero(optimizer)

        def step() -> None:
            self._step(optimizer, SETTINGS.clip_gradient)

        return step

    def cannot(self, task: str) -> str:
        return "mace-torch does not compile its training step" if (self.name, task) == (COMPILED, TRAINING) else ""

    def calculator(self) -> Any:
        from mace.calculators import MACECalculator

        mode = "default" if self.name == COMPILED else None
        with mace_defaults(self.dtype):
            models = [copy.deepcopy(self.model)]  # the calculator takes the gradients of the weights away for good
            return MACECalculator(models=models, device=str(self.device), default_dtype=self.dtype, compile_mode=mode)

    def _infer(self) -> Any:
        self.model.requires_grad_(False)
        with mace_defaults(self.dtype):
            if self.name != COMPILED:
                return self.model(self.inputs, training=False, compute_force=True)
            if self._compiled is None:
                self._compiled = self.calculator().models[0]
            inputs = dict(self.inputs)
            for key in ("positions", "node_attrs"):  # as its calculator does before it calls the compiled model
                inputs[key] = inputs[key].detach().requires_grad_(True)
            return self._compiled(inputs, training=True, compute_force=True)

    def _step(self, optimizer: torch.optim.Optimizer, clip: float | None) -> float:
        from mace.tools.train import take_step

        with mace_defaults(self.dtype):
            wanted = {"forces": True, "virials": False, "stress": False}
            _, found = take_step(self.model, self.loss, self.batch, optimizer, None, wanted, clip, self.device)
        return float(found["loss"])


def batch_of(
    frames: Sequence[Atoms],
    elements: Sequence[int],
    cutoff: float,
    labels: Prediction | None = None,
    *,
    head: str = "Default",
    heads: Sequence[str] = ("Default",),
) -> Any:
    """Structures as one batch of mace-torch for one of its heads, in torch's default dtype, with labels if there are any."""
    from mace import data, tools

    keys = data.KeySpecification(info_keys={"energy": "REF_energy"}, arrays_keys={"forces": "REF_forces"})
    table, graphs, first = tools.AtomicNumberTable(list(elements)), [], 0
    for n, atoms in enumerate(frames):
        frame = Atoms(atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
        if labels is not None:
            frame.info["REF_energy"] = labels.energy[n]
            frame.arrays["REF_forces"] = labels.forces[first : first + len(frame)]
        first += len(frame)
        config = data.config_from_atoms(frame, key_specification=keys)
        config.head = head
        graphs.append(data.AtomicData.from_config(config, z_table=table, cutoff=cutoff, heads=list(heads)))
    return next(iter(tools.torch_geometric.dataloader.DataLoader(graphs, batch_size=len(graphs))))
