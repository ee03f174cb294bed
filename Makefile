# What a newcomer needs: `make quickstart`, `make test`. PYTHON is the interpreter that makes the environment, INSTALL the
# command that installs packages into it, such as `uv pip install --python .venv/bin/python`.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
PIP := $(VENV)/.pip
INSTALL ?= $(BIN)/python -m pip install --quiet

.DEFAULT_GOAL := help
.PHONY: help install quickstart test test-quick test-oldest lint format types coverage wheel clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

install: $(INSTALLED)  ## make .venv and install Phalanx with what its tests need

$(PIP):
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=24'
	touch $(PIP)

$(INSTALLED): pyproject.toml | $(PIP)
	$(INSTALL) --editable '.[dev]'
	touch $(INSTALLED)

quickstart: $(INSTALLED)  ## train a ResNet-18 on handwritten digits with 2 processes, and evaluate it
	$(BIN)/phalanx train configs/recipes/digits_resnet18.yaml configs/cluster/local.yaml name=quickstart --nproc 2
	$(BIN)/phalanx evaluate runs/quickstart
	@echo "results: runs/quickstart (metrics.jsonl, events.jsonl, checkpoints/)"

test: $(INSTALLED)  ## the whole test suite, on real processes
	$(BIN)/python -m tests

test-quick: $(INSTALLED)  ## one proof of each kind, in about two minutes
	$(BIN)/python -m pytest -m quick

test-oldest: $(INSTALLED)  ## the quick tests on the oldest torch that is supported
	$(BIN)/python -m tests.oldest

lint: $(INSTALLED)  ## ruff, lint and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(INSTALLED)  ## put the code into ruff's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(INSTALLED)  ## mypy
	$(BIN)/mypy

coverage: $(INSTALLED)  ## which lines the tests in this process reach
	$(BIN)/python -m pytest --cov --cov-report=term-missing

wheel: $(INSTALLED)  ## build the wheel into build/ (never dist/, which holds code)
	$(BIN)/python -m build --outdir build .

clean:  ## remove the environment and build output; runs/ stays
	rm -rf $(VENV) .oldest build *.egg-info src/*.egg-info .mypy_cache .pytest_cache .ruff_cache .coverage*
