#!/usr/bin/env bash
# Builds the guest's kernel, initial file system and command line into a folder.
#
#   guest/build.sh OUT                  from the locked packages
#   guest/build.sh --relock             writes packages.lock anew from the mirror's present state
#
# Needs: a Debian 12 machine (the node's libraries are its), apt, dpkg, kmod, binutils, cpio, zstd, xz.
#
#   COCOON_BINARY   the node; else it is built. Refused if it holds the simulated root
#   INIT_BINARY     the first process; else it is built
#   MODEL_VOLUME    folder written by guest/model-volume.sh; without it the guest has no model
#   DRIVER          folder with a driver that is not Debian's: `files/` is laid over the image's /usr,
#                   the lines of `load` (/lib/modules/….ko, for this kernel) are loaded last
#   FIRMWARE        OVMF.fd; with it, the policy's table is computed into OUT/image.toml
#   DEBIAN_MIRROR   where packages come from; else the machine's own mirror. A snapshot archive, once
#                   the mirror has moved on
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
root="$(dirname "$here")"
# Of every file in the image. A constant: the image is a function of its files.
export SOURCE_DATE_EPOCH=1767225600
export LC_ALL=C TZ=UTC PATH="$PATH:/usr/sbin:/sbin"
base_suite=bookworm
kernel_suite=trixie-backports

fail() {
    echo "guest/build.sh: $*" >&2
    exit 1
}

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

# shellcheck disable=SC2016 # apt replaces it, not the shell.
mirror="${DEBIAN_MIRROR:-$(apt-get indextargets --format '$(REPO_URI)' 2>/dev/null |
    grep -m 1 '/debian/$' || true)}"
[ -n "$mirror" ] || fail "no mirror known; set DEBIAN_MIRROR"

# An apt of our own: what is installed on this machine does not matter.
keys=/usr/share/keyrings/debian-archive-keyring.gpg
mkdir -p "$work"/apt/lists/partial "$work"/apt/archives/partial "$work"/debs
: >"$work/apt/status"
for suite in "$base_suite" "$kernel_suite"; do
    echo "deb [signed-by=$keys] $mirror $suite main"
done >"$work/apt/sources.list"
if [ -z "${DEBIAN_MIRROR:-}" ]; then
    echo "deb [signed-by=$keys] ${mirror%/debian/}/debian-security $base_suite-security main" \
        >>"$work/apt/sources.list"
fi
cat >"$work/apt/conf" <<EOF
Dir::Etc::sourcelist "$work/apt/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::State::lists "$work/apt/lists";
Dir::State::status "$work/apt/status";
Dir::Cache "$work/apt";
APT::Sandbox::User "root";
EOF
apt=(apt-get -qq -c "$work/apt/conf")

packages() {
    sed -n 's/^\(base\|kernel\) //p' "$here/packages"
}

if [ "${1:-}" = --relock ]; then
    "${apt[@]}" update
    (cd "$work/debs" && packages | xargs "${apt[@]}" download >/dev/null)
    for deb in "$work"/debs/*.deb; do
        echo "$(dpkg-deb -f "$deb" Package) $(dpkg-deb -f "$deb" Version)" \
            "$(sha256sum "$deb" | cut -d' ' -f1)"
    done | sort >"$here/packages.lock"
    echo "wrote $here/packages.lock"
    exit 0
fi
out="${1:?usage: guest/build.sh OUT}"

echo "==> packages"
[ -s "$here/packages.lock" ] || fail "no packages.lock; run guest/build.sh --relock"
diff <(packages | sort) <(cut -d' ' -f1 "$here/packages.lock" | sort) >/dev/null ||
    fail "packages and packages.lock name different packages; run guest/build.sh --relock"
"${apt[@]}" update
while read -r name version _; do
    echo "$name=$version"
done <"$here/packages.lock" | (cd "$work/debs" && xargs "${apt[@]}" download >/dev/null) ||
    fail "a locked version is gone from the mirror; set DEBIAN_MIRROR to a snapshot archive"
for deb in "$work"/debs/*.deb; do
    sum="$(sha256sum "$deb" | cut -d' ' -f1)"
    grep -q " $sum\$" "$here/packages.lock" || fail "$(basename "$deb") is not the locked file"
    dpkg-deb -x "$deb" "$work/tree"
done

echo "==> programs of this project"
if [ -z "${COCOON_BINARY:-}" ]; then
    (cd "$root" && cargo build --locked -p cocoon)
    COCOON_BINARY="${CARGO_TARGET_DIR:-$root/target}/debug/cocoon"
fi
if [ -z "${INIT_BINARY:-}" ]; then
    (cd "$root" && cargo build --locked -p cocoon-init)
    INIT_BINARY="${CARGO_TARGET_DIR:-$root/target}/debug/cocoon-init"
fi

# As scripts/production-build.sh does. For trying the image out, not for a release.
if [ -z "${ALLOW_SIMULATED:-}" ] && grep -qaF 'COCOON SIMULATED' "$COCOON_BINARY"; then
    fail "$COCOON_BINARY holds the simulated root; a guest needs the production build"
fi

echo "==> image"
mkdir -p "$out"
"$here/select.sh" "$work/tree" "$COCOON_BINARY" "$INIT_BINARY" "$out"

line="console=ttyS0 panic=-1 random.trust_cpu=on"
if [ -n "${MODEL_VOLUME:-}" ]; then
    line="$line cocoon.model=$(cat "$MODEL_VOLUME/root"):$(cat "$MODEL_VOLUME/hash-offset")"
fi
printf '%s' "$line" >"$out/cmdline"
(cd "$out" && sha256sum vmlinuz initrd cmdline | tee SHA256SUMS)

if [ -n "${FIRMWARE:-}" ]; then
    "$COCOON_BINARY" guest measure --firmware "$FIRMWARE" --kernel "$out/vmlinuz" \
        --initrd "$out/initrd" --cmdline "$line" --toml >"$out/image.toml"
    cat "$out/image.toml"
fi
