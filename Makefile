# `make help` prints what is behind the two hashes.
.DEFAULT_GOAL := help
SHELL := /bin/bash

export PORT ?= 8484

.PHONY: help demo run test check examples bench web web-test screenshots install

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## an order from end to end, and one through a SIGKILL of the gateway; then keeps serving
	@scripts/install.sh
	@scripts/web.sh
	@python3 scripts/demo.py

run: ## `stepwell dev` in release mode, with data in .stepwell
	cargo run --release --quiet -- dev --port $(PORT)

# With the binary that the tests have built: another one, optimised, takes as long to build as all of them to run.
test: check web-test ## everything that .ci/run wants: checks, all tests, examples and demo
	cargo test --lib --bins --tests
	cargo test --doc --quiet
	tests/outside/run.sh target/debug/stepwell
	PORT=18484 scripts/test-examples.sh target/debug/stepwell
	PORT=18494 DATA_DIR=.stepwell-test CI=true STEPWELL_BIN=$(CURDIR)/target/debug/stepwell python3 scripts/demo.py

check: ## format and lints
	cargo fmt --check
	cargo clippy --all-targets --quiet -- --deny warnings

examples: ## each example handler against a gateway
	cargo build
	PORT=18484 scripts/test-examples.sh target/debug/stepwell

bench: ## steps per second, end to end
	@if [[ -x bench/run.sh ]]; then bench/run.sh; else echo >&2 "There is no bench/run.sh yet."; exit 1; fi

web: ## builds the dashboard; the binaries that are built after it have it inside
	@scripts/web.sh --needed

web-test: web ## its types and its unit tests; the tests in a browser come with `make test`
	cd web && npm run --silent schema:check && npm test --silent

screenshots: web ## writes each view in both themes to docs/images
	cargo build
	cd tests/outside/browser && npm ci --silent --no-audit --no-fund && node screenshots.mjs ../../../docs/images

install: ## what is missing on this machine, for the demo and the tests
	@scripts/install.sh test
