"""Labels that the loss weighs and frames lack: refused, with the setting that finds or forgoes them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from ase import Atoms

from .frames import CheckedLabels, find_labels, has_volume, source, weight_of, with_labels
from .keys import OWN_NAMES, LabelKeys
from .names import held, offered
from .properties import BUILT_IN, property_named


def require_labels(
    frames: Sequence[Atoms],
    wanted: Iterable[str],
    *,
    allow_missing: bool | Collection[str],
    keys: LabelKeys = OWN_NAMES,
) -> None:
    """Refuse frames that lack a label which the loss weighs.

    Frames of weight 0, and labels whose term has weight 0 in a frame, are not asked for.

    Args:
        frames: Frames without the isolated atoms.
        wanted: Names of the properties with a weight above zero.
        allow_missing: Accept frames without a label as long as some frame has it; they then count only in the other terms. Or the names of
            the properties of which that is accepted.
        keys: Keys that the frames were read with.

    Raises:
        ValueError: Names the label, the number of frames without it, the first of them, and what to do. Also if all have weight 0, or a label means
            nothing in a frame without volume.
    """
    frames = [
        atoms if isinstance(atoms.calc, CheckedLabels) else with_labels(atoms, find_labels(atoms)) for atoms in frames
    ]
    for name in wanted:
        if property_named(name).needs_volume:
            open_frames = [atoms for atoms in frames if name in atoms.calc.results and not has_volume(atoms)]
            if open_frames:
                raise ValueError(
                    f"{source(open_frames[0])}: has a {name} but no periodic direction or no volume, so a {name} means nothing there; "
                    f"set its `pbc` and cell or remove the label ({len(open_frames)} such frames)"
                )
        counted = [atoms for atoms in frames if weight_of(atoms, name) > 0]
        if frames and not counted:
            raise ValueError(
                f"all {len(frames)} frames have weight 0 for `{name}`, first {source(frames[0])}; the loss gives it a weight. Correct the "
                f'weights, set `data.weight_key = ""` to count all frames alike, or set `{_loss_weight(name)} = 0`'
            )
        without = [atoms for atoms in counted if name not in atoms.calc.results]
        accepted = allow_missing if isinstance(allow_missing, bool) else name in allow_missing
        if without and not (accepted and len(without) < len(counted)):
            raise ValueError(_complaint(name, without, len(counted), keys))


def _loss_weight(name: str) -> str:
    """Key of the configuration with the weight of a property in the loss."""
    return f"train.{name}_weight" if name in BUILT_IN else f"train.weights.{name}"


def _complaint(name: str, without: Sequence[Atoms], count: int, keys: LabelKeys) -> str:
    there = ", ".join(sorted(held(without[0]))) or "nothing else"
    settings = [f"`{setting}`" for setting in offered(without[0], name, keys)]
    found = f". It looks as if it were there: set {' or '.join(settings)}" if settings else ""
    key = f"data.{name}_key" if name in BUILT_IN else f"data.keys.{name}"
    if len(without) == count:
        remedy = f"set `{_loss_weight(name)} = 0`"
    else:
        remedy = f'set `data.allow_missing = true`, or `data.allow_missing = ["{name}"]` for this label alone'
    asked = keys.of(name)
    called = f"`{name}`" if asked == name else f"`{asked}` ({name})"
    if name == "stress" and keys.virial:
        called += f" and no `{keys.virial}`"
    return (
        f"{len(without)} of {count} frames have no label {called}, first {source(without[0])}; the loss gives it a "
        f"weight. The frame holds: {there}. If the label has another name there, set `{key}`; otherwise {remedy}{found}"
    )
