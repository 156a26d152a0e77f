"""What pytoniq sees of a devnet, at each of its levels of trust; at level 0 it checks the validators' signatures.

Reads one JSON object from standard input, the facts of the test, and writes one to standard output. Any proof that
does not hold ends it with an exception."""

import asyncio
import json
import sys
import urllib.request

from pytoniq.liteclient import LiteClient, LiteServerError

facts = json.load(sys.stdin)


async def look(client):
    await client.connect()
    wallet, channel = facts["wallet"], facts["channel"]
    seen = {"head": client.last_mc_block.seqno}
    for name in ("wallet", "channel"):
        account, shard = await client.raw_get_account_state(facts[name])
        seen[name] = str(account.storage.balance.grams)
        seen[name + "_last_lt"] = str(shard.last_trans_lt)
    nobody, _ = await client.raw_get_account_state(facts["nobody"])
    seen["nobody"] = nobody is None
    seen["seqno"] = (await client.run_get_method(wallet, "seqno", []))[0]
    seen["method"] = str((await client.run_get_method(channel, facts["method"], []))[0])
    transactions = await client.get_transactions(wallet, 40)
    seen["transactions"] = [one.cell.hash.hex() for one in transactions]
    _, blocks = await client.raw_get_transactions(wallet, 1)
    block = blocks[0]
    one = await client.get_one_transaction(wallet, transactions[0].lt, block)
    seen["one"] = one.cell.hash.hex()
    await client.raw_get_block(block)
    listed = await client.raw_get_block_transactions(block)
    seen["listed"] = [each["hash"].hex() for each in listed]
    whole = await client.raw_get_block_transactions_ext(block)
    seen["listed_ext"] = [each.cell.hash.hex() for each in whole]
    shards = await client.get_all_shards_info()
    seen["shards"] = [[shard.workchain, shard.seqno] for shard in shards]
    await client.raw_get_shard_info()
    _, header = await client.lookup_block(-1, -(2**63), seqno=2)
    seen["looked_up"] = header.info.seqno
    by_lt, _ = await client.lookup_block(0, -(2**63), lt=transactions[0].lt)
    seen["by_lt"] = by_lt.seqno == block.seqno
    by_time, _ = await client.lookup_block(-1, -(2**63), utime=transactions[0].now)
    seen["by_time"] = by_time.seqno == block.seqno
    config = await client.get_config_params([34, 20, 21])
    seen["validators"] = config[34].cur_validators.total
    await client.get_config_all()
    await client.get_version()
    await client.get_time()
    await client.get_masterchain_info_ext()
    await client.get_libraries([bytes(32)])
    return seen


def make_block():
    """The chain is paused, so that all levels see the same; one block takes the message in."""
    body = json.dumps({"blocks": 1}).encode()
    request = urllib.request.Request(facts["url"] + "/dev/advance", body)
    request.add_header("content-type", "application/json")
    urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request).read()


async def send(client):
    """Sends the message that the test prepared, and waits for the transaction."""
    before, _ = await client.raw_get_transactions(facts["wallet"], 1)
    status = await client.raw_send_message(bytes.fromhex(facts["message"]))
    refused = None
    try:
        await client.raw_send_message(bytes.fromhex(facts["refused"]))
    except LiteServerError as error:
        refused = str(error)
    seqno = client.last_mc_block.seqno + 1
    waiting = asyncio.create_task(client.wait_masterchain_seqno(seqno, 30_000, "getTime"))
    await asyncio.to_thread(make_block)
    await waiting
    await client.update_last_blocks()
    done, _ = await client.raw_get_transactions(facts["wallet"], 1)
    assert done[0].prev_trans_hash == before[0].cell.hash
    return {"status": status, "refused": refused, "transaction": done[0].cell.hash.hex()}


async def main():
    answers = {}
    for trust in (2, 1, 0):
        client = LiteClient.from_config(facts["config"], 0, trust_level=trust, timeout=20)
        try:
            answers[str(trust)] = await look(client)
            if trust == 0:
                answers["sent"] = await send(client)
        finally:
            await client.close()
    json.dump(answers, sys.stdout)


asyncio.run(asyncio.wait_for(main(), 100))
