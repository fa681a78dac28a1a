# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
#
# Every target sets up what it needs in .venv, once: a stamp file is written when a step is complete, so an interrupted
# set-up goes on where it stopped, and a finished one costs nothing and asks no network.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.NOTPARALLEL:
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV ?= .venv
# More words for pip, for example: make test PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu"
PIP_ARGS ?=
# Arguments of the programs: make test PYTEST_ARGS="-k pool", make demo SCAN=scan.pcd, make bench BENCH_ARGS=--quick
PYTEST_ARGS ?=
DEMO_ARGS ?=
BENCH_ARGS ?=
SCAN ?=

PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check --no-input
STAMPS := $(VENV)/.stamps
CXX_FILES = $(shell find csrc -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh')

# Nobody could use the CUDA module where there is no driver: it is left out there, unless SPARSECONV_CUDA says otherwise.
ifeq ($(origin SPARSECONV_CUDA),undefined)
ifeq ($(wildcard /proc/driver/nvidia/version /dev/nvidiactl /dev/dxg),)
SPARSECONV_CUDA := 0
CUDA_NOTE := no NVIDIA driver here: the CUDA module is left out (SPARSECONV_CUDA=1 builds it all the same)
else
SPARSECONV_CUDA := auto
endif
endif
export SPARSECONV_CUDA

# A module that was deleted by hand is built again.
ifeq ($(wildcard sparseconv/_cpu.*),)
$(shell rm -f $(STAMPS)/core)
endif

.PHONY: help demo test lint format bench bench-native sanitize setup setup-dev clean distclean system

help:  ## Show the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' Makefile

# Where other programs hold a core, GNU OpenMP's threads wait for each other by spinning on the only one left, milliseconds at each of
# hundreds of steps. Fewer turns before they sleep cost an idle machine a tenth (docs/benchmarks.md).
demo test: export GOMP_SPINCOUNT := $(or $(GOMP_SPINCOUNT),1000)

demo: setup  ## Simulate scans, train a small network, label scans; SCAN=file labels a real one
	$(PY) examples/demo.py $(if $(SCAN),--scan "$(SCAN)") $(DEMO_ARGS)

test: setup-dev  ## Run the tests; PYTEST_ARGS="-k name" runs some
	$(PY) -m pytest $(PYTEST_ARGS)

lint: setup-dev  ## Check style and types of everything
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(VENV)/bin/clang-format --dry-run -Werror $(CXX_FILES)
	PY=$(PY) bash tools/typecheck.sh

format: $(STAMPS)/dev  ## Format everything in place
	$(PY) -m ruff check --fix-only .
	$(PY) -m ruff format .
	$(VENV)/bin/clang-format -i $(CXX_FILES)

bench: setup-dev  ## Measure beside spconv on simulated and real scans, about 20 minutes; BENCH_ARGS=--quick takes one
	$(PY) benchmarks/throughput.py --via spconv-api $(if $(SCAN),--scan "$(SCAN)") --output benchmarks/results $(BENCH_ARGS)

bench-native: setup-dev $(if $(SCAN),,build/simulated.bin)  ## Measure the kernels without Python; SCAN=file.bin on a real scan
	$(PY) setup.py -q build_tools
	build/tools/bench_kernels "$(or $(SCAN),build/simulated.bin)" $(BENCH_ARGS)

sanitize: setup-dev  ## Run the native tests under the address and undefined-behaviour sanitizers
	PY=$(PY) bash tools/sanitize.sh

setup: $(STAMPS)/package  ## Set up what `make demo` needs

setup-dev: setup $(STAMPS)/dev  ## Set up what the other targets need

clean:  ## Remove what builds and tests leave behind
	rm -rf build dist *.egg-info sparseconv/_cpu.* sparseconv/_cuda.* .pytest_cache .mypy_cache .ruff_cache .hypothesis
	rm -f $(STAMPS)/core $(STAMPS)/package
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

distclean: clean  ## Remove the virtual environment too
	rm -rf $(VENV)

build/simulated.bin: $(STAMPS)/package
	@mkdir -p build
	$(PY) tools/write_simulated_scan.py $@

# The system's packages are looked at until none is missing.
system:
	@test -e $(STAMPS)/system || bash tools/setup_system.sh $(PYTHON) $(STAMPS)/system

$(STAMPS)/venv: | system
	$(PYTHON) -m venv $(VENV)
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/run: requirements.txt requirements-lock.txt $(STAMPS)/venv | system
	@echo "set-up: installing the pinned packages of requirements.txt into $(VENV) (minutes, the first time)"
	$(PIP) install -qq $(PIP_ARGS) -r requirements.txt -c requirements-lock.txt
	@touch $@

$(STAMPS)/dev: requirements-dev.txt $(STAMPS)/run
	@echo "set-up: installing the pinned packages of requirements-dev.txt into $(VENV)"
	$(PIP) install -qq $(PIP_ARGS) -r requirements-dev.txt -c requirements-lock.txt
	@touch $@

$(STAMPS)/cuda-$(SPARSECONV_CUDA):
	@mkdir -p $(STAMPS) && rm -f $(STAMPS)/cuda-* && touch $@

$(STAMPS)/core: $(CXX_FILES) setup.py $(wildcard tools/*.py) $(STAMPS)/run $(STAMPS)/cuda-$(SPARSECONV_CUDA)
	$(if $(CUDA_NOTE),@echo "set-up: $(CUDA_NOTE)")
	$(PY) setup.py -q build_ext --inplace
	@touch $@

# The editable install; the folders at the top of the tree are part of its map.
$(STAMPS)/package: pyproject.toml setup.py $(wildcard datasets/__init__.py pruning/__init__.py) $(STAMPS)/core
	$(PIP) install -qq --no-deps --no-build-isolation --editable .
	@touch $@
