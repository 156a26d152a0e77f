//! What a node shows of itself: status, health, receipts. For people and scripts, so everything is
//! text or a number with its unit in the name.

use cocoon_attestation::Verdict;
use cocoon_protocol::evidence::{Beacon, EvidenceBundle};
use cocoon_protocol::ids::{Digest, JobId, PeerId};
use cocoon_settlement::chain::ChainStanding;
use serde::{Deserialize, Serialize};

use super::{Funds, GatewayError};

/// A node as `cocoon status` prints it and `/status.json` serves it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// This node's peer id.
    pub peer: String,
    /// `worker`, `client` or `bootstrap`.
    pub role: String,
    /// Network id, for example `devnet`.
    pub network: String,
    /// Version of the binary.
    pub version: String,
    /// Where evidence comes from: `intel` or `simulated`. Said wherever evidence is shown.
    pub trust: String,
    /// Multiaddrs others can dial, with `/p2p/`.
    pub listen: Vec<String>,
    /// Seconds since the process started.
    pub uptime_s: u64,
    /// Peers connected now.
    pub connected_peers: u32,
    /// Days until Intel's word that this node's own platform is up to date runs out, if it is a worker with
    /// evidence. It is renewed by itself while Intel goes on saying so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcb_days_left: Option<f64>,
    /// The log of guest images that the policy names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<LogStatus>,
    /// Workers seen, whatever their standing.
    pub workers: Vec<WorkerStatus>,
    /// Jobs running now.
    pub running_jobs: u32,
    /// Ended jobs by terminal outcome (`Outcome::label`), since the process started.
    pub ended_jobs: std::collections::BTreeMap<String, u64>,
    /// Account that pays (client) or is paid (worker), if the role has one.
    pub wallet: Option<String>,
    /// Its balance when last read from the chain, nanoTON.
    pub wallet_balance_nanoton: Option<u64>,
    /// The chain, as far as it can be verified; absent for a node that knows none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chain: Option<ChainStatus>,
    /// Payment channels, newest first.
    pub channels: Vec<ChannelStatus>,
    /// A worker's settlement; absent for the other roles.
    pub settlement: Option<SettlementStatus>,
}

/// How far the chain's answers can be trusted now, and who gives them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChainStatus {
    /// `verified`, `trusted`, or `unverifiable` with since when, the last verified block and why.
    pub standing: ChainStanding,
    /// The liteservers of the configuration, in its order.
    pub servers: Vec<ChainServer>,
}

/// A liteserver.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChainServer {
    /// Where it is.
    pub address: String,
    /// The newest block that it named.
    pub seqno: Option<u32>,
    /// How long its last answer took, milliseconds.
    pub latency_ms: Option<u64>,
    /// Why it is asked only when no other is left.
    pub demoted: Option<String>,
}

/// A log of guest images, as far as this node knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogStatus {
    /// The log's name.
    pub origin: String,
    /// Entries of the largest head that others see too.
    pub entries: u64,
    /// Whether the rebuilders' keys signed two logs; then it admits nobody.
    pub split_view: bool,
}

/// What a node thinks of a worker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WorkerStanding {
    /// Seen, evidence not asked for yet.
    #[default]
    Unverified,
    /// Evidence is on its way.
    Fetching,
    /// Evidence verified.
    Verified,
    /// Evidence refused; see `reason`.
    Rejected,
}

impl std::fmt::Display for WorkerStanding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Unverified => "unverified",
            Self::Fetching => "fetching",
            Self::Verified => "verified",
            Self::Rejected => "rejected",
        })
    }
}

/// One worker as this node sees it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct WorkerStatus {
    /// Peer id.
    pub peer: String,
    /// Ids of the models it serves.
    pub models: Vec<String>,
    /// Price of a prompt token of its first model, nanoTON.
    pub price_input_nanoton: u64,
    /// Price of a generated token of its first model, nanoTON.
    pub price_output_nanoton: u64,
    /// Jobs it takes at once.
    pub slots: u16,
    /// Standing of its evidence.
    pub standing: WorkerStanding,
    /// Until when the evidence counts, milliseconds since 1970.
    pub verified_until_unix_ms: Option<u64>,
    /// Factors that passed, and all of them, of the last verdict.
    pub factors: Option<(u32, u32)>,
    /// Days until Intel's word that its platform is up to date runs out: by this node's own collateral, or
    /// by the worker's word while its evidence is not verified.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcb_days_left: Option<f64>,
    /// Why the evidence was refused.
    pub reason: Option<String>,
    /// Last measured round trip, milliseconds.
    pub round_trip_ms: Option<f64>,
    /// Consecutive failures seen by this node.
    pub failures: u32,
}

