"""Hard texts (`hard_texts.py`) as two independent tokenizers read them, for three real vocabularies.

    venv/bin/python tokenizer_hard.py SMOLLM2.gguf QWEN_PART.gguf GEMMA3.gguf > ../tests/fixtures/tokenizer_hard.json

One is llama.cpp's, by way of PyPI's `xllamacpp` and its server on the loopback. The other is written here, the
slow and plain way. Where they differ, both are kept. They do where a text has `</s>` or `<unk>`: llama.cpp takes
tokens so spelt for control tokens whatever the file says of them (it warns: "control-looking token: ... its type
will be overridden"), and here a control token is what the file calls one.

QWEN_PART is the first part of a file too large to fetch; its vocabulary is complete, its tensors are not. For
llama.cpp, which loads no vocabulary without a model, a model of one narrow layer is made around it.
"""

import hashlib
import json
import sys
import tempfile
import urllib.request
from importlib.metadata import version
from pathlib import Path

import gguf
import numpy as np
import regex
import xllamacpp

import reference
from hard_texts import TEXTS

CONTROL, USER_DEFINED, BYTE = 3, 4, 6


class Header(gguf.GGUFReader):
    """The metadata of a file whose tensors may be missing."""

    def _build_tensors(self, *_):
        pass


class Qwen(reference.Tokenizer):
    """Byte-level BPE with Qwen's split into words (as `transformers` spells it in tokenization_qwen2.py)."""

    WORDS = regex.compile(
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
        r"|\s+(?!\S)|\s+"
    )

    def __init__(self, fields):
        super().__init__(fields)
        types = fields["tokenizer.ggml.token_type"].contents()
        tokens = fields["tokenizer.ggml.tokens"].contents()
        self.whole = {t: i for i, (t, kind) in enumerate(zip(tokens, types)) if kind == USER_DEFINED}

    def words(self, text):
        return self.WORDS.findall(text)

    def plain(self, text):
        """Tokens such as <think> are no control tokens, and are found in what a person types."""
        split = "|".join(map(regex.escape, self.whole))
        parts = [(part, self.whole.get(part)) for part in regex.split(f"({split})", text)]
        return [t for part, id in parts for t in (super(Qwen, self).plain(part) if id is None else [id])]


class Pieces:
    """SentencePiece's BPE (Kudo and Richardson 2018): join the pair whose joined piece scores best, the left
    one of equals; what is no piece goes in bytes. Spaces are written ▁, and nothing is put before a text."""

    def __init__(self, fields):
        self.tokens = fields["tokenizer.ggml.tokens"].contents()
        types = fields["tokenizer.ggml.token_type"].contents()
        self.scores = fields["tokenizer.ggml.scores"].contents()
        self.ids = {token: i for i, token in enumerate(self.tokens)}
        self.whole = {t: i for i, (t, kind) in enumerate(zip(self.tokens, types)) if kind == USER_DEFINED}
        self.control = {t: i for i, (t, kind) in enumerate(zip(self.tokens, types)) if kind == CONTROL}
        self.bytes = {t: i for i, (t, kind) in enumerate(zip(self.tokens, types)) if kind == BYTE}

    def split(self, text, pieces):
        pattern = "|".join(map(regex.escape, sorted(pieces, key=len, reverse=True)))
        return [p for p in regex.split(f"({pattern})", text) if p]

    def plain(self, text):
        return [t for part in self.split(text, self.whole) for t in self.joined(part)]

    def rendered(self, text):
        both = self.whole | self.control
        return [t for part in self.split(text, both) for t in ([both[part]] if part in both else self.joined(part))]

    def joined(self, text):
        if text in self.whole:
            return [self.whole[text]]
        parts = list(text.replace(" ", "▁"))
        while len(parts) > 1:
            pairs = [a + b for a, b in zip(parts, parts[1:])]
            found = [(-self.scores[self.ids[p]], at) for at, p in enumerate(pairs) if p in self.ids]
            if not found:
                break
            at = min(found)[1]
            parts[at : at + 2] = [pairs[at]]
        out = []
        for part in parts:
            if part in self.ids:
                out.append(self.ids[part])
            else:
                out += [self.bytes[f"<0x{byte:02X}>"] for byte in part.encode()]
        return out


