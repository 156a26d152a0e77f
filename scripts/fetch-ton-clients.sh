#!/bin/sh
# Puts TON clients that are not ours where the devnet's tests look for them, in a virtual environment of their own,
# with the ordinary pip client and the digests pinned here:
#
#   ${COCOON_TEST_TON_CLIENTS:-${XDG_CACHE_HOME:-$HOME/.cache}/cocoon/ton-clients}
#
#   pytoniq   (MIT)     a light client in Python that checks proofs and signatures
#   pytonlib  (Apache-2.0)  carries libtonlibjson, the light client of TON's own C++ sources
#
# Does nothing when the right versions are already there. Needs python3.11 or newer with venv, on Linux x86_64. Only
# tests need it.
set -eu

PYTONIQ=0.1.43
PYTONLIB=0.0.72

say() { printf 'fetch-ton-clients: %s\n' "$*"; }
fail() {
	printf 'fetch-ton-clients: error: %s\n' "$*" >&2
	exit 1
}

if [ -z "${COCOON_TEST_TON_CLIENTS:-}" ] && [ -z "${XDG_CACHE_HOME:-}" ] && [ -z "${HOME:-}" ]; then
	fail 'none of COCOON_TEST_TON_CLIENTS, XDG_CACHE_HOME and HOME is set'
fi
target=${COCOON_TEST_TON_CLIENTS:-${XDG_CACHE_HOME:-$HOME/.cache}/cocoon/ton-clients}

installed() {
	"$target/bin/python" -c "
from importlib.metadata import version
import sys, pytoniq
sys.exit((version('pytoniq'), version('pytonlib')) != ('$PYTONIQ', '$PYTONLIB'))" 2>/dev/null
}
if installed; then
	say "already there: pytoniq $PYTONIQ and pytonlib $PYTONLIB in $target"
	exit 0
fi

[ "$(uname -sm)" = 'Linux x86_64' ] || fail 'libtonlibjson is pinned for Linux x86_64 only'
command -v python3 >/dev/null || fail 'python3 is missing (Debian packages python3 and python3-venv)'
say "making a virtual environment in $target"
python3 -m venv "$target" || fail 'venv failed (Debian package python3-venv)'
say "installing pytoniq $PYTONIQ and pytonlib $PYTONLIB with pip (40 MB)"
# Without pytonlib's own dependencies: only the library inside it is used. Wheels that depend on the version of Python
# are pinned for 3.11, 3.12 and 3.13.
cat >"$target/requirements.txt" <<'REQUIREMENTS'
bitarray==3.12.3 --hash=sha256:99a11f9e6c4f8321ad1305cfe1ef81fda375210ca64b3e308ed0acf118a188db --hash=sha256:8a32e10bd3c7e287df1e4c3da73efda5585a56ec59337b1467245f53dd469a99 --hash=sha256:e8f2762fdab90ee294cc14192e91d496ea24990ca9fe28d3627775a0d2773c6e
certifi==2026.10.18 --hash=sha256:73191c47aaa79da394e8fee2dbc2ec827432cab56311122c9e47abf79e390f62
cffi==2.1.1 --hash=sha256:34e261f78cb6ceaaa36f42f2613f4380d94d9c759a9c73c769ee6e0247364632 --hash=sha256:c1453022f490d2459a11819d83ad1d586e9ff65a12ac3e705ffebd46d3685dcf --hash=sha256:a931079504ecc49efed7744c476a5c343a92fabf66dec2db95edb1b2fdc770e2
charset-normalizer==3.5.2 --hash=sha256:211d5a3eb6af8f513b8d4ca19a8c1b7accab1b5f0d3175f9826b03c1a920dc1f --hash=sha256:3d31298449090ab8d47b7b1b2a555ff73cac7ed438a08b7ac160980c7ebed649 --hash=sha256:7218e8f32b0956cfcd048fd42d9d5779809745ca1d86113ca56f66e7ae1549c4
idna==3.20 --hash=sha256:ab7ae7122974553370f0bdb919e1a960b2cd1bc1ef0276416d896db81c14582c
pycparser==3.12 --hash=sha256:a076f3f489b39b43ed13563a1dafe42447445bec2e294154ec5c57fcdda4c85e
pycryptodomex==3.24.2 --hash=sha256:e340408a601003f235b50117cd16f87b2a5b4760765aafe93340eeaadeb0414d
pynacl==1.6.2 --hash=sha256:c8a231e36ec2cab018c4ad4358c386e36eede0319a0c41fed24f840b1dac59f6
pytoniq==0.1.43 --hash=sha256:922c1721124bf7214e0b7044fba2a439e006367778611c0ce813cbe5b00079d3
pytoniq-core==0.2.1 --hash=sha256:7e63ea6bdae8496d8e3d987286518dd968e9e770f960deb414100d568622bdc8
pytonlib==0.0.72 --hash=sha256:815d0762af2e2953c837c8318e8bf06611d54df5d0e6e04c2afdeb0c08bc3b14
requests==2.34.2 --hash=sha256:2a0d60c172f83ac6ab31e4554906c0f3b3588d37b5cb939b1c061f4907e278e0
urllib3==2.8.0 --hash=sha256:0cf3cae568d36aa9576b28dfb35f11328f1cb974ca7647d9475ebb86c75ac6e3
x25519==0.0.2 --hash=sha256:5c0833260a548bea9137a5a1b5c30334b751a59d148a62832df0c9e7b919ce99
REQUIREMENTS
"$target/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --only-binary :all: \
	--require-hashes --requirement "$target/requirements.txt" ||
	fail 'pip could not install them'
installed || fail 'pytoniq does not start'
say "ready: $target"
