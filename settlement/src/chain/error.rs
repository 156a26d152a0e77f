//! What can go wrong between a node and a chain.

use cocoon_protocol::{NanoTon, TonAddress, UnixMillis};

/// An error of the chain, of the way to it, or of what it answered.
#[derive(Debug, thiserror::Error)]
pub enum ChainError {
    /// No answer after the bounded retries of the client.
    #[error("no answer from {endpoint} after {attempts} attempts: {reason}")]
    Unreachable {
        endpoint: String,
        attempts: u32,
        reason: String,
    },
    /// The server spoke, but not what the interface promises.
    #[error("{endpoint} answered something unexpected: {reason}")]
    BadAnswer { endpoint: String, reason: String },
    /// The contract, or the network before it, refused an external message. Nothing changed and nothing was paid.
    #[error("external message not accepted: {reason}{}", exit_code.map(|c| format!(" (exit code {c})")).unwrap_or_default())]
    NotAccepted {
        /// Exit code of the contract where it ran; the contracts' sources list theirs.
        exit_code: Option<i32>,
        reason: String,
    },
    /// The bytes are no message that a chain could take.
    #[error("malformed message: {reason}")]
    BadMessage { reason: String },
    /// The chain has too many messages waiting; the same call may succeed a block later.
    #[error("the chain is busy: {waiting} messages are waiting already")]
    Busy { waiting: usize },
    /// The block does not exist (yet).
    #[error("there is no block {seqno}")]
    NoSuchBlock { seqno: u32 },
    /// The account holds no code: never deployed, or deleted.
    #[error("no contract at {address}")]
    NoContract { address: TonAddress },
    /// The account holds code, but not the code this crate knows.
    #[error("the contract at {address} is not a {expected}: its code hash is {code_hash}")]
    ForeignCode {
        address: TonAddress,
        expected: &'static str,
        code_hash: cocoon_protocol::Digest,
    },
    /// The contract's data is not laid out as its code lays it out, or belongs to another address.
    #[error("the data of the {expected} at {address} does not fit it: {reason}")]
    BadData {
        address: TonAddress,
        expected: &'static str,
        reason: String,
    },
    /// A get method ended with an error.
    #[error("get method {method} of {address} ended with exit code {exit_code}")]
    GetMethod {
        address: TonAddress,
        method: String,
        exit_code: i32,
    },
    /// A value does not fit where TON wants to put it.
    #[error("cannot encode {what}: {reason}")]
    Encoding { what: &'static str, reason: String },
    /// The wallet cannot pay this.
    #[error("wallet {wallet} holds {available}, which is less than {needed}")]
    InsufficientBalance {
        wallet: TonAddress,
        needed: NanoTon,
        available: NanoTon,
    },
    /// The message was taken, but no transaction for it was seen in time. It may still come.
    #[error("no transaction of {account} for message {message} within {waited_ms} ms")]
    NotSeenInTime {
        account: TonAddress,
        message: cocoon_protocol::Digest,
        waited_ms: u64,
    },
    /// A transaction was made, and failed.
    #[error(
        "transaction {transaction} of {account} failed: exit code {exit_code:?}, action result {action_result:?}"
    )]
    TransactionFailed {
        account: TonAddress,
        transaction: cocoon_protocol::Digest,
        exit_code: Option<i32>,
        action_result: Option<i32>,
    },
    /// No head of the chain can be verified: a newer form of blocks or signatures, wrong proofs, or nobody answers.
    /// Nothing that was proved before is lost.
    #[error(
        "the chain's head cannot be verified since unix second {} (last verified: masterchain block {last_seqno}): {reason}",
        since.seconds()
    )]
    Unverifiable {
        /// When a head was verified last, by this machine's clock.
        since: UnixMillis,
        /// The last masterchain block that was verified.
        last_seqno: u32,
        reason: String,
    },
    /// An account has more transactions than one call walks back over; ask from a later one on.
    #[error("{account} has more than {walked} transactions after the one named")]
    HistoryTooLong { account: TonAddress, walked: usize },
    /// A devnet's directory that this program cannot continue.
    #[error("the devnet in {directory} cannot be continued: {reason}")]
    Directory { directory: String, reason: String },
    /// The server failed inside; its log says more.
    #[error("the chain failed inside: {reason}")]
    Internal { reason: String },
}

impl ChainError {
    /// Whether the same call may succeed later without anything being done about it.
    pub fn is_transient(&self) -> bool {
        matches!(
            self,
            Self::Unreachable { .. }
                | Self::Busy { .. }
                | Self::NotSeenInTime { .. }
                | Self::Unverifiable { .. }
                | Self::Internal { .. }
        )
    }
}
