//! Real weights against what `transformers` computes with them in float32: SmolLM2 135M and Gemma 3 270M, the
//! latter with a prompt longer than its window.
//!
//! Each runs where its file is (`scripts/fetch-model.sh`; `cocoon model pull` for Gemma) and says so where it is not.
//! Greedy text is not compared: decisions are as close as 0.01 nats, and kernels round.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

mod support;

use std::path::{Path, PathBuf};

use cocoon_inference::checkpoint::Checkpoint;
use cocoon_inference::{CacheRoom, Decoder, Target};
use serde::Deserialize;
use support::{model_path, score};

#[derive(Deserialize)]
struct Reference {
    model_sha256: String,
    prompts: Vec<Prompt>,
}

#[derive(Deserialize)]
struct Prompt {
    asked: String,
    tokens: Vec<u32>,
    forced: Forced,
}

#[derive(Deserialize)]
struct Forced {
    tokens: Vec<u32>,
    log_probs: Vec<f32>,
}

/// The file, beside the one that every test machine has.
fn file(name: &str) -> Option<PathBuf> {
    let path = model_path()?.with_file_name(name);
    if path.is_file() {
        return Some(path);
    }
    eprintln!("SKIPPED: {name} is not there; its real weights were not tested");
    None
}

/// Checks the log-probabilities of forced answers: how far the furthest may be, and the mean.
fn check(path: &Path, reference: &str, target: &Target, furthest: f32, mean: f32) {
    let reference: Reference = serde_json::from_str(reference).unwrap();
    let checkpoint = Checkpoint::open(path, &mut |_, _| {}).unwrap();
    assert_eq!(checkpoint.digest().to_string(), reference.model_sha256);
    let mut model = Decoder::load(&checkpoint, target, CacheRoom::Tokens(1_024)).unwrap();
    let mut apart = vec![];
    for prompt in &reference.prompts {
        let got = score(&mut model, &prompt.tokens, &prompt.forced.tokens);
        let here: Vec<f32> = got
            .iter()
            .zip(&prompt.forced.log_probs)
            .map(|(a, b)| (a - b).abs())
            .collect();
        let worst = here.iter().copied().fold(0.0, f32::max);
        let asked: String = prompt.asked.chars().take(40).collect();
        eprintln!(
            "{} tokens ({asked}…): at most {worst:.2e}",
            prompt.tokens.len()
        );
        assert!(worst <= furthest, "{asked}: {worst}");
        apart.extend(here);
    }
    let average = apart.iter().sum::<f32>() / apart.len() as f32;
    eprintln!("mean {average:.2e}");
    assert!(average <= mean, "{average}");
}

const SMOLLM2: &str = include_str!("fixtures/smollm2_reference.json");
const GEMMA3: &str = include_str!("fixtures/gemma3_reference.json");
const GEMMA3_FILE: &str = "gemma-3-270m-q4_k_m.gguf";
const KERNELS: Target = Target::Processor { threads: 2 };

#[test]
fn smollm2_by_plain_operations() {
    let Some(path) = file(support::MODEL) else {
        return;
    };
    check(&path, SMOLLM2, &Target::Reference, 2e-3, 2e-4);
}

#[test]
fn smollm2_by_the_kernels() {
    let Some(path) = file(support::MODEL) else {
        return;
    };
    check(&path, SMOLLM2, &KERNELS, 0.5, 0.1);
}

#[test]
fn gemma3_by_plain_operations_beyond_its_window() {
    let Some(path) = file(GEMMA3_FILE) else {
        return;
    };
    check(&path, GEMMA3, &Target::Reference, 5e-3, 5e-4);
}

#[test]
fn gemma3_by_the_kernels_beyond_its_window() {
    let Some(path) = file(GEMMA3_FILE) else {
        return;
    };
    check(&path, GEMMA3, &KERNELS, 0.5, 0.1);
}
