#!/usr/bin/env bash
# A model as a volume that the guest's kernel checks block by block.
#
#   guest/model-volume.sh MODEL OUT     writes OUT/volume, OUT/root, OUT/hash-offset
#
# MODEL is a GGUF file or a folder of a checkpoint. The volume is erofs, followed by dm-verity's hash
# tree; root and offset go on the guest's command line, which is measured. Needs erofs-utils and
# cryptsetup-bin.
set -euo pipefail

model="${1:?usage: guest/model-volume.sh MODEL OUT}" out="${2:?usage: guest/model-volume.sh MODEL OUT}"
# Constants: the same model is the same volume.
id=c0c00a00-0000-4000-8000-000000000001
salt=c0c00a0000000000000000000000000000000000000000000000000000000001
page=4096

content="$(mktemp -d)"
trap 'rm -rf "$content"' EXIT
cp -r --no-preserve=all "$model" "$content/"
find "$content" -type d -exec chmod 755 {} +
find "$content" -type f -exec chmod 644 {} +
mkdir -p "$out"
rm -f "$out/volume"
mkfs.erofs --quiet -T 1767225600 -U "$id" --all-root "$out/volume" "$content"
bytes="$(stat -c %s "$out/volume")"
offset=$(((bytes + page - 1) / page * page))
truncate -s "$offset" "$out/volume"
veritysetup format --data-blocks=$((offset / page)) --hash-offset="$offset" \
    --uuid="$id" --salt="$salt" "$out/volume" "$out/volume" |
    sed -n 's/^Root hash:[[:space:]]*//p' | tr -d '\n' >"$out/root"
printf '%s' "$offset" >"$out/hash-offset"
echo "root $(cat "$out/root"), hash tree at byte $offset"
