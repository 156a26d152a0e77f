#!/usr/bin/env bash
# Everything about the engine on a CUDA card, in one command: the binary, its numbers against float32, its
# speed beside torch on the same card, and a page in docs/benchmarks/.
#
#   scripts/bench/gpu.sh [SIZE ...]      sizes: 0.6b 4b 8b (default: all)
#
# Needs a card with its driver, NVRTC and the CUDA headers (CUDA_PATH), and python3 with torch and
# transformers (or a network to fetch them). COCOON=path/to/cocoon skips the build.
set -euo pipefail
cd "$(dirname "$0")/../.."
sizes=("${@:-}")
[ -n "${sizes[0]}" ] || sizes=(0.6b 4b 8b)
work="${COCOON_BENCH_DIR:-${TMPDIR:-/tmp}/cocoon-gpu-bench}"
mkdir -p "$work"

device="$(nvidia-smi --query-gpu=name,driver_version --format=csv,noheader | head -1)"
echo "==> card: $device"
if [ -z "${COCOON:-}" ]; then
  echo "==> building with CUDA (some 25 CPU-minutes the first time)"
  # Without nvcc, cudarc would take its newest bindings, which may be newer than the driver.
  CUDARC_CUDA_VERSION="${CUDARC_CUDA_VERSION:-13000}" cargo build --release --locked -p cocoon --features cuda
  COCOON="${CARGO_TARGET_DIR:-target}/release/cocoon"
fi
python="${PYTHON:-python3}"
if ! "$python" -c 'import torch, transformers' 2>/dev/null; then
  echo "==> fetching torch and transformers"
  python3 -m venv "$work/venv"
  "$work/venv/bin/pip" install --quiet torch transformers accelerate
  python="$work/venv/bin/python"
fi

for size in "${sizes[@]}"; do
  model="$work/qwen3-$size"
  if [ ! -f "$model/config.json" ]; then
    echo "==> making random weights of Qwen3-$size"
    "$python" scripts/bench/torch_peer.py make "$size" "$model"
  fi
  echo "==> numbers of Qwen3-$size against float32"
  "$python" scripts/bench/torch_peer.py logits "$model" > "$work/$size-logits.json"
  "$COCOON" bench engine --model "$model" --device cuda --check "$work/$size-logits.json"
  echo "==> speed of Qwen3-$size"
  "$COCOON" bench engine --model "$model" --device cuda | tee "$work/$size-cocoon.txt"
  "$python" scripts/bench/torch_peer.py bench "$model" > "$work/$size-torch.json"
done
"$python" scripts/bench/gpu_page.py "$work" "$device" "${sizes[@]}"
