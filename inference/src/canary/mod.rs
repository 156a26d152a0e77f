//! Known-answer questions: what a model must say before a worker may offer it.
//!
//! A digest of a file says which weights were read, not that what computes with them computes rightly: a broken
//! driver, a card with bad memory, a wrong kernel or a server that holds other weights all answer fluently. So
//! before a model is advertised, fixed questions are put to it on the worker's own device and its answers are
//! compared with those of a machine that was known to be in order. The digest of the answers goes into the
//! worker's evidence.
//!
//! # What is asked
//! [`QUESTIONS`], each as a conversation of one message of the user, through the model's own template, answered
//! greedily with at most [`MAX_ANSWER_TOKENS`] tokens, one after the other: on devices whose arithmetic depends on
//! the batch, nothing else must be in it.
//!
//! # The digest
//!
//! ```text
//! SHA-256("cocoon/canary/v1\0" ‖ for each question, in order: le32(length of the answer) ‖ answer)
//! ```
//!
//! The answer is the text of all steps joined, UTF-8, its length in bytes. A character that the limit cut is
//! U+FFFD, as in every answer. Other questions, another order or another limit would be version 2.
//!
//! # What equal means
//! The processor's kernels give the same text for any batch, number of threads and instruction set, bit for bit, so one
//! digest per model serves all processors. Other devices may round differently and answer otherwise with the
//! same weights: they have digests of their own, and whoever judges evidence pins a list of them for a model.
//!
//! # What it does not show
//! The questions and answers are public, so whoever controls the guest's software could recite them. That the
//! software is the measured one is for the quote to say; this catches honest machines that compute wrongly.

mod pins;

use std::fmt;

use cocoon_protocol::Digest;

use crate::engine::{Engine, Message, Request, Role, SamplingParams};
use crate::error::EngineError;

pub use pins::{PINS, Pin, pins_of};

/// Precedes the answers in what is hashed.
pub const CANARY_DOMAIN: &[u8] = b"cocoon/canary/v1\0";
/// Tokens of one answer at most. Few, since a worker waits for them at each start; after a wrong one the next are others.
pub const MAX_ANSWER_TOKENS: u32 = 8;
/// Steps without a token that one answer may take: pieces of its prompt.
const MAX_SILENT_STEPS: u32 = 4_096;

/// One question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Question {
    /// What it is called where an answer is wrong.
    pub name: &'static str,
    /// What is asked.
    pub text: &'static str,
}

/// The questions, in the order in which they are asked.
pub const QUESTIONS: [Question; 4] = [
    Question {
        name: "short",
        text: "Name the days of the week.",
    },
    Question {
        name: "unicode",
        text: "What does 你好 mean?",
    },
    Question {
        name: "code",
        text: "def fib(n):\n    if n < 2:\n        return n\n    return",
    },
    Question {
        name: "sum",
        text: "17 + 25 =",
    },
];

/// One answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Which question's: [`Question::name`].
    pub question: &'static str,
    /// What the model said.
    pub text: String,
    /// In so many tokens.
    pub tokens: u32,
}

impl Answer {
    /// SHA-256 of the text: enough to tell two answers apart without showing them.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest::sha256(self.text.as_bytes())
    }
}

/// What a model answered to all questions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Canary {
    /// The answers, in the order of [`QUESTIONS`].
    pub answers: Vec<Answer>,
}

impl Canary {
    /// What evidence calls the canary; see the module's doc.
    #[must_use]
    pub fn digest(&self) -> Digest {
        digest_of(self.answers.iter().map(|answer| answer.text.as_str()))
    }

    /// Compares the answers with those that this program knows of a model.
    ///
    /// # Errors
    /// [`CanaryError::Answer`] naming the first question that was answered otherwise. Where several devices'
    /// answers are known, those of the device that comes nearest are compared.
    pub fn check_known(&self, model: Digest) -> Result<Standing, CanaryError> {
        let known = pins_of(model).collect::<Vec<_>>();
        self.check_pins(model, &known)
    }

    /// As [`Self::check_known`], with the pins of the model.
    fn check_pins(&self, model: Digest, known: &[&Pin]) -> Result<Standing, CanaryError> {
        if known.is_empty() {
            return Ok(Standing::Unknown);
        }
        let mut nearest: Option<(usize, CanaryError)> = None;
        for pin in known {
            let Some((at, answer, expected)) = self
                .answers
                .iter()
                .zip(pin.answers)
                .enumerate()
                .map(|(at, (answer, expected))| (at, answer, expected))
                .find(|(_, answer, expected)| answer.text != *expected)
            else {
                return Ok(Standing::Known(pin.device));
            };
            if nearest.as_ref().is_none_or(|(further, _)| at > *further) {
                let error = CanaryError::Answer {
                    model,
                    question: answer.question,
                    expected: expected.to_owned(),
                    got: answer.text.clone(),
                };
                nearest = Some((at, error));
            }
        }
        nearest.map_or(Ok(Standing::Unknown), |(_, error)| Err(error))
    }

