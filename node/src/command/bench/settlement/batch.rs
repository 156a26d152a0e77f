//! Very many receipts in one batch: how long it takes to cut, and what a proof costs. In memory: the disk is measured
//! elsewhere.

use std::time::Instant;

use cocoon_protocol::receipt::{Ending, Receipt, SignedReceipt};
use cocoon_protocol::{
    Digest, JobId, NanoTon, Outcome, PeerId, Price, PublicKey32, TonAddress, UnixMillis, Voucher,
};
use cocoon_settlement::devnet::GLOBAL_ID;
use cocoon_settlement::ledger::{SCHEMA, WorkerLedger, check_voucher};
use cocoon_settlement::store::Store;
use ed25519_dalek::SigningKey;

use super::durable::client;
use super::{job, median, nano, odd};
use crate::command::CommandError;

/// Proofs made; the median counts.
const PROOFS: u32 = 5;

/// What one job is paid here.
pub(super) const PRICE: u64 = 10_000_000;

/// Times in milliseconds.
pub(super) struct Measured {
    pub(super) cut_ms: f64,
    pub(super) proof_bytes: f64,
    pub(super) make_ms: f64,
    pub(super) check_ms: f64,
}

/// A client that pays and receipts that say so.
pub(super) struct Payer {
    pub(super) key: SigningKey,
    pub(super) peer: PeerId,
    pub(super) channel: TonAddress,
    pub(super) capacity: NanoTon,
    enclave: SigningKey,
}

impl Payer {
    pub(super) fn new(channel: TonAddress, capacity: NanoTon) -> Self {
        Self {
            key: SigningKey::from_bytes(&[3; 32]),
            peer: client(),
            channel,
            capacity,
            enclave: SigningKey::from_bytes(&[77; 32]),
        }
    }

    pub(super) fn public(&self) -> PublicKey32 {
        PublicKey32::from_bytes(self.key.verifying_key().to_bytes())
    }

    fn receipt(&self, id: JobId, total: NanoTon) -> Result<SignedReceipt, CommandError> {
        let at = UnixMillis::from_millis(1_795_000_000_000);
        let receipt = Receipt {
            job: id,
            worker: self.peer,
            client: self.peer,
            model: "bench".to_owned(),
            model_digest: Digest::sha256(b"model"),
            evidence: Digest::sha256(b"evidence"),
            request_commitment: Digest::sha256(b"request"),
            response_commitment: Digest::sha256(b"response"),
            prompt_tokens: 100,
            output_tokens: 100,
            price: Price {
                input: nano(1),
                output: nano(2),
            },
            amount: nano(PRICE),
            channel: self.channel,
            cumulative: total,
            ending: Ending::Stop,
            started: at,
            ended: at,
            receipt_key: PublicKey32::from_bytes(self.enclave.verifying_key().to_bytes()),
            tokens_commitment: None,
            tokenizer: None,
        };
        receipt.sign(&self.enclave).map_err(odd)
    }

    /// One job from its opening to its entry in the log.
    pub(super) fn pay(
        &self,
        ledger: &WorkerLedger<impl Store>,
        number: u32,
        now: UnixMillis,
    ) -> Result<(), CommandError> {
        let channel = ledger
            .register_channel(self.channel, self.peer, self.public(), NanoTon::ZERO)
            .map_err(odd)?;
        let id = job(number);
        ledger
            .open_job(id, self.peer, self.channel, now)
            .map_err(odd)?;
        let total = channel.held_total().saturating_add(nano(PRICE));
        let voucher = Voucher {
            channel: self.channel,
            cumulative: total,
        };
        let signed = voucher.sign(&self.key, GLOBAL_ID);
        let checked = check_voucher(&signed, &channel, self.capacity, GLOBAL_ID).map_err(odd)?;
        ledger.accept_voucher(&checked).map_err(odd)?;
        let receipt = self.receipt(id, total)?;
        ledger
            .close_job(&id, &Outcome::Completed, Some(&receipt), now)
            .map_err(odd)?;
        Ok(())
    }
}

pub(super) fn measure(receipts: u32) -> Result<Measured, CommandError> {
    let address = TonAddress {
        workchain: 0,
        hash: [1; 32],
    };
    let payer = Payer::new(address, nano(u64::MAX));
    let store = cocoon_settlement::store::MemoryStore::new(SCHEMA);
    let ledger = WorkerLedger::new(store);
    let now = UnixMillis::from_millis(1);
    for number in 0..receipts {
        payer.pay(&ledger, number, now)?;
    }
    let started = Instant::now();
    let batch = ledger.prepare_batch(1, receipts, now).map_err(odd)?;
    let cut_ms = ms(started);
    if batch.entries() != u64::from(receipts) {
        return Err(odd("the batch does not hold all receipts"));
    }
    let (mut make, mut check, mut bytes) = (vec![], vec![], 0_usize);
    for number in 0..PROOFS {
        let step = u64::from(receipts)
            .checked_div(u64::from(PROOFS))
            .unwrap_or_default();
        let started = Instant::now();
        let proven = ledger
            .prove_entry(step.saturating_mul(u64::from(number)))
            .map_err(odd)?;
        make.push(ms(started));
        bytes = proven
            .proof
            .path
            .len()
            .saturating_mul(32)
            .saturating_add(16);
        let started = Instant::now();
        let leads = proven.proof.leads(proven.entry.leaf_hash(), batch.root());
        check.push(ms(started));
        if !leads {
            return Err(odd("a proof does not lead to the root"));
        }
    }
    Ok(Measured {
        cut_ms,
        proof_bytes: f64::from(u32::try_from(bytes).unwrap_or(u32::MAX)),
        make_ms: median(make),
        check_ms: median(check),
    })
}

fn ms(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1_000.0
}
