# Every target installs what it needs. The only requirements are make and Python 3.11 or later.

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
# Stamp files, written when an installation is complete.
RUN := $(VENV)/.installed-run
DEV := $(VENV)/.installed-dev

PEERS := benchmarks/.venv/.installed

.PHONY: help results test test-long browser-test lint lab notebooks sync comparison tuning benchmark scaling data demo clean

# An unknown variable is an error.
VARIABLES := PYTHON DATASET K MODELS EPOCHS THOROUGH BUDGET_MINUTES NOTEBOOK ARGS
UNKNOWN := $(filter-out $(VARIABLES),$(foreach v,$(.VARIABLES),$(if $(findstring command line,$(origin $v)),$v)))
ifneq ($(strip $(UNKNOWN)),)
$(error there is no variable $(strip $(UNKNOWN)); the variables are $(VARIABLES))
endif

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' Makefile

# DATASET=name, folder or log; K=10 MODELS=GRU4REC,Ensemble EPOCHS=5; THOROUGH=1 or BUDGET_MINUTES=10 tries more models.
RESULTS = $(if $(DATASET),--dataset "$(DATASET)") $(if $(K),--k "$(K)") $(if $(MODELS),--models "$(MODELS)") \
	$(if $(EPOCHS),--epochs "$(EPOCHS)") $(if $(filter-out 0,$(THOROUGH)),--thorough) \
	$(if $(BUDGET_MINUTES),--budget-minutes "$(BUDGET_MINUTES)")

results: $(RUN) ## top-20 CSVs and the executed notebook in results/ (DATASET=shop.csv K=10 MODELS=GRU4REC THOROUGH=1 BUDGET_MINUTES=10)
	$(PY) -m experiments.results $(strip $(RESULTS))

test: $(DEV) ## all tests except the long ones
	$(PY) -m pytest -m "not long and not browser" --numprocesses 2 --dist loadfile

test-long: $(DEV) ## the long tests (more than ten minutes)
	$(PY) -m pytest -m long

browser-test: $(DEV) ## run every notebook in Chromium; screenshots go to results/screenshots (Debian: chromium, chromium-driver)
	@command -v chromedriver > /dev/null || apt-get install -y -qq chromium chromium-driver || true
	$(PY) -m pytest -m browser

# Lint only the files that git tracks, so that scratch notebooks are ignored. Outside of git, lint all files.
TRACKED := $(shell git ls-files '*.py' '*.ipynb' 2> /dev/null)

lint: $(DEV) ## check code and formatting with ruff, and that notebooks are in sync and have clean outputs
	$(PY) -m ruff check $(or $(TRACKED),.)
	$(PY) -m ruff format --check --force-exclude $(or $(TRACKED),.)
	$(PY) -m pytest -q tests/notebooks -k committed

lab: $(RUN) ## open the notebooks in JupyterLab (ARGS="--no-browser --port 9000" is passed on)
	$(PY) -m jupyterlab $(if $(filter 0,$(shell id -u)),--allow-root) $(ARGS)

notebooks: $(RUN) ## execute all notebooks in place, or one: NOTEBOOK=2_NARM
	$(PY) notebooks/execute.py $(NOTEBOOK)

sync: $(RUN) ## copy the model notebooks' shared cells from 0_GRU4REC.ipynb and their classes from models/
	$(PY) notebooks/sync.py

comparison: $(RUN) ## train the runs of notebook 5 that are missing in results/runs (from scratch: many hours)
	$(PY) -m experiments.compare

tuning: $(RUN) ## run or continue the studies of notebook 6 (from scratch: hours)
	$(PY) -m experiments.tune --dataset Amazon_Beauty
	$(PY) -m experiments.tune --dataset Amazon_Cell

benchmark: $(RUN) $(PEERS) ## compare the speed with public libraries; results go to benchmarks/ (about 50 minutes)
	$(PY) benchmarks/benchmark.py

scaling: $(RUN) ## measure cost up to a million sessions and items; results go to benchmarks/ (about 30 minutes)
	$(PY) benchmarks/scaling.py

data: $(RUN) ## download and verify the two Amazon datasets
	$(PY) dataset/fetch.py

demo: $(RUN) ## generate dataset/Demo again (always the same bytes)
	$(PY) dataset/make_demo.py

clean: ## remove .venv, caches, local weights and results; keep data and committed files
	rm -rf $(VENV) benchmarks/.venv checkpoints results/*.csv results/*.ipynb
	rm -rf results/screenshots .pytest_cache .ruff_cache .hypothesis
	find . -type d '(' -name __pycache__ -o -name .ipynb_checkpoints ')' -prune -exec rm -rf {} +

# Two `make` at once would install into one .venv. The second one waits for the lock, which ends with its process, and
# then finds that nothing is left to do.
LOCK := import fcntl, subprocess, sys; file = open("Makefile"); fcntl.flock(file, fcntl.LOCK_EX); sys.exit(subprocess.call(sys.argv[1:]))

ifndef MAKE_HAS_LOCK
define install
	@command -v "$(PYTHON)" > /dev/null || { echo "$(PYTHON) is not installed: name a Python 3.11 or later with 'make PYTHON=...'."; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is older than Python 3.11: name a newer Python with 'make PYTHON=...'."; exit 1; }
	@MAKE_HAS_LOCK=1 "$(PYTHON)" -c '$(LOCK)' $(MAKE) --no-print-directory $@
endef
else
# pip does not notice that the installation of a package was interrupted. After an interruption, the environment is
# therefore created again.
define install
	@if [ -e $(VENV)/.installing ]; then rm -rf $(VENV); fi
	"$(PYTHON)" -m venv $(VENV)
	@touch $(VENV)/.installing
	$(PY) -m pip install --disable-pip-version-check --requirement $(1) --constraint constraints.txt
	@rm $(VENV)/.installing
	@touch $(RUN) $@
endef
endif

$(RUN): requirements.txt constraints.txt
	$(call install,requirements.txt)

$(DEV): $(RUN) requirements-dev.txt
	$(call install,requirements-dev.txt)

# The peer libraries need older versions of some packages, so they have a separate environment.
$(PEERS): benchmarks/requirements-peers.txt
	rm -rf benchmarks/.venv
	"$(PYTHON)" -m venv benchmarks/.venv
	benchmarks/.venv/bin/python -m pip install --disable-pip-version-check torch==2.13.0
	benchmarks/.venv/bin/python -m pip install --disable-pip-version-check -r benchmarks/requirements-peers.txt
	@touch $@
