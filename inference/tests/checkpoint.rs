//! Checkpoints, good and bad: what they hold is found under one set of names, and each wrong thing is an
//! error that says which file and what.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use cocoon_inference::EngineError;
use cocoon_inference::checkpoint::{Checkpoint, CheckpointError, Stored, folder_files};
use cocoon_inference::gguf::Format;
use serde_json::{Value, json};
use support::tiny;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(name)
}

fn open(path: &Path) -> Result<Checkpoint, EngineError> {
    Checkpoint::open(path, &mut |_, _| {})
}

/// A copy of a fixture that a test may spoil.
fn copy(name: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(fixture(name)).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
    }
    folder
}

fn refused(path: &Path) -> CheckpointError {
    match open(path) {
        Err(EngineError::Checkpoint(error)) => error,
        Err(other) => panic!("another error: {other}"),
        Ok(_) => panic!("it was taken"),
    }
}

#[test]
fn a_gguf_file_has_the_digest_it_always_had_and_hugging_faces_names() {
    let (bytes, _) = tiny::model().bytes();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    fs::write(&path, &bytes).unwrap();
    let mut told = vec![];
    let checkpoint = Checkpoint::open(&path, &mut |done, all| told.push((done, all))).unwrap();
    let all = bytes.len() as u64;
    assert_eq!((told[0], told[told.len() - 1]), ((0, all), (all, all)));
    assert_eq!(checkpoint.digest(), cocoon_protocol::Digest::sha256(&bytes));
    assert_eq!(checkpoint.architecture(), "LlamaForCausalLM");
    assert_eq!(checkpoint.config()["num_key_value_heads"], 2);
    assert_eq!(checkpoint.config()["rms_norm_eps"], 1e-5);
    assert_eq!(checkpoint.config()["tie_word_embeddings"], true);
    let query = checkpoint
        .tensor("model.layers.0.self_attn.q_proj.weight")
        .unwrap();
    assert_eq!(
        (query.format, query.interleaved_heads),
        (Format::Q4_1, true)
    );
    let gate = checkpoint
        .tensor("model.layers.1.mlp.gate_proj.weight")
        .unwrap();
    assert_eq!((gate.rows(), gate.columns()), (96, 64));
    assert_eq!(gate.dims, [96, 64]);
    assert!(!gate.interleaved_heads);
    assert_eq!(gate.dequantise().unwrap().len(), 96 * 64);
    assert!(matches!(
        checkpoint.tensor("model.layers.9.mlp.gate_proj.weight"),
        Err(EngineError::Checkpoint(
            CheckpointError::MissingTensor { .. }
        ))
    ));
}

#[test]
fn halved_rows_are_where_the_interleaved_ones_were() {
    let order: Vec<usize> = (0..8).map(|row| Stored::halved_row(row, 4)).collect();
    assert_eq!(order, [0, 2, 1, 3, 4, 6, 5, 7]);
}

#[test]
fn every_tiny_checkpoint_opens_in_both_forms_of_its_configuration() {
    for (name, architecture) in [
        ("tiny-llama", "LlamaForCausalLM"),
        ("tiny-llama-sharded", "LlamaForCausalLM"),
        ("tiny-llama3", "LlamaForCausalLM"),
        ("tiny-qwen2", "Qwen2ForCausalLM"),
        ("tiny-qwen3", "Qwen3ForCausalLM"),
        ("tiny-qwen3_moe", "Qwen3MoeForCausalLM"),
        ("tiny-deepseek_v2", "DeepseekV2ForCausalLM"),
        ("tiny-deepseek_v3", "DeepseekV3ForCausalLM"),
        ("tiny-gemma3_text", "Gemma3ForCausalLM"),
    ] {
        let old = open(&fixture(name)).unwrap();
        assert_eq!(old.architecture(), architecture);
        assert!(old.has("model.embed_tokens.weight") && old.tensor_bytes() > 0);
        for tensor in old.names() {
            old.tensor(tensor).unwrap().dequantise().unwrap();
        }
        let folder = copy(name);
        fs::rename(
            folder.path().join("config.v5.json"),
            folder.path().join("config.json"),
        )
        .unwrap();
        let new = open(folder.path()).unwrap();
        assert_ne!(
            new.digest(),
            old.digest(),
            "the configuration is part of it"
        );
        for key in [
            "rope_theta",
            "rope_scaling",
            "rope_local_base_freq",
            "layer_types",
        ] {
            assert_eq!(new.config().get(key), old.config().get(key), "{name} {key}");
        }
    }
}

#[test]
fn experts_are_found_one_by_one() {
    let checkpoint = open(&fixture("tiny-qwen3_moe")).unwrap();
    let count = checkpoint.config()["num_experts"].as_u64().unwrap() as usize;
    let experts = checkpoint
        .experts("model.layers.1", "down_proj", count)
        .unwrap();
    assert_eq!(experts.len(), count);
    let last = format!("model.layers.1.mlp.experts.{}.down_proj.weight", count - 1);
    assert_eq!(experts[count - 1], checkpoint.tensor(&last).unwrap());
    assert!(
        checkpoint
            .experts("model.layers.1", "down_proj", count + 1)
            .is_err()
    );
}

#[test]
fn the_experts_of_a_gguf_file_are_slices_of_one_tensor() {
    let mut file = tiny::model();
    let data: Vec<u8> = (0..3 * 2 * 4u32)
        .flat_map(|i| (i as f32).to_le_bytes())
        .collect();
    file.tensors.insert(
        "blk.0.ffn_up_exps.weight".to_owned(),
        tiny::TinyTensor {
            dims: vec![4, 2, 3],
            format: tiny::F32,
            data,
        },
    );
    let checkpoint = Checkpoint::from_gguf_bytes("tiny", file.bytes().0).unwrap();
    let experts = checkpoint.experts("model.layers.0", "up_proj", 3).unwrap();
    assert_eq!(experts[1].dims, [2, 4]);
    let wanted: Vec<f32> = (8..16u8).map(f32::from).collect();
    assert_eq!(experts[1].dequantise().unwrap(), wanted);
    assert!(checkpoint.experts("model.layers.0", "up_proj", 4).is_err());
}

#[test]
fn the_parts_of_a_split_file_are_one_model() {
    let whole = tiny::model();
    let (mut first, mut second) = (whole.clone(), whole.clone());
    first.tensors.retain(|name, _| name.starts_with("blk.0."));
    second.tensors.retain(|name, _| !name.starts_with("blk.0."));
    second.metadata.clear();
    let folder = tempfile::tempdir().unwrap();
    let part = |n| folder.path().join(format!("m-0000{n}-of-00002.gguf"));
    for (n, file) in [(1, &mut first), (2, &mut second)] {
        file.set("split.count", tiny::number(2));
        fs::write(part(n), file.bytes().0).unwrap();
    }
    let checkpoint = open(&part(1)).unwrap();
    let all = Checkpoint::from_gguf_bytes("whole", whole.bytes().0).unwrap();
    assert!(checkpoint.names().eq(all.names()));
    let name = "model.layers.1.mlp.up_proj.weight";
    assert_eq!(checkpoint.tensor(name).unwrap(), all.tensor(name).unwrap());
    assert!(matches!(refused(&part(2)), CheckpointError::Split { .. }));
    fs::remove_file(part(2)).unwrap();
    assert!(matches!(refused(&part(1)), CheckpointError::Split { .. }));
    let alone = folder.path().join("alone.gguf");
    fs::rename(part(1), &alone).unwrap();
    assert!(matches!(refused(&alone), CheckpointError::Split { .. }));
}

#[test]
fn what_is_no_model_or_of_an_unknown_kind_says_so() {
    let folder = tempfile::tempdir().unwrap();
    assert!(matches!(
        refused(folder.path()),
        CheckpointError::NotAModel { .. }
    ));
    assert!(matches!(
        refused(Path::new("/no/such/model.gguf")),
        CheckpointError::Io { .. }
    ));
    let text = folder.path().join("notes.txt");
    fs::write(&text, "hello").unwrap();
    assert!(matches!(refused(&text), CheckpointError::NotAModel { .. }));
    let mut file = tiny::model();
    file.set("general.architecture", tiny::text("mamba"));
    let error = Checkpoint::from_gguf_bytes("m.gguf", file.bytes().0).unwrap_err();
    let message = error.to_string();
    assert!(
        message.contains("m.gguf") && message.contains("mamba") && message.contains("qwen3moe"),
        "{message}"
    );
    let changed = copy("tiny-llama");
    fs::write(
        changed.path().join("config.json"),
        r#"{"architectures": ["MambaForCausalLM"]}"#,
    )
    .unwrap();
    let message = refused(changed.path()).to_string();
    assert!(
        message.contains("MambaForCausalLM") && message.contains("Qwen3ForCausalLM"),
        "{message}"
    );
}

/// A safetensors file with this header and so many bytes of data.
fn safetensors(header: &Value, data: usize) -> Vec<u8> {
    let header = header.to_string();
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.resize(bytes.len() + data, 0);
    bytes
}

