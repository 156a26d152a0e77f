#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

fn submission() -> JobSubmission {
    JobSubmission {
        model: "SmolLM2-135M-Instruct".to_owned(),
        messages: vec![ChatMessage {
            role: Role::User,
            content: "planted-secret".to_owned(),
        }],
        max_tokens: Some(8),
        temperature: Some(0.5),
        seed: Some(7),
        stop: vec!["\n\n".to_owned()],
        ..JobSubmission::default()
    }
}

fn embedding(texts: usize) -> JobSubmission {
    JobSubmission {
        model: "m".to_owned(),
        embedding: Some(EmbeddingWish {
            input: vec!["planted-secret".to_owned(); texts],
            pooling: Pooling::Mean,
        }),
        ..JobSubmission::default()
    }
}

fn any_format() -> impl Strategy<Value = AnswerFormat> {
    let schema = prop::collection::vec(("[a-z]{1,8}", ".{0,20}"), 1..4).prop_map(|fields| {
        let fields = fields.into_iter().map(|(name, text)| (name, text.into()));
        AnswerFormat::JsonSchema {
            schema: fields.collect(),
        }
    });
    prop_oneof![
        Just(AnswerFormat::JsonObject),
        schema,
        ".{1,40}".prop_map(|pattern| AnswerFormat::Regex { pattern }),
        ".{1,40}".prop_map(|lark| AnswerFormat::Grammar { lark }),
    ]
}

fn any_chat() -> impl Strategy<Value = JobSubmission> {
    let message = (0..3u8, ".{0,40}").prop_map(|(role, content)| ChatMessage {
        role: [Role::System, Role::User, Role::Assistant]
            .get(usize::from(role))
            .copied()
            .unwrap_or(Role::User),
        content,
    });
    let penalty = || prop::option::of(-2.0f32..=2.0);
    (
        (
            "[a-zA-Z0-9/._-]{1,60}",
            prop::collection::vec(message, 1..6),
            prop::option::of(1..=u32::MAX),
            prop::option::of(1..=MAX_CHOICES),
        ),
        (
            prop::option::of(0.0f32..=2.0),
            prop::option::of(any::<u32>()),
            prop::option::of(0.001f32..=1.0),
            prop::option::of(0.0f32..1.0),
        ),
        (
            prop::option::of(0.001f32..=2.0),
            penalty(),
            penalty(),
            prop::collection::btree_map(any::<u32>(), -100.0f32..=100.0, 0..5),
        ),
        (
            prop::option::of(0..=MAX_TOP_LOGPROBS),
            prop::option::of(any_format()),
            prop::option::of(any::<u64>()),
            prop::collection::vec(".{1,20}", 0..=MAX_STOPS),
        ),
    )
        .prop_map(|(what, choice, penalties, rest)| JobSubmission {
            model: what.0,
            messages: what.1,
            embedding: None,
            max_tokens: what.2,
            n: what.3,
            temperature: choice.0,
            top_k: choice.1,
            top_p: choice.2,
            min_p: choice.3,
            repetition_penalty: penalties.0,
            frequency_penalty: penalties.1,
            presence_penalty: penalties.2,
            logit_bias: penalties.3,
            top_logprobs: rest.0,
            response_format: rest.1,
            seed: rest.2,
            stop: rest.3,
        })
}

fn any_embedding() -> impl Strategy<Value = JobSubmission> {
    let pooling = prop_oneof![Just(Pooling::Mean), Just(Pooling::Last)];
    (prop::collection::vec(".{1,40}", 1..6), pooling).prop_map(|(input, pooling)| JobSubmission {
        model: "m".to_owned(),
        embedding: Some(EmbeddingWish { input, pooling }),
        ..JobSubmission::default()
    })
}

proptest! {
    #[test]
    fn decoding_gives_back_what_was_encoded(
        submission in prop_oneof![4 => any_chat(), 1 => any_embedding()],
    ) {
        prop_assert_eq!(&JobSubmission::decode(&submission.encode().unwrap()).unwrap(), &submission);
    }

    #[test]
    fn decoding_a_strangers_bytes_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let _ = JobSubmission::decode(&bytes);
    }
}

#[test]
fn what_a_plain_request_looks_like_has_not_changed() {
    let encoded = String::from_utf8(submission().encode().unwrap()).unwrap();
    assert_eq!(
        encoded,
        "{\"model\":\"SmolLM2-135M-Instruct\",\"messages\":[{\"role\":\"user\",\"content\":\
         \"planted-secret\"}],\"max_tokens\":8,\"temperature\":0.5,\"seed\":7,\"stop\":[\"\\n\\n\"]}"
    );
}

#[test]
fn the_fields_of_a_schema_keep_their_order() {
    let text = r#"{"model":"m","messages":[{"role":"user","content":""}],"response_format":{"type":"json_schema","schema":{"zebra":1,"ape":{"z":1,"a":2}}}}"#;
    let decoded = JobSubmission::decode(text.as_bytes()).unwrap();
    assert_eq!(decoded.encode().unwrap(), text.as_bytes());
}

