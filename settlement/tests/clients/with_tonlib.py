"""What TON's official light client (libtonlibjson, from the package pytonlib) sees of a devnet.

It checks every proof and signature itself and runs get methods in its own TVM. Reads one JSON object from standard
input, the facts of the test, and writes one to standard output."""

import ctypes
import itertools
import json
import pathlib
import sys
import time
from importlib.util import find_spec

facts = json.load(sys.stdin)
package = pathlib.Path(find_spec("pytonlib").origin).parent
library = ctypes.CDLL(str(package / "distlib/linux/libtonlibjson.x86_64.so"))
library.tonlib_client_json_create.restype = ctypes.c_void_p
library.tonlib_client_json_receive.restype = ctypes.c_char_p
library.tonlib_client_json_receive.argtypes = [ctypes.c_void_p, ctypes.c_double]
library.tonlib_client_json_send.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
library.tonlib_client_json_execute.restype = ctypes.c_char_p
library.tonlib_client_json_execute.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
verbosity = {"@type": "setLogVerbosityLevel", "new_verbosity_level": 1}
library.tonlib_client_json_execute(None, json.dumps(verbosity).encode())
client = library.tonlib_client_json_create()
numbers = itertools.count()
PATIENCE_SECONDS = 40


def ask(kind, **fields):
    """One request and its answer; an error is returned like any other answer."""
    extra = f"request {next(numbers)}"
    request = {"@type": kind, "@extra": extra} | fields
    library.tonlib_client_json_send(client, json.dumps(request).encode())
    end = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < end:
        answer = library.tonlib_client_json_receive(client, 1.0)
        if answer and json.loads(answer).get("@extra") == extra:
            return json.loads(answer)
    return {"@type": "timeout", "message": f"no answer to {kind}"}


def wanted(answer):
    if answer["@type"] in ("error", "timeout"):
        sys.exit(json.dumps(answer))
    return answer


def address(name):
    return {"account_address": facts[name]}


wanted(
    ask(
        "init",
        options={
            "@type": "options",
            "config": {
                "@type": "config",
                "config": json.dumps(facts["config"]),
                "blockchain_name": "",
                "use_callbacks_for_network": False,
                "ignore_cache": True,
            },
            "keystore_type": {"@type": "keyStoreTypeInMemory"},
        },
    )
)
seen = {"head": wanted(ask("sync"))["seqno"]}
for name in ("wallet", "channel"):
    seen[name] = wanted(ask("raw.getAccountState", account_address=address(name)))["balance"]
state = wanted(ask("raw.getAccountState", account_address=address("wallet")))
history = wanted(
    ask(
        "raw.getTransactions",
        account_address=address("wallet"),
        from_transaction_id=state["last_transaction_id"],
    )
)
seen["transactions"] = [one["transaction_id"]["hash"] for one in history["transactions"]]


def run(name, method):
    loaded = wanted(ask("smc.load", account_address=address(name)))
    answer = wanted(
        ask(
            "smc.runGetMethod",
            id=loaded["id"],
            method={"@type": "smc.methodIdName", "name": method},
            stack=[],
        )
    )
    return [answer["exit_code"], answer["stack"][0].get("number", {}).get("number")]


seen["seqno"] = run("wallet", "seqno")
seen["method"] = run("channel", facts["method"])
last = wanted(ask("blocks.getMasterchainInfo"))["last"]
seen["head_block"] = last["seqno"]
shards = wanted(ask("blocks.getShards", id=last))["shards"]
seen["shards"] = [[shard["workchain"], shard["seqno"]] for shard in shards]
header = wanted(ask("blocks.getBlockHeader", id=last))
seen["key_block_before"] = header["prev_key_block_seqno"]
wanted(ask("blocks.getBlockHeader", id=shards[0]))
named = {"@type": "ton.blockId", "workchain": -1, "shard": -(2**63), "seqno": 2}
looked_up = ask("blocks.lookupBlock", mode=1, id=named, lt=0, utime=0)
seen["looked_up"] = wanted(looked_up)["seqno"]
newest = history["transactions"][0]["transaction_id"]
found = wanted(
    ask("blocks.lookupBlock", mode=2, id=named | {"workchain": 0}, lt=newest["lt"], utime=0)
)
start = {"@type": "blocks.accountTransactionId", "account": "", "lt": 0}
listed = wanted(ask("blocks.getTransactions", id=found, mode=7, count=40, after=start))
seen["listed"] = [each["hash"] for each in listed["transactions"]]
whole = wanted(ask("blocks.getTransactionsExt", id=found, mode=7, count=40, after=start))
seen["listed_ext"] = [each["transaction_id"]["hash"] for each in whole["transactions"]]
wanted(ask("getConfigParam", mode=0, param=34))
wanted(ask("getConfigAll", mode=0))
sent = ask("raw.sendMessage", body=facts["message"])
seen["sent"] = sent["@type"]
refused = ask("raw.sendMessage", body=facts["refused"])
seen["refused"] = refused.get("message", refused["@type"])
json.dump(seen, sys.stdout)
