SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# The wheels of TFX 1.21 need glibc 2.38; on hosts older than that TFX 1.16 runs, on Python 3.10.
HOST_PYTHON_VERSION := $(shell \
  if [ "$$(printf '2.38\n%s\n' "$$(getconf GNU_LIBC_VERSION | cut -d' ' -f2)" | sort -V | head -n1)" != 2.38 ]; then echo 3.10; \
  else for v in 3.13 3.12 3.11; do if python$$v --version >/dev/null 2>&1; then echo $$v; exit; fi; done; echo 3.13; fi)
PYTHON_VERSION ?= $(HOST_PYTHON_VERSION)
# The host's own stack lives in .venv; others live beside it.
VENV := .venv$(if $(filter-out $(HOST_PYTHON_VERSION),$(PYTHON_VERSION)),-$(PYTHON_VERSION))
STAMP := $(VENV)/.synced
DEMO := demo
PYTEST_ARGS ?=
# Most of a test's time is TensorFlow tracing graphs, on one core. A file's tests stay in one process.
TEST_WORKERS ?= 2

# Imports take three times as long without bytecode.
unexport PYTHONDONTWRITEBYTECODE
unexport VIRTUAL_ENV

.PHONY: help setup demo test test-fast lint format test-modern clean

help:  ## Show this.
	@echo "Seesaw: from exposure, click and purchase logs to a ranker in service."
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' Makefile
	@echo
	@echo "  Python $(PYTHON_VERSION) in $(VENV); another stack: make PYTHON_VERSION=3.10|3.11|3.12|3.13 ..."

setup: $(STAMP)  ## Install the locked environment.

$(STAMP): uv.lock pyproject.toml .ci/setup Makefile
	@.ci/setup $(PYTHON_VERSION) $(VENV) --extra kubeflow
	@touch $@

demo: $(STAMP)  ## Simulate logs, run the whole pipeline on them, score one request.
	@$(VENV)/bin/seesaw simulate --out $(DEMO)/logs --days 9 --purchase-window 1d
	@$(VENV)/bin/seesaw run --config pipeline/configs/demo.yaml --logs $(DEMO)/logs --root $(DEMO)/run

test: $(STAMP)  ## Run all tests (PYTEST_ARGS="-k name" for some).
	@$(VENV)/bin/python -m pytest -n $(TEST_WORKERS) --dist loadfile $(PYTEST_ARGS)

test-fast: $(STAMP)  ## Run the tests that take seconds.
	@$(VENV)/bin/python -m pytest -n $(TEST_WORKERS) --dist loadfile -m "not slow" $(PYTEST_ARGS)

lint: $(STAMP)  ## Check style and types.
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/mypy

format: $(STAMP)  ## Sort imports and apply the other safe fixes.
	@$(VENV)/bin/ruff check --fix .

test-modern:  ## Run the tests on TFX 1.21 in a Debian 13 root (needs root rights and debootstrap).
	@.ci/debian-13 make test PYTEST_ARGS='$(PYTEST_ARGS)'

clean:  ## Remove environments, caches and the demo's files.
	rm -rf .venv .venv-* .uv .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist $(DEMO)
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