#[test]
fn debug_output_holds_no_content() {
    let text = format!("{:?}{:?}", submission(), embedding(2));
    assert!(!text.contains("planted-secret"), "{text}");
    assert!(text.contains("user[14 bytes]"), "{text}");
    assert!(text.contains("EmbeddingWish(2 texts)"), "{text}");
    for format in [
        AnswerFormat::Regex {
            pattern: "planted-secret".to_owned(),
        },
        AnswerFormat::JsonSchema {
            schema: [("planted-secret".to_owned(), Value::Null)]
                .into_iter()
                .collect(),
        },
    ] {
        assert!(!format!("{format:?}").contains("planted-secret"));
    }
}

#[test]
fn a_decoding_error_does_not_quote_the_input() {
    let error = JobSubmission::decode(br#"{"model":"m","planted-secret":1}"#).unwrap_err();
    assert!(!error.to_string().contains("planted-secret"), "{error}");
}

#[test]
fn each_value_out_of_range_is_refused_with_its_field() {
    type Spoil = fn(&mut JobSubmission);
    let spoil: [(&str, Spoil); 30] = [
        ("model", |s| s.model.clear()),
        ("model", |s| s.model = "m".repeat(MAX_MODEL_NAME_BYTES + 1)),
        ("messages", |s| s.messages.clear()),
        ("messages", |s| {
            s.messages = vec![
                ChatMessage {
                    role: Role::User,
                    content: String::new()
                };
                MAX_MESSAGES + 1
            ];
        }),
        ("max_tokens", |s| s.max_tokens = Some(0)),
        ("n", |s| s.n = Some(0)),
        ("n", |s| s.n = Some(MAX_CHOICES + 1)),
        ("temperature", |s| s.temperature = Some(f32::NAN)),
        ("temperature", |s| s.temperature = Some(2.5)),
        ("top_p", |s| s.top_p = Some(0.0)),
        ("top_p", |s| s.top_p = Some(f32::NAN)),
        ("min_p", |s| s.min_p = Some(1.0)),
        ("min_p", |s| s.min_p = Some(-0.1)),
        ("min_p", |s| s.min_p = Some(f32::NAN)),
        ("repetition_penalty", |s| s.repetition_penalty = Some(0.0)),
        ("repetition_penalty", |s| s.repetition_penalty = Some(2.1)),
        ("frequency_penalty", |s| s.frequency_penalty = Some(-2.1)),
        ("frequency_penalty", |s| {
            s.frequency_penalty = Some(f32::NAN)
        }),
        ("presence_penalty", |s| s.presence_penalty = Some(2.1)),
        ("logit_bias", |s| {
            s.logit_bias.insert(1, 100.5);
        }),
        ("logit_bias", |s| {
            s.logit_bias.insert(1, f32::NAN);
        }),
        ("logit_bias", |s| {
            s.logit_bias = (0..=300).map(|token| (token, 1.0)).collect();
        }),
        ("top_logprobs", |s| s.top_logprobs = Some(21)),
        ("stop", |s| s.stop = vec!["a".to_owned(); MAX_STOPS + 1]),
        ("stop", |s| s.stop = vec![String::new()]),
        ("stop", |s| s.stop = vec!["x".repeat(MAX_STOP_BYTES + 1)]),
        ("guided_regex", |s| {
            s.response_format = Some(AnswerFormat::Regex {
                pattern: String::new(),
            });
        }),
        ("guided_grammar", |s| {
            s.response_format = Some(AnswerFormat::Grammar {
                lark: "x".repeat(MAX_CONSTRAINT_BYTES + 1),
            });
        }),
        ("response_format", |s| {
            let long = "x".repeat(MAX_CONSTRAINT_BYTES);
            s.response_format = Some(AnswerFormat::JsonSchema {
                schema: [(long, Value::Null)].into_iter().collect(),
            });
        }),
        ("input", |s| s.embedding = embedding(1).embedding),
    ];
    for (field, spoil) in spoil {
        let mut bad = submission();
        spoil(&mut bad);
        assert_eq!(bad.validate().unwrap_err().field, field);
    }
    submission().validate().unwrap();
}

#[test]
fn texts_to_embed_come_alone_and_in_bounded_number() {
    for count in [1, MAX_EMBEDDED_TEXTS] {
        embedding(count).validate().unwrap();
    }
    type Spoil = fn(&mut JobSubmission);
    let spoil: [Spoil; 5] = [
        |s| s.embedding = embedding(0).embedding,
        |s| s.embedding = embedding(MAX_EMBEDDED_TEXTS + 1).embedding,
        |s| {
            if let Some(wish) = &mut s.embedding {
                wish.input.push(String::new());
            }
        },
        |s| s.temperature = Some(0.0),
        |s| s.messages = submission().messages,
    ];
    for spoil in spoil {
        let mut bad = embedding(1);
        spoil(&mut bad);
        assert_eq!(bad.validate().unwrap_err().field, "input");
    }
}

#[test]
fn a_conversation_larger_than_the_wire_allows_is_refused() {
    let mut big = submission();
    big.messages = vec![ChatMessage {
        role: Role::User,
        content: "x".repeat(MAX_SUBMISSION_BYTES),
    }];
    assert_eq!(big.encode().unwrap_err().field, "messages");
    let mut big = embedding(1);
    big.embedding = Some(EmbeddingWish {
        input: vec!["x".repeat(MAX_SUBMISSION_BYTES)],
        pooling: Pooling::Last,
    });
    assert_eq!(big.encode().unwrap_err().field, "input");
}
