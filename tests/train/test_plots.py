"""Pictures of a training run can be drawn whatever its length."""

from __future__ import annotations

from pathlib import Path

import pytest

from equinet.train.report.plots import plot_history


@pytest.mark.parametrize("epochs", [1, 39, 40, 300])
def test_the_history_of_a_short_and_of_a_long_run_can_be_drawn(epochs: int, tmp_path: Path) -> None:
    history = [
        {"epoch": n + 1, "train_loss": 1 / (n + 1), "valid_loss": 2 / (n + 1), "valid_forces_rmse_mev_per_ang": 9.0 + n}
        for n in range(epochs)
    ]
    plot_history(history, tmp_path / "history.png")
    assert (tmp_path / "history.png").stat().st_size > 1000
