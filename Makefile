# make run     see it work: environment, models, broker, sample clip, page
# make demo-xray  radiographs in, reports and heat maps out: the agent with DICOM, and a clinic that sends and receives
# make hub     see a fleet: an embedded broker, the hub with its console, two simulated devices and a whole agent
# make test    everything, against real servers; installs Debian packages when it may
# make check   format, lint, types, import contracts, unit tests: under a minute
# make soak    the full figures of the fault tests
# make faults  everything that can go wrong between device and store, with the books after each: a table, in under 20 minutes
# make bench   throughput, latency and memory, as ratios in one run
# make deb, deb-hub  a Debian package of this version in dist/, for a device or a fleet's hub
# make field-test  Almena on a clean Debian under a real systemd: install, boot, watchdog, upgrade, hub, packages (root; half an hour);
#                  STAGE=upgrade runs one stage of it, DEBIAN=trixie takes another release for it
# make docs    what is generated from the code: example settings, JSON Schemas

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.PHONY: setup setup-test run demo-xray hub test check soak faults bench deb deb-hub field-test docs clean

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
	@touch $@ $(VENV)/.demo $(VENV)/.xray $(VENV)/.hub

run: setup
	@$(BIN)/almena demo

$(VENV)/.xray: $(VENV)/.python pyproject.toml
	@echo "almena: installing what it and its DICOM need into $(VENV) (once, a few minutes) …"
	@$(PIP) install --editable '.[demo,dicom]'
	@touch $@ $(VENV)/.demo

demo-xray: $(VENV)/.xray
	@$(BIN)/almena demo-xray

$(VENV)/.hub: $(VENV)/.python pyproject.toml
	@echo "almena: installing what the hub and a camera need into $(VENV) (once, a few minutes) …"
	@$(PIP) install --editable '.[hub,demo]'
	@touch $@ $(VENV)/.demo

hub: $(VENV)/.hub
	@$(BIN)/python -m fleet.first_run

check: setup-test
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/pytest -q -n 2 --dist loadfile -m "unit and not soak" tests/unit tests/arch

# Files of tests run two at a time; those that watch a clock, memory or whole agents run one by one.
ALONE := tests/e2e $(wildcard $(addprefix tests/integration/test_,\
	agent_*.py bench_fleet.py bench_http.py bench_studies.py faults.py mqtt_kills.py mqtt_outage.py outbox_kill.py telemetry_loop.py vision_stuck.py))

test: setup-test
	@sh tests/system-packages.sh
	@$(BIN)/pytest -m "not soak" -n 2 --dist loadfile $(addprefix --ignore=,$(ALONE)); together=$$?; \
		$(BIN)/pytest -m "not soak" $(ALONE) && exit $$together

soak: setup-test
	@sh tests/system-packages.sh
	@$(BIN)/pytest -m soak --timeout 7200

faults: setup-test
	@sh tests/system-packages.sh
	@$(BIN)/pytest -q -m soak --timeout 1800 tests/integration/test_faults.py

bench: setup
	@$(BIN)/almena bench stream --sample --json

deb: setup
	@PYTHONPATH=. $(BIN)/python -m deploy.deb.build

deb-hub: setup
	@PYTHONPATH=. $(BIN)/python -m deploy.deb.build --hub

field-test: setup-test
	@$(BIN)/python -m tests.field $(addprefix --stage=,$(STAGE)) $(addprefix --debian=,$(DEBIAN))

docs: setup-test
	@$(BIN)/python -m agent.example --write almena.example.yaml
	@$(BIN)/python -m agent.wire --write docs/schemas

clean:
	rm -rf $(VENV) build dist *.egg-info
