# Two commands do everything on a fresh machine with Python 3.11 or newer: make run, make test.
PYTHON ?= python3
BIN := .venv/bin
DEMO_SETTINGS ?=
unexport PYTHONDONTWRITEBYTECODE  # else each process of the tests compiles every file again: 20 seconds

.DEFAULT_GOAL := help
.PHONY: help run test test-fast test-all lint types format clean

help:  ## show these targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 14

run: .venv/installed  ## train and test cae and patchcore on the built-in demo data, print metrics, write pictures
	$(BIN)/python -m anomaly_lab experiment=demo rerun=true $(DEMO_SETTINGS)
	$(BIN)/python -m anomaly_lab experiment=demo method=patchcore method.backbone=offline rerun=true

test: lint types test-fast  ## lint, types, fast tests

test-fast: .venv/installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" -n 2 --dist worksteal

test-all: .venv/installed-dev  ## the slow tiers: real data, wheel in an empty environment, accuracy on the demo data
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow -n 2 --dist worksteal

lint: .venv/installed-dev  ## ruff, docstrings against signatures
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pydoclint --quiet anomaly_lab

types: .venv/installed-dev  ## pyrefly
	$(BIN)/pyrefly check --summary=none

format: .venv/installed-dev  ## let ruff write the layout
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove what was installed and built
	rm -rf .venv build dist *.egg-info .pytest_cache .ruff_cache

.venv/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv

.venv/installed: .venv/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[offline]"
	touch $@

.venv/installed-dev: .venv/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch .venv/installed $@
