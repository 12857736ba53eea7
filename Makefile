#? tropea: onion routing for py-ipv8.
#?
#?   make demo        relays and a client on this machine, real DNS questions through three hops (two minutes)
#?   make test        lint, types and every test at small size (twelve minutes at most)
#?   make test-long   the same tests at full size, with the figures they measure
#?   make lint        ruff and mypy only            make format   let ruff lay the code out
#?   make bench       our handshake beside the primitives it is made of
#?   make fuzz        every decoder against very much garbage
#?   make clean       remove the virtual environment and everything built
#?
#? Each makes its own virtual environment in .venv; all you need is Python 3.11 or later and make.  What is missing
#? besides is named with the command that installs it, or, when you are root, installed.
#?
#?   PYTHON=/path/to/python3.12 make demo            another interpreter
#?   make test ARGS='-k cookie -x'                   other arguments for pytest

SHELL := /bin/sh
VENV := .venv
PY := $(VENV)/bin/python
ARGS :=
export PYTHON

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo test test-long lint format bench fuzz clean FORCE

help:
	@sed -n 's/^#? \{0,1\}//p' Makefile

# One stamp for each set of extras.  Without a working interpreter behind it a stamp is worth nothing: made again.
$(VENV)/ready-%: pyproject.toml scripts/environment scripts/prerequisites $(shell test -x $(PY) || echo FORCE)
	@scripts/environment $(VENV) $*

demo: $(VENV)/ready-demo
	@$(PY) -m examples.demo

lint: $(VENV)/ready-dev
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy .

format: $(VENV)/ready-dev
	@$(PY) -m ruff format .

test: lint
	@$(PY) -m pytest -n auto --dist worksteal $(ARGS)

test-long: lint
	@$(PY) -m pytest -n auto --dist worksteal --size long $(ARGS)

bench: $(VENV)/ready-bench
	@$(PY) -m bench handshake

fuzz: $(VENV)/ready-dev
	@$(PY) -m pytest -n auto --dist worksteal --hypothesis-profile fuzz tests/fuzz $(ARGS)

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +
