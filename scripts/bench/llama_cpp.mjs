// llama.cpp through node-llama-cpp, as the peer of `cocoon bench engine`.
// node llama_cpp.mjs MODEL THREADS PROMPT_TOKENS ANSWER_TOKENS   →  one line of JSON, tokens per second
import {getLlama} from "node-llama-cpp";

const [path, ...numbers] = process.argv.slice(2);
const [threads, promptTokens, answerTokens] = numbers.map(Number);
const llama = await getLlama({gpu: false, build: "never", maxThreads: threads, logLevel: "error"});
const model = await llama.loadModel({modelPath: path});
const contextSize = promptTokens + answerTokens + 64;
const context = await model.createContext({contextSize, batchSize: 512, threads, sequences: 1});
const sequence = context.getSequence();
const text = "The quick brown fox jumps over the lazy dog. ".repeat(promptTokens);
const tokens = model.tokenize(text).slice(0, promptTokens);

async function round() {
    await sequence.clearHistory();
    const start = performance.now();
    await sequence.evaluateWithoutGeneratingNewTokens(tokens.slice(0, -1));
    const prefill = (tokens.length - 1) / (performance.now() - start) * 1e3;
    let count = 0;
    let first = 0;
    for await (const _ of sequence.evaluate(tokens.slice(-1), {temperature: 0, yieldEogToken: true})) {
        if (count === 0)
            first = performance.now();
        if (++count > answerTokens)
            break;
    }
    return {prefill, decode: (count - 1) / (performance.now() - first) * 1e3};
}

await round();  // the first pages the model in
console.log(JSON.stringify(await round()));
process.exit(0);
