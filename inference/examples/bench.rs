//! How fast the engine is: `cargo run -p cocoon-inference --example bench [MODEL.gguf]`.
//!
//! Prints one line of JSON. Speeds are tokens per second; the prompt has some 450 tokens, the answer 64.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

#[path = "../tests/support/mod.rs"]
mod support;

use std::time::{Duration, Instant};

use cocoon_inference::{BurnEngine, Engine, Request, SamplingParams};

fn main() {
    let given = std::env::args_os().nth(1).map(std::path::PathBuf::from);
    let path = given
        .or_else(support::model_path)
        .expect("no model; run scripts/fetch-model.sh");
    let start = Instant::now();
    let engine = BurnEngine::load(&path, &mut |_, _| {}).expect("the model loads");
    let load = start.elapsed();

    let question = format!(
        "Summarise: {}",
        "The quick brown fox jumps over the lazy dog. ".repeat(40)
    );
    let prompt = engine.prepare(&support::ask(&question)).expect("a prompt");
    let prompt_tokens = prompt.tokens.len();
    // Hot enough not to end early; the same answer each time.
    let params = SamplingParams {
        temperature: 1.0,
        top_p: 0.95,
        seed: Some(3),
        ..SamplingParams::greedy(64)
    };
    let mut generation = engine
        .start(Request::new(prompt, params))
        .expect("a generation");
    let (mut prefill, mut steps) = (Duration::ZERO, Vec::new());
    loop {
        let start = Instant::now();
        let step = generation.step().expect("a step");
        let took = start.elapsed();
        if steps.is_empty() && step.tokens == 0 {
            prefill += took
        } else {
            steps.push(took)
        }
        if step.finish.is_some() {
            break;
        }
    }
    // The first of them also read the last chunk of the prompt.
    prefill += steps.remove(0);
    let total: Duration = steps.iter().sum();
    steps.sort();
    let median = steps[steps.len() / 2];
    println!(
        "{}",
        serde_json::json!({
            "bench": "engine",
            "model": engine.describe().id,
            "threads": std::thread::available_parallelism().map_or(0, usize::from),
            "load_seconds": load.as_secs_f64(),
            "prompt_tokens": prompt_tokens,
            "prefill_tokens_per_second": prompt_tokens as f64 / prefill.as_secs_f64(),
            "answer_tokens": steps.len() + 1,
            "decode_tokens_per_second": steps.len() as f64 / total.as_secs_f64(),
            "decode_median_ms": median.as_secs_f64() * 1e3,
            "weights_bytes": engine.describe().weights_bytes,
        })
    );
}
