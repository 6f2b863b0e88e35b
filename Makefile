# Every target that needs the virtual environment calls `install`, which does nothing when nothing changed.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# .venv uses the project as it stands here; elsewhere it is a copy, which must follow what changed.
COPIED := $(if $(filter-out .venv,$(VENV)),$(shell find backupd daemon docs -type f -not -name '*.pyc'))
MAIL ?=
CRASHES ?= 1000
PROOFS ?= 200
UPLOADS ?= 1000
# Tests wait often: for a daemon, a broker, a disk. One worker more than cores uses the time.
WORKERS ?= $(shell expr $$(nproc) + 1)

.PHONY: help install debian-packages demo run test check crash proof bench format lock clean

help: ## list every target
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

install: $(STAMP) ## make .venv with backupd and backupctl in it; a service: make install VENV=/opt/backupd PYTHON=/usr/bin/python3

$(STAMP): pyproject.toml requirements.lock $(COPIED)
	@bash tests/world/make-venv.sh "$(PYTHON)" "$(VENV)"
	@touch $@

debian-packages: ## install the servers that the integration tests talk to (when root)
	@bash tests/world/install-servers.sh

demo: install ## the whole main job on a mail tree made for it; ends with a verdict
	@$(BIN)/python -m tests.world.demo

run: install ## follow your own mail: make run MAIL=/path/to/vmail
	@test -n "$(MAIL)" || { echo "usage: make run MAIL=/path/to/vmail"; exit 64; }
	@$(BIN)/python -m tests.world.run_here "$(MAIL)"

test: install debian-packages ## install what the tests need, then run them: WORKERS files of tests at a time
	@$(BIN)/python -m pytest -q -n $(WORKERS) --dist loadfile --no-loadscope-reorder

check: install ## style, types, import walls, tidiness (seconds)
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/lint-imports --no-logo && $(BIN)/python -m pytest -q tests/test_tidy.py

crash: install ## kill the daemon $(CRASHES) times and at each durable step
	@BACKUPD_CRASHES=$(CRASHES) $(BIN)/python -m pytest -q tests/crash

proof: install ## restore accounts as of $(PROOFS) random moments and compare; $(UPLOADS) uploads through faults
	@BACKUPD_PROOFS=$(PROOFS) $(BIN)/python -m pytest -q -s tests/integration/test_account_proof.py
	@BACKUPD_UPLOADS=$(UPLOADS) $(BIN)/python -m pytest -q tests/integration/test_faulty_store.py

bench: install ## measure, and print the figures as JSON
	@$(BIN)/python -m tests.bench

format: install ## let ruff format the tree
	@$(BIN)/ruff format . && $(BIN)/ruff check --fix .

lock: ## renew requirements.lock from pyproject.toml (needs uv)
	@uv pip compile pyproject.toml --all-extras --group dev --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-header --upgrade -o requirements.lock -q

clean: ## remove what the targets left behind
	@rm -rf $(VENV) build .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .demo
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
