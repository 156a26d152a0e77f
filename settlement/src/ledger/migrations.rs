//! How an older ledger becomes today's. One step for each version that ever was; see [`crate::store::Migration`].

use super::CLIENT_RECEIPTS;
use crate::store::{Migration, MigrationError, Store, WriteBatch};

pub(super) const MIGRATIONS: &[Migration] = &[
    Migration {
        from: 1,
        run: receipts_get_salts,
    },
    Migration {
        from: 2,
        run: channels_may_be_expected,
    },
];

/// Version 2 keeps a receipt beside the salt that opens it, and the evidence that it names. Nothing about money changed:
/// channels, log, batches, claims and jobs have the form they had, and the new columns begin empty. A receipt of version 1
/// has no salt and never will, so a client that kept some is not taken over silently without them.
fn receipts_get_salts(store: &dyn Store, _batch: &mut WriteBatch) -> Result<(), MigrationError> {
    if store.scan(CLIENT_RECEIPTS, &[], &[], 1)?.is_empty() {
        return Ok(());
    }
    Err(MigrationError::Refused(
        "it holds receipts of version 1, which this version cannot open; close its channels with the program that \
         wrote it, keep the directory for its receipts, and begin with an empty one"
            .to_owned(),
    ))
}

/// Version 3 knows channels that were not on chain when they were registered. In version 2 every channel was, and its
/// records are read as saying so; nothing is rewritten. The number keeps older programs from finding records that they
/// cannot read in the middle of their work.
fn channels_may_be_expected(
    _store: &dyn Store,
    _batch: &mut WriteBatch,
) -> Result<(), MigrationError> {
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::super::testing::{address, at, client_key, job, peer, public, ton};
    use super::super::{CLIENT_EVIDENCE, SCHEMA, WorkerLedger, check};
    use super::*;
    use crate::store::{Column, RocksStore, Schema, StoreError};

    /// The columns of version 1.
    const OLD_COLUMNS: &[Column] = &[
        super::super::WORKER_HEAD,
        super::super::WORKER_CHANNELS,
        super::super::WORKER_ENTRIES,
        super::super::WORKER_BATCHES,
        super::super::WORKER_CLAIMS,
        super::super::JOBS,
        super::super::OPEN_JOBS,
        super::super::CLIENT_CHANNELS,
        super::super::CLIENT_BY_WORKER,
        super::super::CLIENT_RECEIPTS,
        super::super::CLIENT_RECEIPTS_BY_LEAF,
    ];
    const OLD: Schema = Schema {
        version: 1,
        columns: OLD_COLUMNS,
        migrations: &[],
        ..SCHEMA
    };

    #[test]
    fn a_worker_of_version_1_is_taken_over_with_its_money() {
        let dir = tempfile::tempdir().unwrap();
        let old = WorkerLedger::new(RocksStore::open(dir.path(), OLD).unwrap());
        old.register_channel(address(1), peer(1), public(&client_key(1)), ton(7))
            .unwrap();
        old.open_job(job(1), peer(1), address(1), at(1)).unwrap();
        drop(old);
        for _ in 0..2 {
            let store = RocksStore::open(dir.path(), SCHEMA).unwrap();
            assert!(store.scan(CLIENT_EVIDENCE, &[], &[], 1).unwrap().is_empty());
            assert!(check(&store, None).unwrap().is_clean());
            let new = WorkerLedger::new(store);
            let channel = new.channel(&address(1)).unwrap().unwrap();
            assert_eq!((channel.base, channel.expected), (ton(7), None));
            assert_eq!(new.open_jobs().unwrap(), [job(1)]);
        }
        // There is no way back.
        match RocksStore::open(dir.path(), OLD) {
            Err(StoreError::SchemaVersion {
                found: 3,
                supported: 1,
                ..
            }) => {}
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_client_with_receipts_of_version_1_is_refused_and_left_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let old = RocksStore::open(dir.path(), OLD).unwrap();
        let mut batch = WriteBatch::new();
        batch.put_raw(CLIENT_RECEIPTS, vec![1; 16], vec![1, 2, 3]);
        old.commit(batch).unwrap();
        drop(old);
        let refused = RocksStore::open(dir.path(), SCHEMA).unwrap_err();
        assert!(
            matches!(refused, StoreError::Migration { from: 1, to: 2, .. }),
            "{refused}"
        );
        assert!(refused.to_string().contains("receipts of version 1"));
        // Still what it was: refused again, and not by the version's number.
        let again = RocksStore::open(dir.path(), SCHEMA).unwrap_err();
        assert!(matches!(again, StoreError::Migration { .. }), "{again}");
    }
}
