//! Both ledgers against plain models: random operations, after each of which model and ledger agree.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

use std::collections::BTreeMap;
use std::sync::Arc;

use cocoon_protocol::merkle;
use cocoon_protocol::receipt::SignedReceipt;
use cocoon_protocol::{Outcome, SignedVoucher};
use proptest::prelude::*;

use super::testing::{
    GLOBAL_ID, address, at, client_key, evidence, file, job, peer, public, receipt, ton, voucher,
};
use super::*;
use crate::contract::ChannelTerms;
use crate::store::MemoryStore;

type Worker = WorkerLedger<Arc<MemoryStore>>;
type Client = ClientLedger<Arc<MemoryStore>>;

fn worker() -> (Arc<MemoryStore>, Worker) {
    let store = Arc::new(MemoryStore::new(SCHEMA));
    (store.clone(), WorkerLedger::new(store))
}

fn with_channel(seed: u8) -> Worker {
    let (_, ledger) = worker();
    let key = public(&client_key(seed));
    ledger
        .register_channel(address(seed), peer(seed), key, ton(0))
        .unwrap();
    ledger
}

fn accept(ledger: &Worker, seed: u8, total: u64) -> Result<WorkerChannel, LedgerError> {
    let fresh = WorkerChannel {
        held: None,
        base: ton(0),
        ..ledger.channel(&address(seed)).unwrap().unwrap()
    };
    // Checked against an empty channel, so that the ledger's own check is the one under test.
    let checked = check_voucher(&voucher(seed, total), &fresh, ton(u64::MAX), GLOBAL_ID).unwrap();
    ledger.accept_voucher(&checked)
}

#[derive(Clone, Debug)]
enum Op {
    Voucher { seed: u8, total: u64 },
    Open { seed: u8 },
    Close { pick: usize, receipted: bool },
    Recover,
    Batch { max: u32 },
    Confirm,
    Claim { seed: u8 },
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (1_u8..4, 1_u64..200).prop_map(|(seed, total)| Op::Voucher { seed, total }),
        3 => (1_u8..4).prop_map(|seed| Op::Open { seed }),
        3 => (any::<usize>(), any::<bool>()).prop_map(|(pick, receipted)| Op::Close { pick, receipted }),
        1 => Just(Op::Recover),
        2 => (1_u32..5).prop_map(|max| Op::Batch { max }),
        2 => Just(Op::Confirm),
        2 => (1_u8..4).prop_map(|seed| Op::Claim { seed }),
    ]
}

/// What a worker's ledger should hold, in numbers only.
#[derive(Default)]
struct Model {
    held: BTreeMap<u8, u64>,
    entered: BTreeMap<u8, u64>,
    covered: BTreeMap<u8, u64>,
    claimed: BTreeMap<u8, u64>,
    open: Vec<(JobId, u8)>,
    ended: u64,
    /// Channel, its total, and what the entry credits.
    entries: Vec<(u8, u64, u64)>,
    /// Ends of batches in `entries`.
    batches: Vec<usize>,
    confirmed: usize,
}

fn total(map: &BTreeMap<u8, u64>, seed: u8) -> u64 {
    map.get(&seed).copied().unwrap_or_default()
}

impl Model {
    fn close(&mut self, index: usize, receipted: bool) -> bool {
        let (_, seed) = self.open.remove(index);
        self.ended += 1;
        let held = total(&self.held, seed);
        let credited = held - total(&self.entered, seed);
        let entry = receipted || credited > 0;
        if entry {
            self.entries.push((seed, held, credited));
            self.entered.insert(seed, held);
        }
        entry
    }

    fn batched(&self) -> usize {
        self.batches.last().copied().unwrap_or_default()
    }

