# Every target does its own set-up; Python 3.11 or later and make are all it needs.

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
# Stamps: each is younger than what it was installed from, and missing until the install is complete.
RUN := $(VENV)/.installed-run
DEV := $(VENV)/.installed-dev

PEERS := benchmarks/.venv/.installed

.PHONY: help results test test-long browser-test lint lab notebooks comparison tuning benchmark scaling site data demo clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' Makefile

results: $(RUN) ## top-20 CSVs and the executed notebook in results/ (DATASET=name/or/path for your own data)
	$(PY) run_results.py $(if $(DATASET),--dataset "$(DATASET)")

test: $(DEV) ## all tests but the long ones
	$(PY) -m pytest -m "not long and not browser" --numprocesses 2 --dist loadfile

test-long: $(DEV) ## the tests that take more than ten minutes together
	$(PY) -m pytest -m long

browser-test: $(DEV) ## every notebook in a real browser, screenshots into results/screenshots (Debian's chromium, chromium-driver)
	@command -v chromedriver > /dev/null || apt-get install -y -qq chromium chromium-driver || true
	$(PY) -m pytest -m browser

lint: $(DEV) ## ruff: rules and formatting; notebooks: as generated, run in order, no machine paths, small
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m pytest -q tests/test_notebooks.py -k committed

lab: $(RUN) ## open the notebooks in the browser
	$(PY) -m jupyterlab

notebooks: $(RUN) ## generate the notebooks anew and run them from top to bottom
	$(PY) notebooks/make_notebooks.py --execute

comparison: $(RUN) ## every run behind notebooks/5_comparison.ipynb; those in results/runs stay (from nothing: many hours)
	$(PY) compare.py

tuning: $(RUN) ## every study behind notebooks/6_tuning.ipynb; those in results/tuning go on (from nothing: hours)
	$(PY) tune.py --dataset Amazon_Beauty
	$(PY) tune.py --dataset Amazon_Cell

benchmark: $(RUN) $(PEERS) ## ours against public peers, side by side, into benchmarks/ (about 50 minutes)
	$(PY) benchmarks/benchmark.py

scaling: $(RUN) ## cost curves up to a million sessions and items, into benchmarks/ (about 30 minutes)
	$(PY) benchmarks/scaling.py

site: $(RUN) ## the README and the executed notebooks as static pages: site/index.html
	$(PY) make_site.py

data: $(RUN) ## download and verify the two Amazon datasets
	$(PY) dataset/fetch_amazon.py

demo: $(RUN) ## write dataset/Demo anew, the same bytes every time
	$(PY) dataset/make_demo.py

clean: ## remove .venv, caches, and local weights and results; committed files and data stay
	rm -rf $(VENV) benchmarks/.venv checkpoints results/*.csv results/*.ipynb
	rm -rf site results/screenshots .pytest_cache .ruff_cache .hypothesis
	find . -type d '(' -name __pycache__ -o -name .ipynb_checkpoints ')' -prune -exec rm -rf {} +

# pip takes a package whose install was cut short for a whole one, so after an interruption the
# environment is built anew.
define install
	@command -v "$(PYTHON)" > /dev/null || { echo "$(PYTHON) is not installed: name a Python 3.11 or later with 'make PYTHON=...'."; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is older than Python 3.11: name a later one with 'make PYTHON=...'."; exit 1; }
	@if [ -e $(VENV)/.installing ]; then rm -rf $(VENV); fi
	"$(PYTHON)" -m venv $(VENV)
	@touch $(VENV)/.installing
	$(PY) -m pip install --disable-pip-version-check --requirement $(1) --constraint constraints.txt
	@rm $(VENV)/.installing
	@touch $(RUN) $@
endef

$(RUN): requirements.txt constraints.txt
	$(call install,requirements.txt)

$(DEV): $(RUN) requirements-dev.txt
	$(call install,requirements-dev.txt)

# The peers have an environment of their own: they need older versions of what ours uses.
$(PEERS): benchmarks/requirements-peers.txt
	rm -rf benchmarks/.venv
	"$(PYTHON)" -m venv benchmarks/.venv
	benchmarks/.venv/bin/python -m pip install --disable-pip-version-check torch==2.13.0
	benchmarks/.venv/bin/python -m pip install --disable-pip-version-check -r benchmarks/requirements-peers.txt
	@touch $@
