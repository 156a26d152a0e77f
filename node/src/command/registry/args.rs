//! What `cocoon registry` is told.

use std::path::PathBuf;

use cocoon_protocol::{Digest, NanoTon, PublicKey32, TonAddress};

use super::DRAFT_HOURS;
use crate::config::Flags;

/// Flags of `cocoon registry`.
#[derive(Clone, Debug, clap::Args)]
pub struct RegistryArgs {
    /// What to do
    #[command(subcommand)]
    pub action: RegistryAction,
    /// As JSON
    #[arg(long, global = true)]
    pub json: bool,
}

/// What can be done with a registry.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum RegistryAction {
    /// Make a signer's key in a new file that only its owner reads, and print its public half
    Key {
        /// Where to; an existing file is never overwritten
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Deploy a registry, paid from this node's wallet
    Deploy(Box<DeployArgs>),
    /// Show what is in force and what waits
    Show {
        /// The registry [default: the setting `registry`]
        #[arg(value_name = "ADDRESS")]
        address: Option<TonAddress>,
        /// Which node's chain
        #[command(flatten)]
        settings: Box<Flags>,
    },
    /// Draft a change; it counts once enough signers have signed it and its delay has passed
    Draft(Box<DraftArgs>),
    /// Sign a draft, after showing what it says
    Sign {
        /// The draft
        #[arg(value_name = "DRAFT")]
        draft: PathBuf,
        /// The signer's key, made by `cocoon registry key`
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
    /// Hand a draft with enough signatures to the chain
    Send {
        /// The draft
        #[arg(value_name = "DRAFT")]
        draft: PathBuf,
        /// Which node's chain and wallet
        #[command(flatten)]
        settings: Box<Flags>,
    },
    /// Put a change in force whose delay has passed; anybody may, and pays the gas from this node's wallet
    Apply {
        /// The change's number, as `cocoon registry show` prints it
        #[arg(value_name = "NUMBER")]
        id: u32,
        /// The registry [default: the setting `registry`]
        #[arg(value_name = "ADDRESS")]
        address: Option<TonAddress>,
        /// Which node's chain and wallet
        #[command(flatten)]
        settings: Box<Flags>,
    },
}

/// Who decides.
#[derive(Clone, Debug, clap::Args)]
pub struct GovernanceArgs {
    /// A signer's public key, 64 hexadecimal digits; once for each
    #[arg(long = "signer", value_name = "KEY", required = true)]
    pub signers: Vec<PublicKey32>,
    /// Signatures that a change needs, at least 2
    #[arg(long, value_name = "K")]
    pub threshold: u8,
    /// Hours between a change's proposal and its coming into force
    #[arg(long, value_name = "HOURS", default_value_t = 48)]
    pub delay_hours: u32,
}

/// Flags of `cocoon registry deploy`.
#[derive(Clone, Debug, clap::Args)]
pub struct DeployArgs {
    #[command(flatten)]
    pub governance: GovernanceArgs,
    /// Coins for its rent and messages, TON; anybody can add more
    #[arg(long, value_name = "TON", default_value = "0.5")]
    pub value: NanoTon,
    /// Which node's chain and wallet
    #[command(flatten)]
    pub settings: Flags,
}

/// Flags of `cocoon registry draft`.
#[derive(Clone, Debug, clap::Args)]
pub struct DraftArgs {
    /// What to change
    #[command(subcommand)]
    pub change: DraftChange,
    /// Where to write the draft; an existing file is never overwritten
    #[arg(long, value_name = "FILE", global = true, default_value = "draft.json")]
    pub out: PathBuf,
    /// Hours in which it can be sent
    #[arg(long, value_name = "HOURS", global = true, default_value_t = DRAFT_HOURS)]
    pub hours: u32,
    /// Which node's chain
    #[command(flatten)]
    pub settings: Flags,
}

/// A change.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum DraftChange {
    /// The head of a transparency log, from its signed checkpoint
    Log {
        /// The checkpoint: `checkpoint` in a log's directory
        #[arg(value_name = "FILE")]
        checkpoint: PathBuf,
    },
    /// A model's status, a number of 1 to 255 that the network gives a meaning; 0 takes it off the list
    Model {
        /// The model's digest, 64 hexadecimal digits
        #[arg(value_name = "DIGEST")]
        digest: Digest,
        /// Its status
        #[arg(value_name = "STATUS")]
        status: u8,
    },
    /// A parameter that is a number; without a value it is taken off the list
    Parameter {
        /// Which
        #[arg(value_name = "ID")]
        id: u32,
        /// Its value
        #[arg(value_name = "VALUE")]
        value: Option<u64>,
    },
    /// Who decides from now on
    Governance(GovernanceArgs),
    /// Stop a change that waits
    Cancel {
        /// Its number
        #[arg(value_name = "NUMBER")]
        id: u32,
    },
}
