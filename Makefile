# `make test` and `make demo` each do everything on a machine with Python 3.10 to 3.12, git and make.
# Settings, on the command line: PYTHON=python3.11 (makes the environment), VENV=folder (where it is), JOBS=2 (processes
# that run tests).

PYTHON ?= python3
VENV ?= .venv

BIN := $(abspath $(VENV))/bin
PY := $(BIN)/python
UV := $(BIN)/uv
STAMP := $(VENV)/.splatkit-ns-installed
LOCK := requirements.lock
FUZZ_LOCK := requirements-fuzz.lock

# Nothing runs for ever: the limits are many times what two busy cores need.
CHECK_LIMIT := timeout --kill-after=30s 20m
TEST_LIMIT := timeout --kill-after=30s 90m

export UV_PYTHON_DOWNLOADS = never
export UV_HTTP_TIMEOUT ?= 300
export PYRIGHT_PYTHON_IGNORE_WARNINGS = 1
ifdef PIP_INDEX_URL  # uv does not read pip's setting
export UV_DEFAULT_INDEX ?= $(PIP_INDEX_URL)
endif

JOBS ?= 2
KILLS ?= 200
INPUTS ?= 5000

.DEFAULT_GOAL := help
.PHONY: help test lint docs faults demo lock clean

help:
	@echo "make demo   train on a small scene, evaluate and export it; results in demo/"
	@echo "make test   style, types, import contract and tests; needs no GPU"
	@echo "make lint   the first three of these"
	@echo "make docs   the documentation as a site, in site/index.html"
	@echo "make faults the long form of the fault tests: 200 kills, thousands of inputs a fuzz test (docs/reliability.md)"
	@echo "make lock   refresh requirements*.lock from pyproject.toml (UPGRADE=1: with the newest versions)"
	@echo "make clean  remove caches, build products and demo/ (the environment stays: rm -r $(VENV))"

# Threads that wait sleep, as two processes of tests, and whatever else runs, want the cores.
test: lint
	OMP_WAIT_POLICY=passive $(TEST_LIMIT) $(PY) -m pytest -n $(JOBS) --dist loadfile \
	    -m "not gpu and not slow and not browser"

lint: $(STAMP)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(CHECK_LIMIT) $(BIN)/pyright --pythonpath $(PY)
	$(CHECK_LIMIT) $(BIN)/lint-imports --no-cache

docs: $(STAMP)
	$(CHECK_LIMIT) $(PY) -m sphinx --fail-on-warning --keep-going --quiet --builder html docs site
	@echo "The documentation is in site/index.html"

# The last line breaks each promise once and sees that a test notices. atheris may be missing where it has no wheel.
faults: $(STAMP)
	$(UV) pip install --python $(PY) --only-binary :all: --require-hashes -r $(FUZZ_LOCK) \
	    || echo "make: atheris does not install here; the fuzz tests that need it are left out"
	SPLATKIT_FAULT_KILLS=$(KILLS) SPLATKIT_FUZZ_INPUTS=$(INPUTS) \
	    $(PY) -m pytest tests/faults tests/splat -o timeout=7200 -m "not gpu and not browser"
	$(PY) -m tests.faults.atheris_readers $$((10 * $(INPUTS)))
	$(PY) -m tests.faults.broken_promises

demo: $(STAMP)
	$(PY) examples/run_demo.py

lock: $(UV)
	$(compile) pyproject.toml --group dev --output-file $(LOCK)
	$(compile) --group fuzz --output-file $(FUZZ_LOCK)

compile = $(UV) pip compile --universal --python-version 3.10 --generate-hashes --no-emit-index-url \
	--no-emit-find-links --custom-compile-command "make lock" $(if $(UPGRADE),--upgrade) --quiet

clean:
	rm -rf build dist site demo outputs atheris-* *.egg-info .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find splatkit_ns tests examples benchmarks -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

# The environment. The stamp is newer than what it was made from, so a second run does nothing. Bytecode is compiled now:
# where PYTHONDONTWRITEBYTECODE is set, every start would otherwise compile all that it imports.
$(STAMP): $(LOCK) pyproject.toml | $(UV)
	$(UV) pip install --python $(PY) --compile-bytecode --require-hashes -r $(LOCK)
	$(UV) pip install --python $(PY) --no-deps --no-build-isolation -e .
	$(PY) -m compileall -q splatkit_ns tests examples benchmarks
	@touch $@

# uv installs fast; the lock says which uv.
$(UV): | $(PY)
	@$(call python_fits,$(PY))
	@$(PY) -m pip --version >/dev/null 2>&1 || $(PY) -m ensurepip --upgrade
	@sed -n '/^uv==/,/# via/p' $(LOCK) > $(VENV)/uv.lock
	$(PY) -m pip install --disable-pip-version-check --quiet --require-hashes -r $(VENV)/uv.lock

$(PY):
	@$(call python_fits,$(PYTHON))
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "make: $(PYTHON) lacks the modules venv and \
	ensurepip: install them (Debian, Ubuntu: apt install python3-venv)." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# $(call python_fits,PROGRAM): ends with one message where the locked packages cannot be installed.
python_fits = \
	test "$$(uname -sm)" = "Linux x86_64" || { echo "make: $(LOCK) is for Linux on x86-64, and this is \
	$$(uname -sm): use 'pip install -e . --group dev' in an environment of your own." >&2; exit 1; }; \
	found="$$($(1) -c 'import platform; print(platform.python_version())' 2>/dev/null)"; \
	case "$$found" in 3.1[012].*) ;; *) echo "make: Python 3.10, 3.11 or 3.12 is needed; $(1) is $${found:-not \
	there}. Name another one: make $(or $(MAKECMDGOALS),test) PYTHON=python3.11" >&2; exit 1;; esac
