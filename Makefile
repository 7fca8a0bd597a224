# Verbs: run test lint types format bench; setup. Each does the set-up it needs by itself: packages of the system
# with apt-get where it runs as root on Debian, Python's into .venv. Where it may not, it says what to install.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= $(firstword $(foreach p,python3.11 python3.12 python3,\
	$(shell $(p) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' 2>/dev/null && echo $(p))))
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
ORACLE := moshi==0.2.13

# Far ends of the tests: program=package.
PEERS := postgres=postgresql sipp=sip-tester baresip=baresip tcpdump=tcpdump tshark=tshark sox=sox espeak-ng=espeak-ng
# bare_pjsua2_echo.py is what echo_path.py compares with: it serves until it is told to stop.
BENCHMARKS = $(filter-out benchmarks/bare_pjsua2_echo.py,$(shell grep -l "^if __name__" benchmarks/*.py))

export DEBIAN_FRONTEND := noninteractive

# $(call install,PACKAGES): as root on Debian install them, elsewhere say how to.
install = if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; \
	then apt-get -q update && apt-get -q -y install --no-install-recommends $(1); \
	else echo "denwa: please install, as root: apt-get install --no-install-recommends $(1)" >&2; false; fi

.PHONY: help run test lint types format bench setup peers clean

help:
	@echo "make run     install what is needed and serve: SIP on port 5060, http://127.0.0.1:8080"
	@echo "make test    install what is needed and run every check that CI runs"
	@echo "make lint    style, format, layers, Dockerfile        make types   mypy --strict"
	@echo "make format  rewrite the code in the common format    make bench   print the benchmarks' tables"
	@echo "make setup   only install what make test needs"

run: $(VENV)/.run
	$(BIN)/denwa serve $(ARGS)

test: setup lint types
	$(BIN)/pytest $(ARGS)

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/hadolint Dockerfile

types: $(VENV)/.test
	$(BIN)/mypy

format: $(VENV)/.test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.test peers
	@for file in $(BENCHMARKS); do echo "== $$file"; $(BIN)/python -m "benchmarks.$$(basename "$$file" .py)" $(ARGS); done

setup: $(VENV)/.test peers

# Programs that stand at the other end of a test's line. Without them those tests are skipped, in CI they fail.
peers:
	@PATH="$$PATH:$$(printf %s: /usr/lib/postgresql/*/bin)"; missing=""; \
	for peer in $(PEERS); do command -v "$${peer%%=*}" >/dev/null || missing+=" $${peer#*=}"; done; \
	[ -z "$$missing" ] || { $(call install,$$missing); } || [ -z "$${CI:-}" ]

# The virtual environment: made anew only where it is missing.
$(BIN)/python:
ifeq ($(PYTHON),)
	@$(call install,python3.11 python3.11-venv)
	python3.11 -m venv $(VENV)
else
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { $(call install,$(notdir $(PYTHON))-venv); }
	$(PYTHON) -m venv $(VENV)
endif

$(VENV)/.run: pyproject.toml | $(BIN)/python
	$(PIP) install --editable .
	touch $@

$(VENV)/.test: pyproject.toml | $(BIN)/python
	$(PIP) install --editable '.[test]'
	$(PIP) install --no-deps '$(ORACLE)' || [ -z "$${CI:-}" ]  # the golden files stand in for it
	touch $(VENV)/.run $@

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
