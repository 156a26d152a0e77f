//! Each family against Hugging Face's `transformers`, on tiny checkpoints with random weights.
//!
//! The references are float32 (`reference/tiny_models.py`). Two places are held against them: the
//! processor's kernels, whose cache is f16 and which sum in another order, and burn's plain operations, all in
//! f32. The tolerances below are several times what was measured, and far below the smallest margin between
//! the two likeliest tokens, so greedy tokens must be equal.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

use std::path::{Path, PathBuf};

use cocoon_inference::checkpoint::Checkpoint;
use cocoon_inference::serving::{Batch, Model, PAGE_TOKENS, Rows, Wanted};
use cocoon_inference::{CacheRoom, Decoder, Target};
use serde::Deserialize;

#[derive(Deserialize)]
struct Reference {
    prompts: Vec<Prompt>,
    embedding: Embedding,
}

#[derive(Deserialize)]
struct Prompt {
    tokens: Vec<u32>,
    /// After the last token.
    logits: Vec<f32>,
    /// After each token: the likeliest and their logits.
    top5: Vec<Vec<(u32, f32)>>,
    greedy: Greedy,
}

#[derive(Deserialize)]
struct Greedy {
    tokens: Vec<u32>,
    /// After so many of them.
    logits: std::collections::BTreeMap<usize, Vec<f32>>,
}

#[derive(Deserialize)]
struct Embedding {
    tokens: Vec<u32>,
    mean: Vec<f32>,
    last: Vec<f32>,
}

/// Pages for each sequence of a test.
const PAGES: usize = 8;

