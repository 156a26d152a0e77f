//! Why a command on the registry was not done.

use std::path::PathBuf;

use cocoon_protocol::TonAddress;
use cocoon_settlement::chain::ChainError;
use cocoon_settlement::contract::registry::{DraftError, GovernanceError};

use super::MAX_DRAFT_HOURS;
use crate::secret_file::SecretFileError;

/// Why a command on the registry was not done.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The chain.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// The draft.
    #[error(transparent)]
    Draft(#[from] DraftError),
    /// Nobody could govern like this.
    #[error(transparent)]
    Governance(#[from] GovernanceError),
    /// The file of a key.
    #[error(transparent)]
    SecretFile(#[from] SecretFileError),
    /// No address.
    #[error("which registry? give its address, or set `registry` in the configuration")]
    Unnamed,
    /// Nothing is there.
    #[error("there is no registry at {0} on this chain; check the address and `chain_url`")]
    None(TonAddress),
    /// A file that cannot be read or written.
    #[error("{path}: {reason}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// Another network's.
    #[error("the draft is for the network {draft}, this chain is {chain}")]
    OtherNetwork {
        /// In the draft.
        draft: i32,
        /// The chain's.
        chain: i32,
    },
    /// Somebody else's message came first.
    #[error(
        "the draft is number {draft}, the registry expects {next}: another message was sent meanwhile; draft it anew"
    )]
    Overtaken {
        /// In the draft.
        draft: u32,
        /// The registry's next.
        next: u32,
    },
    /// Longer than allowed.
    #[error("a draft lives at most {MAX_DRAFT_HOURS} hours")]
    Hours,
    /// No such change.
    #[error("no change {id} waits in this registry; `cocoon registry show` lists those that do")]
    NotPending {
        /// The number.
        id: u32,
    },
    /// Its time lock.
    #[error(
        "change {id} may be applied from unix second {applies_at} on; the chain's time is {now}"
    )]
    TooEarly {
        /// The number.
        id: u32,
        /// When.
        applies_at: u32,
        /// Now.
        now: u32,
    },
    /// The contract's own check; the coins came back.
    #[error(
        "the registry refused (exit code {exit_code:?}; docs/contracts.md says which is which)"
    )]
    Refused {
        /// Why, in the contract's terms.
        exit_code: Option<i32>,
    },
    /// Paid for, and no transaction.
    #[error(
        "no transaction of {0} was seen in time; `cocoon registry show` says what became of it"
    )]
    NotSeen(TonAddress),
    /// The person said no, or nobody could be asked.
    #[error("not signed; say --yes where nobody can be asked")]
    Declined,
}
