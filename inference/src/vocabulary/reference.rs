//! The vocabularies of real models against what independent tokenizers read (`reference/tokenizer_hard.py`:
//! llama.cpp's and a plain one in Python). Each test does its work where its file is: SmolLM2's as
//! `scripts/fetch-model.sh` puts it, beside it `gemma-3-270m-q4_k_m.gguf` and
//! `deepseek-r1-distill-qwen-7b.vocabulary.gguf`, the beginning of that model's file or all of it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

use std::path::PathBuf;

use serde_json::{Map, Value, json};

use super::{Companions, Vocabulary};
use crate::gguf::{Header, parse};
use crate::template::Shielded;

fn models() -> Option<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    let cache = || {
        Some(
            set("XDG_CACHE_HOME").map_or(PathBuf::from(set("HOME")?).join(".cache"), PathBuf::from),
        )
    };
    match set("COCOON_MODELS") {
        Some(models) => Some(models.into()),
        None => Some(cache()?.join("cocoon").join("models")),
    }
}

/// The metadata of a file, of which the tensors may be missing.
fn header(name: &str) -> Option<Header> {
    let Ok(mut bytes) = std::fs::read(models()?.join(name)) else {
        eprintln!("{name} is not there: nothing is tested");
        return None;
    };
    // The number of tensors.
    bytes[8..16].fill(0);
    Some(parse(&bytes).unwrap())
}

fn numbers(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap()
}

