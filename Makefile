# make demo    install into .venv, explain the sample photos with the embedded network, draw demo.png
# make test    install and run all tests
# make lint, types, docs, bench, clean
#
# Nothing but Python >= 3.11 (with its venv module) is needed. Settings, all optional:
#   make PYTHON=/path/to/python3.12 ...       another interpreter
#   make PIP_FLAGS="--index-url URL" ...      another package index, for example one with CPU-only builds of torch

PIP_FLAGS ?=
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help demo test lint types docs bench clean

help:
	@sed -e '/^#/!q' -e 's/^# \{0,1\}//' Makefile

# the four explanations of Montavon et al. 2019, figure 10.4
demo: $(READY)
	$(BIN)/relprop explain --samples \
	  --composite lrp_zero --composite epsilon:epsilon=0.25,epsilon_mode=std --composite gamma --composite montavon2019 \
	  -o demo.png

# One process a core, each with one thread: most of the time goes into torch.export, which uses one.
test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

# Docstrings and pages are examples that run.
docs: $(READY)
	$(BIN)/python -m pytest -q src
	$(BIN)/python -m pytest -q tests/test_docs.py

# Ratios within one run; nothing else should run meanwhile. The first writes docs/performance.md (about 25 minutes on two
# cores; `python -m benchmarks.speed --quick` takes one); the extra `bench` holds the libraries compared with.
bench: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) -e '.[bench]'
	$(BIN)/python -m benchmarks.speed
	$(BIN)/python benchmarks/pixel_flipping.py
	$(BIN)/python benchmarks/recurrent.py

clean:
	rm -rf $(VENV) build dist demo.png relprop.png .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find src tests scripts -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamp is written last, so an installation that was interrupted starts again.
$(READY): pyproject.toml
	@set -e; for python in "$(PYTHON)" python3.13 python3.12 python3.11 python3; do \
	  if [ -n "$$python" ] && "$$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	    echo "installing into $(VENV) with $$python"; \
	    "$$python" -m venv $(VENV); \
	    $(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) -e '.[all]'; \
	    touch $@; exit 0; \
	  fi; \
	done; \
	echo "make: no Python >= 3.11 with venv and ensurepip found (on Debian: apt-get install python3-venv); name one with PYTHON=..." >&2; exit 1