/// One payment channel.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ChannelStatus {
    /// Contract address.
    pub address: String,
    /// Peer id of the other end, if known.
    pub peer: Option<String>,
    /// Put in on chain, nanoTON.
    pub deposit_nanoton: u64,
    /// Signed in vouchers so far, nanoTON (cumulative).
    pub signed_nanoton: u64,
    /// Claimed on chain so far, nanoTON (cumulative).
    pub claimed_nanoton: u64,
}

/// Where a worker's settlement stands.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SettlementStatus {
    /// Ledger contract.
    pub ledger: String,
    /// Newest batch confirmed on chain.
    pub confirmed_batch: u32,
    /// Receipts that no confirmed batch holds yet.
    pub pending_receipts: u64,
    /// Earned in receipts, nanoTON.
    pub earned_nanoton: u64,
    /// Claimed on chain, nanoTON.
    pub settled_nanoton: u64,
}

/// How a receipt is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReceiptKey {
    /// By the job it closes.
    Job(JobId),
    /// By its leaf hash.
    Leaf(Digest),
}

/// Workers in one attestation report. Each has some 50 kB in it.
pub const MAX_ATTESTATIONS: usize = 64;

/// Value of [`ReceiptDocument::format`].
pub const RECEIPT_FORMAT: &str = "cocoon-receipt/2";

/// A receipt with all that is needed to check it offline. Served by `GET /v1/receipts/{id}`, written by
/// `cocoon receipt export`, read by `cocoon receipt verify`. Only `signed_receipt` and `evidence` are
/// believed; the rest is labels, but for the salt, which opens the commitments or does not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReceiptDocument {
    /// [`RECEIPT_FORMAT`].
    pub format: String,
    /// Leaf hash, hexadecimal.
    pub id: String,
    /// Job, hexadecimal.
    pub job: String,
    /// Network id.
    pub network: String,
    /// The encoded `SignedReceipt`, base64 (standard alphabet, padded).
    pub signed_receipt: String,
    /// The encoded `EvidenceBundle` the session was bound to, base64; absent if it was lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<String>,
    /// The block that the evidence was made after; its hash is to be compared with the chain's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub beacon: Option<BeaconReference>,
    /// Opens the commitments, hexadecimal. Only in a document that its owner has asked to open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub salt: Option<String>,
}

/// A block that evidence names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BeaconReference {
    /// Its number.
    pub seqno: u32,
    /// Its hash, hexadecimal.
    pub hash: Digest,
}

impl From<Beacon> for BeaconReference {
    fn from(beacon: Beacon) -> Self {
        Self {
            seqno: beacon.seqno,
            hash: beacon.hash,
        }
    }
}

/// Whether a receipt's document may say what opens its commitments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opening {
    /// As it may be shown to anybody.
    Sealed,
    /// With the salt: whoever has it can tell whether a text is the one that was asked or answered.
    Open,
}

/// A worker whose evidence was accepted, and what it shows.
#[derive(Clone, Debug)]
pub struct WorkerAttestation {
    /// Who.
    pub peer: PeerId,
    /// Ids of the models it serves.
    pub models: Vec<String>,
    /// Quote, collateral, claims.
    pub bundle: EvidenceBundle,
    /// Factor by factor.
    pub verdict: Verdict,
}

/// What a person with the admin token may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdminCommand {
    /// Close the open settlement batch and submit it now.
    Settle,
    /// Take no new jobs, finish the running ones, exit.
    Shutdown,
}

/// What HTTP needs of any node, whatever its role.
#[async_trait::async_trait]
pub trait NodeView: Send + Sync + 'static {
    /// Answers when the actors answer; an error says why jobs would not work.
    async fn health(&self) -> Result<(), GatewayError>;

    /// The whole picture.
    async fn status(&self) -> Result<NodeStatus, GatewayError>;

    /// Where every nanoTON is.
    async fn funds(&self) -> Result<Funds, GatewayError>;

    /// A stored receipt, or `None`.
    async fn receipt(
        &self,
        key: ReceiptKey,
        opening: Opening,
    ) -> Result<Option<ReceiptDocument>, GatewayError>;

    /// The workers that are verified now, of one model or of all, at most [`MAX_ATTESTATIONS`].
    async fn attestations(
        &self,
        model: Option<&str>,
    ) -> Result<Vec<WorkerAttestation>, GatewayError>;

    /// Carries out an admin command; returns when it is accepted, not when it is done.
    async fn admin(&self, command: AdminCommand) -> Result<(), GatewayError>;
}
