# `make run` and `make test` are all a newcomer needs; `make help` lists the rest.
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
# Three workers on the two cores of the smallest machine: there is always one that waits for a client or a lease. By file, so that what a file shares (a database, a server) is made once.
PYTEST := $(BIN)/python -m pytest -q
PARALLEL := -n 3 --dist loadfile

.DEFAULT_GOAL := help
.PHONY: help run test lint unit interop bench fuzz system-packages clean

help: ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: $(VENV)/.installed ## a certificate authority of your own: initialise once, then serve until Ctrl-C (ARGS="--dir DIR")
	@exec $(BIN)/certwright up $(ARGS)

test: system-packages lint ## everything: linters, types, import rule, unit and contract tests, real clients
	$(PYTEST) $(PARALLEL) $(ARGS) </dev/null

lint: $(VENV)/.installed-test ## ruff, mypy --strict, import-linter, hadolint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/hadolint deploy/Containerfile

unit: $(VENV)/.installed-test ## the tests without the real clients
	$(PYTEST) $(PARALLEL) tests $(ARGS) </dev/null

interop: system-packages $(VENV)/.installed-test ## real clients only: certbot, lego, strongSwan, BouncyCastle, scepclient, certmonger, curl ...
	$(PYTEST) interop $(ARGS) </dev/null

bench: $(VENV)/.installed-test ## load and cost per certificate, on SQLite and PostgreSQL (ARGS="--help")
	$(BIN)/python -m bench.run $(ARGS)

fuzz: $(VENV)/.installed-test ## the property tests of ACME requests, twenty times as many (FUZZ_EXAMPLES=20000)
	FUZZ_EXAMPLES=$${FUZZ_EXAMPLES:-20000} $(PYTEST) $(PARALLEL) tests/fuzz/test_acme_http.py tests/fuzz/test_finalize.py $(ARGS)

system-packages: ## the Debian packages of the interop suite, when we are root and they are missing
	@scripts/system-packages

clean: ## remove the virtual environment and the caches of the tools (never the data of `make run`)
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache dist

# The stamps say "installed for this pyproject.toml": a second `make run` starts at once.
$(VENV)/.installed: pyproject.toml scripts/install
	@scripts/install $(VENV) .
	@touch $@

$(VENV)/.installed-test: pyproject.toml scripts/install
	@scripts/install $(VENV) '.[test]'
	@touch $(VENV)/.installed $@