struct Case {
    name: String,
    model: Decoder,
    reference: Reference,
    tolerance: f32,
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

fn case(folder: &str, target: &Target) -> Case {
    let path = fixtures().join(format!("tiny-{folder}"));
    let checkpoint = Checkpoint::open(&path, &mut |_, _| {}).unwrap();
    let room = CacheRoom::Tokens((4 * PAGES * PAGE_TOKENS) as u64);
    let model = Decoder::load(&checkpoint, target, room).unwrap();
    let reference = path
        .with_file_name(format!("tiny-{}", folder.trim_end_matches("-sharded")))
        .join("reference.json");
    let reference = serde_json::from_slice(&std::fs::read(reference).unwrap()).unwrap();
    let tolerance = match target {
        Target::Processor { .. } => 0.03,
        _ => 0.002,
    };
    Case {
        name: format!("{folder} on {}", model.runs_on()),
        model,
        reference,
        tolerance,
    }
}

/// Every family, on the processor with one thread and with three, and by burn's plain operations, with decode
/// steps as they come and in the fixed shapes of a recording.
fn each(families: &[&str], test: impl Fn(&mut Case)) {
    for family in families {
        for target in [
            Target::Processor { threads: 1 },
            Target::Processor { threads: 3 },
            Target::Reference,
            Target::ReferenceRecorded,
        ] {
            test(&mut case(family, &target));
        }
    }
}

const ALL: &[&str] = &[
    "llama",
    "llama-sharded",
    "llama3",
    "qwen2",
    "qwen3",
    "qwen3_moe",
    "deepseek_v2",
    "deepseek_v3",
    "gemma3_text",
];

/// New tokens of the sequence that owns the `owner`th pages, taken from the end to show that order is the table's.
fn rows(owner: usize, start: usize, tokens: &[u32], wanted: Wanted) -> Rows {
    let first = (owner * PAGES) as u32;
    Rows {
        tokens: tokens.to_vec(),
        start,
        pages: (first..first + PAGES as u32).rev().collect(),
        wanted,
    }
}

fn one(model: &mut Decoder, rows: Rows) -> Vec<Vec<f32>> {
    forward(model, vec![rows])
}

fn forward(model: &mut Decoder, sequences: Vec<Rows>) -> Vec<Vec<f32>> {
    let outputs = model.forward(&Batch { sequences }).unwrap();
    outputs.rows().map(<[f32]>::to_vec).collect()
}

#[track_caller]
fn near(what: &str, got: &[f32], wanted: &[f32], tolerance: f32) {
    assert_eq!(got.len(), wanted.len(), "{what}");
    let apart = got.iter().zip(wanted).map(|(a, b)| (a - b).abs());
    let furthest = apart.fold(0.0, f32::max);
    assert!(furthest <= tolerance, "{what}: {furthest} apart");
}

fn likeliest(logits: &[f32]) -> u32 {
    let best = logits.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
    best.unwrap().0 as u32
}

#[test]
fn a_whole_prompt_gives_the_reference_logits_at_every_position() {
    each(ALL, |case| {
        for prompt in &case.reference.prompts {
            let logits = one(&mut case.model, rows(0, 0, &prompt.tokens, Wanted::All));
            let what = format!("{}, {} tokens", case.name, prompt.tokens.len());
            near(
                &what,
                logits.last().unwrap(),
                &prompt.logits,
                case.tolerance,
            );
            for (row, top) in logits.iter().zip(&prompt.top5) {
                let got: Vec<f32> = top.iter().map(|(token, _)| row[*token as usize]).collect();
                let wanted: Vec<f32> = top.iter().map(|(_, logit)| *logit).collect();
                near(&what, &got, &wanted, case.tolerance);
            }
        }
    });
}

#[test]
fn greedy_answers_equal_the_reference_token_by_token_past_page_borders() {
    each(ALL, |case| {
        for prompt in &case.reference.prompts {
            let mut logits = one(&mut case.model, rows(1, 0, &prompt.tokens, Wanted::Last));
            for (count, &token) in prompt.greedy.tokens.iter().enumerate() {
                let what = format!("{}, token {count}", case.name);
                assert_eq!(likeliest(&logits[0]), token, "{what}");
                let at = prompt.tokens.len() + count;
                logits = one(&mut case.model, rows(1, at, &[token], Wanted::Last));
                if let Some(wanted) = prompt.greedy.logits.get(&(count + 1)) {
                    near(&what, &logits[0], wanted, case.tolerance);
                }
            }
        }
    });
}

#[test]
fn sequences_of_unequal_lengths_do_not_disturb_one_another() {
    each(ALL, |case| {
        let prompts = &case.reference.prompts;
        // The first prompt answers while the others are still read, in chunks that end inside pages.
        let mut read = vec![0; prompts.len()];
        let mut said = vec![0; prompts.len()];
        let mut last: Vec<Option<Vec<f32>>> = vec![None; prompts.len()];
        while said
            .iter()
            .zip(prompts)
            .any(|(s, p)| *s < p.greedy.tokens.len())
        {
            let (mut batch, mut owners) = (Vec::new(), Vec::new());
            for (owner, prompt) in prompts.iter().enumerate() {
                let length = prompt.tokens.len();
                if read[owner] < length {
                    let end = length.min(read[owner] + 7);
                    let wanted = if end == length {
                        Wanted::Last
                    } else {
                        Wanted::None
                    };
                    batch.push(rows(
                        owner,
                        read[owner],
                        &prompt.tokens[read[owner]..end],
                        wanted,
                    ));
                    read[owner] = end;
                    if wanted == Wanted::Last {
                        owners.push(owner);
                    }
                } else if said[owner] < prompt.greedy.tokens.len() {
                    let token = prompt.greedy.tokens[said[owner]];
                    let logits = last[owner].take().unwrap();
                    assert_eq!(likeliest(&logits), token, "{}, prompt {owner}", case.name);
                    batch.push(rows(owner, length + said[owner], &[token], Wanted::Last));
                    said[owner] += 1;
                    owners.push(owner);
                }
            }
            let outputs = forward(&mut case.model, batch);
            assert_eq!(outputs.len(), owners.len());
            for (owner, logits) in owners.into_iter().zip(outputs) {
                if let Some(wanted) = prompts[owner].greedy.logits.get(&said[owner]) {
                    near(&case.name, &logits, wanted, case.tolerance);
                }
                last[owner] = Some(logits);
            }
        }
    });
}

#[test]
fn pooled_outputs_equal_the_reference_embeddings() {
    each(ALL, |case| {
        let Embedding { tokens, mean, last } = &case.reference.embedding;
        let batch = Batch {
            sequences: vec![rows(2, 0, tokens, Wanted::All)],
        };
        let outputs = case.model.hidden(&batch).unwrap();
        let unit = |values: Vec<f32>| -> Vec<f32> {
            let norm = values.iter().map(|x| x * x).sum::<f32>().sqrt();
            values.iter().map(|x| x / norm).collect()
        };
        let mut sum = vec![0.0; outputs.width];
        for row in outputs.rows() {
            sum.iter_mut().zip(row).for_each(|(s, x)| *s += x);
        }
        near(&case.name, &unit(sum), mean, case.tolerance / 10.0);
        let newest = outputs.rows().last().unwrap().to_vec();
        near(&case.name, &unit(newest), last, case.tolerance / 10.0);
    });
}

#[test]
fn one_row_alone_and_in_a_batch_is_the_same_to_the_bit_on_the_processor() {
    for family in ALL {
        let Case {
            mut model,
            reference,
            ..
        } = case(family, &Target::Processor { threads: 2 });
        let prompt = &reference.prompts[2].tokens;
        let alone = one(&mut model, rows(0, 0, prompt, Wanted::Last));
        let others: Vec<u32> = prompt.iter().rev().copied().collect();
        let together = forward(
            &mut model,
            vec![
                rows(1, 0, &others, Wanted::Last),
                rows(2, 0, prompt, Wanted::Last),
            ],
        );
        assert_eq!(alone[0], together[1], "{family}");
        // Nor does it matter how the prompt is cut.
        one(&mut model, rows(3, 0, &prompt[..9], Wanted::None));
        let rest = one(&mut model, rows(3, 9, &prompt[9..], Wanted::Last));
        assert_eq!(alone[0], rest[0], "{family}");
    }
}

#[test]
fn a_batch_that_does_not_fit_is_refused_before_anything_is_computed() {
    let Case { mut model, .. } = case("llama", &Target::Processor { threads: 1 });
    let good = rows(0, 0, &[1, 2, 3], Wanted::Last);
    let bad = [
        Rows {
            tokens: vec![],
            ..good.clone()
        },
        Rows {
            tokens: vec![1, 9_999],
            ..good.clone()
        },
        Rows {
            start: 1 << 40,
            ..good.clone()
        },
        Rows {
            start: 511,
            ..good.clone()
        },
        Rows {
            pages: vec![],
            ..good.clone()
        },
        Rows {
            pages: vec![7_000],
            ..good.clone()
        },
    ];
    for sequence in bad {
        let batch = Batch {
            sequences: vec![sequence],
        };
        assert!(model.forward(&batch).is_err(), "{batch:?}");
    }
    assert!(model.forward(&Batch::default()).is_err());
    assert_eq!(one(&mut model, good).len(), 1);
}
