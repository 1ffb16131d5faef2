"""Error of CP decompositions of coupling tensors against their rank: docs/benchmarks/cp.md, cp.json, cp.png."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt

from equinet.ops import CPDecomposed, TensorProductSpec
from equinet.ops.analysis import explain
from equinet.ops.coupling.cp import coupling_tensor, cp_factors

# name: irreps of both inputs and of the output, ranks
TENSORS = {
    "all paths, degree 1": ("0e+1e", "0e+1e", "0e+1e", (4, 5, 6, 7, 8, 10)),
    "all paths, degree 2": ("0e+1e+2e", "0e+1e+2e", "0e+1e+2e", (10, 15, 20, 24, 28, 32, 36)),
    "all paths, degree 3": ("0e+1e+2e+3e",) * 3 + ((24, 40, 52, 63, 80, 92, 104),),
    "true tensors, degree 1": ("0e+1o", "0e+1o", "0e+1o", (3, 4, 5, 6, 8)),
    "true tensors, degree 2": ("0e+1o+2e",) * 3 + ((8, 12, 16, 20, 24),),
    "true tensors, degree 3": ("0e+1o+2e+3o",) * 3 + ((16, 24, 32, 40, 50, 64),),
    "MACE convolution, features to degree 1": ("0e+1o", "0e+1o+2e+3o", "0e+1o+2e+3o", (8, 16, 24, 32, 40)),
    "MACE convolution, features to degree 2": ("0e+1o+2e", "0e+1o+2e+3o", "0e+1o+2e+3o", (16, 24, 32, 40, 56)),
}


ABOUT = """# CP decompositions of coupling tensors

How many products of one number of each input a coupling tensor takes, by `python scripts/cp_curve.py`: alternating least squares and
Levenberg-Marquardt steps from six starts, float64, one thread, processor seconds. The error is that of the tensor, relative; the
equivariance error is that of the product of turned inputs against the turned product, mean over random rotations and inputs.
"All paths" counts every coupling of irreps up to a degree as allowed, odd l1 + l2 + l3 too (irreps labelled even, as in
Tensor Decomposition Networks); "true tensors" are what a MACE carries.

There is no cheap approximation: the error falls slowly and then, near the rank at which the number of parameters suffices, to rounding.
Published errors for all paths up to degree 2: 0.60, 0.42, 0.21, 0.02 at ranks 10, 15, 20, 28 (arXiv 2507.01131, equivariance error in a
network). For comparison, the Gaunt tensor, which has the same paths as true tensors with other strengths, is exact with 6, 24 and
32 points for degrees 1, 2, 3.

![error against rank](cp.png)
"""


def main() -> None:
    """Print and draw the errors of CP decompositions by rank."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks"))
    out = parser.parse_args().out
    found: dict[str, Any] = {}
    for name, (one, two, to, ranks) in TENSORS.items():
        tensor, rows = coupling_tensor(one, two, to), []
        for rank in ranks:
            began = time.process_time()
            error = cp_factors(tensor, rank).error
            seconds = time.process_time() - began
            turned = explain(TensorProductSpec(one, two, to), CPDecomposed(rank=rank)).as_json()["equivariance_error"]
            rows.append({"rank": rank, "error": error, "equivariance_error": turned["float64"], "seconds": seconds})
            print(name, rows[-1], flush=True)
        found[name] = {"shape": tensor.shape, "rows": rows}
    (out / "cp.json").write_text(json.dumps(found, indent=1))
    (out / "cp.md").write_text(markdown(found))
    draw(found, out / "cp.png")


def draw(found: dict[str, Any], path: Path) -> None:
    """Errors against ranks, a line for every tensor."""
    figure, axes = plt.subplots(figsize=(9, 4.5), layout="constrained")
    for name, tensor in found.items():
        ranks, errors = ([row[key] for row in tensor["rows"]] for key in ("rank", "error"))
        style = "-" if name.startswith("all") else "--" if name.startswith("true") else ":"
        axes.plot(ranks, [max(error, 1e-16) for error in errors], style, marker="o", markersize=4, label=name)
    axes.set(yscale="log", xlabel="rank", ylabel="error of the tensor, relative", ylim=(1e-16, 2))
    axes.legend(fontsize=8, bbox_to_anchor=(1.01, 1), loc="upper left")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


def markdown(found: dict[str, Any]) -> str:
    """A line for every tensor, errors by rank."""
    lines = [ABOUT]
    for name, tensor in found.items():
        lines += [
            f"## {name}, {' x '.join(map(str, tensor['shape']))}",
            "",
            "| rank | error of the tensor | equivariance error | s |",
        ]
        lines += ["|---:|---:|---:|---:|"]
        for row in tensor["rows"]:
            error, turned = (f"{row[key]:.1e}" for key in ("error", "equivariance_error"))
            lines.append(f"| {row['rank']} | {error} | {turned} | {row['seconds']:.1f} |")
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
