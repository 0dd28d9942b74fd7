PYTHON ?= python3
BIN := .venv/bin
ARGS ?=
TORCH := torch==2.13.0+cpu

.DEFAULT_GOAL := help
.PHONY: help setup data run sweep table report lesson test test-cluster cluster-packages simulate bench bench-quick bench-ledger bench-equivalence bench-scaling chaos reproducible browser lint clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 26

run: setup ## the lesson's study on the full data, then its table; sets everything up first
	$(BIN)/nnexp study=lesson $(ARGS)
	$(BIN)/nnexp-results table

sweep: setup ## a sweep of your own: make sweep ARGS="dropout=0,0.5 seed=0,1,2"
	$(BIN)/nnexp -m $(ARGS)

table: setup ## the comparison of what has been run
	$(BIN)/nnexp-results table

report: setup ## the page outputs/report.html
	$(BIN)/nnexp-results report

lesson: setup ## the lesson, run from the beginning: the page outputs/lesson.html; five minutes
	$(BIN)/jupyter nbconvert --execute --to html --template-file docs/lesson.html.j2 --output-dir outputs docs/lesson.ipynb

browser: ## Chromium, for the tests of the page (Debian, Ubuntu; as root)
	@command -v chromium >/dev/null && command -v chromedriver >/dev/null || \
	  { test "$$(id -u)" = 0 || { echo 'No Chromium, and not root: the tests of the page will be skipped. sudo make browser'; exit 0; }; \
	    apt-get update -qq && apt-get install -y -qq chromium chromium-driver; }

test: setup browser ## all tests
	$(BIN)/pytest $(ARGS)

cluster-packages: ## Slurm, for the tests of hydra/launcher=slurm (Debian, Ubuntu; as root)
	@command -v slurmctld >/dev/null && command -v slurmd >/dev/null && command -v munged >/dev/null || \
	  { test "$$(id -u)" = 0 && command -v apt-get >/dev/null || \
	    { echo 'No Slurm, and not root or not Debian: its tests will be skipped. sudo make cluster-packages'; exit 0; }; \
	    apt-get update -qq && apt-get install -y -qq slurm-wlm munge; }

test-cluster: setup .venv/cluster cluster-packages ## sweeps on a Slurm and a Ray of two nodes, started here; 5 minutes
	$(BIN)/pytest -m cluster tests/cluster $(ARGS)

simulate: setup ## how often the verdicts are wrong, in simulation: about ten minutes
	$(BIN)/python benchmarks/simulate_verdicts.py

bench-ledger: setup ## how long the ledger takes with 10,000 runs in it
	$(BIN)/python benchmarks/bench_ledger.py

bench-scaling: setup .venv/cluster ## what a run costs on each launcher, and what 100,000 runs come to: 15 minutes
	$(BIN)/python benchmarks/scaling.py $(ARGS)

chaos: setup ## kill sweeps at random moments, 100 times (half an hour or more); writes docs/chaos.md
	$(BIN)/python benchmarks/chaos.py $(ARGS)

reproducible: setup ## 30 random cells under eight conditions: the same bits? into docs/reproducible.md, 10 minutes
	$(BIN)/python benchmarks/reproducible.py $(ARGS)

lint: setup ## style and types
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(BIN)/mypy nnexp

bench: .venv/bench data ## how fast, against stock fit and others: benchmarks/RESULTS.md; a quarter of an hour
	$(BIN)/python benchmarks/bench.py $(ARGS)

bench-quick: .venv/bench data ## tries the benchmark itself; its figures mean nothing
	$(BIN)/python benchmarks/bench.py --quick

bench-equivalence: setup ## whether both engines train equally well: benchmarks/EQUIVALENCE.md; can be gone on with
	$(BIN)/python benchmarks/equivalence.py $(ARGS)

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

.venv/bench: .venv/installed
	@echo 'Installing PyTorch (for CPUs), JAX and scikit-learn into .venv.'
	$(BIN)/pip install --quiet --disable-pip-version-check '$(TORCH)' || \
	  $(BIN)/pip install --quiet --disable-pip-version-check '$(TORCH)' --index-url https://download.pytorch.org/whl/cpu
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev,bench]'
	@touch $@

.venv/cluster: .venv/installed
	@echo 'Installing the plugins for Slurm and Ray into .venv.'
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev,slurm,ray]'
	@touch $@

clean: ## remove .venv and build files; never outputs/
	rm -rf .venv build *.egg-info .pytest_cache .mypy_cache .ruff_cache
