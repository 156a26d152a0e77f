//! What the ledger's and the settler's tests share: keys, channels, receipts, and a chain that only keeps the rules of
//! the two contracts (the contracts themselves run in the devnet's tests).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

use std::collections::BTreeMap;

use cocoon_protocol::evidence::Attached;
use cocoon_protocol::receipt::{Ending, Receipt, SignedReceipt};
use cocoon_protocol::session::MLKEM_KEY_BYTES;
use cocoon_protocol::{
    Beacon, Claims, Digest, EvidenceBundle, JobId, Keypair, NanoTon, PeerId, Price, PublicKey32,
    Salt, SignedVoucher, TonAddress, UnixMillis, Voucher,
};
use ed25519_dalek::SigningKey;

use super::ReceiptFile;

use crate::contract::Commit;
use crate::settler::{ChannelView, LedgerView, SendFailure};

/// The devnet's global id in tests.
pub(crate) const GLOBAL_ID: i32 = -3;

pub(crate) fn ton(nano: u64) -> NanoTon {
    NanoTon::from_nano(nano)
}

pub(crate) fn at(ms: u64) -> UnixMillis {
    UnixMillis::from_millis(ms)
}

pub(crate) fn peer(seed: u8) -> PeerId {
    let mut secret = [seed; 32];
    Keypair::ed25519_from_bytes(&mut secret)
        .unwrap()
        .public()
        .to_peer_id()
}

pub(crate) fn client_key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

pub(crate) fn public(key: &SigningKey) -> PublicKey32 {
    PublicKey32::from_bytes(key.verifying_key().to_bytes())
}

pub(crate) fn address(seed: u8) -> TonAddress {
    TonAddress {
        workchain: 0,
        hash: [seed; 32],
    }
}

pub(crate) fn job(n: u64) -> JobId {
    let mut id = [0; 16];
    id[8..].copy_from_slice(&n.to_be_bytes());
    JobId::from_bytes(id)
}

/// A voucher on channel `seed`, signed by that channel's client.
pub(crate) fn voucher(seed: u8, cumulative: u64) -> SignedVoucher {
    let voucher = Voucher {
        channel: address(seed),
        cumulative: ton(cumulative),
    };
    voucher.sign(&client_key(seed), GLOBAL_ID)
}

/// Evidence that nobody would accept, larger than a field of a record.
pub(crate) fn evidence(seed: u8) -> EvidenceBundle {
    EvidenceBundle {
        quote: vec![seed; 9_000],
        collateral_json: vec![seed; 60_000],
        claims: Claims {
            noise_key: [seed; 32],
            mlkem_key: vec![seed; MLKEM_KEY_BYTES],
            receipt_key: [seed; 32],
            peer: peer(100),
            model: Digest::sha256(b"model"),
            config: Digest::ZERO,
            gpu_evidence: Digest::ZERO,
            beacon: Beacon {
                seqno: 1,
                hash: Digest::ZERO,
            },
            epoch: 1,
            canary: Digest::ZERO,
        },
        attached: Attached::default(),
    }
}

/// A receipt with its salt and evidence.
pub(crate) fn file(receipt: SignedReceipt) -> ReceiptFile {
    ReceiptFile {
        receipt,
        salt: Salt::from_bytes([9; 32]),
        evidence: evidence(1),
    }
}

/// A receipt of worker 100 for client `seed` on channel `seed`.
pub(crate) fn receipt(seed: u8, id: JobId, amount: u64, cumulative: u64) -> SignedReceipt {
    receipt_on(address(seed), seed, id, amount, cumulative)
}

/// The same on any channel.
pub(crate) fn receipt_on(
    channel: TonAddress,
    seed: u8,
    id: JobId,
    amount: u64,
    cumulative: u64,
) -> SignedReceipt {
    let enclave = SigningKey::from_bytes(&[77; 32]);
    let receipt = Receipt {
        job: id,
        worker: peer(100),
        client: peer(seed),
        model: "smollm2".to_owned(),
        model_digest: Digest::sha256(b"model"),
        evidence: evidence(1).claims.digest(),
        request_commitment: Digest::sha256(b"request"),
        response_commitment: Digest::sha256(b"response"),
        prompt_tokens: 3,
        output_tokens: 4,
        price: Price {
            input: ton(1),
            output: ton(2),
        },
        amount: ton(amount),
        channel,
        cumulative: ton(cumulative),
        ending: Ending::Stop,
        started: at(1),
        ended: at(2),
        receipt_key: public(&enclave),
        tokens_commitment: None,
        tokenizer: None,
    };
    receipt.sign(&enclave).unwrap()
}

/// A channel contract's rules, without its code.
#[derive(Debug, Default, Clone)]
pub(crate) struct ModelChannel {
    pub(crate) deposit: u64,
    pub(crate) claimed: u64,
    pub(crate) close_at: Option<u32>,
    pub(crate) finished: bool,
    /// Every claim that was applied, in order.
    pub(crate) paid: Vec<u64>,
}

