//! The evidence behind a client's receipts, kept once for all receipts that name it.
//!
//! A receipt is worth what the evidence shows of the key that signed it. A worker has new evidence every hour
//! and forgets the old, so the client keeps what it has verified: in the same write as the first receipt that
//! names it. Of the most bundles, [`MAX_KEPT_EVIDENCE`], the one that was filed first makes room for the next;
//! receipts that name it stay, and their documents say that the evidence is gone.

use cocoon_protocol::evidence::MAX_EVIDENCE_BYTES;
use cocoon_protocol::{Digest, EvidenceBundle, Salt, SignedReceipt, UnixMillis};

use super::{CLIENT_EVIDENCE, CLIENT_EVIDENCE_BY_AGE, LedgerError, read_digest, whole_key};
use crate::store::record::MAX_FIELD_BYTES;
use crate::store::{Column, Reader, Record, RecordError, Store, WriteBatch, Writer, load};

/// Evidence bundles that a client keeps. With some 30 kB each this is 120 MB; the largest that are allowed make it
/// 1 GiB.
pub const MAX_KEPT_EVIDENCE: usize = 4_096;

/// Pieces in which a bundle is written.
const MAX_PIECES: u32 = 4;
const _: () = assert!(MAX_EVIDENCE_BYTES <= MAX_PIECES as usize * MAX_FIELD_BYTES);

/// A receipt to be filed, with what it takes to show later what it says.
#[derive(Clone, Debug)]
pub struct ReceiptFile {
    /// Already compared with what happened.
    pub receipt: SignedReceipt,
    /// Opens the receipt's commitments. Stays here unless its owner gives it away.
    pub salt: Salt,
    /// The evidence that the receipt names.
    pub evidence: EvidenceBundle,
}

/// An evidence bundle. Column `client.evidence`, key: its digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptEvidence {
    /// `Claims::digest`.
    pub digest: Digest,
    /// When it was filed.
    pub at: UnixMillis,
    /// `EvidenceBundle::encode`.
    pub bundle: Vec<u8>,
}

impl Record for KeptEvidence {
    const COLUMN: Column = CLIENT_EVIDENCE;
    const VERSION: u8 = 1;

    fn key(&self) -> Vec<u8> {
        self.digest.as_bytes().to_vec()
    }

    fn write(&self, out: &mut Writer) {
        out.u64(self.at.millis());
        let pieces = self.bundle.chunks(MAX_FIELD_BYTES);
        out.u32(u32::try_from(pieces.len()).unwrap_or(u32::MAX));
        for piece in pieces {
            out.bytes(piece);
        }
    }

    fn read(_version: u8, key: &[u8], fields: &mut Reader<'_>) -> Result<Self, RecordError> {
        let digest = whole_key(key, read_digest)?;
        let at = UnixMillis::from_millis(fields.u64()?);
        let pieces = fields.u32()?;
        if pieces > MAX_PIECES {
            return Err(RecordError::BadValue("the pieces of evidence"));
        }
        let mut bundle = Vec::new();
        for number in 1..=pieces {
            let piece = fields.bytes()?;
            // So that the same bundle is never two different records.
            if piece.is_empty() || (number < pieces && piece.len() != MAX_FIELD_BYTES) {
                return Err(RecordError::BadValue("a piece of evidence"));
            }
            bundle.extend_from_slice(piece);
        }
        Ok(Self { digest, at, bundle })
    }
}

/// Finds the bundle that was filed first. Column `client.evidence.by_age`, key: milliseconds (u64 BE) ‖ digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ByAge {
    pub at: UnixMillis,
    pub digest: Digest,
}

impl Record for ByAge {
    const COLUMN: Column = CLIENT_EVIDENCE_BY_AGE;
    const VERSION: u8 = 1;

    fn key(&self) -> Vec<u8> {
        let mut key = self.at.millis().to_be_bytes().to_vec();
        key.extend_from_slice(self.digest.as_bytes());
        key
    }

    fn write(&self, _out: &mut Writer) {}

    fn read(_version: u8, key: &[u8], _fields: &mut Reader<'_>) -> Result<Self, RecordError> {
        whole_key(key, |key| {
            Ok(Self {
                at: UnixMillis::from_millis(key.u64()?),
                digest: read_digest(key)?,
            })
        })
    }
}

/// Adds the bundle to a batch, and the removal of the oldest where there is no room for it.
pub(super) fn keep(
    store: &impl Store,
    batch: &mut WriteBatch,
    evidence: &EvidenceBundle,
    now: UnixMillis,
    limit: usize,
) -> Result<(), LedgerError> {
    let digest = evidence.claims.digest();
    if load::<KeptEvidence>(store, digest.as_bytes())?.is_some() {
        return Ok(());
    }
    // Once an hour and worker, so the keys may be counted.
    let kept = store.scan(ByAge::COLUMN, &[], &[], limit)?;
    if kept.len() >= limit
        && let Some((key, value)) = kept.first()
    {
        let oldest = crate::store::record::open::<ByAge>(key, value)?;
        batch.delete(KeptEvidence::COLUMN, oldest.digest.as_bytes().to_vec());
        batch.delete(ByAge::COLUMN, key.clone());
    }
    batch.put(&KeptEvidence {
        digest,
        at: now,
        bundle: evidence.encode(),
    });
    batch.put(&ByAge { at: now, digest });
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::super::testing::{at, evidence};
    use super::super::{ClientLedger, SCHEMA};
    use super::*;
    use crate::store::MemoryStore;

    #[test]
    fn the_oldest_bundle_makes_room_and_one_that_is_there_stays() {
        let store = MemoryStore::new(SCHEMA);
        let add = |seed: u8, now: u64| {
            let mut batch = WriteBatch::new();
            keep(&store, &mut batch, &evidence(seed), at(now), 3).unwrap();
            store.commit(batch).unwrap();
        };
        for (seed, now) in [(1, 10), (2, 5), (3, 20), (1, 30)] {
            add(seed, now);
        }
        let is_kept = |seed: u8| {
            let digest = evidence(seed).claims.digest();
            let kept: Option<KeptEvidence> = load(&store, digest.as_bytes()).unwrap();
            kept.is_some_and(|kept| kept.bundle == evidence(seed).encode())
        };
        assert_eq!([1, 2, 3].map(is_kept), [true; 3]);
        add(4, 40);
        assert_eq!([1, 2, 3, 4].map(is_kept), [true, false, true, true]);
        add(5, 50);
        assert_eq!([1, 3, 4, 5].map(is_kept), [false, true, true, true]);
        // The index says the same.
        let index = store.scan(ByAge::COLUMN, &[], &[], 9).unwrap();
        assert_eq!(index.len(), 3);
        assert_eq!(
            store.scan(KeptEvidence::COLUMN, &[], &[], 9).unwrap().len(),
            3
        );
        let ledger = ClientLedger::new(store);
        let digest = evidence(5).claims.digest();
        assert_eq!(ledger.evidence(&digest).unwrap().unwrap().at, at(50));
        assert_eq!(ledger.evidence(&Digest::ZERO).unwrap(), None);
    }
}
