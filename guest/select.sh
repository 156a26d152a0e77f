#!/usr/bin/env bash
# From unpacked packages to an initial file system: only what is listed, and the libraries it needs.
#
#   select.sh TREE COCOON INIT OUT      writes OUT/vmlinuz, OUT/initrd, OUT/files
#
# The same inputs give the same bytes: fixed order, times, owners and modes. DRIVER: see build.sh.
set -euo pipefail

tree="$1" cocoon="$2" init="$3" out="$(realpath "$4")"
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
: "${SOURCE_DATE_EPOCH:?}"
export LC_ALL=C TZ=UTC

image="$(mktemp -d)"
trap 'rm -rf "$image"' EXIT
mkdir -p "$image"/{dev,etc,model,proc,run,sys,tmp,usr/bin,usr/sbin,usr/lib/x86_64-linux-gnu,usr/lib64}
ln -s usr/lib "$image/lib"
ln -s usr/lib64 "$image/lib64"

lines() {
    sed -e '/^#/d' -e '/^$/d' "$1"
}

# Debian 12 still has files in /lib and /sbin; the image has only /usr.
found() {
    local path
    for path in "$tree/$1" "$tree/${1#usr/}"; do
        if [ -e "$path" ]; then
            realpath "$path"
            return
        fi
    done
    echo "select.sh: $1 is in no package" >&2
    return 1
}

# A program or library, and what it needs.
declare -A taken=()
libraries() {
    local needed
    for needed in $(objdump -p "$1" | sed -n 's/^ *NEEDED *//p'); do
        if [ -n "${taken[$needed]:-}" ]; then continue; fi
        taken[$needed]=1
        local from
        if [ "$needed" = ld-linux-x86-64.so.2 ]; then
            from="$(found usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2)"
            install -m 755 "$from" "$image/usr/lib64/$needed"
        else
            from="$(found "usr/lib/x86_64-linux-gnu/$needed")"
            install -m 644 "$from" "$image/usr/lib/x86_64-linux-gnu/$needed"
        fi
        libraries "$from"
    done
}

install -m 755 "$init" "$image/init"
install -m 755 "$cocoon" "$image/usr/bin/cocoon"
strip --strip-all "$image/init" "$image/usr/bin/cocoon"
libraries "$init"
libraries "$cocoon"
for program in $(lines "$here/programs"); do
    from="$(found "$program")"
    install -m 755 "$from" "$image/usr/sbin/$(basename "$program")"
    libraries "$from"
done

# Modules: unpacked, so that the kernel needs no decompressor, with what they depend on first.
release="$(basename "$tree"/usr/lib/modules/*)"
if [ ! -e "$tree/lib/modules" ]; then
    mkdir -p "$tree/lib"
    ln -s ../usr/lib/modules "$tree/lib/modules"
fi
depmod -b "$tree" "$release"
mkdir -p "$image/usr/lib/modules"
: >"$image/usr/lib/modules/load"
for module in $(lines "$here/modules"); do
    modprobe -d "$tree" -S "$release" --show-depends "$module" | sed -n 's/^insmod //p' |
        while read -r path _; do
            name="$(basename "${path%.xz}")"
            if [ -e "$image/usr/lib/modules/$name" ]; then continue; fi
            xz -dc "$path" >"$image/usr/lib/modules/$name"
            chmod 644 "$image/usr/lib/modules/$name"
            echo "/lib/modules/$name" >>"$image/usr/lib/modules/load"
        done
done
if [ -n "${DRIVER:-}" ]; then
    cp -r --no-preserve=all "$DRIVER/files/." "$image/usr/"
    cat "$DRIVER/load" >>"$image/usr/lib/modules/load"
fi
chmod 644 "$image/usr/lib/modules/load"

# What must not be there.
if find "$image" -name '*sh' -type f | grep -E '/(ba|da|z|k|a|c|tc)?sh$'; then
    echo "select.sh: a shell is in the image" >&2
    exit 1
fi
if find "$image" -perm /6000 | grep .; then
    echo "select.sh: a program changes its user" >&2
    exit 1
fi

find "$image" -type d -exec chmod 755 {} +
find "$image" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
(cd "$image" && find . -mindepth 1 -type f -printf '%P\n' | sort | xargs sha256sum) >"$out/files"
(cd "$image" && find . -mindepth 1 -printf '%P\n' | sort |
    cpio --quiet -o -H newc --reproducible -R 0:0) |
    zstd -q -12 --no-check -T1 -f -o "$out/initrd"
install -m 644 "$tree/usr/lib/modules/$release/vmlinuz" "$out/vmlinuz"