#[test]
fn bad_safetensors_files_are_refused() {
    let folder = copy("tiny-llama");
    let file = folder.path().join("model.safetensors");
    let with = |bytes: &[u8]| {
        fs::write(&file, bytes).unwrap();
        refused(folder.path())
    };
    let tensor = |dtype: &str, shape: Value, offsets: Value| json!({"dtype": dtype, "shape": shape, "data_offsets": offsets});
    let bad = |header: Value, data| {
        let error = with(&safetensors(&header, data));
        assert!(error.to_string().contains("model.safetensors"), "{error}");
        assert!(
            matches!(error, CheckpointError::Safetensors { .. }),
            "{error}"
        );
    };
    let good = fs::read(fixture("tiny-llama").join("model.safetensors")).unwrap();
    // Cut off: in the length, in the header, in the data; and with something behind.
    for end in [0, 7, 8, 100, good.len() - 1] {
        assert!(matches!(
            with(&good[..end]),
            CheckpointError::Safetensors { .. }
        ));
    }
    let longer = [&good[..], &[0]].concat();
    assert!(matches!(with(&longer), CheckpointError::Safetensors { .. }));
    assert!(matches!(
        with(&u64::MAX.to_le_bytes()),
        CheckpointError::TooLarge { .. }
    ));
    assert!(matches!(
        with(&(1u64 << 20).to_le_bytes()),
        CheckpointError::Safetensors { .. }
    ));
    // Overlap, hole, outside, more elements than bytes, a product that no integer holds, an unknown type.
    let a = || tensor("F32", json!([2]), json!([0, 8]));
    bad(
        json!({"a": a(), "b": tensor("F32", json!([2]), json!([4, 12]))}),
        12,
    );
    bad(
        json!({"a": a(), "b": tensor("F32", json!([2]), json!([12, 20]))}),
        20,
    );
    bad(json!({"a": tensor("F32", json!([2]), json!([0, 8]))}), 4);
    bad(json!({"a": tensor("F32", json!([3]), json!([0, 8]))}), 8);
    bad(
        json!({"a": tensor("F32", json!([1u64 << 60, 1u64 << 60]), json!([0, 8]))}),
        8,
    );
    bad(json!({"a": tensor("F31", json!([2]), json!([0, 8]))}), 8);
    bad(json!({"a": tensor("F32", json!([2]), json!([8, 0]))}), 8);
}

#[test]
fn a_tensor_of_a_type_that_is_not_read_is_refused_when_it_is_wanted() {
    let folder = copy("tiny-llama");
    let header = json!({"a": {"dtype": "F8_E4M3", "shape": [8], "data_offsets": [0, 8]}});
    fs::write(
        folder.path().join("model.safetensors"),
        safetensors(&header, 8),
    )
    .unwrap();
    let checkpoint = open(folder.path()).unwrap();
    let error = checkpoint.tensor("a").unwrap_err().to_string();
    assert!(
        error.contains("F8_E4M3") && error.contains("BF16"),
        "{error}"
    );
}

#[test]
fn an_index_may_not_lead_out_of_its_folder_or_name_what_is_not_there() {
    let folder = copy("tiny-llama-sharded");
    let index = folder.path().join("model.safetensors.index.json");
    let good: Value = serde_json::from_slice(&fs::read(&index).unwrap()).unwrap();
    let first = good["weight_map"]
        .as_object()
        .unwrap()
        .keys()
        .next()
        .unwrap();
    let with = |shard: Value| {
        let mut bad = good.clone();
        bad["weight_map"][first] = shard;
        fs::write(&index, bad.to_string()).unwrap();
        refused(folder.path())
    };
    let outside = folder.path().join("../x.safetensors");
    for name in [
        "../x.safetensors",
        "/etc/passwd",
        "a/b.safetensors",
        "",
        "..",
    ] {
        assert!(
            matches!(with(json!(name)), CheckpointError::Outside { .. }),
            "{name}"
        );
    }
    assert!(!outside.exists());
    assert!(matches!(with(json!(7)), CheckpointError::Json { .. }));
    assert!(matches!(
        with(json!("gone.safetensors")),
        CheckpointError::Missing { .. }
    ));
    // In the other shard.
    let shards = [
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    ];
    let other = shards
        .iter()
        .find(|s| good["weight_map"][first] != **s)
        .unwrap();
    assert!(matches!(
        with(json!(other)),
        CheckpointError::MissingTensor { .. }
    ));
    // The same tensor in both.
    fs::write(&index, good.to_string()).unwrap();
    fs::copy(folder.path().join(shards[0]), folder.path().join(shards[1])).unwrap();
    let error = refused(folder.path());
    assert!(
        matches!(
            error,
            CheckpointError::DuplicateTensor { .. } | CheckpointError::MissingTensor { .. }
        ),
        "{error}"
    );
}

