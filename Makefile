# make demo   from a fresh clone to molecular dynamics        make test   the whole test suite
# make check  lint and types                                   make wheel  the wheel
# make coverage   the test suite with the lines of equinet that it never runs (half as slow again: Python 3.11 counts them by tracing);
#                 make coverage ROOMS="graph nn" runs the tests of some rooms, and counts these
# make reference   mace-torch beside equinet, old versions too, for the tests and scripts that compare with it
# make lock   requirements/ from constraints.txt               make licences   docs/licences.md from requirements/
#
# Every file that `make` installs has a sha256 in requirements/. Files of another origin (torch for a CUDA version of your own, a mirror that
# builds its own wheels) have others: `make demo HASHES=no` takes the pinned versions whatever is in their files.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
HASHES ?= yes
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
PINNED := $(PIP) install --constraint constraints.txt
HASHED := $(PIP) install --require-hashes --no-deps --only-binary :all: --requirement
# The checkout itself, which fetches nothing: it fails where something it needs is not there yet.
CHECKOUT := $(PIP) install --no-index --no-build-isolation --editable
# Whether the build of torch that was installed (there are some for CPUs only) asks for NVIDIA's libraries.
IS_FOR_CUDA := import sys; from importlib.metadata import requires; sys.exit(not any(each.startswith(("nvidia-", "cuda-")) for each in requires("torch")))
MACE := mace-torch==0.3.16
OLD_MACE := 0.3.4 0.3.6 0.3.10 0.3.13
MACE_NEEDS := matscipy torch-ema prettytable h5py lmdb orjson python-hostlist configargparse GitPython torchmetrics pandas opt_einsum opt_einsum_fx pyyaml

.PHONY: demo test coverage check wheel reference lock licences clean

demo: $(VENV)/installed
	$(BIN)/equinet demo

test: $(VENV)/installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses=8

coverage: $(VENV)/installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses=8 --cov-report=term:skip-covered \
	  $(if $(ROOMS),$(ROOMS:%=tests/%) $(ROOMS:%=--cov=equinet/%),--cov=equinet)

check: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

wheel: $(VENV)/installed-dev
	$(BIN)/python -m build --wheel --no-isolation --outdir dist

# mace-torch pins e3nn 0.4.4 but works with 0.6, hence --no-deps. Older versions, whose files equinet must read, lie in
# folders of their own and are imported by processes of their own.
reference: $(VENV)/installed-dev
	$(PINNED) $(MACE_NEEDS)
	$(PINNED) --no-deps $(MACE)
	$(PIP) install --no-deps --upgrade --target .reference/e3nn-0.4.4 e3nn==0.4.4
	for old in $(OLD_MACE); do $(PIP) install --no-deps --upgrade \
	  --target .reference/mace-$$old mace-torch==$$old || exit 1; done

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "equinet needs Python 3.11 or newer, and $(PYTHON) is $$($(PYTHON) -V 2>&1); try: make PYTHON=python3.12 ..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# A build of torch in a folder of wheels (PIP_FIND_LINKS; one for CPUs, say) comes first. Left to itself pip takes the package index's,
# whose hash it knows before it has the file.
# Before it was called equinet-atomistic the checkout was installed as `equinet`, which is another project's name.
$(VENV)/installed: $(VENV)/bin/python pyproject.toml constraints.txt requirements/torch.txt requirements/run.txt requirements/cuda.txt
	@echo "installing equinet and the pinned versions of constraints.txt into $(VENV) (a few minutes the first time) ..."
	@rm -rf equinet.egg-info
	@$(PIP) --quiet uninstall --yes equinet
ifneq ($(HASHES),no)
	@[ -z "$$PIP_FIND_LINKS" ] || ! $(HASHED) requirements/torch.txt --no-index 2>/dev/null || echo "torch is from PIP_FIND_LINKS"
	$(HASHED) requirements/torch.txt --requirement requirements/run.txt
	@if $(BIN)/python -c '$(IS_FOR_CUDA)'; then $(HASHED) requirements/cuda.txt; fi
	$(CHECKOUT) .
else
	@echo "HASHES=$(HASHES): the files are not compared with the hashes in requirements/"
	$(PINNED) pip setuptools
	$(PINNED) --no-build-isolation --editable .
endif
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed requirements/dev.txt
ifneq ($(HASHES),no)
	$(HASHED) requirements/dev.txt
	$(CHECKOUT) '.[dev]'
else
	$(PINNED) --no-build-isolation --editable '.[dev]'
endif
	@touch $@

lock: $(VENV)/installed
	$(HASHED) requirements/lock.txt
	$(BIN)/python scripts/lock.py

licences: $(VENV)/installed
	$(BIN)/python scripts/licences.py

clean:
	rm -rf $(VENV) dist build equinet_atomistic.egg-info equinet.egg-info equinet-demo
