# make run: install, run the main job on the embedded dataset, say where to look. make test: install, run the tests. make docs: the guides as HTML.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN ?= --methods gvd,random --ipc 1,5,10

.PHONY: run test test-slow lint types docs clean

run: $(VENV)/.installed
	$(BIN)/python -m harness run $(RUN)

test: $(VENV)/.installed
	$(BIN)/python -m pytest

test-slow: $(VENV)/.installed
	$(BIN)/python -m pytest -m slow

lint: $(VENV)/.installed
	$(BIN)/ruff check .

types: $(VENV)/.installed
	$(BIN)/mypy

docs: $(VENV)/.installed
	$(BIN)/python -m sphinx -q -W -b html docs build/docs

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache
