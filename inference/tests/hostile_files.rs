//! Model files from strangers: each wrong thing has its own error, and no bytes make anything panic.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

mod support;

use cocoon_inference::checkpoint::CheckpointError;
use cocoon_inference::gguf::{GgufError, MAX_ARRAY_ITEMS, MAX_STRING_BYTES, dequantise, parse};
use cocoon_inference::{BurnEngine, Engine, EngineError, Prompt, Request, SamplingParams};
use support::engine_of;
use support::tiny::{self, TinyFile, float, number, text};

fn load(file: &TinyFile) -> Result<BurnEngine, EngineError> {
    engine_of(file.bytes().0)
}

fn refused(change: impl FnOnce(&mut TinyFile)) -> EngineError {
    let mut file = tiny::model();
    change(&mut file);
    match load(&file) {
        Ok(_) => panic!("the file was taken"),
        Err(error) => error,
    }
}

#[test]
fn the_unchanged_file_is_taken() {
    assert!(load(&tiny::model()).is_ok());
}

#[test]
fn a_file_cut_off_anywhere_is_refused() {
    let (bytes, header) = tiny::model().bytes();
    for end in (0..header).step_by(7).chain([bytes.len() - 1]) {
        let error = parse(&bytes[..end]).expect_err("a part of a file");
        assert!(
            matches!(
                error,
                GgufError::Truncated { .. } | GgufError::OutsideFile { .. }
            ),
            "{error} at {end}"
        );
    }
}

#[test]
fn counts_that_the_file_cannot_hold_are_refused_before_memory_is_asked_for() {
    let (bytes, _) = tiny::model().bytes();
    let with = |at: usize, value: u64| {
        let mut bytes = bytes.clone();
        bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
        parse(&bytes).unwrap_err()
    };
    let over = |error, what| matches!(error, GgufError::OverLimit { what: w, .. } if w == what);
    assert!(over(with(8, u64::MAX), "tensors"));
    assert!(over(with(16, 1 << 40), "metadata pairs"));
    // The first key's length.
    assert!(over(with(24, MAX_STRING_BYTES + 1), "bytes of a string"));
    assert!(matches!(
        with(24, MAX_STRING_BYTES),
        GgufError::Truncated { .. }
    ));

    let array = |count: u64| {
        let mut value = 8u32.to_le_bytes().to_vec();
        value.extend(count.to_le_bytes());
        gguf(refused(|file| {
            file.set("tokenizer.ggml.tokens", tiny::Encoded(9, value));
        }))
    };
    assert!(matches!(
        array(MAX_ARRAY_ITEMS + 1),
        GgufError::OverLimit { .. }
    ));
    assert!(matches!(
        array(MAX_ARRAY_ITEMS),
        GgufError::Truncated { .. }
    ));
}

#[test]
fn what_is_not_gguf_is_named() {
    let (bytes, _) = tiny::model().bytes();
    assert!(matches!(parse(b"PK\x03\x04...."), Err(GgufError::Magic)));
    let mut old = bytes.clone();
    old[4] = 1;
    assert!(matches!(parse(&old), Err(GgufError::Version(1))));
}

/// What the reader of GGUF found.
fn gguf(error: EngineError) -> GgufError {
    match error {
        EngineError::File(error) | EngineError::Checkpoint(CheckpointError::Gguf { error, .. }) => {
            error
        }
        other => panic!("{other}"),
    }
}

#[test]
fn a_bad_value_is_named() {
    let set = |key: &'static str, value: tiny::Encoded| {
        refused(move |file| {
            file.set(key, value);
        })
    };
    let bad = |value| gguf(set("x", value));
    assert!(matches!(
        bad(tiny::Encoded(13, vec![])),
        GgufError::ValueType(13)
    ));
    let nested = [9u32.to_le_bytes(), [1, 0, 0, 0], [0; 4]].concat();
    assert!(matches!(
        bad(tiny::Encoded(9, nested)),
        GgufError::NestedArray
    ));
    let not_utf8 = [&2u64.to_le_bytes()[..], &[0xff, 0xfe]].concat();
    assert!(matches!(
        bad(tiny::Encoded(8, not_utf8)),
        GgufError::NotUtf8 { .. }
    ));
    for alignment in [33, 0] {
        assert!(matches!(
            gguf(set("general.alignment", number(alignment))),
            GgufError::Alignment(n) if n == u64::from(alignment)
        ));
    }
    let named = |error: EngineError, word: &str| {
        let said = error.to_string();
        assert!(said.contains(word), "{said}");
    };
    named(
        set("llama.embedding_length", text("64")),
        "embedding_length",
    );
    named(set("llama.embedding_length", number(0)), "hidden_size");
    named(set("llama.block_count", number(u32::MAX)), "4294967295");
    named(
        set("llama.block_count", number(100_000)),
        "num_hidden_layers",
    );
    named(set("llama.rope.freq_base", float(f32::NAN)), "freq_base");
    named(
        refused(|file| {
            file.metadata.remove("tokenizer.chat_template");
        }),
        "chat template",
    );
}

