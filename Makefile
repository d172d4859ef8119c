# Two commands do it all on a machine with python3 (3.11 or newer), pip and venv:
#   make demo    sets everything up, runs the main job on 8 ranks, draws its curves
#   make test    sets everything up, passes all tests, parallel ones included
# TORCH_INDEX=URL takes torch from another package index, as for a CPU-only or another CUDA build.

PYTHON ?= python3
VENV ?= .venv
TORCH_INDEX ?=
RANKS ?= 8
DEMO = runs/demo

BIN = $(VENV)/bin
READY = $(VENV)/.ready

.PHONY: setup demo test test-serial test-parallel lint kernels clean

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) \
	    --constraint constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt \
	    --editable '.[mpich,analysis,test]'
	$(BIN)/python -m mpisign.bits
	touch $@

demo: $(READY)
	$(BIN)/mpirun -n $(RANKS) $(BIN)/mpisign train --overwrite --set run.file=$(DEMO).h5
	$(BIN)/python analysis/curves.py $(DEMO).h5 --output $(DEMO).png

test: lint test-serial test-parallel

lint: $(READY)
	$(BIN)/ruff check --quiet .
	$(BIN)/ruff format --check --quiet .

test-serial: $(READY)
	$(BIN)/python -m pytest tests --ignore tests/parallel --numprocesses auto --dist worksteal

test-parallel: $(READY)
	$(BIN)/python tests/run_parallel.py

# numba's cache does not see changes in inlined functions
kernels: $(READY)
	rm -f mpisign/bits/cpu/__pycache__/*.nb?
	$(BIN)/python -m mpisign.bits

clean:
	rm -rf $(VENV) runs *.egg-info .pytest_cache .hypothesis .ruff_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
