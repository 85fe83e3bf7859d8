# Each target sets up what it needs: Python 3.11 or later, make and a C compiler are enough.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
ROUNDS ?= 20

.PHONY: install up test check bench faults clean

install: $(INSTALLED)

$(INSTALLED): pyproject.toml
	@echo "Installing into $(VENV): two to five minutes the first time."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --disable-pip-version-check --progress-bar off -e '.[dev]'
	@touch $@

up: $(INSTALLED)
	@exec $(BIN)/aiaas up

test: $(INSTALLED)
	@$(BIN)/python -m pytest -n 2 --dist loadfile
	@for engine in tests/engines/test_*.py; do $(BIN)/python -m pytest $$engine || exit 1; done

check: $(INSTALLED)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/basedpyright
	@$(BIN)/lint-imports
	@$(BIN)/python -m pytest tests/deploy

bench: $(INSTALLED)
	@$(BIN)/python -m tests.bench.ledger
	@$(BIN)/python -m tests.bench.billing
	@$(BIN)/python -m tests.bench.gateway
	@$(BIN)/python -m tests.bench.whisper
	@$(BIN)/python -m tests.bench.audio

faults: $(INSTALLED)
	@$(BIN)/python -m tests.faults --rounds $(ROUNDS)

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache .hypothesis
