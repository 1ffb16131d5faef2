"""Pictures of a training run."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from equinet.datasets.properties import PROPERTIES
from equinet.runs.files import replace_picture
from equinet.train.metrics import Predictions, errors

from .tables import shown_properties

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NOTHING = (torch.empty(0), torch.empty(0))
COLORS = {"train": "#9aa5b1", "valid": "#e08214", "test": "#2166ac"}


def plot_history(history: Sequence[Mapping[str, Any]], path: str | os.PathLike[str]) -> None:
    """Loss and validation errors against epochs, logarithmic.

    Args:
        history: Records of the epochs.
        path: PNG to write.
    """
    shown = [
        (name, row.shown_unit, f"valid_{name}_rmse_{row.suffix}")
        for name, row in PROPERTIES.items()
        if history and f"valid_{name}_rmse_{row.suffix}" in history[-1]
    ]
    # Here and not above, so that the first step of a training need not wait for it.
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogFormatter, StrMethodFormatter

    figure = Figure(figsize=(4.2 * (1 + len(shown)), 3.6), layout="constrained")
    axes = figure.subplots(1, 1 + len(shown), squeeze=False)[0]
    epochs = [record["epoch"] for record in history]
    line: dict[str, Any] = {"ls": "-", "ms": 3, "marker": "o" if len(epochs) < 40 else None}
    axes[0].plot(epochs, [record["train_loss"] for record in history], color="#555555", label="train", **line)
    axes[0].plot(epochs, [record["valid_loss"] for record in history], color=COLORS["valid"], label="valid", **line)
    axes[0].set_ylabel("loss")
    axes[0].legend(frameon=False)
    for ax, (name, unit, key) in zip(axes[1:], shown):
        values = [record.get(key, np.nan) for record in history]
        ax.plot(epochs, values, color=COLORS["valid"], **line)
        ax.set_ylabel(f"validation RMSE of {name} ({unit})")
    for ax in axes:
        ax.set_yscale("log")
        ax.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        ax.yaxis.set_minor_formatter(LogFormatter(labelOnlyBase=False, minor_thresholds=(2, 0.5)))
        ax.set_xlabel("epoch")
        _clean(ax)
    replace_picture(path, figure, dpi=150)


def plot_parity(parts: Mapping[str, Predictions], path: str | os.PathLike[str]) -> None:
    """Predictions against labels for every quantity that has labels.

    Args:
        parts: Name of each set of frames (train, valid, test) and its predictions; later ones are drawn on top.
        path: PNG to write.
    """
    found = {part: errors(predictions) for part, predictions in parts.items()}
    shown = shown_properties(found.values())
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.4 * len(shown), 4.2), layout="constrained")
    for ax, name in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown):
        low, high = np.inf, -np.inf
        for part, predictions in parts.items():
            label, prediction = (values.numpy() for values in predictions.pairs.get(name, NOTHING))
            there = np.isfinite(label)
            if not there.any():
                continue
            label, prediction = label[there], prediction[there]
            rmse, unit = found[part].rmse[name], PROPERTIES[name].shown_unit
            ax.plot(
                label,
                prediction,
                ".",
                ms=3,
                alpha=0.5,
                color=COLORS.get(part),
                label=f"{part}: RMSE {rmse:.3g} {unit}",
                rasterized=True,
            )
            low, high = min(low, label.min(), prediction.min()), max(high, label.max(), prediction.max())
        pad = 0.03 * (high - low or 1)
        ax.plot([low - pad, high + pad], [low - pad, high + pad], "-", lw=0.8, color="black", zorder=0)
        row = PROPERTIES[name]
        ax.set(
            xlabel=f"{row.label}, label ({row.plot_unit})",
            ylabel=f"{row.label}, model ({row.plot_unit})",
            xlim=(low - pad, high + pad),
            ylim=(low - pad, high + pad),
            aspect="equal",
        )
        ax.locator_params(nbins=5)  # long numbers would run into each other
        ax.legend(frameon=False, markerscale=3, loc="upper left")
        _clean(ax)
    replace_picture(path, figure, dpi=150)


def _clean(ax: Axes) -> None:
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(alpha=0.25, lw=0.5)
