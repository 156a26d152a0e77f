"""Blocks of every number format, and their elements as PyPI's `gguf` (numpy) reads them.

    venv/bin/python quants.py > ../tests/fixtures/quants.bin

For each format: number u32, bytes u32, the bytes, elements u32, the elements f32; little-endian.
"""

import struct
import sys

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Kind

# Format, bytes and elements of a block, where its f16 scales lie.
FORMATS = [
    (Kind.F32, 4, 1, []),
    (Kind.F16, 2, 1, [0]),
    (Kind.BF16, 2, 1, []),
    (Kind.Q4_0, 18, 32, [0]),
    (Kind.Q4_1, 20, 32, [0, 2]),
    (Kind.Q5_0, 22, 32, [0]),
    (Kind.Q5_1, 24, 32, [0, 2]),
    (Kind.Q8_0, 34, 32, [0]),
    (Kind.Q4_K, 144, 256, [0, 2]),
    (Kind.Q5_K, 176, 256, [0, 2]),
    (Kind.Q6_K, 210, 256, [208]),
]

random = np.random.default_rng(7)
for kind, size, elements, scales in FORMATS:
    count = 16 if elements == 1 else 2
    blocks = random.integers(0, 256, (count, size), dtype=np.uint8)
    for at in scales:
        values = random.normal(0, 0.1, (count, 1)).astype(np.float16)
        blocks[:, at : at + 2] = values.view(np.uint8)
    if kind == Kind.F32:
        blocks = random.normal(0, 1, (count, 1)).astype(np.float32).view(np.uint8)
    if kind == Kind.BF16:
        # The upper halves of singles.
        singles = random.normal(0, 1, (count, 1)).astype(np.float32)
        blocks = (singles.view(np.uint32) >> 16).astype(np.uint16).view(np.uint8)
    values = gguf.quants.dequantize(blocks.reshape(-1), kind).astype("<f4").reshape(-1)
    if kind == Kind.F16:
        values = blocks.reshape(-1).view(np.float16).astype("<f4")
    assert values.size == count * elements and np.isfinite(values).all()
    out = sys.stdout.buffer
    out.write(struct.pack("<II", kind, blocks.size) + blocks.tobytes())
    out.write(struct.pack("<I", values.size) + values.tobytes())
