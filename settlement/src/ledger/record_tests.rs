//! Bytes from the disk: what was written reads back, anything else is an error and never a panic.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

use std::fmt::Debug;

use cocoon_protocol::evidence::MAX_EVIDENCE_BYTES;
use cocoon_protocol::merkle::{Frontier, leaf_hash};
use cocoon_protocol::{Digest, PckAuthority, PlatformFamily, Salt};
use proptest::option;
use proptest::prelude::*;

use super::client_evidence::ByAge;
use super::client_records::{ByLeaf, ByWorker};
use super::jobs::OpenJob;
use super::testing::{address, at, job, peer, ton};
use super::worker_records::Head;
use super::*;
use crate::contract::ChannelTerms;
use crate::store::record::{MAX_FIELD_BYTES, open, open_without_checksum, seal};
use crate::store::{Record, Writer};

fn held() -> impl Strategy<Value = HeldVoucher> {
    (any::<u64>(), any::<u8>()).prop_map(|(cumulative, byte)| HeldVoucher {
        cumulative: ton(cumulative),
        signature: [byte; 64],
    })
}

fn transaction() -> impl Strategy<Value = TransactionRecord> {
    (any::<[u8; 32]>(), any::<[u64; 3]>()).prop_map(|(hash, [lt, gas_used, fees])| {
        TransactionRecord {
            hash: Digest::from_bytes(hash),
            lt,
            gas_used,
            fees: ton(fees),
        }
    })
}

fn worker_channel() -> impl Strategy<Value = WorkerChannel> {
    let vouchers = [0; 3].map(|_| option::of(held()));
    (
        any::<[u8; 2]>(),
        any::<[u64; 2]>(),
        vouchers,
        option::of(any::<(u64, u32)>()),
        option::of(any::<u64>()),
        option::of((held(), any::<[u32; 2]>(), any::<bool>())),
    )
        .prop_map(
            |([a, b], [base, claimed], [held, entered, covered], pending, expected, release)| {
                WorkerChannel {
                    address: address(a),
                    client: peer(b),
                    client_key: cocoon_protocol::PublicKey32::from_bytes([b; 32]),
                    base: ton(base),
                    held,
                    entered,
                    covered,
                    claimed: ton(claimed),
                    pending: pending.map(|(cumulative, retry_after)| PendingClaim {
                        cumulative: ton(cumulative),
                        retry_after,
                    }),
                    expected: expected.map(at),
                    release: release.map(|(agreed, [attempts, retry_after], done)| AgreedRelease {
                        cumulative: agreed.cumulative,
                        signature: agreed.signature,
                        attempts,
                        retry_after,
                        done,
                    }),
                }
            },
        )
}

fn entry() -> impl Strategy<Value = Entry> {
    (
        any::<[u64; 4]>(),
        any::<u8>(),
        option::of(held()),
        option::of(proptest::collection::vec(any::<u8>(), 0..300)),
    )
        .prop_map(|([index, id, credited, when], a, voucher, receipt)| Entry {
            index,
            job: job(id),
            channel: address(a),
            voucher,
            credited: ton(credited),
            at: at(when),
            content: receipt.map_or(EntryContent::Unreceipted, EntryContent::Receipt),
        })
}

fn batch() -> impl Strategy<Value = Batch> {
    let progress = prop_oneof![
        Just(BatchProgress::Prepared),
        any::<[u32; 2]>().prop_map(|[valid_until, attempts]| BatchProgress::Submitted {
            valid_until,
            attempts
        }),
        (any::<u64>(), option::of(transaction())).prop_map(|(when, transaction)| {
            BatchProgress::Confirmed {
                at: at(when),
                transaction,
            }
        }),
    ];
    (any::<u32>(), 1_u64..40, any::<[u64; 2]>(), progress).prop_map(
        |(seqno, size, [total, created], progress)| Batch {
            seqno,
            first_entry: size / 2,
            tree: (0..size)
                .map(|n| leaf_hash(&n.to_be_bytes()))
                .collect::<Frontier>(),
            total: ton(total),
            created: at(created),
            progress,
        },
    )
}

