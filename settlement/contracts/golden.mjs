// Runs transactions in TON's official executor (the C++ one, as @ton/sandbox brings it along):
// `node golden.mjs CASES RESULTS`. CASES: {"config", "cases": [{"account", "message", "now", "lt"}]}, bags of cells in base64.
// RESULTS: for each case {"exit"} where the message was not accepted, else
// {"gas", "exit", "fees", "transaction", "account"}, hashes in hexadecimal.
import fs from 'node:fs';
import { Cell, loadTransaction } from '@ton/core';
import { Executor } from '@ton/sandbox';

const [casesFile, resultsFile] = process.argv.slice(2);
const { config, cases } = JSON.parse(fs.readFileSync(casesFile, 'utf8'));
const executor = await Executor.create();

const results = [];
for (const item of cases) {
    const { result } = await executor.runTransaction({
        config,
        libs: null,
        verbosity: 'short',
        shardAccount: item.account,
        message: Cell.fromBase64(item.message),
        now: item.now,
        lt: BigInt(item.lt),
        randomSeed: Buffer.alloc(32),
        ignoreChksig: false,
        debugEnabled: false,
    });
    if (!result.success) {
        results.push({ exit: result.vmResults?.vmExitCode ?? null });
        continue;
    }
    const cell = Cell.fromBase64(result.transaction);
    const transaction = loadTransaction(cell.beginParse());
    const compute = transaction.description.computePhase;
    const ran = compute.type === 'vm';
    // ShardAccount: ^Account, last_trans_hash, last_trans_lt.
    const account = Cell.fromBase64(result.shardAccount).refs[0];
    results.push({
        gas: ran ? Number(compute.gasUsed) : 0,
        exit: ran ? compute.exitCode : null,
        fees: transaction.totalFees.coins.toString(),
        transaction: cell.hash().toString('hex'),
        account: account.hash().toString('hex'),
    });
}
fs.writeFileSync(resultsFile, JSON.stringify(results));
