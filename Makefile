# One verb per chore; CI runs the same verbs (.ci/run).

export PATH := $(CURDIR)/.uv/bin:$(PATH)
# Tests start hundreds of processes, each of which would compile the program anew.
unexport PYTHONDONTWRITEBYTECODE

PORT ?= 8000
DATA ?= data
REPLICAS ?=
SECONDS ?= 300
SHORT ?=

# scripts/setup has synchronised the packages already.
RUN := uv run --no-sync
# Ctrl-C is how one leaves a program that runs in the foreground: no error.
LEAVE := test $$? -eq 130

.DEFAULT_GOAL := help

.PHONY: help
help: ## show the verbs
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: setup
setup: ## install what is missing: uv and the Python packages
	@scripts/setup

.PHONY: setup-servers
setup-servers: ## the same, and MariaDB, PgBouncer, promtool and Chromium (needs root or sudo) and MySQL
	@scripts/setup servers

.PHONY: check
check: setup ## lint, format, types, and which module may import which
	$(RUN) ruff check
	$(RUN) ruff format --check
	$(RUN) mypy
	$(RUN) mypy --strict devservers benchmarks
	$(RUN) lint-imports

.PHONY: format
format: setup ## put the code in order
	$(RUN) ruff check --fix
	$(RUN) ruff format

.PHONY: test
test: setup-servers ## all tests, against real servers that start and stop with them
	$(RUN) pytest $(if $(CI),--durations=25)

.PHONY: test-quick
test-quick: setup ## unit tests, and everything that SQLite can show
	$(RUN) pytest -m quick

.PHONY: test-model
test-model: setup ## every interleaving of the protocol, and the planted mistakes
	$(RUN) pytest -m model

.PHONY: test-servers
test-servers: setup-servers ## what needs PostgreSQL, MariaDB, MySQL or MongoDB
	$(RUN) pytest -m servers

.PHONY: test-acceptance
test-acceptance: setup-servers ## services that are killed, frozen and replaced under load
	$(RUN) pytest -m acceptance

.PHONY: servers
servers: setup-servers ## PostgreSQL, MariaDB, MySQL and MongoDB for use by hand, until Ctrl-C (REPLICAS=--replicas)
	@trap : INT; $(RUN) python -m devservers $(REPLICAS) || $(LEAVE)

.PHONY: demo
demo: setup ## the order service on SQLite, no servers needed (PORT=8000 DATA=data)
	@trap : INT; $(RUN) orders demo --port $(PORT) --data $(DATA) || $(LEAVE)

.PHONY: demo-servers
demo-servers: setup-servers ## the order service on PostgreSQL and MariaDB with replicas, and MongoDB (PORT=8000)
	@trap : INT; $(RUN) python -m devservers --replicas run -- orders demo --port $(PORT) || $(LEAVE)

.PHONY: crash-kit
crash-kit: setup-servers ## crash the order service's sagas everywhere, on SQLite and on the servers; minutes
	$(RUN) python -m tests.crash_kit

.PHONY: setup-bench
setup-bench: ## the servers, and the programs that the benchmarks compare with: DBOS, Restate
	@scripts/setup bench

.PHONY: bench
bench: setup-bench ## all measurements side by side into data/bench/*.json, 45 minutes (SHORT=--short: try it)
	$(RUN) python -m benchmarks $(SHORT)

.PHONY: bench-page
bench-page: setup-bench ## make docs/explanation/performance.md and its plots anew from a result (RESULT=data/bench/...)
	$(RUN) python -m benchmarks.page $(RESULT)

.PHONY: bench-quick
bench-quick: setup-bench ## under two minutes against plain sessions and DBOS; the last line is JSON
	$(RUN) python -m benchmarks.quick

.PHONY: bench-routing
bench-routing: setup ## what choosing a node and a reader session cost; the last line is JSON
	$(RUN) python -m benchmarks.routing

.PHONY: soak
soak: setup-servers ## load while processes, servers and connections die, then a count (SECONDS=300 SEED=)
	$(RUN) python -m tests.soak --seconds $(SECONDS) $(if $(SEED),--seed $(SEED))

.PHONY: clean
clean: ## delete what can be made again, and the data of `servers` and `demo`
	rm -rf .venv .uv .servers data dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
