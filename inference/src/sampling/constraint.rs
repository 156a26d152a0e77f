//! Answers that match a JSON schema, a regular expression or a grammar, by llguidance.
//!
//! llguidance follows the answer's bytes with a lexer and an Earley parser and says, before each token, which
//! tokens of the vocabulary can follow; all others are made impossible. It never asks for a token: how a
//! text is cut into tokens stays the model's choice, so that nothing depends on a tokenizer that is exactly
//! the model's. Control tokens cannot be part of a constrained text at all, whatever a grammar says; those
//! that end the turn are allowed where the text may end, and nothing else where it must.
//!
//! A constraint comes from a stranger. What it may cost is bounded: its size by
//! [`crate::MAX_CONSTRAINT_BYTES`] and [`MAX_PROPERTIES`], the work and memory of its compilation and of each
//! token by the limits below, and the stack by compiling on a thread of its own. llguidance's panics come back
//! as errors. Compiling can take a second at the worst, so it belongs on the thread of whoever asks, not on the
//! one that serves all.

use std::fmt::Display;
use std::sync::{Arc, OnceLock};

use llguidance::api::{ParserLimits, TopLevelGrammar};
use llguidance::{Matcher, ParserFactory};
use serde_json::{Map, Value, json};
use toktrie::{ApproximateTokEnv, SimpleVob, TokEnv, TokRxInfo, TokTrie};

use crate::engine::Constraint;
use crate::error::EngineError;

/// Longest token, in bytes, that a constrained answer can contain. The longest of real vocabularies have 128
/// to 256 bytes.
const MAX_TOKEN_BYTES: usize = 512;
/// Bytes of all tokens together: what the tree of tokens can number. Gemma's 262 144 tokens have some 2 MB.
const MAX_VOCABULARY_BYTES: usize = (1 << 22) - 2;
/// Fields of one object in a schema. An object with more than half as many optional ones is too costly to
/// follow anyway.
const MAX_PROPERTIES: usize = 1_000;
/// What `multipleOf` in a schema may be: beyond that, llguidance's arithmetic overflows.
const MULTIPLES: std::ops::RangeInclusive<f64> = 1e-6..=1e6;
/// Longest message about a constraint, in bytes.
const MAX_MESSAGE_BYTES: usize = 400;
/// Stack for compiling: grammars are walked by recursion, rule by rule. Only what is used of it becomes
/// memory.
const COMPILE_STACK_BYTES: usize = 256 << 20;
/// White space between two elements of JSON. Without a bound a small model may write nothing else for the
/// rest of its answer; this much indents some 30 levels.
const JSON_WHITE_SPACE: &str = r"[\x20\x0A\x0D\x09]{1,64}";

/// What a constraint may cost. Times are for one core of a server of 2024.
fn limits() -> ParserLimits {
    ParserLimits {
        // Branches of a grammar at one place.
        max_items_in_row: 2_000,
        // Nodes of regular expressions while compiling: 20 ms. A large real schema takes half of it.
        initial_lexer_fuel: 1_000_000,
        // The same for one token: 15 ms at the most, some 50 µs as a rule.
        step_lexer_fuel: 200_000,
        // Items of the parser for one token. Time grows with the square of those that stand at one byte: 50 ms.
        step_max_items: 10_000,
        // 1 to 2 kB each, so 50 MB at the most.
        max_lexer_states: 25_000,
        // Symbols of all rules, some 4 for each field of an object. Compiling takes time that grows with the
        // square of those that may stand at the beginning: a second.
        max_grammar_size: 12_000,
        precompute_large_lexemes: true,
        // What an error says goes to whoever sent the constraint; it needs no dump of the parser.
        verbose_errors: false,
    }
}

/// What a vocabulary tells about its tokens.
pub trait TokenBytes {
    /// Number of tokens.
    fn len(&self) -> usize;

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What a token says; `None` for control tokens, which no text contains.
    fn bytes(&self, token: u32) -> Option<&[u8]>;

    /// The control tokens that end the model's turn.
    fn end_tokens(&self) -> Vec<u32>;
}

/// Compiles constraints for one vocabulary. The tree of its tokens is made at the first use: it takes tens
/// of milliseconds and megabytes for a large vocabulary.
pub struct Grammars {
    vocabulary: Arc<dyn TokenBytes + Send + Sync>,
    compiler: OnceLock<Result<Compiler, String>>,
}

struct Compiler {
    factory: ParserFactory,
    /// The tokens that say nothing and do not end the turn.
    silent: Arc<SimpleVob>,
}

