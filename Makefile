# make help lists the commands. Needs Python 3.11 or newer and a network to a package index.
.DEFAULT_GOAL := help
SHELL := /bin/sh
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
BUILDER ?= buildah
# Many tests wait for a server or a child: four processes are worth it on two cores already.
PARALLEL := -n 4 --dist loadfile --no-loadscope-reorder
# The network may be slow, a compiler may be missing: only ready-made wheels are installed.
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --only-binary=:all:
export PORT DEMO_EXIT SENTINELLE_HOME

.PHONY: help demo run test lint bench image lock clean

help:  ## Show this list
	@grep -E '^[a-z]+:.*##' Makefile | sed 's/:.*## */\t/' | expand -t 10

demo: $(VENV)/.installed  ## Train, promote and score on this machine; DEMO_EXIT=1 stops afterwards
	@exec $(BIN)/python -m sentinelle.demo

run: $(VENV)/.installed  ## Start the web server, worker and scheduler on PORT (8000)
	@exec $(BIN)/python -m sentinelle.serve

test: lint  ## Lint, types, architecture, migrations, then every test on SQLite and PostgreSQL
	$(BIN)/python -m pytest $(PARALLEL)
	TEST_DATABASE=postgresql $(BIN)/python -m pytest $(PARALLEL) tests/scoring tests/deployments tests/training tests/clients

lint: export SECRET_KEY = lint-only-dsJ7f3kqP0sYwq8Zt1xVb5nMrLcUe9aHgT2oK4iW6yXh
lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy .
	$(BIN)/lint-imports
	$(BIN)/hadolint Dockerfile
	$(BIN)/python manage.py makemigrations --check --dry-run
	HTTPS=true $(BIN)/python manage.py check --deploy --fail-level WARNING

bench: $(VENV)/.installed-dev  ## Measure speed; prints a table, as ratios where that is fairer
	$(BIN)/python -m benchmarks

image:  ## Build the image without a Docker daemon, with buildah or BUILDER; see docs/image.md
	@command -v $(BUILDER) >/dev/null || { echo "There is no $(BUILDER) here (Debian: apt install buildah). docs/image.md has other ways." >&2; exit 1; }
	$(BUILDER) build --isolation chroot --format docker --tag sentinelle .

lock: $(VENV)/.installed-dev  ## Pin every version anew from requirements*.in
	$(BIN)/pip-compile -q --no-emit-index-url --no-emit-find-links --no-annotate --no-header --strip-extras --allow-unsafe requirements.in
	$(BIN)/pip-compile -q --no-emit-index-url --no-emit-find-links --no-annotate --no-header --strip-extras --allow-unsafe requirements-dev.in
	$(BIN)/pip-compile -q --no-emit-index-url --no-emit-find-links --no-annotate --no-header --strip-extras --allow-unsafe -o functions/requirements.txt functions/requirements.in

clean:  ## Remove the virtual environment and caches; var/ stays
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "Sentinelle needs Python 3.11 or newer; “$(PYTHON)” is $$($(PYTHON) --version 2>&1). Try: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
	  echo "The virtual environment could not be made (on Debian and Ubuntu: apt install python3-venv; or the disk is full)." >&2; exit 1; }

$(VENV)/.installed: requirements.txt | $(BIN)/python
	@echo "Installing Sentinelle's requirements into $(VENV) (about a minute)"
	@$(PIP) -r requirements.txt || { echo "$(INSTALL_FAILED)" >&2; exit 1; }
	@touch $@

$(VENV)/.installed-dev: requirements-dev.txt | $(BIN)/python
	@echo "Installing the development requirements into $(VENV) (about a minute)"
	@$(PIP) -r requirements-dev.txt || { echo "$(INSTALL_FAILED)" >&2; exit 1; }
	@touch $@ $(VENV)/.installed

INSTALL_FAILED = The requirements could not be installed: see the line above (no network, no space, or no ready-made wheel for this Python). Nothing was started; run make again.
