#!/usr/bin/env bash
# Builds the binary that an operator would run, without the simulated attestation root, and fails
# if the result holds a trace of it. The same search in a binary that has the simulator must find
# it, or the search itself would prove nothing.
set -euo pipefail

binary="${CARGO_TARGET_DIR:-target}/debug/cocoon"
# The simulator's label, its intermediate certificates, its quoting enclave's signer.
marks=('COCOON SIMULATED' 'COCOON-SIM-TD-QE')

echo "==> production build (no simulated evidence)"
cargo build --locked -p cocoon
for mark in "${marks[@]}"; do
    if grep -qaF -- "$mark" "$binary"; then
        echo "production build: '$mark' was found in $binary: the simulator leaked into it" >&2
        exit 1
    fi
done
if cargo tree --locked -p cocoon -e normal --prefix none | grep -q '^cocoon-tdx-simulator'; then
    echo "production build: cocoon depends on the simulator without its feature" >&2
    exit 1
fi
if "$binary" run --role client --evidence simulated --data-dir "$(mktemp -d)" 2>/dev/null; then
    echo "production build: it took simulated evidence" >&2
    exit 1
fi
echo "    no trace of the simulator in it"

echo "==> the simulated root cannot be named without its feature"
cargo test --locked --quiet --doc -p cocoon-attestation trust

echo "==> the same search where the simulator is compiled in"
cargo build --locked -p cocoon --features simulated-evidence
for mark in "${marks[@]}"; do
    if ! grep -qaF -- "$mark" "$binary"; then
        echo "production build: '$mark' is not even in a binary with the simulator; the search is blind" >&2
        exit 1
    fi
done
echo "    found, as it must be"
