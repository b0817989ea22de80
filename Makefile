# Everything a fresh machine needs is Python 3.11 or newer: each target sets up what it uses.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
WORKERS ?= 3
STAMP := $(VENV)/.installed
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile
IMPORTED := torch torchvision timm ray scipy sklearn numpy pandas sqlalchemy optuna pydantic
PLUGINS := $(sort $(wildcard plugins/*/pyproject.toml))

.PHONY: help demo test test-slow test-long test-all check-gpu lint docs bench bench-strategies bench-quality chaos clean

help:
	@echo "make demo   search for the best way to carry ImageNet weights over to handwritten digits"
	@echo "make test   all checks, and the tests of twelve minutes"
	@echo "make test-slow  whole searches, faults, clusters, the commands of the documentation: another half"
	@echo "make test-all  both, and repetitions of faults"
	@echo "make check-gpu  on a machine with a GPU: all that a CPU can't prove"
	@echo "make docs   the documentation, into build/docs"
	@echo "make bench  benchmarks against the plain scripts"
	@echo "make bench-strategies  all strategies under equal budgets, on five data sets; hours"
	@echo "make bench-quality  test scores against what people train by hand, at equal times; hours"
	@echo "make chaos  every fault as often as docs/reliability.md says; hours"
	@echo "make clean  remove the virtual environment and the demo's results"

# Bytecode is made of what every process imports, on all cores; pip would make it of everything, on one.
$(STAMP): pyproject.toml $(PLUGINS)
	$(PYTHON) -m venv $(VENV)
	$(PIP) "torch>=2.6,<3" "torchvision>=0.21,<1" "setuptools>=77"
	$(PIP) --no-build-isolation --editable ".[dev]" \
		$(foreach plugin,$(PLUGINS),--editable ./$(dir $(plugin)))
	# Aside: timm imports wandb wherever it is, half a second in each of hundreds of processes of the tests.
	$(PIP) --target $(VENV)/wandb "wandb>=0.19"
	$(BIN)/python -m compileall -qq -j 0 $(addprefix $(VENV)/lib/python*/site-packages/,$(IMPORTED)) || true
	@touch $@

demo: $(STAMP)
	@mkdir -p demo
	$(BIN)/tlsearch run studies/quickstart.yaml --db sqlite:///demo/tlsearch.db

# Without ruff's cache: it keeps verdicts on the order of imports that a new file has changed.
lint: $(STAMP)
	$(BIN)/ruff check --no-cache .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Files are handed to WORKERS processes; each test that measures time allows for the others. A thousand processes
# import tlsearch: they are to find it compiled.
PYTEST := PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile \
	--no-loadscope-reorder

test: lint
	$(PYTEST) -m "not long and not slow and not chaos"

test-slow: $(STAMP)
	$(PYTEST) -m "not long and (slow or chaos)"

test-long: $(STAMP)
	$(PYTEST) -m long

test-all: test test-slow test-long

# Exit code 2: there is no GPU here, and nothing was checked.
check-gpu: $(STAMP)
	$(BIN)/python -m tests.check_gpu $(ARGS)

docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

bench: $(STAMP)
	$(BIN)/python -m tests.benchmarks

# Goes on where it was broken off; hours of one core. ARGS="--hours 1", ARGS=--quick, ARGS=--tables.
bench-strategies: $(STAMP)
	$(PIP) --no-build-isolation --editable ".[bench]"
	$(BIN)/python -m tests.benchmarks.strategies $(ARGS)

# Goes on where it was broken off; hours of both cores. TLSEARCH_BENCH_DATA names a folder with sets no package has.
bench-quality: $(STAMP)
	$(PIP) --no-build-isolation --editable ".[bench]"
	$(BIN)/python -m tests.benchmarks.quality $(ARGS)

# All repetitions of every fault; TLSEARCH_CHAOS=0.3 does three tenths of them. ARGS="-k disk" chooses.
chaos: $(STAMP)
	TLSEARCH_CHAOS=$${TLSEARCH_CHAOS:-1} TLSEARCH_CHAOS_RESULTS=tests/chaos/results/chaos.json OMP_NUM_THREADS=1 \
		$(BIN)/python -m pytest tests/chaos -m chaos --timeout=14400 $(ARGS)
	$(BIN)/python -m tests.chaos.results

clean:
	rm -rf $(VENV) demo
