# Cupel. `make demo` shows it, `make test` proves it; `make help` lists the rest.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
GO ?= go
BIN := bin
STATIC := CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=false
STRIP := -s -w
VERSION_PKG := cupel.dev/cupel/internal/version
E2E_TIMEOUT ?= 25m
UNIT_TIMEOUT ?= 25m

.PHONY: help build setup setup-go demo demo-down test test-unit test-e2e bench lint vuln fuzz clean

help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

build: setup-go ## cupel, cupeld, cupel-cas, cupel-init and cupel-log into bin/
	@mkdir -p $(BIN)
	@$(STATIC) -ldflags '$(STRIP)' -o $(BIN)/cupel-init ./cmd/cupel-init
	@$(STATIC) -ldflags '$(STRIP)' -o $(BIN)/cupel-cas ./cmd/cupel-cas
	@$(STATIC) -ldflags '$(STRIP)' -o $(BIN)/cupel-log ./cmd/cupel-log
	@cas=$$(sha256sum $(BIN)/cupel-cas | cut -d' ' -f1); init=$$(sha256sum $(BIN)/cupel-init | cut -d' ' -f1); \
	flags="$(STRIP) -X $(VERSION_PKG).cas=$$cas -X $(VERSION_PKG).launcher=$$init"; \
	$(STATIC) -ldflags "$$flags" -o $(BIN)/cupel ./cmd/cupel; \
	$(STATIC) -ldflags "$$flags" -o $(BIN)/cupeld ./cmd/cupeld; \
	echo "cupel-cas   measurement $$cas"; \
	echo "cupel-init  digest      $$init, $$(stat -c %s $(BIN)/cupel-init) bytes, static"

setup-go:
	@scripts/check-go $(GO)

setup: setup-go ## install the Debian packages that running and testing need
	@scripts/setup

demo: setup build ## a private Python app as three attested instances behind one port
	@scripts/demo up

demo-down: ## stop the demo and leave nothing behind
	@scripts/demo down

# Where something is missing, a test fails instead of being skipped: internal/testing/need.
test: export CUPEL_REQUIRE_ALL = 1
test: setup build test-unit test-e2e ## everything that proves it works (root; Debian 12)

# Without the race detector once more: what is too slow for it, every byte of real
# evidence flipped and the longest sessions. GORACE: a race is reported when it
# happens; by default every process waits a second for more before it exits.
test-unit:
	GORACE=atexit_sleep_ms=50 $(GO) test -race -timeout $(UNIT_TIMEOUT) ./...
	$(GO) test ./internal/trusted/verify/dcap ./internal/trusted/session

test-e2e: build
	CGO_ENABLED=0 $(GO) test -trimpath -tags e2e -count=1 -p 1 -timeout $(E2E_TIMEOUT) ./e2e/...

bench: setup build ## speed, memory and scale, as ratios against a peer in the same run
	@scripts/bench

lint: setup-go ## golangci-lint with .golangci.yml
	$(GO) run github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0 run ./...

vuln: setup-go ## known vulnerabilities in what we link
	$(GO) run golang.org/x/vuln/cmd/govulncheck@v1.8.0 ./...

fuzz: setup-go ## each fuzz target for FUZZTIME (default 30s)
	@scripts/fuzz $(GO) $${FUZZTIME:-30s}

clean: ## remove bin/ and the caches of this checkout
	rm -rf $(BIN) .cache
