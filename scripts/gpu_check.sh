#!/usr/bin/env bash
# What needs a CUDA GPU, in one command and without a network: correctness first, then every benchmark.
#
#   scripts/gpu_check.sh [OUT]        default: gpu-check; PYTHON=... for another interpreter than .venv's or python3
#   QUICK=1 scripts/gpu_check.sh      the tests and one size of each benchmark, about ten minutes
#
# Python needs what equinet itself needs (pyproject.toml) and pytest: bring wheels where there is no network.
#
# OUT gets doctor.txt, tests.txt, and of every benchmark a table, JSON and a picture. No benchmark runs where a test fails. Libraries that
# are not installed (cuequivariance with its kernels, openequivariance) are named in the tables as absent, with the reason.
# What was predicted before is in docs/benchmarks/cuda.md; put what was found beside it.
set -euo pipefail
cd "$(dirname "$0")/.."
out=$(realpath -m "${1:-gpu-check}")
python=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
mkdir -p "$out"
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
unset TRITON_INTERPRET  # kernels are to run on the GPU

say() { echo "== $* ($((SECONDS / 60)) min)"; }
equinet() { "$python" -m equinet "$@"; }
# A benchmark that fails leaves its reason, and the others still run.
bench() {
  local name=$1
  shift
  say "bench $name"
  equinet bench "$@" --device cuda --out "$out/$name" 2>&1 | tee "$out/$name.txt" || failed+=("$name")
}
failed=()
# Without mace-torch whole models are measured by themselves; there is nothing to be fast beside then.
against_mace=() against_cuequivariance=()
if "$python" -c 'import mace' 2>/dev/null; then
  against_mace=(--against mace) against_cuequivariance=(--against mace-cuequivariance)
else
  echo "mace-torch is not installed: models are measured without it"
fi

"$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' || { echo "torch sees no CUDA GPU here" >&2; exit 2; }
"$python" -c 'import ase, e3nn, pytest, torch_geometric, typer, vesin' || { echo "install equinet's requirements and pytest first" >&2; exit 2; }
say "doctor"
COLUMNS=120 equinet doctor | tee "$out/doctor.txt"
if grep -q WRONG "$out/doctor.txt"; then echo "an executor is wrong on this machine: see $out/doctor.txt" >&2; exit 1; fi

say "tests"
"$python" -m pytest -q -x --durations=10 tests/ops/kernels tests/ops/external tests/verify/test_backends.py \
  tests/accelerate tests/test_cuda.py 2>&1 | tee "$out/tests.txt"

if [ -n "${QUICK:-}" ]; then
  bench conv conv --problem mace-128x1 --nodes 10000 --neighbours 40 --budget 5 --rounds 9
  bench product product --problem mace-128x1 --nodes 10000 --budget 5 --rounds 9
  bench model model --model 128x0e+1o --atoms si1000 --seconds 10 --rounds 5
else
  bench tp tp --budget 20
  for size in 128x0 128x1 128x2 128x3; do
    bench "conv_$size" conv --problem "mace-$size" --nodes 10000 --neighbours 40 --budget 20
    bench "conv64_$size" conv --problem "mace-$size" --nodes 2000 --neighbours 40 --budget 20 --dtype float64
  done
  for size in 128x0 128x1 128x2; do bench "product_$size" product --problem "mace-$size" --nodes 10000 --budget 20; done
  # Degrees from 4 on, at equal couplings.
  bench conv_l4 conv 64x0e+64x1o+64x2e+64x3o+64x4e 0e+1o+2e+3o+4e 0e+1o+2e+3o+4e --nodes 2000 --neighbours 40 --budget 20
  for model in 128x0e+1o 128x0e+1o+2e; do
    bench "model_$model" model --model "$model" --atoms molecules --atoms si64 --atoms si1000 --atoms si10648 "${against_mace[@]}" --seconds 30
  done
  bench size size --model 128x0e+1o --largest 110592 "${against_cuequivariance[@]}"
fi
if [ ${#failed[@]} -gt 0 ]; then echo "failed: ${failed[*]}" >&2; exit 1; fi
say "done: $out"
