// Compiles the contracts: `node compile.mjs` writes NAME.boc (binary) and code-hashes.json,
// `node compile.mjs --check` compiles and compares with what is committed, and fails where they differ.
import fs from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { getTolkCompilerVersion, runTolkCompiler } from '@ton/tolk-js';

const here = path.dirname(fileURLToPath(import.meta.url));
const contracts = ['channel', 'ledger', 'opener', 'registry'];
const check = process.argv.includes('--check');

const hashes = { compiler: `tolk ${await getTolkCompilerVersion()}` };
const boc = {};
for (const name of contracts) {
    const result = await runTolkCompiler({
        entrypointFileName: `${name}.tolk`,
        fsReadCallback: (file) => fs.readFileSync(path.join(here, file), 'utf8'),
        optimizationLevel: 2,
        withStackComments: false,
    });
    if (result.status !== 'ok') {
        console.error(`${name}.tolk: ${result.message}`);
        process.exit(1);
    }
    if (result.stderr) console.error(result.stderr);
    boc[name] = Buffer.from(result.codeBoc64, 'base64');
    hashes[name] = result.codeHashHex.toLowerCase();
    console.log(`${name}: ${boc[name].length} bytes, code hash ${hashes[name]}`);
}

const hashesFile = path.join(here, 'code-hashes.json');
const hashesText = JSON.stringify(hashes, null, 2) + '\n';
if (check) {
    const differing = contracts.filter((name) => {
        const file = path.join(here, `${name}.boc`);
        return !fs.existsSync(file) || !fs.readFileSync(file).equals(boc[name]);
    });
    if (!fs.existsSync(hashesFile) || fs.readFileSync(hashesFile, 'utf8') !== hashesText) differing.push('code-hashes.json');
    if (differing.length > 0) {
        console.error(`differs from the sources: ${differing.join(', ')}`);
        process.exit(1);
    }
    console.log('the committed code is what the sources compile to');
} else {
    for (const name of contracts) fs.writeFileSync(path.join(here, `${name}.boc`), boc[name]);
    fs.writeFileSync(hashesFile, hashesText);
}