#[test]
fn a_bad_tensor_is_named() {
    type Change = fn(&mut tiny::TinyTensor);
    let change = |change: Change| {
        refused(|file| change(file.tensors.get_mut("blk.1.attn_k.weight").unwrap()))
    };
    let odd: [Change; 5] = [
        |t| t.dims = vec![],
        |t| t.dims = vec![1; 5],
        |t| t.dims = vec![64, 0],
        |t| t.dims = vec![1 << 33, 1 << 33],
        // 33 is not whole blocks of 32.
        |t| t.dims = vec![33, 32],
    ];
    for odd in odd {
        assert!(matches!(gguf(change(odd)), GgufError::Dimensions { .. }));
    }
    assert!(matches!(
        gguf(change(|t| t.dims = vec![64, 1 << 30])),
        GgufError::OutsideFile { .. }
    ));
    assert!(matches!(
        gguf(change(|t| t.format = 16)),
        GgufError::TensorFormat { format: 16, .. }
    ));
    assert!(matches!(
        change(|t| t.dims = vec![32, 64]),
        EngineError::Shape { tensor, .. } if tensor.contains("k_proj")
    ));
}

#[test]
fn dimensions_that_do_not_fit_together_are_refused() {
    for (key, value) in [
        ("llama.attention.head_count", 5),
        ("llama.attention.head_count_kv", 3),
        ("llama.rope.dimension_count", 8),
        ("llama.vocab_size", 259),
    ] {
        let mut file = tiny::model();
        file.set(key, number(value));
        let error = load(&file).err();
        let error = error.unwrap_or_else(|| panic!("{key} {value} was taken"));
        assert!(
            matches!(
                error,
                EngineError::Inconsistent { .. }
                    | EngineError::Shape { .. }
                    | EngineError::Unsupported { .. }
                    | EngineError::Checkpoint(_)
            ),
            "{key}: {error:?}"
        );
    }
}

#[test]
fn what_is_missing_or_unknown_is_refused() {
    assert!(matches!(
        refused(|file| drop(file.tensors.remove("blk.0.ffn_up.weight"))),
        EngineError::Checkpoint(CheckpointError::MissingTensor { name, .. })
            if name == "model.layers.0.mlp.up_proj.weight"
    ));
    let extra = |name: &'static str| {
        refused(move |file| {
            let tensor = file.tensors["output_norm.weight"].clone();
            file.tensors.insert(name.to_owned(), tensor);
        })
    };
    assert!(matches!(
        extra("blk.0.attn_sinks.weight"),
        EngineError::UnknownTensor(name) if name == "blk.0.attn_sinks.weight"
    ));
    // A bias of the query alone: what stands together has biases or has none.
    assert!(matches!(
        extra("blk.0.attn_q.bias"),
        EngineError::Inconsistent { .. }
    ));
    let set = |key: &'static str, value| {
        refused(move |file| {
            file.set(key, value);
        })
    };
    let unknown = set("general.architecture", text("mamba")).to_string();
    for word in ["mamba", "llama", "gemma3"] {
        assert!(unknown.contains(word), "{unknown}");
    }
    assert!(matches!(
        set("tokenizer.ggml.eos_token_id", number(260)),
        EngineError::UnknownToken { .. }
    ));
    assert!(matches!(
        set("tokenizer.chat_template", text("{% if %}")),
        EngineError::Template(_)
    ));
}

#[test]
fn a_file_that_is_not_there_is_an_error() {
    let path = std::path::Path::new("/no/such/model.gguf");
    let error = BurnEngine::load(path, &support::small(), &mut |_, _| {}).err();
    let said = error.unwrap().to_string();
    assert!(said.contains("/no/such/model.gguf"), "{said}");
}

#[test]
fn no_bytes_make_the_parser_panic() {
    bolero::check!()
        .with_iterations(20_000)
        .for_each(|bytes: &[u8]| {
            let _ = parse(bytes);
            let _ = parse(&[b"GGUF\x03\0\0\0", bytes].concat());
        });
}

#[test]
fn no_change_to_a_header_makes_the_engine_panic() {
    let (valid, header) = tiny::model().bytes();
    bolero::check!()
        .with_iterations(1_500)
        .with_type::<Vec<(u16, u8)>>()
        .for_each(|changes| {
            let mut bytes = valid.clone();
            for (at, value) in changes {
                bytes[usize::from(*at) % header] = *value;
            }
            let Ok(header) = parse(&bytes) else {
                return;
            };
            for info in header.tensors.values() {
                let mut out = vec![];
                dequantise(info.format, &bytes[info.range.clone()], &mut out).unwrap();
                assert_eq!(out.len(), info.elements);
            }
            let Ok(engine) = engine_of(bytes) else {
                return;
            };
            let Ok(prompt) = engine.prepare(&support::ask("the end <e>")) else {
                return;
            };
            if let Ok(mut generation) =
                engine.start(Request::new(prompt, SamplingParams::greedy(2)))
            {
                while let Ok(step) = generation.step() {
                    if step.finish.is_some() {
                        break;
                    }
                }
            }
        });
}

#[test]
fn single_bit_flips_in_the_weights_never_panic() {
    let (valid, header) = tiny::model().bytes();
    bolero::check!()
        .with_iterations(100)
        .with_type::<Vec<(u32, u8)>>()
        .for_each(|changes| {
            let mut bytes = valid.clone();
            let data = bytes.len() - header;
            for (at, value) in changes {
                bytes[header + *at as usize % data] = *value;
            }
            let engine = engine_of(bytes).unwrap();
            let mut generation = engine
                .start(Request::new(
                    Prompt { tokens: vec![1, 2] },
                    SamplingParams::greedy(1),
                ))
                .unwrap();
            let _ = generation.step();
        });
}
