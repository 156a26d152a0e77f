"""The tokenizer that all the tiny checkpoints share: byte-level BPE of 320 tokens, in the form of Qwen's.

Trained on the paragraph below, so that a few merges exist; the rest are the 256 bytes. Every text can be
encoded, every id below 320 has a meaning, and ids from 320 on (some of the models have such, as real
checkpoints do, whose vocabularies are padded) have none.
"""

import json
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

SIZE = 320
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|tool|>"]

# Marked special in no sense but its own token, like Qwen's <think>: text that stays text when decoded.
PLAIN_ADDED = ["<think>", "</think>"]

CORPUS = """
The sea was calm and the light was low. A man who had been away for a long time came to the house by the sea,
and he stood there and looked at the water. "The water is the same," he said, and then he said nothing more.
In the morning he went to the town, and the town was not the same: the streets were wide, the houses were high,
and no one there knew him. def main(x): return x + 1; for (int i = 0; i < 10; i++) { print(i); }
Die See war ruhig, das Licht war tief; la mer était calme et la lumière était basse. 1 22 333 4444 55555.
"""

# Qwen's split into words; `transformers` spells it in tokenization_qwen2.py.
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)

TEMPLATE = """\
{%- if messages[0]['role'] == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message['role'] == 'system' and not loop.first %}
        {{- raise_exception('a system turn stands first') }}
    {%- elif message['role'] == 'tool' %}
        {{- '<|im_start|>user\\n<|tool|>' + message['content'] + '<|im_end|>\\n' }}
    {%- elif message['role'] != 'system' %}
        {{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""


def train():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=SIZE - len(SPECIALS) - len(PLAIN_ADDED),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([CORPUS], trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIALS])
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in PLAIN_ADDED])
    assert tokenizer.get_vocab_size() == SIZE, tokenizer.get_vocab_size()
    return tokenizer


def write(folder: Path, template_in_file: bool):
    """`tokenizer.json`, `tokenizer_config.json`, and the template inside the latter or beside it."""
    tokenizer = train()
    (folder / "tokenizer.json").write_text(tokenizer.to_str(pretty=False) + "\n")
    config = {
        "add_bos_token": False,
        "bos_token": None,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "model_max_length": 512,
        "pad_token": "<|endoftext|>",
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": None,
    }
    if template_in_file:
        (folder / "chat_template.jinja").write_text(TEMPLATE)
    else:
        config["chat_template"] = TEMPLATE
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n")
    return tokenizer