/// Messages on their way.
#[derive(Debug, Clone)]
enum Message {
    Commit(Commit),
    Claim(SignedVoucher),
}

/// One ledger contract, some channels, a clock and a queue.
#[derive(Debug, Default, Clone)]
pub(crate) struct ModelChain {
    pub(crate) unix: u32,
    pub(crate) ledger: Option<LedgerState>,
    pub(crate) channels: BTreeMap<TonAddress, ModelChannel>,
    /// What was applied, in order.
    pub(crate) commits: Vec<Commit>,
    /// Messages refused because they were already applied: a node that sends twice.
    pub(crate) duplicates: Vec<String>,
    queue: Vec<Message>,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct LedgerState(pub(crate) LedgerView);

pub(crate) const MODEL_MIN_CLAIM: u64 = 5;

impl ModelChain {
    /// An empty chain at this time.
    pub(crate) fn at(unix: u32) -> Self {
        Self {
            unix,
            ..Self::default()
        }
    }

    pub(crate) fn deploy_ledger(&mut self) {
        self.ledger.get_or_insert(LedgerState(LedgerView {
            seqno: 0,
            root: Digest::from_bytes([0; 32]),
            jobs: 0,
            total: NanoTon::ZERO,
        }));
    }

    pub(crate) fn open(&mut self, seed: u8, deposit: u64) {
        let channel = ModelChannel {
            deposit,
            ..ModelChannel::default()
        };
        self.channels.insert(address(seed), channel);
    }

    pub(crate) fn ledger_view(&self) -> Option<LedgerView> {
        self.ledger.map(|state| state.0)
    }

    pub(crate) fn channel_view(&self, channel: &TonAddress) -> Option<ChannelView> {
        self.channels.get(channel).map(|state| ChannelView {
            claimed: ton(state.claimed),
            capacity: ton(state.deposit),
            close_at: state.close_at,
            finished: state.finished,
        })
    }

    pub(crate) fn send_commit(&mut self, commit: &Commit) -> Result<Digest, SendFailure> {
        let refused = |exit_code| Err(SendFailure::Refused { exit_code });
        let Some(LedgerState(ledger)) = self.ledger else {
            return refused(None);
        };
        if commit.seqno != ledger.seqno + 1 {
            self.duplicates.push(format!("commit {}", commit.seqno));
            return refused(Some(112));
        }
        if commit.valid_until <= self.unix {
            return refused(Some(113));
        }
        self.queue.push(Message::Commit(*commit));
        Ok(Digest::sha256(&commit.signed_bytes(GLOBAL_ID)))
    }

    pub(crate) fn send_claim(&mut self, claim: &SignedVoucher) -> Result<Digest, SendFailure> {
        let refused = |exit_code| Err(SendFailure::Refused { exit_code });
        let total = claim.voucher.cumulative.nano();
        let Some(channel) = self.channels.get(&claim.voucher.channel) else {
            return refused(None);
        };
        if total <= channel.claimed {
            self.duplicates.push(format!("claim {claim:?}"));
            return refused(Some(106));
        }
        if total - channel.claimed < MODEL_MIN_CLAIM {
            return refused(Some(112));
        }
        if total > channel.deposit {
            return refused(Some(107));
        }
        self.queue.push(Message::Claim(*claim));
        Ok(Digest::sha256(&claim.signature))
    }

    /// One block: time passes and everything queued is applied.
    pub(crate) fn block(&mut self, seconds: u32) {
        self.unix += seconds;
        for message in std::mem::take(&mut self.queue) {
            match message {
                Message::Commit(commit) => {
                    let LedgerState(ledger) = self.ledger.as_mut().unwrap();
                    if commit.seqno != ledger.seqno + 1 {
                        self.duplicates.push(format!("commit {}", commit.seqno));
                    } else if commit.valid_until > self.unix {
                        assert!(commit.jobs >= ledger.jobs && commit.total >= ledger.total);
                        *ledger = LedgerView {
                            seqno: commit.seqno,
                            root: commit.root,
                            jobs: commit.jobs,
                            total: commit.total,
                        };
                        self.commits.push(commit);
                    }
                }
                Message::Claim(claim) => {
                    let total = claim.voucher.cumulative.nano();
                    let channel = self.channels.get_mut(&claim.voucher.channel).unwrap();
                    if total <= channel.claimed {
                        self.duplicates.push(format!("claim {claim:?}"));
                    } else {
                        channel.paid.push(total - channel.claimed);
                        channel.claimed = total;
                    }
                }
            }
        }
    }

    /// Forgets what was sent and not yet applied: a server that lost its queue.
    pub(crate) fn drop_queue(&mut self) {
        self.queue.clear();
    }
}
