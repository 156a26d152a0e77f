"""A real OpenAI-compatible server for the tests: llama.cpp's, from PyPI's `xllamacpp`.

    scripts/fetch-upstream.sh
    ~/.cache/cocoon/upstream/bin/python inference/reference/serve.py MODEL.gguf [--embeddings]

Prints the address it listens on, a port that the system chose, and serves until its standard input ends,
so that it does not outlive the test that started it.
"""

import sys

import xllamacpp

parameters = xllamacpp.CommonParams()
parameters.model.path = sys.argv[1]
parameters.model_alias = {"upstream-test"}
parameters.hostnames = ["127.0.0.1"]
parameters.port = 0
# Two answers at once, each with a context of its own of 1024 tokens.
parameters.n_parallel = 2
parameters.n_ctx = 2048
parameters.kv_unified = False
# One thread: more would spin for one another on a machine that runs other tests.
parameters.cpuparams.n_threads = 1
parameters.cpuparams_batch.n_threads = 1
parameters.warmup = False
parameters.verbosity = -1
if "--embeddings" in sys.argv[2:]:
    parameters.embedding = True
    parameters.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN

server = xllamacpp.Server(parameters)
print(server.listening_address, flush=True)
sys.stdin.read()