    fn apply(&mut self, ledger: &Worker, op: &Op, jobs: &mut u64) {
        match *op {
            Op::Voucher {
                seed,
                total: offered,
            } => {
                let held = total(&self.held, seed);
                match accept(ledger, seed, offered) {
                    Ok(channel) => {
                        assert!(offered > held);
                        assert_eq!(channel.held_total(), ton(offered));
                        self.held.insert(seed, offered);
                    }
                    Err(LedgerError::NotIncreasing { held: known, .. }) => {
                        assert!(offered <= held);
                        assert_eq!(known, ton(held));
                    }
                    Err(error) => panic!("{error}"),
                }
            }
            Op::Open { seed } => {
                *jobs += 1;
                let id = job(*jobs);
                ledger
                    .open_job(id, peer(seed), address(seed), at(*jobs))
                    .unwrap();
                assert!(matches!(
                    ledger.open_job(id, peer(seed), address(seed), at(*jobs)),
                    Err(LedgerError::JobExists(_))
                ));
                self.open.push((id, seed));
            }
            Op::Close { pick, receipted } => {
                if self.open.is_empty() {
                    return;
                }
                let index = pick % self.open.len();
                let (id, seed) = self.open[index];
                let receipt = receipt(seed, id, 1, total(&self.held, seed));
                let closed = ledger
                    .close_job(
                        &id,
                        &Outcome::Completed,
                        receipted.then_some(&receipt),
                        at(9),
                    )
                    .unwrap();
                assert_eq!(closed.entry.is_some(), self.close(index, receipted));
                assert!(matches!(
                    ledger.close_job(&id, &Outcome::Cancelled, None, at(9)),
                    Err(LedgerError::JobEnded { outcome, .. }) if outcome == "completed"
                ));
            }
            Op::Recover => {
                // The ledger goes through open jobs in the order of their ids.
                self.open.sort();
                let closed = ledger.recover(at(9)).unwrap();
                assert_eq!(closed.len(), self.open.len());
                for job in closed {
                    assert_eq!(job.record.end.unwrap().outcome, "interrupted");
                    assert_eq!(job.entry.is_some(), self.close(0, false));
                }
            }
            Op::Batch { max } => self.batch(ledger, max),
            Op::Confirm => {
                let next = self.confirmed + 1;
                let seqno = u32::try_from(next).unwrap();
                let result = ledger.confirm_batch(seqno, None, at(9));
                if next > self.batches.len() {
                    assert!(matches!(result, Err(LedgerError::UnknownBatch(_))));
                    return;
                }
                let start = if next == 1 { 0 } else { self.batches[next - 2] };
                for (seed, held, _) in &self.entries[start..self.batches[next - 1]] {
                    self.covered.insert(*seed, *held);
                }
                for channel in result.unwrap() {
                    let seed = channel.channel.hash[0];
                    assert_eq!(channel.voucher.cumulative, ton(total(&self.covered, seed)));
                }
                self.confirmed = next;
            }
            Op::Claim { seed } => {
                let covered = total(&self.covered, seed);
                let beyond = PendingClaim {
                    cumulative: ton(covered + 1),
                    retry_after: 5,
                };
                assert!(ledger.record_claim_attempt(&address(seed), beyond).is_err());
                ledger
                    .record_claim(&address(seed), ton(covered), None, at(9))
                    .unwrap();
                self.claimed.insert(seed, covered);
            }
        }
    }

    fn batch(&mut self, ledger: &Worker, max: u32) {
        let seqno = u32::try_from(self.batches.len() + 1).unwrap();
        let result = ledger.prepare_batch(seqno, max, at(9));
        if self.confirmed < self.batches.len() {
            assert!(matches!(result, Err(LedgerError::BatchUnconfirmed(_))));
        } else if self.batched() == self.entries.len() {
            assert!(matches!(result, Err(LedgerError::NothingToSettle)));
        } else {
            let batch = result.unwrap();
            let end = self.entries.len().min(self.batched() + max as usize);
            self.batches.push(end);
            let credited: u64 = self.entries[..end].iter().map(|entry| entry.2).sum();
            assert_eq!((batch.jobs(), batch.total), (end as u64, ton(credited)));
            let leaves = ledger.entries(0, end).unwrap();
            let leaves: Vec<_> = leaves.iter().map(Entry::leaf_hash).collect();
            assert_eq!(batch.root(), merkle::root(&leaves));
            assert_eq!(ledger.prepare_batch(seqno, max, at(10)).unwrap(), batch);
        }
    }

