//! Workers and clients: each is the state machines of protocol/ plus what survives its process.

use std::collections::BTreeSet;

use cocoon_protocol::negotiation::OfferBookConfig;
use cocoon_protocol::{
    Digest, Directory, DirectoryConfig, Keypair, ModelTerms, NanoTon, OfferBook, OfferId, PeerId,
    Price, TonAddress, UnixMillis,
};

use crate::random::Chance;
use crate::scenario::{Faults, Workers};

/// The model that everybody serves and everybody wants.
pub(crate) const MODEL: &str = "simulated";
/// Longest prompt and answer together, in tokens; no scenario reaches it.
const CONTEXT_TOKENS: u32 = 1 << 22;

/// A worker.
pub(crate) struct Worker {
    pub(crate) key: Keypair,
    pub(crate) peer: PeerId,
    pub(crate) payout: TonAddress,
    pub(crate) ledger: TonAddress,
    pub(crate) terms: ModelTerms,
    pub(crate) slots: u16,
    pub(crate) prompt_tokens_per_second: u64,
    pub(crate) tokens_per_second: u64,
    /// Whether clients will accept its evidence.
    pub(crate) honest_evidence: bool,
    pub(crate) process: Process,
    /// New with every process: the keys live in its memory.
    pub(crate) evidence: Digest,
    pub(crate) evidence_expires: UnixMillis,
    pub(crate) book: OfferBook,
    /// When its first advert left.
    pub(crate) first_advert: Option<UnixMillis>,
    /// What the auditor saw leased and not given back.
    pub(crate) leased: BTreeSet<OfferId>,
    /// What the auditor ever saw leased.
    pub(crate) ever_leased: BTreeSet<OfferId>,
}

/// A client.
pub(crate) struct Client {
    pub(crate) peer: PeerId,
    pub(crate) process: Process,
    pub(crate) directory: Directory,
    /// Workers it has a session with now: one job at a time on a channel.
    pub(crate) busy_channels: BTreeSet<usize>,
    /// Workers this process has had verified.
    pub(crate) verified: BTreeSet<usize>,
    /// When its directory will next look at the clock.
    pub(crate) next_tick: Option<UnixMillis>,
}

/// Whether a node's process runs, and which one it is.
#[derive(Debug, Default)]
pub(crate) struct Process {
    pub(crate) down: bool,
    pub(crate) incarnation: u64,
    /// Sessions that this process has open.
    pub(crate) sessions: BTreeSet<usize>,
    /// Jobs that this process wants done (clients only).
    pub(crate) jobs: BTreeSet<usize>,
}

impl Process {
    /// Whether the process that was `incarnation` is still running.
    pub(crate) fn is(&self, incarnation: u64) -> bool {
        !self.down && self.incarnation == incarnation
    }
}

impl Worker {
    /// Draws a worker; its book is empty and its evidence not made yet.
    pub(crate) fn draw(
        chance: &mut Chance,
        now: UnixMillis,
        workers: &Workers,
        faults: &Faults,
    ) -> Self {
        let key = draw_key(chance);
        let price = Price {
            input: NanoTon::from_nano(chance.within(workers.input_price_nano)),
            output: NanoTon::from_nano(chance.within(workers.output_price_nano)),
        };
        let slots = u16::try_from(chance.within(workers.slots)).unwrap_or(u16::MAX);
        let mut worker = Self {
            peer: key.public().to_peer_id(),
            key,
            payout: draw_address(chance),
            ledger: draw_address(chance),
            terms: ModelTerms {
                id: MODEL.to_owned(),
                digest: Digest::sha256(MODEL.as_bytes()),
                context_tokens: CONTEXT_TOKENS,
                price,
            },
            slots,
            prompt_tokens_per_second: chance.within(workers.prompt_tokens_per_second),
            tokens_per_second: chance.within(workers.tokens_per_second),
            honest_evidence: !chance.happens(faults.bad_evidence_permille),
            process: Process::default(),
            evidence: Digest::from_bytes([0; 32]),
            evidence_expires: UnixMillis::default(),
            book: OfferBook::new(Self::book_config(workers, slots)),
            first_advert: None,
            leased: BTreeSet::new(),
            ever_leased: BTreeSet::new(),
        };
        worker.start(chance, now, workers);
        worker
    }

    /// A fresh process: an empty book, new keys and so new evidence.
    pub(crate) fn start(&mut self, chance: &mut Chance, now: UnixMillis, workers: &Workers) {
        self.process.down = false;
        self.evidence = Digest::from_bytes(chance.bytes());
        self.evidence_expires = now.saturating_add(workers.evidence_lifetime_ms);
        self.book = OfferBook::new(Self::book_config(workers, self.slots));
    }

    fn book_config(workers: &Workers, slots: u16) -> OfferBookConfig {
        OfferBookConfig {
            slots,
            offer_lifetime_ms: workers.offer_lifetime_ms,
            ..OfferBookConfig::default()
        }
    }

    /// How long it reads a prompt, in milliseconds.
    pub(crate) fn prompt_ms(&self, tokens: u32) -> u64 {
        per_second(u64::from(tokens), self.prompt_tokens_per_second)
    }

    /// How long it makes so many tokens, in milliseconds.
    pub(crate) fn tokens_ms(&self, tokens: u32) -> u64 {
        per_second(u64::from(tokens), self.tokens_per_second)
    }
}

impl Client {
    /// Draws a client that knows nobody.
    pub(crate) fn draw(chance: &mut Chance) -> Self {
        Self {
            peer: draw_key(chance).public().to_peer_id(),
            process: Process::default(),
            directory: Directory::new(DirectoryConfig::default()),
            busy_channels: BTreeSet::new(),
            verified: BTreeSet::new(),
            next_tick: None,
        }
    }

    /// A fresh process: its directory was memory, what it signed was not.
    pub(crate) fn start(&mut self) {
        self.process.down = false;
        self.directory = Directory::new(DirectoryConfig::default());
        self.busy_channels.clear();
        self.verified.clear();
        self.next_tick = None;
    }
}

fn per_second(amount: u64, rate: u64) -> u64 {
    amount
        .saturating_mul(1000)
        .checked_div(rate)
        .unwrap_or(u64::MAX)
        .max(1)
}

fn draw_key(chance: &mut Chance) -> Keypair {
    loop {
        // Any 32 bytes are an Ed25519 seed; the loop is for the type.
        if let Ok(key) = Keypair::ed25519_from_bytes(chance.bytes::<32>()) {
            return key;
        }
    }
}

fn draw_address(chance: &mut Chance) -> TonAddress {
    TonAddress {
        workchain: 0,
        hash: chance.bytes(),
    }
}
