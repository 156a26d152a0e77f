//! The client's half: channels, receipts, evidence, and their indexes.

use cocoon_protocol::EvidenceBundle;
use cocoon_protocol::receipt::SignedReceipt;
use ed25519_dalek::VerifyingKey;

use super::super::client_evidence::{ByAge, KeptEvidence};
use super::super::client_records::{ByLeaf, ByWorker};
use super::super::jobs::{JobRecord, Side};
use super::super::{ClientChannel, KeptReceipt, LedgerError, channel_key};
use super::{CheckReport, find, for_readable};
use crate::store::{Record, Store};

pub(super) fn check(
    store: &impl Store,
    global_id: Option<i32>,
    report: &mut CheckReport,
) -> Result<(), LedgerError> {
    channels(store, global_id, report)?;
    receipts(store, report)?;
    evidence(store, report)
}

fn channels(
    store: &impl Store,
    global_id: Option<i32>,
    report: &mut CheckReport,
) -> Result<(), LedgerError> {
    for_readable::<ClientChannel>(store, report, |report, channel| {
        let index = ByWorker {
            worker: channel.worker,
            channel: channel.address,
        };
        if find::<ByWorker>(store, &index.key())?.is_none() {
            let what = "it is missing from the index by worker".to_owned();
            report.about("by_worker_index", &channel, what);
        }
        if let (Some(global_id), Some(voucher)) = (global_id, channel.newest_voucher()) {
            let is_signed = VerifyingKey::from_bytes(channel.terms.client_key.as_bytes())
                .is_ok_and(|key| voucher.verify(&key, global_id).is_ok());
            if !is_signed {
                let what = "its newest voucher is not signed by its key".to_owned();
                report.about("voucher_signature", &channel, what);
            }
        }
        Ok(())
    })?;
    for_readable::<ByWorker>(store, report, |report, index| {
        let channel = find::<ClientChannel>(store, &channel_key(&index.channel))?;
        if channel.is_none_or(|channel| channel.worker != index.worker) {
            let what = "names a channel that is not this worker's".to_owned();
            report.about("by_worker_index", &index, what);
        }
        Ok(())
    })
}

fn receipts(store: &impl Store, report: &mut CheckReport) -> Result<(), LedgerError> {
    for_readable::<KeptReceipt>(store, report, |report, kept| {
        let Ok(signed) = SignedReceipt::decode(&kept.receipt) else {
            let what = "it is no receipt".to_owned();
            report.about("kept_receipt", &kept, what);
            return Ok(());
        };
        match signed.verify() {
            Ok(receipt) if receipt.job == kept.job && receipt.worker == kept.worker => {}
            Ok(_) => report.about(
                "kept_receipt",
                &kept,
                "it is another job's or worker's".to_owned(),
            ),
            Err(error) => report.about("kept_receipt", &kept, error.to_string()),
        }
        let named = find::<ByLeaf>(store, signed.leaf().as_bytes())?;
        if named.is_none_or(|named| named.job != kept.job) {
            let what = "it is missing from the index by name".to_owned();
            report.about("by_leaf_index", &kept, what);
        }
        let mut key = vec![b'c'];
        key.extend_from_slice(kept.job.as_bytes());
        let job = find::<JobRecord>(store, &key)?;
        if job.is_none_or(|job| job.side != Side::Client || job.end.is_none()) {
            let what = "its job is not known to have ended".to_owned();
            report.about("kept_receipt", &kept, what);
        }
        Ok(())
    })?;
    for_readable::<ByLeaf>(store, report, |report, index| {
        let kept = find::<KeptReceipt>(store, index.job.as_bytes())?;
        let leaf = kept
            .and_then(|kept| SignedReceipt::decode(&kept.receipt).ok())
            .map(|signed| signed.leaf());
        if leaf != Some(index.leaf) {
            let what = "names a receipt that is not there".to_owned();
            report.about("by_leaf_index", &index, what);
        }
        Ok(())
    })
}

fn evidence(store: &impl Store, report: &mut CheckReport) -> Result<(), LedgerError> {
    for_readable::<KeptEvidence>(store, report, |report, kept| {
        let digest = EvidenceBundle::decode(&kept.bundle)
            .ok()
            .map(|bundle| bundle.claims.digest());
        if digest != Some(kept.digest) {
            let what = "its digest is not its key".to_owned();
            report.about("kept_evidence", &kept, what);
        }
        let age = ByAge {
            at: kept.at,
            digest: kept.digest,
        };
        if find::<ByAge>(store, &age.key())?.is_none() {
            let what = "it is missing from the index by age".to_owned();
            report.about("by_age_index", &kept, what);
        }
        Ok(())
    })?;
    for_readable::<ByAge>(store, report, |report, index| {
        let kept = find::<KeptEvidence>(store, index.digest.as_bytes())?;
        if kept.is_none_or(|kept| kept.at != index.at) {
            let what = "names evidence that is not there".to_owned();
            report.about("by_age_index", &index, what);
        }
        Ok(())
    })
}
