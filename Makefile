# Everything from the project's files only: `make check` is what .ci/run and a developer run.
PYTHON ?= python3
EXTRAS ?= dev
ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.stamp
FLOOR := .venv-floor
FLOOR_TESTS := tests/memory tests/models tests/training tests/generate tests/data
# A file is one worker's: what it compiled stays with it.
# Files in the order of tests/conftest.py, longest first.
# A worker that dies ends the run: begun anew, pytest-xdist 3.8 may wait for ever.
TWO := -n 2 --dist loadfile --no-loadscope-reorder --max-worker-restart 0
TEST := $(BIN)/python -m pytest $(TWO)
# Large arrays in large pages: fewer page faults on a CPU (no effect but on glibc).
export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.PHONY: help env sorting text test check check-floor drill docs lint wheel format clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(firstword $(MAKEFILE_LIST)) | sed -E 's/:.*## /\t/' | expand -t 12

env: $(STAMP)  ## make .venv (PYTHON=python3.12, EXTRAS=dev,cuda)

.venv: $(STAMP)

# --clear: a requirement that was dropped must not linger.
$(STAMP): requirements.txt pyproject.toml
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$(EXTRAS)]'
	touch $@

sorting: $(STAMP)  ## python -m experiments.sorting (ARGS="infinity-former --loop.minutes 5")
	$(BIN)/python -m experiments.sorting $(ARGS)

text: $(STAMP)  ## python -m experiments.language_modeling (ARGS="gpt2 --data FOLDER")
	$(BIN)/python -m experiments.language_modeling $(ARGS)

test: $(STAMP)  ## the tests that take seconds (ARGS="-k sorting")
	$(TEST) -m "not slow" $(ARGS)

check: lint $(STAMP)  ## lint, format, every test, the documentation, and the wheel
	$(BIN)/python -m experiments.results --check
	$(TEST) --no-needless-skips
	$(MAKE) docs
	$(MAKE) wheel

drill: $(STAMP)  ## faults on real runs, which then go on (ARGS="--moments 50")
	$(BIN)/python -m experiments.faults $(ARGS)

lint: $(STAMP)  ## ruff: rules and format; pyright: types; nothing is changed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

docs: $(STAMP)  ## build the documentation anew into build/docs; a warning is an error
	$(BIN)/python -m sphinx -W --keep-going -E -q -b html docs build/docs

# Of each requirement the oldest version that it accepts; what only tests need is the newest.
check-floor:  ## the quick tests of the library with the oldest versions of requirements.txt
	$(PYTHON) -m venv --clear $(FLOOR)
	sed -E 's/>=([0-9.]+).*/==\1/' requirements.txt > $(FLOOR)/floor.txt
	$(FLOOR)/bin/python -m pip install --quiet --disable-pip-version-check -c $(FLOOR)/floor.txt '.[dev]'
	$(FLOOR)/bin/python -m pytest $(TWO) -m "not slow" $(FLOOR_TESTS) $(ARGS)

# The wheel is imported from outside the checkout, so that a file it lacks is missed here.
wheel: $(STAMP)  ## build the wheel and import it
	rm -rf build *.egg-info/SOURCES.txt
	site=$$(mktemp -d); trap 'rm -rf "$$site"' EXIT; \
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps -w "$$site" .; \
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target "$$site/lib" "$$site"/*.whl; \
	python=$$PWD/$(BIN)/python; cd "$$site"; \
	PYTHONPATH="$$site/lib" "$$python" -P -c 'import sys, inf_former_jax as p; \
	assert p.__file__.startswith(sys.argv[1]), p.__file__; \
	from importlib.resources import files; \
	assert files("experiments.dialogue.sample").joinpath("train.jsonl").is_file()' "$$site/lib"

format: $(STAMP)  ## ruff: mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove what was built, .venv too; runs/ stays
	rm -rf $(VENV) $(FLOOR) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +
