//! What can be wrong with one liteserver's answer.

use super::wire::BlockId;

/// Why an answer of one server was not taken. Another server may do better; see
/// [`ChainError`](crate::chain::ChainError) for what is left when none does.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LiteError {
    /// Nobody there, or the connection ended.
    #[error("no connection: {reason}")]
    Connection { reason: String },
    /// No answer in time.
    #[error("{what} was not answered within {waited_ms} ms")]
    Timeout { what: &'static str, waited_ms: u64 },
    /// Too many questions of this client wait for the server already.
    #[error("{waiting} questions are waiting for an answer already")]
    Busy { waiting: usize },
    /// The server said no; the text is its own.
    #[error("refused with code {code}: {message}")]
    Refused { code: i32, message: String },
    /// Bytes that are not what the protocol promises.
    #[error("malformed {what}: {reason}")]
    Malformed { what: &'static str, reason: String },
    /// A constructor that this program does not know: a newer protocol, block or signature. Never a reason to believe.
    #[error("a {what} of a form that this program does not know{}", tag.map(|tag| format!(" (tag {tag:08x})")).unwrap_or_default())]
    UnknownForm {
        what: &'static str,
        tag: Option<u32>,
    },
    /// More than the named limit.
    #[error("{what} of {size}, at most {limit}")]
    TooLarge {
        what: &'static str,
        size: usize,
        limit: usize,
    },
    /// A proof that does not prove what was asked.
    #[error("{what} is not proved: {reason}")]
    NotProved { what: &'static str, reason: String },
    /// The newest block that the server knows is older than others'.
    #[error("it is at block {at}, others are at {best}")]
    Behind { at: u32, best: u32 },
    /// It names another block under a number whose block is proved, and cannot prove it.
    #[error("it names another block {seqno} than the one that is proved")]
    Contradicts { seqno: u32 },
    /// Two blocks of one number are both signed by more than two thirds of the validators. Nothing on this chain can be
    /// relied on until people have looked at it.
    #[error("two validly signed masterchain blocks {seqno}: {} and {}", hex::encode(one.root_hash), hex::encode(other.root_hash))]
    Fork {
        seqno: u32,
        one: Box<BlockId>,
        other: Box<BlockId>,
    },
    /// The newest block that can be proved is too old.
    #[error("its newest block is {age_s} s old, at most {limit_s} s")]
    Stale { age_s: u64, limit_s: u64 },
}

impl LiteError {
    /// Whether the answer is wrong, and not only late or missing.
    pub(super) fn is_wrong(&self) -> bool {
        !matches!(
            self,
            Self::Connection { .. }
                | Self::Timeout { .. }
                | Self::Busy { .. }
                | Self::Refused { .. }
                | Self::Behind { .. }
                | Self::Stale { .. }
        )
    }

    pub(super) fn not_proved(
        what: &'static str,
    ) -> impl Fn(ton_net_block::BlockError) -> Self + Copy {
        move |error| {
            use ton_net_block::BlockError as E;
            match error {
                E::UnknownSignedForm => Self::UnknownForm {
                    what: "signature set",
                    tag: None,
                },
                E::WrongConstructor { expected } => Self::UnknownForm {
                    what: expected,
                    tag: None,
                },
                other => Self::NotProved {
                    what,
                    reason: other.to_string(),
                },
            }
        }
    }
}
