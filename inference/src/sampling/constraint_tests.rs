#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]
use proptest::prelude::*;

use super::*;

/// Every byte, some longer pieces, and two tokens that end the turn.
pub(super) struct Toy;

const PIECES: [&str; 12] = [
    "{\"", "\":", "\",\"", "\"}", "true", "name", " {", "[1,", "🦋", "é", "12", "abc",
];
const END: u32 = 268;
const OTHER_END: u32 = 269;
const CONTROL: u32 = 270;

static BYTES: [[u8; 1]; 256] = {
    let mut all = [[0]; 256];
    let mut at = 0;
    while at < 256 {
        all[at] = [at as u8];
        at += 1;
    }
    all
};

impl TokenBytes for Toy {
    fn len(&self) -> usize {
        271
    }

    fn bytes(&self, token: u32) -> Option<&[u8]> {
        let token = token as usize;
        let byte = BYTES.get(token).map(|b| &b[..]);
        byte.or_else(|| Some(PIECES.get(token - 256)?.as_bytes()))
    }

    fn end_tokens(&self) -> Vec<u32> {
        vec![END, OTHER_END]
    }
}

pub(super) fn grammars() -> &'static Grammars {
    static GRAMMARS: OnceLock<Grammars> = OnceLock::new();
    GRAMMARS.get_or_init(|| Grammars::new(Arc::new(Toy)))
}

pub(crate) fn schema(text: impl Into<String>) -> Constraint {
    Constraint::JsonSchema(text.into())
}

pub(super) fn lark(text: impl Into<String>) -> Constraint {
    Constraint::Lark(text.into())
}

pub(super) fn regex(text: impl Into<String>) -> Constraint {
    Constraint::Regex(text.into())
}

/// `each` of the numbers below `count`, with `between` between them.
pub(super) fn list(count: usize, between: &str, each: impl Fn(usize) -> String) -> String {
    (0..count).map(each).collect::<Vec<_>>().join(between)
}

/// SplitMix64.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }
}

/// Which tokens may follow.
fn allowed(state: &mut ConstraintState, size: usize) -> Result<Vec<u32>, EngineError> {
    let mut logits = vec![1.0f32; size];
    state.mask(&mut logits)?;
    assert!(logits.iter().all(|&x| x == 1.0 || x == f32::NEG_INFINITY));
    Ok((0u32..)
        .zip(logits)
        .filter(|&(_, logit)| logit == 1.0)
        .map(|(token, _)| token)
        .collect())
}

/// An answer by a model that knows nothing, of up to `most` tokens; whether it came to its end.
pub(crate) fn babble(
    grammars: &Grammars,
    vocabulary: &dyn TokenBytes,
    constraint: &Constraint,
    dice: u64,
    most: usize,
) -> Result<(Vec<u8>, bool), EngineError> {
    let params = crate::SamplingParams {
        temperature: 1.0,
        ..crate::SamplingParams::greedy(1)
    };
    let state = grammars.compile(constraint)?;
    let mut sampler = crate::sampling::Sampler::new(&params, &[], dice, Some(state));
    let mut dice = Dice(dice);
    let mut text = vec![];
    for position in 0..most as u64 {
        let mut logits: Vec<f32> = (0..vocabulary.len())
            .map(|_| (dice.roll() % 1000) as f32 / 200.0)
            .collect();
        let token = sampler.choose(&mut logits, position)?.token;
        sampler.accept(token)?;
        if vocabulary.end_tokens().contains(&token) {
            return Ok((text, true));
        }
        text.extend_from_slice(vocabulary.bytes(token).unwrap());
    }
    Ok((text, false))
}

pub(crate) type Check = fn(&Value) -> bool;

/// Schemas and what JSON must be to match them, written out by hand.
pub(crate) fn schemas() -> Vec<(&'static str, Check)> {
    fn keys(value: &Value, allowed: &[&str]) -> bool {
        let object = value.as_object();
        object.is_some_and(|o| o.keys().all(|key| allowed.contains(&key.as_str())))
    }
    /// A number without a fraction is an integer in JSON schema, however it is written: -0 and 2.0 are.
    fn integer(value: &Value, range: std::ops::RangeInclusive<f64>) -> bool {
        let number = value.as_f64();
        number.is_some_and(|n| n.fract() == 0.0 && range.contains(&n))
    }
    vec![
        (
            r#"{"type":"object","properties":{"name":{"type":"string","maxLength":5},"age":{"type":"integer","minimum":0,"maximum":150}},
                "required":["name","age"],"additionalProperties":false}"#,
            |v| {
                keys(v, &["name", "age"])
                    && v["name"].as_str().is_some_and(|s| s.chars().count() <= 5)
                    && integer(&v["age"], 0.0..=150.0)
            },
        ),
        (r#"{"enum":["red","green",3,null,{"deep":[true]}]}"#, |v| {
            [
                json!("red"),
                json!("green"),
                json!(3),
                json!(null),
                json!({"deep":[true]}),
            ]
            .contains(v)
        }),
        (
            r#"{"type":"array","items":{"type":"boolean"},"minItems":2,"maxItems":4}"#,
            |v| {
                v.as_array()
                    .is_some_and(|a| (2..=4).contains(&a.len()) && a.iter().all(Value::is_boolean))
            },
        ),
        (
            r##"{"$defs":{"point":{"type":"object","properties":{"x":{"type":"integer","minimum":-9,"maximum":9},"tag":{"const":"🦋"}},
                "required":["x"],"additionalProperties":false}},
                "type":"object","properties":{"path":{"type":"array","items":{"$ref":"#/$defs/point"},"maxItems":3}},
                "required":["path"],"additionalProperties":false}"##,
            |v| {
                keys(v, &["path"])
                    && v["path"].as_array().is_some_and(|a| {
                        a.len() <= 3
                            && a.iter().all(|p| {
                                keys(p, &["x", "tag"])
                                    && integer(&p["x"], -9.0..=9.0)
                                    && p.get("tag").is_none_or(|t| t == "🦋")
                            })
                    })
            },
        ),
        (
            r#"{"type":"string","pattern":"^[A-Z]{2}-[0-9]{1,3}é?$"}"#,
            |v| {
                let Some((left, right)) = v.as_str().and_then(|s| s.split_once('-')) else {
                    return false;
                };
                let digits = right.strip_suffix('é').unwrap_or(right);
                left.len() == 2
                    && left.bytes().all(|b| b.is_ascii_uppercase())
                    && (1..=3).contains(&digits.len())
                    && digits.bytes().all(|b| b.is_ascii_digit())
            },
        ),
        (
            r#"{"anyOf":[{"type":"null"},{"type":"number","minimum":1.5,"maximum":2}]}"#,
            |v| v.is_null() || v.as_f64().is_some_and(|n| (1.5..=2.0).contains(&n)),
        ),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn whatever_the_logits_the_answer_matches_its_schema(dice: u64) {
        for (text, matches) in schemas() {
            let (answer, ended) = babble(grammars(), &Toy, &schema(text), dice, 400).unwrap();
            // White space is bounded, and so is everything else in these schemas.
            prop_assert!(ended, "{}", String::from_utf8_lossy(&answer));
            let value: Value = serde_json::from_slice(&answer).unwrap();
            prop_assert!(matches(&value), "{value} for {text}");
        }
    }

    #[test]
    fn a_regular_expression_matches_the_whole_answer(dice: u64) {
        let (answer, ended) = babble(grammars(), &Toy, &regex("(ab|é){2,4}[0-9]"), dice, 40).unwrap();
        prop_assert!(ended);
        let text = String::from_utf8(answer).unwrap();
        let body = text.trim_end_matches(|c: char| c.is_ascii_digit());
        prop_assert_eq!(text.chars().count() - body.chars().count(), 1);
        let words = body.replace('é', "ab");
        prop_assert!((2..=4).contains(&(words.len() / 2)) && words == "ab".repeat(words.len() / 2));
    }

    #[test]
    fn no_text_is_a_typed_error_at_the_worst(text in "\\PC{0,40}", dice: u64) {
        for constraint in [schema(text.clone()), regex(text.clone()), lark(text.clone()), lark(format!("start: {text}"))] {
            match babble(grammars(), &Toy, &constraint, dice, 20) {
                Ok(_) | Err(EngineError::Constraint { .. }) => {}
                Err(other) => prop_assert!(false, "{other}"),
            }
        }
    }
}

