#!/bin/sh
# Tests the chain by TON's own light client (feature `tonlib`) against the devnet. The library is the one inside pytonlib,
# where scripts/fetch-ton-clients.sh put it. Other arguments go to `cargo nextest run`.
set -eu

target=${COCOON_TEST_TON_CLIENTS:-${XDG_CACHE_HOME:-$HOME/.cache}/cocoon/ton-clients}
package=$("$target/bin/python" -c 'from importlib.util import find_spec; print(find_spec("pytonlib").origin)') || {
	echo 'tonlib-tests: error: pytonlib is not there; run scripts/fetch-ton-clients.sh' >&2
	exit 1
}
library=$(dirname "$package")/distlib/linux/libtonlibjson.x86_64.so

# Under the name that the linker looks for, and under the one that the library says it has.
links=$target/libtonlibjson
mkdir -p "$links"
ln -sf "$library" "$links/libtonlibjson.so"
ln -sf "$library" "$links/libtonlibjson.so.0.5"
export LIBRARY_PATH="$links${LIBRARY_PATH:+:$LIBRARY_PATH}"
export LD_LIBRARY_PATH="$links${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"

# Unoptimised: ledgers are another test.
exec cargo nextest run --locked -p cocoon-settlement --features tonlib --lib --test tonlib_chain \
	--config profile.dev.package.cocoon-settlement.opt-level=0 \
	-E 'binary(tonlib_chain) | test(chain::tonlib::)' "$@"