impl Grammars {
    /// For this vocabulary.
    pub fn new(vocabulary: Arc<dyn TokenBytes + Send + Sync>) -> Self {
        Self {
            vocabulary,
            compiler: OnceLock::new(),
        }
    }

    /// Compiles a constraint. Takes milliseconds as a rule, a second at the worst.
    ///
    /// # Errors
    /// [`EngineError::Constraint`] when it is none, is not supported, or is too large or too costly.
    pub fn compile(&self, constraint: &Constraint) -> Result<ConstraintState, EngineError> {
        let Compiler { factory, silent } = self
            .compiler
            .get_or_init(|| build(&*self.vocabulary))
            .as_ref()
            .map_err(refused)?;
        let compiled = std::thread::scope(|scope| {
            std::thread::Builder::new()
                .name("grammar".to_owned())
                .stack_size(COMPILE_STACK_BYTES)
                .spawn_scoped(scope, || {
                    let parser = factory.create_parser(grammar(constraint)?);
                    let mut matcher = Matcher::new(parser);
                    // The first mask is made here, where a grammar that can begin with nothing is noticed.
                    matcher.compute_mask_or_eos().map_err(refused)?;
                    Ok(matcher)
                })
                .map_err(refused)?
                .join()
                .unwrap_or_else(|_| Err(refused("its compilation failed")))
        });
        Ok(ConstraintState {
            matcher: compiled?,
            silent: silent.clone(),
        })
    }
}

/// Where a constrained answer has come to. A clone goes its own way, for several answers to one request.
#[derive(Clone)]
pub struct ConstraintState {
    matcher: Matcher,
    silent: Arc<SimpleVob>,
}

