#!/usr/bin/env bash
# Fetches what `cocoon bench engine` compares with: llama.cpp, prebuilt, from npm and from PyPI.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
peers="${COCOON_PEERS:-${XDG_CACHE_HOME:-$HOME/.cache}/cocoon/peers}"
mkdir -p "$peers/node"
echo "==> fetching llama.cpp's builds to $peers (some 800 MB)"
if command -v npm >/dev/null; then
  cp "$here/llama_cpp.mjs" "$peers/node/"
  npm install --prefix "$peers/node" --ignore-scripts --no-audit --no-fund --loglevel=error node-llama-cpp@3.22.1
else
  echo "npm not found: node-llama-cpp left out"
fi
python3 -m venv "$peers/python"
"$peers/python/bin/pip" install --quiet --disable-pip-version-check xllamacpp==2026.10.11549
cp "$here/llama_cpp.py" "$peers/python/"
echo "==> done"
