"""torch on a CUDA device, as the peer of `cocoon bench engine --device cuda`.

python torch_peer.py make SIZE DIR     a checkpoint of a true Qwen3 shape with random bf16 weights
python torch_peer.py bench DIR         one line of JSON: tokens per second, eager and with CUDA graphs
python torch_peer.py logits DIR        one line of JSON: float32 logits for a fixed prompt
"""

import json
import sys
import time
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, Qwen3Config, StaticCache

SHAPES = {
    "tiny": dict(hidden_size=256, intermediate_size=512, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, tie=True),
    "0.6b": dict(hidden_size=1024, intermediate_size=3072, num_hidden_layers=28, num_attention_heads=16, num_key_value_heads=8, tie=True),
    "4b": dict(hidden_size=2560, intermediate_size=9728, num_hidden_layers=36, num_attention_heads=32, num_key_value_heads=8, tie=True),
    "8b": dict(hidden_size=4096, intermediate_size=12288, num_hidden_layers=36, num_attention_heads=32, num_key_value_heads=8, tie=False),
}
BATCHES = [1, 8, 32, 128]
PROMPTS = [512, 2048, 8192]
CONTEXT, ANSWER = 128, 128
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def make(size, folder):
    shape = dict(SHAPES[size])
    tied = shape.pop("tie")
    config = Qwen3Config(
        vocab_size=151936, head_dim=128, max_position_embeddings=16384, rope_theta=1e6,
        tie_word_embeddings=tied, torch_dtype="bfloat16", **shape,
    )
    torch.manual_seed(1)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device(DEVICE):
        model = AutoModelForCausalLM.from_config(config)
    model.save_pretrained(folder, max_shard_size="4GB")


def load(folder, dtype=torch.bfloat16):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).to(DEVICE).eval()


def timed(work, warm_up, rounds):
    for _ in range(warm_up):
        work()
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(rounds):
        work()
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / rounds


def filler(batch, length):
    row = torch.arange(length, device=DEVICE).mul(37).remainder(251)
    return row.expand(batch, length).contiguous()


class Decoder:
    """One token for each sequence, with a cache of fixed size: eager, or recorded."""

    def __init__(self, model, batch):
        self.model, self.batch = model, batch
        self.cache = StaticCache(config=model.config, max_batch_size=batch, max_cache_len=CONTEXT + ANSWER, device=DEVICE, dtype=torch.bfloat16)
        position = torch.arange(CONTEXT, device=DEVICE)
        model(filler(batch, CONTEXT), past_key_values=self.cache, cache_position=position, use_cache=True)
        self.token = torch.full((batch, 1), 7, device=DEVICE)
        self.position = torch.full((1,), CONTEXT, device=DEVICE)

    def step(self):
        return self.model(self.token, past_key_values=self.cache, cache_position=self.position, use_cache=True).logits

    def recorded(self):
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            for _ in range(3):
                self.step()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.step()
        return graph.replay


@torch.no_grad()
def bench(folder):
    model = load(folder)
    found = {}
    for batch in BATCHES:
        decoder = Decoder(model, batch)
        found[f"decode_{batch}_eager"] = batch / timed(decoder.step, 4, 32)
        if DEVICE == "cuda":
            found[f"decode_{batch}_graphs"] = batch / timed(decoder.recorded(), 4, 64)
            compiled = torch.compile(model, mode="reduce-overhead", fullgraph=True)
            decoder.model = compiled
            try:
                found[f"decode_{batch}_compiled"] = batch / timed(decoder.step, 4, 64)
            except Exception as error:  # what torch.compile cannot do here is no figure, and no failure of ours
                print(f"torch.compile at batch {batch}: {error}", file=sys.stderr)
        del decoder
    for prompt in PROMPTS:
        tokens = filler(1, prompt)
        found[f"prefill_{prompt}"] = prompt / timed(lambda: model(tokens, logits_to_keep=1), 2, 5)
    return found


@torch.no_grad()
def logits(folder):
    model = load(folder, torch.float32)
    return model(filler(1, 64)).logits[0, -1].tolist()


if __name__ == "__main__":
    what, *rest = sys.argv[1:]
    if what == "make":
        make(rest[0], Path(rest[1]))
    else:
        print(json.dumps({"bench": bench, "logits": logits}[what](Path(rest[0]))))