fn compare(file: &str, key: &str) {
    let Some(header) = header(file) else { return };
    let vocabulary = Vocabulary::from_header(&header).unwrap();
    let fixture: Value =
        serde_json::from_slice(include_bytes!("../../tests/fixtures/tokenizer_hard.json")).unwrap();
    let before = numbers(&fixture[key]["before_every_prompt"]);
    let mut wrong = vec![];
    for entry in fixture[key]["texts"].as_array().unwrap() {
        let text = entry["text"].as_str().unwrap();
        let plain = numbers(&entry["plain"]);
        let got = vocabulary.encode_text(text).unwrap();
        if got != [before.clone(), plain.clone()].concat() {
            wrong.push(format!("{text:?}: {got:?}, not {plain:?}"));
        }
        let wanted = entry.get("with_control").map_or(plain.clone(), numbers);
        let shielded = Shielded {
            text: text.to_owned(),
            shield: '\u{10fffd}',
        };
        let got = vocabulary.encode(&shielded).unwrap();
        let mut wanted = wanted;
        if wanted.first() != before.first() {
            wanted.splice(0..0, before.clone());
        }
        if got != wanted {
            wrong.push(format!(
                "with control tokens, {text:?}: {got:?}, not {wanted:?}"
            ));
        }
        let bytes: Vec<u8> = plain
            .iter()
            .flat_map(|token| vocabulary.bytes(*token).unwrap().to_vec())
            .collect();
        let decoded = entry.get("decoded").map_or(text, |d| d.as_str().unwrap());
        if String::from_utf8_lossy(&bytes) != decoded {
            wrong.push(format!("back: {decoded:?}, got {bytes:?}"));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} wrong:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

#[test]
fn smollm2_reads_hard_texts_as_the_reference() {
    compare("SmolLM2-135M-Instruct.Q4_1.gguf", "smollm2");
}

#[test]
fn qwen2_reads_hard_texts_as_the_reference() {
    compare("deepseek-r1-distill-qwen-7b.vocabulary.gguf", "qwen2");
}

#[test]
fn gemma3_reads_hard_texts_as_the_reference() {
    compare("gemma-3-270m-q4_k_m.gguf", "gemma3");
}

fn tiny(
    change: impl FnOnce(&mut Value),
    generation: Value,
) -> Result<Vocabulary, crate::EngineError> {
    let mut file: Value = serde_json::from_slice(include_bytes!(
        "../../tests/fixtures/tiny-qwen2/tokenizer.json"
    ))
    .unwrap();
    change(&mut file);
    let Value::Object(generation_config) = generation else {
        panic!("an object")
    };
    let empty = Map::new();
    let companions = Companions {
        tokenizer_config: &empty,
        generation_config: &generation_config,
        config: &empty,
    };
    Vocabulary::from_json(file.to_string().as_bytes(), &companions)
}

#[test]
fn a_tokenizer_json_keeps_control_tokens_out_of_text_and_finds_the_other_added_ones() {
    let vocabulary = tiny(|_| {}, json!({"eos_token_id": [314, 316]})).unwrap();
    assert_eq!(vocabulary.len(), 320);
    assert_eq!(vocabulary.end_tokens(), [314, 316]);
    assert!(vocabulary.ends_turn(316) && !vocabulary.ends_turn(315));
    let text = "<|im_end|>sea <think> ﬁ e\u{301}";
    let tokens = vocabulary.encode_text(text).unwrap();
    assert!(
        tokens.iter().all(|t| !vocabulary.is_special(*t)),
        "{tokens:?}"
    );
    let bytes: Vec<u8> = tokens
        .iter()
        .flat_map(|t| vocabulary.bytes(*t).unwrap().to_vec())
        .collect();
    // Composed, as the tokenizer asks for.
    assert_eq!(
        String::from_utf8(bytes).unwrap(),
        "<|im_end|>sea <think> ﬁ é"
    );
    assert_eq!(
        tokens.iter().filter(|t| **t >= 314).count(),
        1,
        "{tokens:?}"
    );
    let written = Shielded {
        text: "<|im_end|>".to_owned(),
        shield: '\u{f0000}',
    };
    let tokens = vocabulary.encode(&written).unwrap();
    assert_eq!(tokens.len(), 1);
    assert_eq!(vocabulary.name(tokens[0]), Some("<|im_end|>"));
}

#[test]
fn a_tokenizer_json_that_is_not_in_order_is_refused() {
    let refused = |change: &dyn Fn(&mut Value)| {
        let error = tiny(change, json!({})).err().expect("an error");
        error.to_string()
    };
    let message = refused(&|file| file["model"]["type"] = json!("Unigram"));
    assert!(message.contains("Unigram"), "{message}");
    let message = refused(&|file| file["normalizer"] = json!({"type": "Precompiled"}));
    assert!(message.contains("Precompiled"), "{message}");
    let inner = json!({"type": "Sequence", "pretokenizers": [{"type": "BertPreTokenizer"}]});
    let message = refused(&|file| file["pre_tokenizer"] = inner.clone());
    assert!(message.contains("BertPreTokenizer"), "{message}");
    refused(&|file| file["model"]["continuing_subword_prefix"] = json!("é"));
    refused(&|file| file["added_tokens"][0]["id"] = json!(4_000_000_000u32));
    refused(&|file| file["added_tokens"][0]["id"] = json!(5));
    refused(&|file| file["model"]["merges"] = json!([["zz", "yy"]]));
    refused(&|file| file["model"]["merges"] = json!([["a"]]));
    refused(&|file| file["model"]["vocab"]["<|im_end|>x"] = json!(-1));
    refused(&|file| {
        // A merge that spells a control token.
        file["added_tokens"][0]["content"] = json!("he");
    });
    assert!(tiny(|_| {}, json!({"eos_token_id": 320})).is_err());
}

#[test]
fn no_tokenizer_json_makes_the_reader_panic() {
    let valid = include_bytes!("../../tests/fixtures/tiny-qwen2/tokenizer.json");
    let empty = Map::new();
    bolero::check!()
        .with_iterations(300)
        .with_type::<Vec<(u32, u8)>>()
        .for_each(|changes| {
            let mut bytes = valid.to_vec();
            for (at, value) in changes {
                let at = *at as usize % bytes.len();
                bytes[at] = *value;
            }
            let companions = Companions {
                tokenizer_config: &empty,
                generation_config: &empty,
                config: &empty,
            };
            if let Ok(vocabulary) = Vocabulary::from_json(&bytes, &companions) {
                let _ = vocabulary.encode_text("The sea <think> was\n\ncalm: 123 é 🦋");
            }
        });
}
