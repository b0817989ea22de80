# Everything a fresh machine needs is Python 3.11 or newer: each target sets up what it uses.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PLUGINS := $(sort $(wildcard plugins/*/pyproject.toml))

.PHONY: help demo test lint bench clean

help:
	@echo "make demo   search for the best way to carry ImageNet weights over to handwritten digits"
	@echo "make test   all checks and tests"
	@echo "make bench  benchmarks against the plain scripts"
	@echo "make clean  remove the virtual environment and the demo's results"

$(STAMP): pyproject.toml $(PLUGINS)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "torch>=2.6,<3" "torchvision>=0.21,<1"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev]" \
		$(foreach plugin,$(PLUGINS),--editable ./$(dir $(plugin)))
	@touch $@

demo: $(STAMP)
	@mkdir -p demo
	$(BIN)/tlsearch run studies/quickstart.yaml --db sqlite:///demo/tlsearch.db

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint
	$(BIN)/python -m pytest

bench: $(STAMP)
	$(BIN)/python -m tests.benchmarks

clean:
	rm -rf $(VENV) demo