impl ConstraintState {
    /// Sets the logits of all tokens that may not follow to −∞.
    ///
    /// # Errors
    /// [`EngineError::Constraint`] when nothing may follow, or finding out costs too much.
    pub fn mask(&mut self, logits: &mut [f32]) -> Result<(), EngineError> {
        let allowed = self.matcher.compute_mask_or_eos().map_err(refused)?;
        let silent = self.silent.as_slice();
        let words = allowed.as_slice().iter().zip(silent);
        let words = words.map(|(allowed, silent)| allowed & !silent);
        if words.clone().all(|word| word == 0) {
            return Err(refused(NO_MATCH));
        }
        for (group, word) in logits.chunks_mut(32).zip(words.chain(std::iter::repeat(0))) {
            match word {
                0 => group.fill(f32::NEG_INFINITY),
                u32::MAX => {}
                _ => {
                    for (bit, logit) in (0u32..).zip(group) {
                        if word.wrapping_shr(bit) & 1 == 0 {
                            *logit = f32::NEG_INFINITY;
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Goes on by one token. After the end, more tokens that end the turn change nothing.
    ///
    /// # Errors
    /// [`EngineError::Constraint`] when the token may not follow.
    pub fn accept(&mut self, token: u32) -> Result<(), EngineError> {
        if self.is_done() && !self.matcher.is_error() {
            let ends = self.matcher.tok_env().map_err(refused)?;
            if ends.tok_trie().eos_tokens().contains(&token) {
                return Ok(());
            }
        }
        self.matcher.consume_token(token).map_err(refused)
    }

    /// Whether the text is complete: nothing but the end of the turn may follow.
    pub fn is_done(&self) -> bool {
        self.matcher.is_stopped()
    }
}

impl std::fmt::Debug for ConstraintState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ConstraintState")
            .field("done", &self.is_done())
            .finish_non_exhaustive()
    }
}

/// The tree of tokens and what llguidance precomputes on it.
fn build(vocabulary: &dyn TokenBytes) -> Result<Compiler, String> {
    let ends = vocabulary.end_tokens();
    let size = u32::try_from(vocabulary.len()).map_err(|e| e.to_string())?;
    let Some(&end) = ends.first() else {
        return Err("the model has no token that ends its turn".to_owned());
    };
    if ends.iter().any(|&end| end >= size) {
        return Err("the model's end-of-turn token is not in its vocabulary".to_owned());
    }
    // A token without bytes is in no text. So is one with the byte 0xff, which is not UTF-8 and marks control
    // tokens for llguidance; the control tokens themselves have no bytes here, so no grammar can name one.
    let words: Vec<Vec<u8>> = (0..size)
        .map(|token| vocabulary.bytes(token).unwrap_or_default())
        .map(|bytes| {
            let usable = bytes.len() <= MAX_TOKEN_BYTES && !bytes.contains(&0xff);
            if usable { bytes.to_vec() } else { Vec::new() }
        })
        .collect();
    if words.iter().map(Vec::len).sum::<usize>() > MAX_VOCABULARY_BYTES {
        return Err("the model's vocabulary is too large for constraints".to_owned());
    }
    let trie = TokTrie::from(&TokRxInfo::new(size, end), &words).with_eos_tokens(&ends);
    // A grammar can still ask for a token by its number.
    let mut silent = trie.alloc_token_set();
    for (token, word) in (0u32..).zip(&words) {
        if word.is_empty() && !ends.contains(&token) {
            silent.allow_token(token);
        }
    }
    let environment: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
    let mut factory = ParserFactory::new_simple(&environment).map_err(|e| message(&e))?;
    factory.quiet();
    *factory.limits_mut() = limits();
    Ok(Compiler {
        factory,
        silent: Arc::new(silent),
    })
}

/// A constraint as llguidance takes it.
fn grammar(constraint: &Constraint) -> Result<TopLevelGrammar, EngineError> {
    match constraint {
        Constraint::JsonObject => schema(json!({ "type": "object" })),
        Constraint::JsonSchema(text) => {
            schema(serde_json::from_str(text).map_err(|e| refused(format!("not JSON: {e}")))?)
        }
        Constraint::Regex(text) if text.is_empty() => {
            Err(refused("an empty regular expression matches no answer"))
        }
        Constraint::Regex(text) => Ok(TopLevelGrammar::from_regex(text)),
        // A grammar can contain schemas; each field has a colon.
        Constraint::Lark(text)
            if text.contains("%json") && text.matches(':').count() > MAX_PROPERTIES =>
        {
            Err(refused(TOO_MANY_PROPERTIES))
        }
        Constraint::Lark(text) => Ok(TopLevelGrammar::from_lark(text.clone())),
    }
}

const NO_MATCH: &str = "nothing matches it";
const TOO_MANY_PROPERTIES: &str = "an object of the schema has more than 1000 properties";

fn schema(schema: Value) -> Result<TopLevelGrammar, EngineError> {
    check(&schema)?;
    let mut object = match schema {
        Value::Object(object) => object,
        // Any JSON; only an object can carry options.
        Value::Bool(true) => Map::new(),
        _ => return Err(refused("a schema is a JSON object")),
    };
    // In place of options that came with it: a schema means the same at every worker.
    object.insert(
        "x-guidance".to_owned(),
        json!({ "whitespace_pattern": JSON_WHITE_SPACE }),
    );
    Ok(TopLevelGrammar::from_json_schema(Value::Object(object)))
}

/// Refuses what llguidance would take too long over. serde_json has bounded how deep this goes.
fn check(schema: &Value) -> Result<(), EngineError> {
    match schema {
        Value::Object(fields) => fields.iter().try_for_each(|(key, value)| {
            match (key.as_str(), value) {
                ("properties", Value::Object(of)) if of.len() > MAX_PROPERTIES => {
                    return Err(refused(TOO_MANY_PROPERTIES));
                }
                ("multipleOf", Value::Number(number))
                    if !number.as_f64().is_some_and(|n| MULTIPLES.contains(&n)) =>
                {
                    return Err(refused("multipleOf must be from 0.000001 to 1000000"));
                }
                _ => {}
            }
            check(value)
        }),
        Value::Array(items) => items.iter().try_for_each(check),
        _ => Ok(()),
    }
}

fn refused(reason: impl Display) -> EngineError {
    EngineError::Constraint {
        message: message(&reason),
    }
}

/// What llguidance says, in a form that can be shown.
fn message(reason: &dyn Display) -> String {
    let text = reason.to_string();
    // It appends traces and the grammar.
    let end = text.find("\n<").unwrap_or(text.len());
    let end = text.floor_char_boundary(end.min(MAX_MESSAGE_BYTES));
    match text.get(..end).unwrap_or_default().trim() {
        // The name of a state, where it has no message.
        "NoExtension" | "NoExtensionBias" => NO_MATCH.to_owned(),
        panic if panic.starts_with("panic:") => "it is not supported".to_owned(),
        message => message.to_owned(),
    }
}

#[cfg(test)]
#[path = "constraint_tests.rs"]
pub(super) mod tests;

#[cfg(test)]
#[path = "constraint_limits_tests.rs"]
mod limits_tests;
