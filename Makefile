# Works on a fresh Debian or Ubuntu with Go and make: what else is needed is
# installed by .ci/, as root or through sudo.
GO ?= go
DEMO_ARGS ?=
BENCH_ARGS ?=
MAJORS ?= 14 16 17 18 19?
DURATION ?= 10m
SEED ?=

.DEFAULT_GOAL := help

.PHONY: help
help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: build
build: ## build bin/repack
	$(GO) build -o bin/repack ./cmd/repack

.PHONY: vet
vet: ## vet, and check the format
	$(GO) vet ./...
	.ci/check-format

.PHONY: lint
lint: vet ## vet, check the format and run the linters, installing shellcheck if missing
	.ci/lint

.PHONY: test
test: vet ## vet, check the format and run every test, or TESTS=regexp, installing PostgreSQL and gcc if missing
	.ci/install-postgres >/dev/null
	race=$$(.ci/race-flag) && CGO_ENABLED=$${race:+1} $(GO) test $$race -vet=off -timeout=60m $(if $(TESTS),-run '$(TESTS)') ./...

.PHONY: test-thorough
test-thorough: export REPACK_THOROUGH = 1
test-thorough: test ## like test, one by one what it takes together or in turns, and more samples

.PHONY: test-majors
test-majors: ## run the whole-run scenarios on other PostgreSQL versions: MAJORS="14 18"
	.ci/test-majors $(MAJORS)

.PHONY: torture
torture: ## try to lose something until time is over: DURATION=10m SEED=42
	.ci/install-postgres >/dev/null
	cd tests && REPACK_TORTURE=$(DURATION) REPACK_SEED=$(SEED) $(GO) test -count=1 -timeout=0 -run '^TestTorture$$'

.PHONY: demo
demo: ## show a repack on a throwaway server, installing PostgreSQL if missing: DEMO_ARGS="..."
	.ci/install-postgres >/dev/null
	$(GO) run ./cmd/repack demo $(DEMO_ARGS)

.PHONY: bench
bench: ## measure against VACUUM FULL, CLUSTER and pg_repack, installing PostgreSQL if missing: BENCH_ARGS="..."
	.ci/install-postgres >/dev/null
	$(GO) run ./internal/tooling/bench $(BENCH_ARGS)

.PHONY: clean
clean: ## remove what build made
	rm -rf bin
