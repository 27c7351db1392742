# What one does here; `make` prints it.
.DEFAULT_GOAL := help
VENV := .venv
BIN := $(VENV)/bin
CORES := $(shell nproc 2>/dev/null || getconf _NPROCESSORS_ONLN)
# Some tests wait for a minute at a time.
JOBS ?= $(shell expr $(CORES) + 3)
.PHONY: help setup up test chaos check format schemas bench soak screenshots lock clean

help: ## Print this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-11s %s\n", $$1, $$2}'

setup: $(VENV)/.ready ## Make .venv with everything, at the versions of requirements.lock

$(VENV)/.ready: requirements.lock pyproject.toml
	@infra/local/make-venv.sh $(VENV)
	@touch $@

up: setup ## Run the whole stack on this machine and send one real generation through it (Ctrl-C stops it)
	@$(BIN)/keyway up

test: setup ## Run every test, on a real RabbitMQ and a real MongoDB (JOBS at a time, three more than cores)
	@$(BIN)/pytest -n $(JOBS) --dist worksteal $(ARGS)

check: setup ## Lint, format, types, layering
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: setup ## Format the code and mend what the linter can
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

schemas: setup ## Write contracts/schemas and contracts/asyncapi.json anew from the models
	@$(BIN)/python -m contracts.json_schema
	@$(BIN)/python -m contracts.asyncapi

chaos: setup ## Kill and stall what Keyway stands on, in the long form (docs/reliability.md)
	@rm -f chaos-report.jsonl
	@KEYWAY_CHAOS_REPORT=chaos-report.jsonl $(BIN)/pytest --chaos long -n $(JOBS) --dist worksteal tests/chaos $(ARGS)
	@cat chaos-report.jsonl

bench: setup ## Measure against peers and goals (docs/performance.md); QUICK=1: 3 minutes, WRITE=1: the page anew
	@$(BIN)/python -m tests.bench $(if $(QUICK),--quick) $(if $(WRITE),--write)

soak: setup ## Keep a worker at 70 % of what it can do for MINUTES=30: memory and latency must stay flat
	@$(BIN)/python -m tests.bench.soak --minutes $(or $(MINUTES),30)

screenshots: setup ## Take the screenshots of docs/console.md anew, of a stack that is filled for them
	@$(BIN)/python -m tests.browser.screenshots

lock: setup ## Bring requirements.lock up to date with pyproject.toml
	@$(BIN)/uv pip compile --quiet --upgrade --universal --generate-hashes --no-emit-index-url --no-emit-find-links \
		--no-header --python-version 3.11 --extra platform --extra local --group dev pyproject.toml -o requirements.lock

clean: ## Remove the environment and caches; `keyway up --fresh` is what removes data
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
