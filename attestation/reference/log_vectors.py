#!/usr/bin/env python3
"""Writes tests/fixtures/log_vectors.json: a small log of guest images, signed and proven without any of our Rust code.

Needs only the `cryptography` package, for Ed25519. The Merkle tree is the recursive definition of RFC 6962, the note
is put together as c2sp.org/signed-note says, Protobuf is written by hand. Run it by hand after a change of the format,
in this folder: python3 log_vectors.py
"""

import base64
import hashlib
import json

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

ORIGIN = "example.org/guest-images"


def sha256(data):
    return hashlib.sha256(data).digest()


def b64(data):
    return base64.b64encode(data).decode()


def root(leaves):
    """RFC 6962, section 2.1, word for word."""
    if not leaves:
        return sha256(b"")
    if len(leaves) == 1:
        return sha256(b"\x00" + leaves[0])
    k = split(len(leaves))
    return sha256(b"\x01" + root(leaves[:k]) + root(leaves[k:]))


def split(n):
    k = 1
    while k * 2 < n:
        k *= 2
    return k


def path(m, leaves):
    """RFC 6962, section 2.1.1."""
    if len(leaves) == 1:
        return []
    k = split(len(leaves))
    if m < k:
        return path(m, leaves[:k]) + [root(leaves[k:])]
    return path(m - k, leaves[k:]) + [root(leaves[:k])]


def subproof(m, leaves, whole):
    """RFC 6962, section 2.1.2."""
    n = len(leaves)
    if m == n:
        return [] if whole else [root(leaves)]
    k = split(n)
    if m <= k:
        return subproof(m, leaves[:k], whole) + [root(leaves[k:])]
    return subproof(m - k, leaves[k:], False) + [root(leaves[:k])]


class Key:
    def __init__(self, name, seed):
        self.name, self.seed = name, bytes([seed]) * 32
        self.key = Ed25519PrivateKey.from_private_bytes(self.seed)
        public = self.key.public_key().public_bytes(
            serialization.Encoding.Raw, serialization.PublicFormat.Raw
        )
        self.id = sha256(name.encode() + b"\n\x01" + public)[:4]
        self.public = f"{name}+{self.id.hex()}+{b64(bytes([1]) + public)}"
        self.secret = f"PRIVATE+KEY+{name}+{self.id.hex()}+{b64(bytes([1]) + self.seed)}"

    def line(self, text):
        return f"\u2014 {self.name} {b64(self.id + self.key.sign(text.encode()))}\n"


def note(leaves, keys):
    text = f"{ORIGIN}\n{len(leaves)}\n{b64(root(leaves))}\n"
    return text + "\n" + "".join(key.line(text) for key in keys)


def varint(n):
    out = b""
    while True:
        n, low = n >> 7, n & 0x7F
        if n == 0:
            return out + bytes([low])
        out += bytes([low | 0x80])


def blob(field, value):
    return varint(field << 3 | 2) + varint(len(value)) + value


def proof(index, leaves, checkpoint):
    out = blob(1, leaves[index])
    if index:
        out += varint(2 << 3) + varint(index)
    for step in path(index, leaves):
        out += blob(3, step)
    return out + blob(4, checkpoint.encode())


def entry(number):
    register = lambda which: hashlib.sha384(f"{which} {number}".encode()).hexdigest()
    fields = {"name": f"guest {number}"}
    fields |= {which: register(which) for which in ("mrtd", "rtmr0", "rtmr1", "rtmr2")}
    fields |= {"revision": f"git https://example.org/guest {number:040x}"}
    return json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode()


keys = [Key("example.org/alice", 1), Key("example.net/bob", 2), Key("example.com/carol", 3)]
entries = [entry(number) for number in range(5)]
older, newer = note(entries[:3], keys[:2]), note(entries, keys)
vectors = {
    "origin": ORIGIN,
    "public": [key.public for key in keys],
    "secret": [key.secret for key in keys],
    "entries": [entry.decode() for entry in entries],
    "older": older,
    "newer": newer,
    "consistency": [step.hex() for step in subproof(3, entries, True)],
    "proofs": [proof(index, entries, newer).hex() for index in range(len(entries))],
}
with open("../tests/fixtures/log_vectors.json", "w") as file:
    json.dump(vectors, file, indent=1, ensure_ascii=False)
    file.write("\n")
