#!/usr/bin/env python3
"""Computes the vectors of src/golden_tests.rs without any of our Rust code.

Needs only the `cryptography` package, for Ed25519. Protobuf is written by hand here, on purpose.
Run it by hand after a change of what is signed, and compare with the tests: python3 vectors.py
"""

import hashlib
import struct

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey


def sha256(data):
    return hashlib.sha256(data).digest()


def public(seed):
    key = Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32)
    raw = key.public_key().public_bytes(
        serialization.Encoding.Raw, serialization.PublicFormat.Raw
    )
    return key, raw


def peer(seed):
    # libp2p: identity multihash (00, length) of the protobuf {1: Ed25519 = 1, 2: raw key}.
    return bytes.fromhex("0024" "0801" "1220") + public(seed)[1]


def varint(n):
    out = b""
    while True:
        n, low = n >> 7, n & 0x7F
        if n == 0:
            return out + bytes([low])
        out += bytes([low | 0x80])


def number(field, value):
    return b"" if value == 0 else varint(field << 3) + varint(value)


def blob(field, value):
    return varint(field << 3 | 2) + varint(len(value)) + value


# The voucher: global_id -239, channel hash cc…cc, 1.5 TON in total, key seed 01…01.
key, _ = public(1)
signed = b"vch1" + struct.pack(">i", -239) + b"\x02" + b"\xcc" * 32 + (1_500_000_000).to_bytes(15, "big")
assert len(signed) == 56
print("voucher signed bytes", signed.hex())
print("voucher signature   ", key.sign(signed).hex())
# The client's half of closing together: the same bytes under another tag.
print("release signature   ", key.sign(b"rel1" + signed[4:]).hex())

# The report data.
fields = [
    b"\x01" * 32,
    sha256(b"\x02" * 1184),
    b"\x03" * 32,
    peer(7),
    b"\x04" * 32,
    b"\x05" * 32,
    b"\x00" * 32,
    struct.pack("<I", 0x01020304) + b"\x06" * 32,
    struct.pack("<Q", 489_000),
    b"\x08" * 32,
]
data = b"cocoon/report-data/v2\0" + b"".join(struct.pack("<I", len(f)) + f for f in fields)
report_data = hashlib.sha512(data).digest()
print("report data         ", report_data.hex())
print("evidence digest     ", sha256(report_data).hex())

# The commitments, under the salt 5a…5a.
salt = b"\x5a" * 32


def le(n):
    return struct.pack("<I", n)


def commitment(kind, data):
    return sha256(b"cocoon/" + kind + b"/v2\0" + salt + data)


request_commitment = commitment(b"request", b"{}")
texts = [b"Hello", b"Bonjour"]
response_commitment = commitment(
    b"response", le(len(texts)) + b"".join(le(len(text)) + text for text in texts)
)
answers = [[1, 70_000], [3]]
tokens_commitment = commitment(
    b"tokens",
    le(len(answers)) + b"".join(le(len(ids)) + b"".join(map(le, ids)) for ids in answers),
)
print("request commitment  ", request_commitment.hex())
print("response commitment ", response_commitment.hex())
print("tokens commitment   ", tokens_commitment.hex())

# The receipt, signed by key seed 09…09.
key, receipt_key = public(9)
channel = blob(2, b"\xcc" * 32)  # workchain 0 is left out
receipt = b"".join(
    [
        blob(1, b"\x11" * 16),
        blob(2, peer(7)),
        blob(3, peer(8)),
        blob(4, b"smollm2"),
        blob(5, b"\x12" * 32),
        blob(6, b"\x13" * 32),
        blob(7, request_commitment),
        blob(8, response_commitment),
        number(9, 40),
        number(10, 300),
        blob(11, number(1, 100) + number(2, 500)),
        number(12, 40 * 100 + 300 * 500),
        blob(13, channel),
        number(14, 1_000_154_000),
        number(15, 2),
        number(16, 1_700_000_000_000),
        number(17, 1_700_000_001_234),
        blob(18, receipt_key),
        blob(19, tokens_commitment),
        blob(20, b"\x14" * 32),
    ]
)
signature = key.sign(b"cocoon/receipt/v2\0" + receipt)
encoded = blob(1, receipt) + blob(2, signature)
print("receipt digest      ", sha256(receipt).hex())
print("receipt signature   ", signature.hex())
print("receipt leaf        ", sha256(b"\x00" + encoded).hex())
