"""Sealed models by another implementation: writes the fixtures of inference/tests/sealed.rs.

Follows the format as inference/src/sealed/mod.rs and protocol/proto/vault.proto describe it, with
`cryptography` (pip install cryptography). Run: python3 sealed.py ../tests/fixtures/sealed.json
"""

import hashlib
import hmac
import json
import sys

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

OWNER = bytes(range(32))
SALT = bytes([0x5A]) * 32
CHUNK = 4096


def hkdf(salt, key, info):
    return HKDF(hashes.SHA256(), 32, salt or None, b"cocoon/sealed/v1/" + info).derive(key)


def varint(number):
    out = b""
    while number >= 128:
        out += bytes([number & 127 | 128])
        number >>= 7
    return out + bytes([number])


def text(field, value):
    return varint(field << 3 | 2) + varint(len(value)) + value


def number(field, value):
    return varint(field << 3) + varint(value)


def seal(plain, claimed, name):
    content = hkdf(claimed, OWNER, b"content")
    key_id = hkdf(b"", content, b"key-id")[:16]
    chunks, cipher = [], AESGCM(hkdf(SALT, content, b"chunks"))
    pieces = [plain[i : i + CHUNK] for i in range(0, len(plain), CHUNK)]
    for i, piece in enumerate(pieces):
        nonce = bytes(7) + i.to_bytes(4, "big") + bytes([i + 1 == len(pieces)])
        chunks.append(cipher.encrypt(nonce, piece, None))
    listed = b"".join(hashlib.sha256(chunk).digest() for chunk in chunks)
    header = text(1, claimed) + number(2, len(plain)) + number(3, CHUNK) + text(4, key_id)
    header += text(5, SALT) + text(6, name.encode()) + text(7, hashlib.sha256(listed).digest())
    head = b"cocoon-sealed\n" + (1).to_bytes(2, "little") + len(header).to_bytes(2, "little") + header
    tag = hmac.new(hkdf(SALT, content, b"header"), head, "sha256").digest()
    return {"sealed": (head + tag + listed + b"".join(chunks)).hex(), "key_id": key_id.hex()}


plain = b"".join(hashlib.sha256(i.to_bytes(4, "little")).digest() for i in range(300))
digest = hashlib.sha256(plain).digest()
other = hashlib.sha256(b"other weights").digest()
fixture = {
    "owner_key": OWNER.hex(),
    "plain": plain.hex(),
    "honest": seal(plain, digest, "golden"),
    # The owner's own key, over weights that are not those of the header.
    "lying": seal(plain, other, "lying"),
}
with open(sys.argv[1], "w") as file:
    json.dump(fixture, file, indent=1)
    file.write("\n")
