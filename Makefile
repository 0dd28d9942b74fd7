PYTHON ?= python3
BIN := .venv/bin
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup data run sweep table test reproducible simulate lint clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 22

run: setup ## the lesson's study on the full data, then its table; sets everything up first
	$(BIN)/nnexp study=lesson $(ARGS)
	$(BIN)/nnexp-results table

sweep: setup ## a sweep of your own: make sweep ARGS="dropout=0,0.5 seed=0,1,2"
	$(BIN)/nnexp -m $(ARGS)

table: setup ## the comparison of what has been run
	$(BIN)/nnexp-results table

test: setup ## all tests
	$(BIN)/pytest $(ARGS)

reproducible: setup ## 30 random cells under eight conditions: the same bits? into docs/reproducible.md, 10 minutes
	$(BIN)/python benchmarks/reproducible.py $(ARGS)

simulate: setup ## how often the verdicts are wrong, in simulation: about 20 minutes
	$(BIN)/python benchmarks/simulate_verdicts.py

lint: setup ## style and types
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(BIN)/mypy nnexp

setup: .venv/installed data ## .venv with the package, and the data; what the other targets start with

data: .venv/installed
	@$(BIN)/python -m nnexp.fetch_data

.venv/installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("nnexp needs Python 3.11 or newer: make PYTHON=python3.12 ..." if sys.version_info < (3, 11) else 0)'
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { echo 'Python cannot make virtual environments here; on Debian or Ubuntu: sudo apt-get install python3-venv'; exit 1; }
	$(PYTHON) -m venv .venv
	@echo 'Installing TensorFlow and the rest into .venv; this takes a minute or two.'
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

clean: ## remove .venv and build files; never outputs/
	rm -rf .venv build *.egg-info .pytest_cache .mypy_cache .ruff_cache
