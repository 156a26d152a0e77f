#!/usr/bin/env bash
# Builds the binary that an operator would run, without the simulated attestation root, and
# fails if the result holds a trace of it.
set -euo pipefail

target="${CARGO_TARGET_DIR:-target}/debug/cocoon"
echo "==> production build (no simulated evidence)"
cargo build --locked -p cocoon

# Its label, its platform ids and its QE signer, as the simulator writes them.
for mark in 'COCOON SIMULATED' 'COCOON SIM ' 'COCOON-SIM-TD-QE' 'SIM-MACHINE'; do
    if grep -qaF -- "$mark" "$target"; then
        echo "production build: '$mark' was found in $target; the simulator leaked into it" >&2
        exit 1
    fi
done
if cargo tree --locked -p cocoon -e normal --prefix none | grep -q '^cocoon-tdx-simulator'; then
    echo "production build: cocoon depends on the simulator without its feature" >&2
    exit 1
fi
echo "    no trace of the simulator in $(du -h "$target" | cut -f1) of binary"
