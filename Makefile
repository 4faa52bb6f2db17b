# make demo   create the environment if it is missing, install, run the quick start
# make test   create the environment if it is missing, install, run the tests
PYTHON ?= python3
VENV ?= .venv
PIP_FLAGS ?=
BIN := $(VENV)/bin

.PHONY: demo test lint types clean

demo: $(VENV)/.demo
	$(BIN)/mrl-text quickstart

test: $(VENV)/.dev
	$(BIN)/python -m pytest

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# eval/ and recipes/ are installed as mrl_text.eval and mrl_text.recipes; mypy sees them where they are installed
types: $(VENV)/.dev
	rm -rf build/types && mkdir -p build/types
	cp -R mrl_text build/types/mrl_text
	cp -R eval build/types/mrl_text/eval
	cp -R recipes build/types/mrl_text/recipes
	$(BIN)/mypy --config-file pyproject.toml build/types/mrl_text

clean:
	rm -rf build dist *.egg-info $(VENV)

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "mrl-text needs Python 3.11 or newer: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV) \
		|| { echo "On Debian and Ubuntu: sudo apt install python3-venv, then run make again"; rm -rf $(VENV); exit 1; }

$(VENV)/.demo: $(VENV)/bin/python pyproject.toml constraints.txt
	@echo "Installing into $(VENV); torch is large, so this takes minutes ..."
	$(BIN)/python -m pip install -qq $(PIP_FLAGS) -c constraints.txt -e '.[quickstart]'
	touch $@

$(VENV)/.dev: $(VENV)/bin/python pyproject.toml constraints.txt
	@echo "Installing into $(VENV); torch is large, so this takes minutes ..."
	$(BIN)/python -m pip install -qq $(PIP_FLAGS) -c constraints.txt -e '.[quickstart,dev]'
	touch $@
