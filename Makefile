# make demo   from a fresh clone to molecular dynamics        make test   the whole test suite
# make check  lint and types                                   make wheel  the wheel
# make coverage   the test suite with the lines of equinet that it never runs (slower: Python 3.11 counts them by tracing)
# make reference   mace-torch beside equinet, old versions too, for the tests and scripts that compare with it

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
MACE := mace-torch==0.3.16
OLD_MACE := 0.3.4 0.3.6 0.3.10 0.3.13
MACE_NEEDS := matscipy torch-ema prettytable h5py lmdb orjson python-hostlist configargparse GitPython torchmetrics pandas opt_einsum opt_einsum_fx pyyaml

.PHONY: demo test coverage check wheel reference clean

demo: $(VENV)/installed
	$(BIN)/equinet demo

test: $(VENV)/installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses=8

coverage: $(VENV)/installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses=8 --cov=equinet --cov-report=term:skip-covered

check: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

wheel: $(VENV)/installed-dev
	$(BIN)/python -m build --wheel --outdir dist

# mace-torch pins e3nn 0.4.4 but works with 0.6, hence --no-deps. Older versions, whose files equinet must read, lie in
# folders of their own and are imported by processes of their own.
reference: $(VENV)/installed-dev
	$(PIP) $(MACE_NEEDS)
	$(PIP) --no-deps $(MACE)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade --target .reference/e3nn-0.4.4 e3nn==0.4.4
	for old in $(OLD_MACE); do $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade \
	  --target .reference/mace-$$old mace-torch==$$old || exit 1; done

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "equinet needs Python 3.11 or newer, and $(PYTHON) is $$($(PYTHON) -V 2>&1); try: make PYTHON=python3.12 ..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: $(VENV)/bin/python pyproject.toml constraints.txt
	@echo "installing equinet and the pinned versions of constraints.txt into $(VENV) (a few minutes the first time) ..."
	$(PIP) --editable .
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(PIP) --editable '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) dist build equinet.egg-info equinet-demo
