# Two commands do it all on a machine with python3 (3.11 or newer), pip and venv:
#   make demo    sets everything up, runs the main job on 8 ranks, draws its curves
#   make test    sets everything up, passes all tests, parallel ones included
# Further:
#   make test-all       the tests of make test, those marked slow, and more numbers of ranks
#   make test-quick     the tests that another Python or torch is likeliest to fail, in a few minutes
#   make faults         deliberate faults, each of which tests of make test must find; a table
#   make test-slurm     a real Slurm over five simulated hosts; root and Debian's Slurm packages
#   make test-trainers  the library under transformers, accelerate and lightning, which it installs
#   make test-trackers  runs for pandas, xarray and trackers, and the test for ReFrame; it installs them
#   make test-package   sdist and wheel, the wheel installed in an empty folder and used there
#   make test-lowest    the same with the lowest versions that pyproject.toml allows, which it downloads
#   make test-openmpi   all tests under Open MPI in a second environment; the same bits as under MPICH
#                       (another Python for any of these: PYTHON=python3.13 VENV=.venv-3.13)
#   make wheelhouse     all packages into ./wheelhouse, for a machine without a network; there:
#                       PIP_NO_INDEX=1 PIP_FIND_LINKS=$PWD/wheelhouse make demo
#   make figures        every picture and table of analysis/ from the run files in runs/
#   make docs           the READMEs, the methods' pages and the public docstrings as a site in build/site, links checked
#   make bench          ratios of times into runs/bench.h5 (BENCH=FILE), for `mpisign bench compare OLD NEW`; minutes
#   make endure         kills runs at random moments, for a quarter of an hour; goes on where it was cut short
# TORCH_INDEX=URL takes torch from another package index, as for a CPU-only or another CUDA build.

PYTHON ?= python3
VENV ?= .venv
MPI ?= mpich
TORCH_INDEX ?=
RANKS ?= 8
DEMO = runs/demo
BENCH ?= runs/bench.h5
RATIOS = $(BIN)/mpirun -n 2 $(BIN)/mpisign bench ratios --output $(BENCH)

# further options of pytest, as PYTEST=--durations=40
PYTEST ?=

BIN = $(VENV)/bin
READY = $(VENV)/.ready
TRAINERS = $(VENV)/.trainers
# kernels, configuration, data, the library with its copies of x, threads: what stands on numba, pydantic, torch, Python
QUICK = bits config copies data environment layout optim results rng threads
SERIAL = $(BIN)/python -m pytest tests --ignore tests/parallel --ignore tests/slurm --numprocesses auto --dist worksteal $(PYTEST)

# Open MPI as root, and with more ranks than cores
OPEN_MPI = OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_mpi_yield_when_idle=1 \
    PRTE_MCA_rmaps_default_mapping_policy=:oversubscribe PRTE_MCA_hwloc_default_binding_policy=none

.PHONY: setup wheelhouse demo figures docs bench test test-all test-serial test-parallel test-quick test-slurm test-trainers test-trackers test-package test-lowest test-openmpi faults endure lint kernels clean

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) \
	    --constraint constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt \
	    --editable '.[$(MPI),analysis,docs,frames,test]'
	$(BIN)/python -m mpisign.bits
	touch $@

wheelhouse:
	$(PYTHON) -m pip download --quiet --disable-pip-version-check --dest wheelhouse \
	    $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) --constraint constraints.txt torch
	$(PYTHON) -m pip download --quiet --disable-pip-version-check --dest wheelhouse --find-links wheelhouse \
	    --constraint constraints.txt setuptools wheel '.[$(MPI),analysis,docs,frames,test]'

demo: $(READY)
	$(BIN)/mpirun -n $(RANKS) $(BIN)/mpisign train --overwrite --set run.file=$(DEMO).h5
	$(BIN)/mpisign plot $(DEMO).h5 --output $(DEMO).png

figures: $(READY)
	$(BIN)/python analysis/figures.py

docs: $(READY)
	$(BIN)/sphinx-build --quiet --fresh-env --fail-on-warning --keep-going -c docs -d build/doctrees . build/site

# as many runs as let the rank test of `bench compare` tell anything
bench: $(READY)
	rm -f $(BENCH)
	for run in 1 2 3 4 5 6; do $(RATIOS) > /dev/null || exit; done
	$(RATIOS)

test: lint test-serial test-parallel

test-all: lint
	$(SERIAL) --all
	$(BIN)/python tests/run_parallel.py --all $(PYTEST)

lint: $(READY)
	$(BIN)/ruff check --quiet .
	$(BIN)/ruff format --check --quiet .
	$(BIN)/mypy --no-error-summary

test-serial: $(READY)
	$(SERIAL)

test-parallel: $(READY)
	$(BIN)/python tests/run_parallel.py $(PYTEST)

test-quick: $(READY)
	$(BIN)/python -m pytest $(QUICK:%=tests/test_%.py) --numprocesses auto $(PYTEST)
	$(BIN)/python tests/run_parallel.py -n 2 tests/parallel/test_exchange.py tests/parallel/test_optim.py $(PYTEST)

test-slurm: $(READY)
	$(BIN)/python -m pytest tests/slurm -rs

$(TRAINERS): $(READY)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt \
	    --editable '.[$(MPI),analysis,docs,frames,test,trainers]'
	touch $@

test-trainers: $(TRAINERS)
	$(BIN)/python -m pytest tests/test_trainers.py --numprocesses auto $(PYTEST)

test-trackers: $(READY)
	grep -v '^pillow=' constraints.txt > $(VENV)/trackers.txt  # of which trackio wants an older one
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint $(VENV)/trackers.txt \
	    --editable '.[$(MPI),analysis,docs,frames,test,trackers]' reframe-hpc
	$(BIN)/python -m pytest tests/test_frames.py tests/test_trackers.py tests/test_reframe.py

test-package: $(READY)
	$(BIN)/python -m tests.package

test-lowest: $(READY)
	$(BIN)/python -m tests.package --lowest

test-openmpi: $(READY)
	$(OPEN_MPI) $(MAKE) test-serial test-parallel VENV=$(VENV)-openmpi MPI=openmpi
	$(OPEN_MPI) $(BIN)/python -m tests.same_bits $(VENV) $(VENV)-openmpi

faults: $(READY)
	$(BIN)/python -m tests.faults

endure: $(READY)
	$(BIN)/python -m tests.endure

# numba's cache does not see changes in inlined functions
kernels: $(READY)
	rm -f mpisign/bits/cpu/__pycache__/*.nb?
	$(BIN)/python -m mpisign.bits

clean:
	rm -rf $(VENV) $(VENV)-* build runs *.egg-info .pytest_cache .hypothesis .ruff_cache .import_linter_cache .mypy_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