#[test]
fn any_json_object_is_an_object_and_its_white_space_is_bounded() {
    let mut state = grammars().compile(&Constraint::JsonObject).unwrap();
    assert!(state.clone().accept(u32::from(b'[')).is_err());
    state.accept(u32::from(b'{')).unwrap();
    let blanks = (0..1000)
        .take_while(|_| state.accept(u32::from(b' ')).is_ok())
        .count();
    assert_eq!(blanks, 64);
}

#[test]
fn after_the_end_only_the_end_of_the_turn_may_follow() {
    let mut state = grammars().compile(&lark("start: \"ab\" \"c\"?")).unwrap();
    assert_eq!(
        allowed(&mut state, 271).unwrap(),
        // "a" and "abc".
        [u32::from(b'a'), 267]
    );
    for byte in [b'a', b'b'] {
        assert!(!state.is_done());
        state.accept(u32::from(byte)).unwrap();
    }
    // It may end here, but need not.
    assert!(!state.is_done());
    assert_eq!(
        allowed(&mut state, 271).unwrap(),
        [u32::from(b'c'), END, OTHER_END]
    );
    let mut ended = state.clone();
    ended.accept(OTHER_END).unwrap();
    assert!(ended.is_done());
    state.accept(u32::from(b'c')).unwrap();
    assert!(state.is_done());
    assert_eq!(allowed(&mut state, 271).unwrap(), [END, OTHER_END]);
    assert!(state.clone().accept(u32::from(b'c')).is_err());
    state.accept(END).unwrap();
    state.accept(OTHER_END).unwrap();
    assert_eq!(allowed(&mut state, 271).unwrap(), [END, OTHER_END]);
}

#[test]
fn logits_beyond_the_vocabulary_are_impossible() {
    let mut state = grammars().compile(&regex("(?s:.)*")).unwrap();
    assert!(allowed(&mut state, 400).unwrap().iter().all(|&t| t < 271));
    // Fewer logits than tokens do no harm.
    assert_eq!(allowed(&mut state, 3).unwrap(), [0, 1, 2]);
}

#[test]
fn no_grammar_can_write_a_control_token() {
    for text in [
        "start: <[270]>",
        "start: <[269-270]> \"x\"",
        "start: <[*]>",
        "start: <|end|>",
        "start: \"a\" | <[270]>",
    ] {
        match grammars().compile(&lark(text)) {
            Ok(mut state) => {
                let tokens = allowed(&mut state, 271).unwrap_or_default();
                assert!(!tokens.contains(&CONTROL), "{text}");
            }
            Err(EngineError::Constraint { .. }) => {}
            Err(other) => panic!("{other}"),
        }
    }
}