    fn agrees(&self, ledger: &Worker) {
        let summary = ledger.summary().unwrap();
        for line in &summary.channels {
            let seed = line.channel.hash[0];
            let ours = [&self.held, &self.entered, &self.covered, &self.claimed];
            let theirs = [line.held, line.entered, line.covered, line.claimed];
            assert_eq!(theirs, ours.map(|map| ton(total(map, seed))));
        }
        let credited: u64 = self.entries.iter().map(|entry| entry.2).sum();
        assert_eq!(summary.credited, ton(credited));
        assert_eq!(summary.entries, self.entries.len() as u64);
        assert_eq!(
            summary.unsettled_entries,
            (self.entries.len() - self.batched()) as u64
        );
        assert_eq!(summary.open_jobs, self.open.len() as u64);
        let entries = ledger.entries(0, self.entries.len() + 1).unwrap();
        for (entry, (seed, held, credit)) in entries.iter().zip(&self.entries) {
            assert_eq!(entry.channel, address(*seed));
            assert_eq!(
                entry.voucher.map_or(ton(0), |held| held.cumulative),
                ton(*held)
            );
            assert_eq!(entry.credited, ton(*credit));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_workers_ledger_agrees_with_its_model(ops in proptest::collection::vec(op(), 1..40)) {
        let (store, mut ledger) = worker();
        for seed in 1..4 {
            let key = public(&client_key(seed));
            ledger.register_channel(address(seed), peer(seed), key, ton(0)).unwrap();
        }
        let mut model = Model::default();
        let mut jobs = 0;
        for (step, op) in ops.iter().enumerate() {
            model.apply(&ledger, op, &mut jobs);
            if step % 5 == 0 {
                // A restart changes nothing: the ledger keeps nothing in memory.
                ledger = WorkerLedger::new(store.clone());
            }
            model.agrees(&ledger);
        }
    }

    #[test]
    fn a_client_never_signs_a_smaller_total_or_more_than_its_deposit(
        totals in proptest::collection::vec((0_u64..120, any::<bool>()), 1..40),
    ) {
        let store = Arc::new(MemoryStore::new(SCHEMA));
        let mut ledger = client_with_channel(&store, 100, 10);
        let key = client_key(1);
        let mut last = 0;
        for (offered, restart) in totals {
            if restart {
                ledger = ClientLedger::new(store.clone());
            }
            match ledger.sign_voucher(&address(9), ton(offered), &key, GLOBAL_ID, at(3)) {
                Ok(signed) => {
                    prop_assert!(offered > last && offered <= 90);
                    signed.verify(&key.verifying_key(), GLOBAL_ID).unwrap();
                    last = offered;
                    let stored = ledger.channel(&address(9)).unwrap().unwrap();
                    prop_assert_eq!(stored.newest_voucher(), Some(signed));
                }
                Err(LedgerError::NotIncreasing { held, .. }) => {
                    prop_assert!(offered <= last);
                    prop_assert_eq!(held, ton(last));
                }
                Err(LedgerError::InsufficientDeposit { spendable, .. }) => {
                    prop_assert!(offered > 90);
                    prop_assert_eq!(spendable, ton(90));
                }
                Err(error) => panic!("{error}"),
            }
        }
        let channel = ledger.channel(&address(9)).unwrap().unwrap();
        prop_assert_eq!(channel.available(), ton(90 - last));
    }
}

fn opening(nonce: u32, deposit: u64, reserve: u64) -> ChannelOpening {
    ChannelOpening {
        worker: peer(7),
        address: address(9 + u8::try_from(nonce).unwrap()),
        terms: ChannelTerms {
            client: address(101),
            worker: address(102),
            client_key: public(&client_key(1)),
            nonce,
            close_delay_s: 86_400,
        },
        deposit: ton(deposit),
        reserve: ton(reserve),
        valid_until: 500,
    }
}

fn client_with_channel(store: &Arc<MemoryStore>, deposit: u64, reserve: u64) -> Client {
    let ledger = ClientLedger::new(store.clone());
    ledger
        .open_channel(opening(0, deposit, reserve), at(1))
        .unwrap();
    ledger.record_open(&address(9), ton(deposit)).unwrap();
    ledger
}

#[test]
fn nothing_is_signed_on_a_channel_that_is_not_open() {
    let ledger: Client = ClientLedger::new(Arc::new(MemoryStore::new(SCHEMA)));
    let sign =
        |total| ledger.sign_voucher(&address(9), ton(total), &client_key(1), GLOBAL_ID, at(2));
    assert!(matches!(sign(1), Err(LedgerError::UnknownChannel(_))));
    ledger.open_channel(opening(0, 100, 0), at(1)).unwrap();
    assert!(matches!(sign(1), Err(LedgerError::ChannelNotOpen(_))));
    ledger.record_open(&address(9), ton(100)).unwrap();
    assert!(sign(1).is_ok());
    ledger.record_closing(&address(9), 900).unwrap();
    assert!(matches!(sign(2), Err(LedgerError::ChannelNotOpen(_))));
}

#[test]
fn a_channel_is_on_disk_before_it_is_paid_for_and_its_nonce_is_used_once() {
    let store = Arc::new(MemoryStore::new(SCHEMA));
    let ledger: Client = ClientLedger::new(store.clone());
    let payee = address(102);
    assert_eq!(ledger.next_nonce(&payee).unwrap(), 0);
    ledger.open_channel(opening(0, 100, 0), at(1)).unwrap();
    // Killed before the transfer was sent: the restart finds the opening and looks at the chain, not at its purse.
    let ledger: Client = ClientLedger::new(store);
    let found = ledger.channels_with(&peer(7)).unwrap();
    assert!(matches!(
        found[0].state,
        ClientChannelState::Opening {
            valid_until: 500,
            message: None
        }
    ));
    assert!(matches!(
        ledger.open_channel(opening(0, 100, 0), at(1)),
        Err(LedgerError::ChannelConflict(_))
    ));
    ledger.record_closed(&address(9)).unwrap();
    assert_eq!(ledger.next_nonce(&payee).unwrap(), 1);
    ledger.open_channel(opening(1, 100, 0), at(2)).unwrap();
    assert_eq!(ledger.channels_with(&peer(7)).unwrap().len(), 2);
    assert!(ledger.channels_with(&peer(8)).unwrap().is_empty());
    assert_eq!(ledger.next_nonce(&address(103)).unwrap(), 0);
    let summary = ledger.summary().unwrap();
    assert_eq!((summary.channels.len(), summary.deposited), (2, ton(100)));
}

#[test]
fn a_clients_job_ends_once_and_keeps_its_receipt() {
    let store = Arc::new(MemoryStore::new(SCHEMA));
    let ledger: Client = ClientLedger::new(store);
    for n in 1..=3 {
        ledger
            .open_job(job(n), peer(100), address(1), at(1))
            .unwrap();
    }
    let signed = file(receipt(1, job(1), 5, 5));
    let foreign = ReceiptFile {
        evidence: evidence(2),
        ..signed.clone()
    };
    assert!(matches!(
        ledger.close_job(&job(1), &Outcome::Completed, Some(&foreign), at(2)),
        Err(LedgerError::ReceiptMismatch {
            field: "evidence",
            ..
        })
    ));
    assert!(matches!(
        ledger.close_job(&job(2), &Outcome::Completed, Some(&signed), at(2)),
        Err(LedgerError::ReceiptMismatch { field: "job", .. })
    ));
    ledger
        .close_job(&job(1), &Outcome::Completed, Some(&signed), at(2))
        .unwrap();
    assert!(matches!(
        ledger.close_job(&job(1), &Outcome::Cancelled, None, at(3)),
        Err(LedgerError::JobEnded { .. })
    ));
    let kept = ledger.receipt(&job(1)).unwrap().unwrap();
    assert_eq!(kept.salt, signed.salt);
    let by_leaf = ledger.receipt_by_leaf(&signed.receipt.leaf()).unwrap();
    assert_eq!(by_leaf.as_ref(), Some(&kept));
    assert_eq!(ledger.receipt_by_leaf(&Digest::ZERO).unwrap(), None);
    let shown = ledger.evidence(&evidence(1).claims.digest()).unwrap();
    assert_eq!(shown.unwrap().bundle, evidence(1).encode());
    assert_eq!(kept.receipt, signed.receipt.encode());
    assert_eq!(ledger.receipt(&job(2)).unwrap(), None);
    assert_eq!(ledger.recover(at(4)).unwrap().len(), 2);
    assert!(ledger.recover(at(5)).unwrap().is_empty());
    assert_eq!(ledger.receipts(&job(0), 9).unwrap().len(), 1);
}

#[test]
fn a_voucher_with_a_wrong_signature_channel_total_or_network_is_refused() {
    let ledger = with_channel(1);
    accept(&ledger, 1, 50).unwrap();
    let channel = ledger.channel(&address(1)).unwrap().unwrap();
    let check = |signed: &SignedVoucher, capacity, network| {
        check_voucher(signed, &channel, ton(capacity), network)
    };
    let good = voucher(1, 60);
    assert_eq!(check(&good, 100, GLOBAL_ID).unwrap().get(), &good);
    assert!(matches!(
        check(&voucher(2, 60), 100, GLOBAL_ID),
        Err(VoucherError::OtherChannel { .. })
    ));
    for total in [50, 49, 0] {
        assert!(matches!(
            check(&voucher(1, total), 100, GLOBAL_ID),
            Err(VoucherError::NotIncreasing { .. })
        ));
    }
    assert!(matches!(
        check(&good, 59, GLOBAL_ID),
        Err(VoucherError::Underfunded { .. })
    ));
    assert!(matches!(
        check(&good, 100, GLOBAL_ID + 1),
        Err(VoucherError::BadSignature { .. })
    ));
    let mut forged = voucher(1, 70);
    forged.signature = good.signature;
    assert!(matches!(
        check(&forged, 100, GLOBAL_ID),
        Err(VoucherError::BadSignature { .. })
    ));
}

#[test]
fn a_receipt_that_states_more_than_the_vouchers_is_not_filed() {
    let ledger = with_channel(1);
    accept(&ledger, 1, 50).unwrap();
    ledger.open_job(job(1), peer(1), address(1), at(1)).unwrap();
    let close = |signed: &SignedReceipt| {
        ledger.close_job(&job(1), &Outcome::Completed, Some(signed), at(2))
    };
    for (signed, wanted) in [
        (receipt(1, job(2), 50, 50), "job"),
        (receipt(1, job(1), 50, 51), "cumulative"),
        (receipt(2, job(1), 50, 50), "channel"),
    ] {
        match close(&signed) {
            Err(LedgerError::ReceiptMismatch { field, .. }) => assert_eq!(field, wanted),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(ledger.open_jobs().unwrap(), [job(1)]);
    assert!(ledger.unsettled_entries(9).unwrap().is_empty());
    close(&receipt(1, job(1), 50, 50)).unwrap();
    assert_eq!(ledger.unsettled_entries(9).unwrap().len(), 1);
}

#[test]
fn a_channel_is_the_peers_that_has_paid_on_it_and_starts_from_what_it_has_paid_already() {
    let (_, ledger) = worker();
    let key = public(&client_key(1));
    let register = |client, key| ledger.register_channel(address(1), client, key, ton(30));
    // Somebody else may have named it first; that does not keep its owner out.
    register(peer(2), key).unwrap();
    register(peer(1), key).unwrap();
    assert_eq!(register(peer(1), key).unwrap().client, peer(1));
    assert!(matches!(
        accept(&ledger, 1, 30),
        Err(LedgerError::NotIncreasing { .. })
    ));
    accept(&ledger, 1, 45).unwrap();
    for conflict in [
        register(peer(2), key),
        register(peer(1), public(&client_key(2))),
    ] {
        assert!(matches!(conflict, Err(LedgerError::ChannelConflict(_))));
    }
    ledger.open_job(job(1), peer(1), address(1), at(1)).unwrap();
    let closed = ledger
        .close_job(&job(1), &Outcome::ClientLost, None, at(2))
        .unwrap();
    let entry = closed.entry.unwrap();
    assert_eq!(
        (entry.credited, entry.content),
        (ton(15), EntryContent::Unreceipted)
    );
    let batch = ledger.prepare_batch(1, 9, at(3)).unwrap();
    assert_eq!(batch.total, ton(15));
}