#[cfg(unix)]
#[test]
fn shards_may_be_symbolic_links_and_named_pipes_are_not_waited_for() {
    let folder = copy("tiny-llama-sharded");
    let elsewhere = tempfile::tempdir().unwrap();
    let digest = open(folder.path()).unwrap().digest();
    let shard = folder.path().join("model-00001-of-00002.safetensors");
    let blob = elsewhere.path().join("blob");
    fs::rename(&shard, &blob).unwrap();
    std::os::unix::fs::symlink(&blob, &shard).unwrap();
    assert_eq!(open(folder.path()).unwrap().digest(), digest);
    let config = folder.path().join("config.json");
    fs::remove_file(&config).unwrap();
    let made = std::process::Command::new("mkfifo").arg(&config).status();
    if made.is_ok_and(|status| status.success()) {
        assert!(matches!(refused(folder.path()), CheckpointError::Io { .. }));
    }
}

#[test]
fn the_digest_covers_what_is_used_and_nothing_else() {
    let folder = copy("tiny-llama");
    let digest = open(folder.path()).unwrap().digest();
    assert_eq!(open(&fixture("tiny-llama")).unwrap().digest(), digest);
    fs::write(folder.path().join("README.md"), "hello").unwrap();
    assert_eq!(open(folder.path()).unwrap().digest(), digest);
    let files = folder_files(folder.path()).unwrap();
    assert!(files.iter().any(|file| file.ends_with("model.safetensors")));
    for file in files {
        let bytes = fs::read(&file).unwrap();
        let mut changed = bytes.clone();
        // As long as before where that is possible, so that the size does not give it away.
        match changed.last_mut().unwrap() {
            end @ b'\n' => *end = b' ',
            b'}' => changed.push(b'\n'),
            weight => *weight ^= 1,
        }
        fs::write(&file, changed).unwrap();
        assert_ne!(
            open(folder.path()).unwrap().digest(),
            digest,
            "{}",
            file.display()
        );
        fs::write(&file, bytes).unwrap();
    }
}

#[test]
fn bad_json_is_refused_with_the_files_name() {
    for (name, text) in [
        ("config.json", "{"),
        ("config.json", "[]"),
        ("generation_config.json", "nope"),
        ("tokenizer_config.json", "\u{0}"),
    ] {
        let folder = copy("tiny-llama");
        fs::write(folder.path().join(name), text).unwrap();
        let error = refused(folder.path());
        assert!(matches!(error, CheckpointError::Json { .. }), "{error}");
        assert!(error.to_string().contains(name), "{error}");
    }
    let folder = copy("tiny-llama");
    let deep = "[".repeat(100_000);
    fs::write(folder.path().join("config.json"), deep).unwrap();
    assert!(matches!(
        refused(folder.path()),
        CheckpointError::Json { .. }
    ));
    let large = vec![b' '; (4 << 20) + 1];
    fs::write(folder.path().join("config.json"), large).unwrap();
    assert!(matches!(
        refused(folder.path()),
        CheckpointError::TooLarge { .. }
    ));
}

#[test]
fn no_change_to_a_safetensors_file_makes_the_reader_panic() {
    let folder = copy("tiny-llama");
    let file = folder.path().join("model.safetensors");
    let good = fs::read(&file).unwrap();
    let header = 8 + u64::from_le_bytes(good[..8].try_into().unwrap()) as usize;
    bolero::check!()
        .with_iterations(300)
        .with_type::<Vec<(u32, u8)>>()
        .for_each(|changes| {
            let mut bytes = good.clone();
            for (at, value) in changes {
                bytes[*at as usize % header] = *value;
            }
            fs::write(&file, bytes).unwrap();
            let Ok(checkpoint) = open(folder.path()) else {
                return;
            };
            for name in checkpoint.names() {
                if let Ok(tensor) = checkpoint.tensor(name) {
                    let elements = tensor.rows() * tensor.columns();
                    assert_eq!(tensor.dequantise().unwrap().len(), elements);
                }
            }
        });
}

#[test]
fn no_change_to_a_gguf_header_makes_the_checkpoint_panic() {
    let (valid, header) = tiny::model().bytes();
    bolero::check!()
        .with_iterations(1_000)
        .with_type::<Vec<(u16, u8)>>()
        .for_each(|changes| {
            let mut bytes = valid.clone();
            for (at, value) in changes {
                bytes[usize::from(*at) % header] = *value;
            }
            let Ok(checkpoint) = Checkpoint::from_gguf_bytes("mutant", bytes) else {
                return;
            };
            for name in checkpoint.names() {
                let tensor = checkpoint.tensor(name).unwrap();
                let elements: usize = tensor.dims.iter().product();
                assert_eq!(tensor.dequantise().unwrap().len(), elements);
            }
        });
}
