#!/bin/sh
# Puts a real OpenAI-compatible server where the tests of the upstream engine look for one: llama.cpp's, in
# PyPI's `xllamacpp` (MIT), in a virtual environment of its own, with the ordinary pip client:
#
#   ${COCOON_TEST_UPSTREAM:-${XDG_CACHE_HOME:-$HOME/.cache}/cocoon/upstream}
#
# Does nothing when the right version is already there. Needs python3 with venv. Only tests need it.
set -eu

PACKAGE=xllamacpp
VERSION=2026.10.11549
# manylinux x86_64; other machines take the wheel that pip chooses, unpinned.
WHEEL_SHA256=c54e7d13520ecc989c63dc99d55de3065e2f343a91f43f053d16b5e62077c261

say() { printf 'fetch-upstream: %s\n' "$*"; }
fail() {
	printf 'fetch-upstream: error: %s\n' "$*" >&2
	exit 1
}

if [ -z "${COCOON_TEST_UPSTREAM:-}" ] && [ -z "${XDG_CACHE_HOME:-}" ] && [ -z "${HOME:-}" ]; then
	fail 'none of COCOON_TEST_UPSTREAM, XDG_CACHE_HOME and HOME is set'
fi
target=${COCOON_TEST_UPSTREAM:-${XDG_CACHE_HOME:-$HOME/.cache}/cocoon/upstream}

installed() {
	"$target/bin/python" -c "
from importlib.metadata import version
import sys, xllamacpp
sys.exit(version('$PACKAGE') != '$VERSION')" 2>/dev/null
}
if installed; then
	say "already there: $PACKAGE $VERSION in $target"
	exit 0
fi

command -v python3 >/dev/null || fail 'python3 is missing (Debian packages python3 and python3-venv)'
say "making a virtual environment in $target"
python3 -m venv "$target" || fail 'venv failed (Debian package python3-venv)'
say "installing $PACKAGE $VERSION with pip (30 MB)"
if [ "$(uname -sm)" = 'Linux x86_64' ]; then
	printf '%s==%s --hash=sha256:%s\n' "$PACKAGE" "$VERSION" "$WHEEL_SHA256" >"$target/requirements.txt"
	set -- --require-hashes --requirement "$target/requirements.txt"
else
	set -- "$PACKAGE==$VERSION"
fi
"$target/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --only-binary :all: "$@" ||
	fail "pip could not install $PACKAGE $VERSION"
installed || fail "$PACKAGE does not start"
say "ready: $target"
