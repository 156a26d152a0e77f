"""What `transformers` computes with the real models, their weights dequantised to float32.

    venv/bin/python real_models.py smollm2 SMOLLM2.gguf > ../tests/fixtures/smollm2_reference.json
    venv/bin/python real_models.py gemma3 GEMMA3.gguf > ../tests/fixtures/gemma3_reference.json

For each prompt: a continuation that people wrote, with the log-probability of each of its tokens and the five
most probable tokens in its place; and the greedy continuation. Natural logarithms.
"""

import hashlib
import json
import sys
from pathlib import Path

import gguf
import jinja2
import torch
import transformers

import reference
from tokenizer_hard import Pieces

FORCED = GREEDY = 24

LIGHTHOUSE = """The lighthouse at the end of the northern pier was built in 1874, after three ships had been lost \
on the rocks in a single winter. Its first keeper, a retired sailor, lived there with his wife and their two \
daughters for twenty-six years. Every evening he climbed the ninety-one steps to the lamp, trimmed the wick and \
filled the reservoir with oil; every morning he climbed them again to put it out. The daughters kept a diary of \
the weather, which is still in the town's museum, and from which we know that the great storm of 1881 began on a \
Thursday, shortly after four in the afternoon. """

# For SmolLM2 what the person says and what the assistant is made to say; for Gemma, which is no assistant, a
# text and how it goes on.
PROMPTS = {
    "smollm2": [
        (
            "List three things one can see at night.",
            "One can see the moon, the stars and, far from any town, the pale band of the Milky Way above.",
        ),
        (
            "def fibonacci(n):\n    \"\"\"The n-th number of Fibonacci.\"\"\"\nFinish it.",
            "```python\ndef fibonacci(n):\n    a, b = 0, 1\n    for _ in range(n):\n        a, b = b, a + b\n",
        ),
        (
            LIGHTHOUSE + "How do we know when the great storm of 1881 began?",
            "We know it from the diary of the weather that the keeper's two daughters kept, now in the museum.",
        ),
    ],
    "gemma3": [
        (
            "The capital of France is",
            " Paris, and the river that runs through it is the Seine. It has been the capital since the tenth",
        ),
        (
            "def fibonacci(n):\n    \"\"\"The n-th number of Fibonacci.\"\"\"\n",
            "    a, b = 0, 1\n    for _ in range(n):\n        a, b = b, a + b\n    return a\n",
        ),
        # Longer than the sliding window of 512.
        (
            "\n\n".join(f"{n}. {LIGHTHOUSE}" for n in range(1, 6)) + "\n\nThe first keeper was",
            " a retired sailor who lived at the lighthouse with his wife and two daughters for twenty-six years.",
        ),
    ],
}


def tokenise(family, fields, asked, said):
    """The prompt as it goes into the model, and the tokens of the continuation."""
    if family == "smollm2":
        tokenizer = reference.Tokenizer(fields)
        template = jinja2.Environment(trim_blocks=True, lstrip_blocks=True).from_string(
            fields["tokenizer.chat_template"].contents()
        )
        text = template.render(messages=[{"role": "user", "content": asked}], add_generation_prompt=True)
        return text, tokenizer.rendered(text), tokenizer.plain(said)
    tokenizer = Pieces(fields)
    return asked, [fields["tokenizer.ggml.bos_token_id"].contents()] + tokenizer.plain(asked), tokenizer.plain(said)


def rounded(values):
    return [round(float(v), 6) for v in values]


@torch.no_grad()
def log_probs(model, tokens, last):
    """After each of the last `last` tokens."""
    logits = model(torch.tensor([tokens]), use_cache=False, logits_to_keep=last).logits[0]
    return logits.double().log_softmax(-1)


@torch.no_grad()
def greedy(model, prompt, end):
    """Tokens, their log-probabilities, and by how much each beats the next best; computed with a cache."""
    output = model(torch.tensor([prompt]), use_cache=True, logits_to_keep=1)
    tokens, found, margins = [], [], []
    while True:
        best = output.logits[0, -1].double().log_softmax(-1).topk(2)
        tokens.append(int(best.indices[0]))
        found.append(best.values[0])
        margins.append(best.values[0] - best.values[1])
        if len(tokens) == GREEDY or tokens[-1] == end:
            return tokens, rounded(found), rounded(margins)
        output = model(torch.tensor([tokens[-1:]]), past_key_values=output.past_key_values, use_cache=True)


def agree_with_numpy(model):
    """`greedy.json` was made by numpy; this must say the same."""
    path = Path(__file__).parent / "../tests/fixtures/greedy.json"
    for answer in json.loads(path.read_text())["answers"]:
        prompt, tokens = answer["prompt_tokens"], answer["tokens"]
        found = log_probs(model, prompt + tokens[:-1], len(tokens))
        apart = max(abs(found[i, t].item() - p) for i, (t, p) in enumerate(zip(tokens, answer["log_probs"])))
        print(f"greedy.json, {answer['question']!r}: at most {apart:.1e} apart", file=sys.stderr)
        assert apart < 5e-4


def main(family, path):
    path = Path(path).resolve()
    fields = gguf.GGUFReader(path).fields
    model = transformers.AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    if family == "smollm2":
        agree_with_numpy(model)
    end = fields["tokenizer.ggml.eos_token_id"].contents()
    prompts = []
    for asked, said in PROMPTS[family]:
        text, prompt, forced = tokenise(family, fields, asked, said)
        forced = forced[:FORCED]
        found = log_probs(model, prompt + forced[:-1], len(forced))
        best = found.topk(5)
        tokens, probable, margins = greedy(model, prompt, end)
        anew = log_probs(model, prompt + tokens[:-1], len(tokens))
        assert anew.argmax(-1).tolist() == tokens
        print(len(prompt), len(forced), tokens, min(margins), file=sys.stderr)
        prompts.append(
            {
                "asked": asked,
                "text": text,
                "tokens": prompt,
                "forced": {
                    "text": said,
                    "tokens": forced,
                    "log_probs": rounded(found[i, t] for i, t in enumerate(forced)),
                    "top5": [list(zip(i, rounded(v))) for i, v in zip(best.indices.tolist(), best.values.tolist())],
                },
                "greedy": {"tokens": tokens, "log_probs": probable, "margins": margins},
            }
        )
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    out = {
        "model_sha256": digest,
        "end_token": end,
        "torch": torch.__version__.split("+")[0],
        "transformers": transformers.__version__,
        "prompts": prompts,
    }
    print(json.dumps(out, separators=(",", ":"), ensure_ascii=True))


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    main(*sys.argv[1:])