fn job_record() -> impl Strategy<Value = JobRecord> {
    let end = (any::<u64>(), "[a-z_]{0,40}", option::of(any::<u64>()));
    (
        any::<[u8; 2]>(),
        any::<[u64; 2]>(),
        any::<bool>(),
        option::of(end),
    )
        .prop_map(|([a, b], [id, opened], worker, end)| JobRecord {
            side: if worker { Side::Worker } else { Side::Client },
            job: job(id),
            peer: peer(a),
            channel: address(b),
            opened: at(opened),
            end: end.map(|(when, outcome, entry)| JobEnd {
                at: at(when),
                outcome,
                entry,
            }),
        })
}

fn client_channel() -> impl Strategy<Value = ClientChannel> {
    let state = prop_oneof![
        (any::<u32>(), option::of(any::<[u8; 32]>())).prop_map(|(valid_until, message)| {
            ClientChannelState::Opening {
                valid_until,
                message: message.map(Digest::from_bytes),
            }
        }),
        Just(ClientChannelState::Open),
        any::<u32>().prop_map(|close_at| ClientChannelState::Closing { close_at }),
        Just(ClientChannelState::Closed),
        any::<(u32, bool)>()
            .prop_map(|(until, agreed)| ClientChannelState::Releasing { until, agreed }),
    ];
    (
        any::<[u8; 4]>(),
        any::<[u32; 2]>(),
        any::<[u64; 4]>(),
        option::of(held()),
        state,
    )
        .prop_map(
            |(
                [a, b, c, d],
                [nonce, close_delay_s],
                [deposit, reserve, opened, when],
                signed,
                state,
            )| {
                ClientChannel {
                    address: address(a),
                    worker: peer(b),
                    terms: ChannelTerms {
                        client: address(c),
                        worker: address(d),
                        client_key: cocoon_protocol::PublicKey32::from_bytes([d; 32]),
                        nonce,
                        close_delay_s,
                    },
                    deposit: ton(deposit),
                    reserve: ton(reserve),
                    signed: signed.map(|held| SignedPart {
                        cumulative: held.cumulative,
                        signature: held.signature,
                        at: at(when),
                    }),
                    opened: at(opened),
                    state,
                }
            },
        )
}

fn reads_back<R: Record + PartialEq + Debug>(record: &R) {
    let value = seal(record, &record.key());
    assert_eq!(&open::<R>(&record.key(), &value).unwrap(), record);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_record_reads_back_what_was_written(
        worker_channel in worker_channel(),
        entry in entry(),
        batch in batch(),
        job_record in job_record(),
        client_channel in client_channel(),
        seen in option::of(transaction()),
        [a, b, c] in any::<[u64; 3]>(),
        [n, m, k] in any::<[u32; 3]>(),
    ) {
        reads_back(&worker_channel);
        reads_back(&entry);
        reads_back(&batch);
        reads_back(&job_record);
        reads_back(&client_channel);
        reads_back(&ByWorker { worker: client_channel.worker, channel: client_channel.address });
        reads_back(&ClaimRecord {
            channel: entry.channel, cumulative: ton(a), amount: ton(b), at: at(c), transaction: seen,
        });
        reads_back(&Head {
            entries: a, credited: ton(b), batches: n, batched_entries: c,
            batched_credit: ton(a), confirmed: m, channels: k,
        });
        let receipt = entry.leaf_bytes();
        let salt = Salt::from_bytes(entry.channel.hash);
        reads_back(&KeptReceipt { job: entry.job, worker: peer(3), at: at(a), receipt: receipt.clone(), salt });
        reads_back(&KeptLogNews { place: Digest::sha256(&receipt), news: receipt.clone() });
        reads_back(&KeptCollateral { family: family(), floor: m, json: receipt });
        let digest = Digest::from_bytes(entry.channel.hash);
        for bytes in [0, 1, MAX_FIELD_BYTES, MAX_FIELD_BYTES + n as usize % MAX_EVIDENCE_BYTES / 2] {
            reads_back(&KeptEvidence { digest, at: at(a), bundle: vec![7; bytes] });
        }
        reads_back(&ByAge { at: at(a), digest });
        reads_back(&ByLeaf { leaf: digest, job: entry.job });
    }
}

