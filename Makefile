# What a developer types. Needs Python 3.11 or later, pip, make and a C compiler; everything else goes into .venv.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
CONFIG := config/quickstart.yaml
SAMPLE := $(CURDIR)/config/sample.cef.gz
# Extras stay in the lock: pip before 23.3 takes `coverage[toml]` for something that `coverage==…` does not pin, and
# refuses the file as soon as there is a newer coverage.
LOCK := pip-compile --quiet --no-header --generate-hashes --allow-unsafe --no-strip-extras \
	--no-emit-index-url --no-emit-find-links

.PHONY: run demo test fuzz lint format bench schema lock clean
.DELETE_ON_ERROR:

run: .venv/.run  ## start a relay on 127.0.0.1:8071 that appends what it gets to ./data/audit.ndjson
	@echo
	@echo "Send it a batch as Konnect would, from another terminal:"
	@echo
	@echo "  curl -i -H 'Authorization: Bearer quickstart' -H 'Content-Encoding: gzip' --data-binary @$(SAMPLE) http://127.0.0.1:8071/audit-logs/konnect-us"
	@echo
	@echo "and read it in $(CURDIR)/data/audit.ndjson. Ctrl-C stops the relay; nothing accepted is lost."
	@echo
	@exec $(BIN)/konnect-relay run -c $(CONFIG)

demo: .venv/.run  ## a simulated Konnect, a relay and two SIEMs on this machine; ARGS="--seconds 60"
	$(BIN)/konnect-relay demo $(ARGS)

test: lint  ## everything that CI checks
	$(BIN)/pytest -n 3 --dist loadfile --no-loadscope-reorder

fuzz: .venv/.dev  ## the property tests with other random input each time, for some minutes; ARGS="-k cef"
	$(BIN)/pytest -n 2 --hypothesis-profile=search -m hypothesis $(ARGS)

lint: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: .venv/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: .venv/.dev  ## ARGS="--quick" or ARGS="--only NAME" for less of it
	$(BIN)/python -m tests.benchmarks $(ARGS)

schema: .venv/.run  ## after a change to a configuration class
	$(BIN)/python -c 'from relay.config.json_schema import text; from relay.destinations.registry import CONFIG_TYPES; \
	print(text(CONFIG_TYPES), end="")' > config/schema.json

lock: .venv/.dev  ## newest versions that pyproject.toml allows
	$(BIN)/pip install --quiet pip-tools
	$(BIN)/$(LOCK) --upgrade --output-file requirements.lock pyproject.toml
	$(BIN)/$(LOCK) --upgrade --only-build-deps --build-deps-for wheel --build-deps-for editable \
		--constraint requirements.lock --output-file requirements-build.lock pyproject.toml
	$(BIN)/$(LOCK) --upgrade --extra dev --constraint requirements.lock --constraint requirements-build.lock \
		--output-file requirements-dev.lock pyproject.toml

clean:  ## leaves ./data alone: it holds events
	rm -rf .venv build dist .coverage .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "Python 3.11 or later is needed")'
	$(PYTHON) -m venv .venv

# Without isolation the package is built with what requirements-build.lock names; pip would otherwise fetch the
# newest build back end, and no hash would tell which one.
.venv/.run: requirements.lock requirements-build.lock pyproject.toml | .venv/bin/python
	$(PIP) -r requirements.lock -r requirements-build.lock
	$(PIP) --no-deps --no-build-isolation --editable .
	touch $@

.venv/.dev: requirements-dev.lock .venv/.run
	$(PIP) -r requirements-dev.lock
	touch $@
