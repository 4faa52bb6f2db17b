# make demo   create the environment if it is missing, install, run the quick start
# make test   create the environment if it is missing, install, run the tests
# make check  the same with ruff, mypy and the fast tests only: what to run before a commit
# make docs   the documentation as a site, in build/docs
# make figures   the figures of the documentation again, of what is there; docs/images/figures.py says from what
PYTHON ?= python3
VENV ?= .venv
PIP_FLAGS ?=
BIN := $(VENV)/bin
WORKERS ?= 3
# compiled tests are kept whatever the environment says: to compile them takes ten seconds
PYTEST := env -u PYTHONDONTWRITEBYTECODE $(VENV)/bin/python -m pytest -n $(WORKERS) --dist worksteal

GET_PIP ?= https://bootstrap.pypa.io/get-pip.py

.PHONY: demo test check lint types docs figures constraints clean venv-without-ensurepip

demo: $(VENV)/.demo
	$(BIN)/mrl-text quickstart

test: $(VENV)/.dev
	$(PYTEST)

check: lint types
	$(PYTEST) --fast -q

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

# the documentation as a site that asks no other: build/docs/index.html
docs: $(VENV)/.dev
	$(BIN)/python -m sphinx -b html -q -W --keep-going -c docs . build/docs

figures: $(VENV)/.dev
	$(BIN)/python docs/images/figures.py $(if $(RESULTS),--results $(RESULTS)) $(if $(TAGS),--tags $(TAGS))

# the versions in the environment, less what differs between platforms
constraints: $(VENV)/.dev
	{ echo "# The versions the tests were last run with: pip install -c constraints.txt -e '.[quickstart,dev]'"; \
	$(BIN)/python -m pip list --format=freeze --exclude-editable | tr 'A-Z_' 'a-z-' | sed 's/+[^=]*$$//' \
		| grep -vE '^(pip|triton|nvidia-.*|cuda-.*)==' | LC_ALL=C sort; } > constraints.new
	mv constraints.new constraints.txt

clean:
	rm -rf build dist *.egg-info $(VENV)

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "mrl-text needs Python 3.11 or newer: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV) 2>/dev/null || $(MAKE) --no-print-directory venv-without-ensurepip

# Debian and Ubuntu keep ensurepip in a package of its own (python3-venv); without it pip comes from its own installer
venv-without-ensurepip:
	rm -rf $(VENV)
	$(PYTHON) -m venv --without-pip $(VENV)
	$(BIN)/python -c "import sys, urllib.request; sys.stdout.buffer.write(urllib.request.urlopen('$(GET_PIP)').read())" \
		| $(BIN)/python - --quiet

$(VENV)/.demo: $(VENV)/bin/python pyproject.toml constraints.txt
	@echo "Installing into $(VENV); torch is large, so this takes minutes ..."
	$(BIN)/python -m pip install -qq $(PIP_FLAGS) -c constraints.txt -e '.[quickstart]'
	touch $@

$(VENV)/.dev: $(VENV)/bin/python pyproject.toml constraints.txt
	@echo "Installing into $(VENV); torch is large, so this takes minutes ..."
	$(BIN)/python -m pip install -qq $(PIP_FLAGS) -c constraints.txt -e '.[quickstart,dev]'
	touch $@