    /// Compares the answers with a digest that an operator has pinned.
    ///
    /// # Errors
    /// [`CanaryError::Pinned`]. A digest does not say which answer differs, so the error lists the digest of each.
    pub fn check_pinned(&self, pinned: Digest) -> Result<(), CanaryError> {
        let got = self.digest();
        if got == pinned {
            return Ok(());
        }
        Err(CanaryError::Pinned {
            expected: pinned,
            got,
            answers: AnswerDigests(
                self.answers
                    .iter()
                    .map(|answer| (answer.question, answer.digest()))
                    .collect(),
            ),
        })
    }
}

/// What is known of the answers of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// They are those that this program knows, of this kind of device.
    Known(&'static str),
    /// This program does not know the model.
    Unknown,
}

/// The digest of each answer, by question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnswerDigests(pub Vec<(&'static str, Digest)>);

impl fmt::Display for AnswerDigests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (question, digest)) in self.0.iter().enumerate() {
            let comma = if at == 0 { "" } else { ", " };
            write!(f, "{comma}{question} {digest}")?;
        }
        Ok(())
    }
}

/// Why a model may not be offered.
#[derive(Debug, thiserror::Error)]
pub enum CanaryError {
    /// It did not answer at all.
    #[error("known-answer question `{question}` was not answered: {source}")]
    Engine {
        /// Which question.
        question: &'static str,
        /// Why not.
        #[source]
        source: EngineError,
    },
    /// It said something else than the same weights say elsewhere.
    #[error(
        "model {model} answered the known question `{question}` with {got:?}, where the same weights say \
         {expected:?}: this device computes wrongly, or otherwise than those that are known; do not serve from it \
         until you know why, or pin this device's answers with `canary`"
    )]
    Answer {
        /// Which model.
        model: Digest,
        /// Which question.
        question: &'static str,
        /// What it must say.
        expected: String,
        /// What it said.
        got: String,
    },
    /// The digest is not the one that was pinned.
    #[error(
        "the model's answers to the known questions have the digest {got}, not {expected} as `canary` pins; each \
         answer's digest here: {answers}; compare them with `cocoon model canary` where the pin was made"
    )]
    Pinned {
        /// What was pinned.
        expected: Digest,
        /// What it is.
        got: Digest,
        /// By question.
        answers: AnswerDigests,
    },
}

/// Puts all questions to a model. Blocks for as long as the answers take.
///
/// # Errors
/// [`CanaryError::Engine`] with the first question that was not answered.
pub fn ask(engine: &dyn Engine) -> Result<Canary, CanaryError> {
    let answers = QUESTIONS
        .iter()
        .map(|question| {
            answer(engine, question).map_err(|source| CanaryError::Engine {
                question: question.name,
                source,
            })
        })
        .collect::<Result<_, _>>()?;
    Ok(Canary { answers })
}

fn answer(engine: &dyn Engine, question: &Question) -> Result<Answer, EngineError> {
    let prompt = engine.prepare(&[Message {
        role: Role::User,
        content: question.text.to_owned(),
    }])?;
    let params = SamplingParams::greedy(MAX_ANSWER_TOKENS);
    let mut generation = engine.start(Request::new(prompt, params))?;
    let mut answer = Answer {
        question: question.name,
        text: String::new(),
        tokens: 0,
    };
    // An engine ends by itself; one that does not must not keep the worker from saying so.
    for _ in 0..MAX_SILENT_STEPS.saturating_add(MAX_ANSWER_TOKENS) {
        let step = generation.step()?;
        answer.text.push_str(&step.text);
        answer.tokens = answer.tokens.saturating_add(step.tokens);
        if step.finish.is_some() {
            return Ok(answer);
        }
    }
    Err(EngineError::Stopped)
}

fn digest_of<'a>(answers: impl Iterator<Item = &'a str>) -> Digest {
    let mut bytes = CANARY_DOMAIN.to_vec();
    for text in answers {
        // No answer of a few tokens is 4 GiB long.
        let length = u32::try_from(text.len()).unwrap_or(u32::MAX);
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(text.as_bytes());
    }
    Digest::sha256(&bytes)
}

#[cfg(test)]
mod tests;
