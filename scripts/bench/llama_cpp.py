"""llama.cpp through xllamacpp's server, as the peer of `cocoon bench engine`.

python llama_cpp.py MODEL THREADS PROMPT_TOKENS ANSWER_TOKENS  ->  one line of JSON, tokens per second
"""

import json
import os
import sys
import urllib.request

import xllamacpp

model, threads, prompt_tokens, answer_tokens = sys.argv[1], *map(int, sys.argv[2:5])
# The server's log goes where nobody reads it; the result to the real standard output.
out = os.fdopen(os.dup(1), "w")
quiet = os.open(os.devnull, os.O_WRONLY)
os.dup2(quiet, 1)
os.dup2(quiet, 2)

params = xllamacpp.CommonParams()
params.model.path = model
params.n_ctx = prompt_tokens + answer_tokens + 64
params.n_parallel = 1
params.cpuparams.n_threads = threads
params.cpuparams_batch.n_threads = threads
server = xllamacpp.Server(params)


def ask(path, body):
    request = urllib.request.Request(
        server.listening_address + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    return json.load(urllib.request.urlopen(request))


text = "The quick brown fox jumps over the lazy dog. " * prompt_tokens
tokens = ask("/tokenize", {"content": text})["tokens"][:prompt_tokens]
for _ in range(2):  # the first pages the model in
    timings = ask(
        "/completion",
        {"prompt": tokens, "n_predict": answer_tokens, "temperature": 0, "cache_prompt": False, "ignore_eos": True},
    )["timings"]
json.dump({"prefill": timings["prompt_per_second"], "decode": timings["predicted_per_second"]}, out)
out.write("\n")
out.flush()
os._exit(0)
