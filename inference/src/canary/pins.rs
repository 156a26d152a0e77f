//! The answers of models that this program knows.
//!
//! A device that answers otherwise with the same weights has a line of its own. To add one, run
//! `cocoon model canary MODEL --json` on a machine that is known to be in order, and hold the answers against
//! another implementation where there is one.

use cocoon_protocol::Digest;

use super::{QUESTIONS, digest_of};

/// What one model says on one kind of device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pin {
    /// A name for people.
    pub name: &'static str,
    /// SHA-256 of the model, hexadecimal.
    pub model: &'static str,
    /// What kind of device says so.
    pub device: &'static str,
    /// [`super::Canary::digest`] of the answers, hexadecimal: what a policy lists.
    pub digest: &'static str,
    /// What it says, in the order of the questions.
    pub answers: [&'static str; QUESTIONS.len()],
}

impl Pin {
    /// The digest of the answers, computed.
    #[must_use]
    pub fn computed(&self) -> Digest {
        digest_of(self.answers.iter().copied())
    }
}

/// All of them.
pub const PINS: &[Pin] = &[Pin {
    name: "SmolLM2-135M-Instruct.Q4_1",
    model: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    device: "processor",
    digest: "b03d82488c6651ed010e345d4684f65d2aad9186c860b7b02eb78edf491c13b3",
    answers: [
        "The days of the week are: Monday",
        "The Japanese phrase \"你好",
        "def fibonacci(n):\n    if",
        "The answer is 42.",
    ],
}];

/// What is known of a model: a pin for each kind of device.
pub fn pins_of(model: Digest) -> impl Iterator<Item = &'static Pin> {
    let name = model.to_string();
    PINS.iter().filter(move |pin| pin.model == name)
}
