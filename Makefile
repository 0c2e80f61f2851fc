# make run     see it work: environment, models, broker, sample clip, page
# make test    everything, against real servers; installs Debian packages when it may
# make check   format, lint, types, import contracts, unit tests: under a minute
# make soak    the full figures of the fault tests
# make bench   throughput, latency and memory, as ratios in one run
# make docs    what is generated from the code: example settings, JSON Schemas

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.PHONY: setup setup-test run test check soak bench docs clean

setup: $(VENV)/.demo
setup-test: $(VENV)/.test

$(VENV)/.python:
	@sh tests/make-environment.sh "$(PYTHON)" "$(VENV)"
	@touch $@

$(VENV)/.demo: $(VENV)/.python pyproject.toml
	@echo "almena: installing what it needs into $(VENV) (once, a few minutes) …"
	@$(PIP) install --editable '.[demo]'
	@touch $@

$(VENV)/.test: $(VENV)/.python pyproject.toml
	@echo "almena: installing what it and its tests need into $(VENV) (once, a few minutes) …"
	@$(PIP) install --editable '.[test]'
	@touch $@ $(VENV)/.demo

run: setup
	@$(BIN)/almena demo

check: setup-test
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/pytest -q -m unit tests/unit tests/arch

test: setup-test
	@sh tests/system-packages.sh
	@$(BIN)/pytest -m "not soak"

soak: setup-test
	@sh tests/system-packages.sh
	@$(BIN)/pytest -m soak --timeout 7200

bench: setup
	@$(BIN)/almena bench stream --sample --json

docs: setup-test
	@$(BIN)/python -m agent.example --write almena.example.yaml
	@$(BIN)/python -m agent.wire --write docs/schemas

clean:
	rm -rf $(VENV) build dist *.egg-info
