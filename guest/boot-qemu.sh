#!/usr/bin/env bash
# Boots the image under plain QEMU, without TDX, and waits for the node's health endpoint.
#
#   guest/boot-qemu.sh IMAGE CONFIG [WANTED]
#
# IMAGE is a folder written by guest/build.sh, CONFIG the node's configuration (TOML). Without WANTED
# it passes when /health answers; with it, when the console says that text and the guest switches
# itself off. Uses KVM where there is one. Needs qemu-system-x86 and curl.
#
#   FIRMWARE       OVMF.fd; without it QEMU's own loader starts the kernel
#   MODEL_VOLUME   folder written by guest/model-volume.sh
#   ACCELERATOR    kvm or tcg, QEMU's own emulation; default: kvm where /dev/kvm can be written
#   PROCESSOR      for QEMU's -cpu; default: host with KVM, else max
#   DEADLINE_S     longest wait, default 120 (600 without KVM)
#   CONSOLE        file for the console, default: a temporary one, printed on failure
set -euo pipefail

image="${1:?usage: guest/boot-qemu.sh IMAGE CONFIG [WANTED]}"
config="${2:?usage: guest/boot-qemu.sh IMAGE CONFIG [WANTED]}"
wanted="${3:-}"

work="$(mktemp -d)"
console="${CONSOLE:-$work/console}"
: >"$console"
accelerator="${ACCELERATOR:-$([ -w /dev/kvm ] && echo kvm || echo tcg)}"
case "$accelerator" in
kvm) deadline="${DEADLINE_S:-120}" processor="${PROCESSOR:-host}" processors=2 ;;
# One: with two, QEMU 7.2 sometimes runs half of an instruction that Linux is just replacing.
*) deadline="${DEADLINE_S:-600}" processor="${PROCESSOR:-max}" processors=1 ;;
esac
printf 'address 10.0.2.15/24\ngateway 10.0.2.2\nnameserver 10.0.2.3\n' >"$work/network"
port="$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')"

# shellcheck disable=SC2054 # QEMU's commas.
arguments=(
    -machine "q35,accel=$accelerator" -cpu "$processor" -smp "$processors" -m "${MEMORY:-2G}"
    -nodefaults -no-reboot -display none -serial "file:$console"
    -kernel "$image/vmlinuz" -initrd "$image/initrd" -append "$(cat "$image/cmdline")"
    -netdev "user,id=net,hostfwd=tcp:127.0.0.1:$port-:10000" -device virtio-net-pci,netdev=net,romfile=
    -fw_cfg "name=opt/org.cocoon/network,file=$work/network"
    -fw_cfg "name=opt/org.cocoon/worker.toml,file=$config"
)
if [ -n "${FIRMWARE:-}" ]; then
    arguments+=(-bios "$FIRMWARE")
fi
if [ -n "${MODEL_VOLUME:-}" ]; then
    # shellcheck disable=SC2054
    arguments+=(-drive "file=$MODEL_VOLUME/volume,format=raw,if=none,id=model,readonly=on"
        -device virtio-blk-pci,drive=model)
fi

nice qemu-system-x86_64 "${arguments[@]}" &
qemu=$!
trap 'kill "$qemu" 2>/dev/null || true; wait "$qemu" 2>/dev/null || true; rm -rf "$work"' EXIT

answers() {
    curl -sf -m 2 "http://127.0.0.1:$port/health"
}
SECONDS=0
while [ "$SECONDS" -lt "$deadline" ]; do
    if ! kill -0 "$qemu" 2>/dev/null; then
        if [ -n "$wanted" ] && grep -qF -- "$wanted" "$console"; then
            echo "the guest said it and switched itself off after ${SECONDS} s ($accelerator):"
            grep -F -- "$wanted" "$console"
            exit 0
        fi
        break
    fi
    if [ -z "$wanted" ] && health="$(answers)"; then
        echo "/health answered after ${SECONDS} s ($accelerator): $health"
        exit 0
    fi
    sleep 0.2
done
echo "boot-qemu.sh: not reached within ${SECONDS} s; the console:" >&2
tail -n 60 "$console" >&2
exit 1
