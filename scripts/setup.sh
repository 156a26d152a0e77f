#!/usr/bin/env bash
# Installs the Debian packages that the build needs (and tcpdump, with which a test watches the loopback
# interface), and nothing that is already there.
set -euo pipefail

need=()
for package in build-essential pkg-config libclang-dev librocksdb-dev tcpdump; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || need+=("$package")
done
if command -v python3 >/dev/null && ! python3 -c 'import ensurepip' 2>/dev/null; then
    need+=(python3-venv)
fi
command -v cargo >/dev/null || {
    echo "setup: cargo was not found. Install Rust 1.95 or newer (https://rustup.rs), then run this again." >&2
    exit 1
}
[ ${#need[@]} -eq 0 ] && exit 0

if ! command -v apt-get >/dev/null; then
    echo "setup: this is not a Debian system. Install the equivalents of: ${need[*]}" >&2
    echo "       (without a system RocksDB 7.8 the build compiles its own: about 25 CPU-minutes more)" >&2
    exit 0
fi
as_root=()
[ "$(id -u)" -eq 0 ] || as_root=(sudo)
echo "==> installing Debian packages: ${need[*]}"
"${as_root[@]}" apt-get update -qq
DEBIAN_FRONTEND=noninteractive "${as_root[@]}" apt-get install -y -qq --no-install-recommends "${need[@]}"