class LlamaCpp:
    def __init__(self, path):
        params = xllamacpp.CommonParams()
        params.model.path = str(path)
        params.n_ctx, params.n_parallel, params.warmup, params.verbosity = 256, 1, False, -1
        self.server = xllamacpp.Server(params)

    def post(self, path, **body):
        request = urllib.request.Request(
            self.server.listening_address + path,
            data=json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    def tokens(self, text, control=False, whole=False):
        return self.post("/tokenize", content=text, add_special=whole, parse_special=control)["tokens"]

    def text(self, tokens):
        return self.post("/detokenize", tokens=tokens)["content"]


def narrow_model(fields, path):
    """A Qwen2 of one layer, 32 wide, with the vocabulary of `fields`."""
    writer = gguf.GGUFWriter(path, "qwen2")
    for add, value in [
        (writer.add_context_length, 256),
        (writer.add_embedding_length, 32),
        (writer.add_block_count, 1),
        (writer.add_feed_forward_length, 32),
        (writer.add_head_count, 1),
        (writer.add_head_count_kv, 1),
        (writer.add_rope_freq_base, 10_000.0),
        (writer.add_layer_norm_rms_eps, 1e-6),
    ]:
        add(value)
    for name, field in fields.items():
        if name.startswith("tokenizer."):
            kind, *inner = field.types
            writer.add_key_value(name, field.contents(), kind, inner[0] if inner else None)
    tokens = len(fields["tokenizer.ggml.tokens"].data)
    ones = np.ones(32, np.float32)
    writer.add_tensor("token_embd.weight", np.zeros((tokens, 32), np.float16))
    writer.add_tensor("output_norm.weight", ones)
    for name in ["attn_norm", "ffn_norm"]:
        writer.add_tensor(f"blk.0.{name}.weight", ones)
    for name in ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"]:
        writer.add_tensor(f"blk.0.{name}.weight", np.zeros((32, 32), np.float32))
    for name in ["attn_q", "attn_k", "attn_v"]:
        writer.add_tensor(f"blk.0.{name}.bias", np.zeros(32, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def compare(name, path, kind, folder):
    fields = Header(path).fields
    plain = kind(fields)
    model = path
    if name == "qwen2":
        model = Path(folder) / "narrow.gguf"
        narrow_model(fields, model)
    llama = LlamaCpp(model)
    empty = llama.tokens("", whole=True)
    texts, disputed = [], 0
    for text in TEXTS:
        # As a person types it, and as part of a template.
        ours, theirs = (plain.plain(text), plain.rendered(text)), (llama.tokens(text), llama.tokens(text, True))
        entry = {"text": text, "plain": ours[0]}
        if ours[1] != ours[0]:
            entry["with_control"] = ours[1]
        back = llama.text(ours[0])
        if back != text:
            entry["decoded"] = back
        if ours != theirs:
            disputed += 1
            entry["llama_cpp"] = {"plain": theirs[0], "with_control": theirs[1]}
            assert "</s>" in text, (name, text, ours, theirs)
        texts.append(entry)
    print(f"{name}: {len(TEXTS)} texts, {disputed} disputed", file=sys.stderr)
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"file_sha256": digest, "before_every_prompt": empty, "texts": texts}


def main(smollm2, qwen2, gemma3):
    out = {
        "tools": ["reference/tokenizer_hard.py", f"llama.cpp in xllamacpp {version('xllamacpp')}"],
        "plain": "as a person types it, control tokens being letters; both tools agree but where `llama_cpp` is",
        "with_control": "as part of a template, control tokens recognised; left out where it is the same",
        "decoded": "the text of `plain`; left out where it is the text",
    }
    with tempfile.TemporaryDirectory() as folder:
        out["smollm2"] = compare("smollm2", smollm2, reference.Tokenizer, folder)
        out["qwen2"] = compare("qwen2", qwen2, Qwen, folder)
        out["gemma3"] = compare("gemma3", gemma3, Pieces, folder)
    text = json.dumps(out, separators=(",", ":"), ensure_ascii=True)
    print(text.replace('{"text":', '\n{"text":'))


if __name__ == "__main__":
    main(*sys.argv[1:])