#[test]
fn what_is_no_constraint_is_refused_with_a_reason() {
    let cases = [
        (schema("{"), "not JSON"),
        (schema("[1]"), "a schema is a JSON object"),
        (schema(r#"{"type":"banana"}"#), "banana"),
        (
            schema(r#"{"type":"integer","minimum":5,"maximum":4}"#),
            "Unsatisfiable",
        ),
        (
            schema(r#"{"$ref":"http://127.0.0.1:1/x.json"}"#),
            "does not fetch",
        ),
        (regex(""), "empty"),
        (regex("a("), "unclosed group"),
        (regex("(?=a)b"), "look-ahead"),
        (regex(r"[^\s\S]"), "nothing matches it"),
        (lark(""), "no start rule"),
        (lark("start: start"), "nothing matches it"),
        (lark("start: nowhere"), "nowhere"),
    ];
    for (constraint, wanted) in cases {
        match grammars().compile(&constraint) {
            Err(EngineError::Constraint { message }) => {
                assert!(message.contains(wanted), "{message:?} lacks {wanted:?}");
                assert!(message.len() <= MAX_MESSAGE_BYTES);
            }
            other => panic!("{other:?} for {constraint:?}"),
        }
    }
}

/// A vocabulary made for a test.
struct Made(Vec<Option<Vec<u8>>>, Vec<u32>);

impl TokenBytes for Made {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn bytes(&self, token: u32) -> Option<&[u8]> {
        self.0.get(token as usize)?.as_deref()
    }

    fn end_tokens(&self) -> Vec<u32> {
        self.1.clone()
    }
}

#[test]
fn hostile_vocabularies_are_errors_or_harmless() {
    let word = |bytes: &[u8]| Some(bytes.to_vec());
    let compile = |made| Grammars::new(Arc::new(made)).compile(&regex("a+"));
    for made in [
        Made(vec![], vec![]),
        Made(vec![word(b"a")], vec![]),
        Made(vec![word(b"a")], vec![9]),
        Made(vec![Some(vec![b'a'; MAX_TOKEN_BYTES]); 9_000], vec![0]),
    ] {
        let got = compile(made);
        assert!(
            matches!(got, Err(EngineError::Constraint { .. })),
            "{got:?}"
        );
    }
    // Longer than the tree of tokens is deep, doubled, empty, and what marks control tokens elsewhere.
    let made = Made(
        vec![
            Some(vec![b'a'; 2_000]),
            word(b"a"),
            word(b"a"),
            word(b""),
            word(b"\xff[1]"),
            None,
        ],
        vec![5],
    );
    let mut state = compile(made).unwrap();
    let tokens = allowed(&mut state, 6).unwrap();
    assert!(tokens.contains(&1) || tokens.contains(&2));
    assert!(
        [0, 3, 4, 5].iter().all(|t| !tokens.contains(t)),
        "{tokens:?}"
    );
}

#[test]
fn clones_go_their_own_ways_and_may_change_threads() {
    fn sendable<T: Send>(_: &T) {}
    fn shared<T: Send + Sync>(_: &T) {}
    let mut one = grammars().compile(&regex("ab|cd")).unwrap();
    sendable(&one);
    shared(grammars());
    let mut other = one.clone();
    one.accept(u32::from(b'a')).unwrap();
    other.accept(u32::from(b'c')).unwrap();
    assert_eq!(allowed(&mut one, 271).unwrap(), [u32::from(b'b')]);
    assert_eq!(allowed(&mut other, 271).unwrap(), [u32::from(b'd')]);
}

#[test]
fn a_constrained_answer_resumes_where_it_was() {
    let params = crate::SamplingParams {
        temperature: 1.0,
        ..crate::SamplingParams::greedy(1)
    };
    let sampler = || {
        let state = grammars().compile(&schema(schemas()[0].0)).unwrap();
        crate::sampling::Sampler::new(&params, &[1, 2], 5, Some(state))
    };
    let row = |position: u64| -> Vec<f32> {
        let mut dice = Dice(position);
        (0..271)
            .map(|_| (dice.roll() % 1000) as f32 / 200.0)
            .collect()
    };
    let go_on = |mut sampler: crate::sampling::Sampler, from: u64| -> Vec<u32> {
        let mut tokens = vec![];
        for position in from.. {
            let token = sampler.choose(&mut row(position), position).unwrap().token;
            sampler.accept(token).unwrap();
            tokens.push(token);
            if [END, OTHER_END].contains(&token) {
                break;
            }
        }
        tokens
    };
    let whole = go_on(sampler(), 2);
    for cut in 0..whole.len() {
        let mut resumed = sampler();
        resumed.resume(&whole[..cut]).unwrap();
        assert_eq!(go_on(resumed, 2 + cut as u64), &whole[cut..]);
    }
}
