# `make demo` and `make test` do all set-up on a fresh machine (python3 and make only).
PYTHON ?= python3
NEWEST_PYTHON ?= python3.13
LOWEST_PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: demo quick test slow lint format newest lowest hosts figures notebooks docs clean

demo: $(INSTALLED)
	$(BIN)/flowprior demo

quick: $(INSTALLED)
	$(BIN)/flowprior demo --quick

# The tests compile far more than they compute: XLA's quick code generators halve their time. They are flags of the
# pinned jaxlib; `make test QUICK_XLA=` runs the code that users get. Workers begin with neighbouring tests, which share
# what their module makes, and take from each other at the end. Each has a core: threads of BLAS would only wait for one.
QUICK_XLA := --xla_cpu_use_fusion_emitters=false --xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1

test: $(INSTALLED)
	OMP_NUM_THREADS=1 XLA_FLAGS="$(QUICK_XLA)" $(BIN)/python -m pytest -n 2 --dist worksteal $(PYTEST)

slow: $(INSTALLED)
	$(BIN)/python -m pytest -m slow

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The same tests with the newest versions of everything, and with the lowest that pyproject.toml names.
newest:
	$(NEWEST_PYTHON) -m venv .venv-newest
	.venv-newest/bin/python -m pip install --quiet --upgrade --upgrade-strategy eager --editable '.[dev]'
	OMP_NUM_THREADS=1 .venv-newest/bin/python -m pytest -n 2 --dist worksteal

lowest: .venv-lowest/.installed
	OMP_NUM_THREADS=1 .venv-lowest/bin/python -m pytest -n 2 --dist worksteal

# The prior in bilby, Cobaya, PyMC, PyTorch and Stan, the slow tests included.
hosts: .venv-hosts/.installed
	.venv-hosts/bin/python -m pytest tests/test_hosts.py -m "slow or not slow"

.venv-hosts/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-hosts
	.venv-hosts/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,bilby,cobaya,pymc,torch]'
	touch $@

# Runs the notebooks, and stores what they show in them.
notebooks: $(INSTALLED)
	$(BIN)/python notebooks/execute.py

# The site, in docs/_build/html; notebooks run the first time, and when they have changed.
docs: .venv-docs/.installed
	.venv-docs/bin/python -m sphinx -W --keep-going -b html docs docs/_build/html

.venv-docs/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-docs
	.venv-docs/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,docs]'
	touch $@

# What the structure is held to: circles of imports, signatures, what is compiled, and where the tests' time goes.
figures: $(INSTALLED)
	$(BIN)/python benchmarks/structure.py
	$(BIN)/python benchmarks/compilation.py
	$(MAKE) test PYTEST=--durations=25

.venv-lowest/.installed: pyproject.toml constraints-lowest.txt
	$(LOWEST_PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/python -m pip install --quiet --constraint constraints-lowest.txt --editable '.[dev]'
	touch $@

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade --constraint constraints.txt pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(INSTALLED)

clean:
	rm -rf $(VENV) .venv-newest .venv-lowest .venv-docs .venv-hosts docs/_build docs/api docs/notebooks docs/results demo_output build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
