"""Error of CP decompositions of coupling tensors against their rank: docs/benchmarks/cp.md, cp.json, cp.png."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt

from equinet.ops import CPDecomposed, TensorProductSpec
from equinet.ops.cp import coupling_tensor, cp_factors
from equinet.ops.expressivity import explain

# name: irreps of both inputs and of the output, ranks, and the rank of the exact Gaunt rule where it is the same paths
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks"))
    out = parser.parse_args().out
    found = {}
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
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
        style = "-" if name.startswith("all") else "--" if name.startswith("true") else ":"
        axes.plot(ranks, [max(row["error"], 1e-16) for row in rows], style, marker="o", markersize=4, label=name)
    axes.set(yscale="log", xlabel="rank", ylabel="error of the tensor, relative", ylim=(1e-16, 2))
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(out / "cp.png", dpi=150)
    (out / "cp.json").write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