/// Reads `body` as a record of type `R`. What is accepted must be exactly what would be written.
fn decode<R: Record>(key: &[u8], body: &[u8]) {
    if let Ok(record) = open_without_checksum::<R>(key, body) {
        assert_eq!(record.key(), key);
        let mut again = Writer::default();
        again.u8(R::VERSION);
        record.write(&mut again);
        if body[0] == R::VERSION {
            assert_eq!(again.as_bytes(), body);
        }
    }
    // The whole value, too: the checksum refuses it before anything is read.
    let _ = open::<R>(key, body);
}

/// One target per record: arbitrary bytes first, then a valid record with arbitrary bytes laid over it, so that the
/// fuzzer does not spend its life in front of the first length.
fn fuzz<R: Record>(sample: &R) {
    let mut body = Writer::default();
    body.u8(R::VERSION);
    sample.write(&mut body);
    let body = body.as_bytes().to_vec();
    let key = sample.key();
    decode::<R>(&key, &body);
    bolero::check!()
        .with_iterations(1_000)
        .for_each(|bytes: &[u8]| {
            decode::<R>(&key, bytes);
            decode::<R>(bytes, &body);
            let [at, len, rest @ ..] = bytes else { return };
            let at = usize::from(*at) % body.len();
            let until = (at + usize::from(*len) % 8).min(body.len());
            let mut patched = body.clone();
            patched.splice(at..until, rest.iter().copied().take(12));
            decode::<R>(&key, &patched);
        });
}

fn sample<R>(strategy: impl Strategy<Value = R>) -> R {
    use proptest::strategy::ValueTree as _;
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    strategy.new_tree(&mut runner).unwrap().current()
}

#[test]
fn any_bytes_are_a_worker_channel_or_an_error() {
    fuzz(&sample(worker_channel()));
}

#[test]
fn any_bytes_are_an_entry_or_an_error() {
    fuzz(&sample(entry()));
}

#[test]
fn any_bytes_are_a_batch_or_an_error() {
    fuzz(&sample(batch()));
}

#[test]
fn any_bytes_are_a_job_or_an_error() {
    fuzz(&sample(job_record()));
}

#[test]
fn any_bytes_are_a_client_channel_or_an_error() {
    let channel = sample(client_channel());
    fuzz(&ByWorker {
        worker: channel.worker,
        channel: channel.address,
    });
    fuzz(&channel);
}

#[test]
fn any_bytes_are_a_claim_or_an_error() {
    fuzz(&ClaimRecord {
        channel: address(1),
        cumulative: ton(2),
        amount: ton(3),
        at: at(4),
        transaction: Some(sample(transaction())),
    });
}

fn family() -> PlatformFamily {
    PlatformFamily {
        fmspc: [1, 2, 3, 4, 5, 6],
        authority: PckAuthority::Processor,
    }
}

#[test]
fn any_bytes_are_kept_collateral_or_an_error() {
    fuzz(&KeptCollateral {
        family: family(),
        floor: 20,
        json: vec![5; 40],
    });
    fuzz(&KeptLogNews {
        place: Digest::ZERO,
        news: vec![6; 40],
    });
    bolero::check!()
        .with_iterations(1_000)
        .for_each(|bytes: &[u8]| decode::<KeptCollateral>(bytes, &[1, 0, 0, 0, 20, 0, 0, 0, 0]));
}

#[test]
fn any_bytes_are_a_kept_receipt_a_head_or_an_error() {
    fuzz(&KeptReceipt {
        job: job(1),
        worker: peer(2),
        at: at(3),
        receipt: vec![4; 40],
        salt: Salt::from_bytes([5; 32]),
    });
    fuzz(&Head::default());
}

#[test]
fn any_bytes_are_kept_evidence_or_an_error() {
    let digest = Digest::from_bytes([6; 32]);
    for bundle in [vec![1; 40], vec![1; MAX_FIELD_BYTES + 1]] {
        fuzz(&KeptEvidence {
            digest,
            at: at(3),
            bundle,
        });
    }
    fuzz(&ByAge { at: at(3), digest });
    fuzz(&ByLeaf {
        leaf: digest,
        job: job(1),
    });
}

#[test]
fn any_bytes_are_an_open_job_or_an_error() {
    bolero::check!()
        .with_iterations(1_000)
        .for_each(|bytes: &[u8]| decode::<OpenJob>(bytes, &[1]));
}
