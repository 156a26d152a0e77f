//! Which schema a directory holds, and how an older one becomes today's.
//!
//! A schema's version is raised when columns, keys or the meaning of a value change. Each raise comes with a
//! [`Migration`]: a function from the old records to a batch of changes. Opening a directory of an older version runs the
//! steps in order; each step's changes and the new version number are **one** commit, so a crash leaves the
//! directory at one version or the next, never between. A newer version is refused, and so is an older one without a way.

use std::path::Path;

use super::{Column, Reader, Record, RecordError, Store, StoreError, WriteBatch, Writer, load};

/// What a program expects to find in a directory.
#[derive(Clone, Copy, Debug)]
pub struct Schema {
    /// Whose data this is, for example `"ledger"`; a devnet's directory is refused by a worker.
    pub name: &'static str,
    /// Raised when columns, keys or the meaning of a value change. A record's own version byte covers added fields.
    pub version: u32,
    /// Every column this schema uses.
    pub columns: &'static [Column],
    /// The way from older versions.
    pub migrations: &'static [Migration],
}

/// One step, from version `from` to the next.
#[derive(Clone, Copy, Debug)]
pub struct Migration {
    /// Where it begins.
    pub from: u32,
    /// Reads the old records and adds what changes to the batch. An error says why this directory cannot be taken
    /// over and what to do; then nothing is changed.
    pub run: fn(&dyn Store, &mut WriteBatch) -> Result<(), MigrationError>,
}

/// Why a migration did not happen.
#[derive(Debug, thiserror::Error)]
pub enum MigrationError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The records do not allow it.
    #[error("{0}")]
    Refused(String),
}

impl Schema {
    /// The steps from an older version to this one; `None` where one is missing, or it is not older.
    fn way_from(&self, version: u32) -> Option<Vec<Migration>> {
        if version >= self.version {
            return None;
        }
        (version..self.version)
            .map(|from| {
                self.migrations
                    .iter()
                    .find(|step| step.from == from)
                    .copied()
            })
            .collect()
    }

    /// Takes an opened directory to this version.
    pub(super) fn migrate(&self, path: &Path, store: &impl Store) -> Result<(), StoreError> {
        let Some(found) = load::<SchemaRecord>(store, &SchemaRecord::KEY)? else {
            return Ok(());
        };
        for step in self.way_from(found.version).unwrap_or_default() {
            let mut batch = WriteBatch::new();
            (step.run)(store, &mut batch).map_err(|error| match error {
                MigrationError::Store(error) => error,
                MigrationError::Refused(why) => StoreError::Migration {
                    path: path.to_path_buf(),
                    from: step.from,
                    to: step.from.saturating_add(1),
                    why,
                },
            })?;
            batch.put(&SchemaRecord {
                name: self.name.to_owned(),
                version: step.from.saturating_add(1),
            });
            store.commit(batch)?;
            tracing::info!(
                path = %path.display(),
                from = step.from,
                to = step.from.saturating_add(1),
                "the directory was migrated"
            );
        }
        Ok(())
    }
}

/// Which schema a directory holds. Column `schema`, key `schema`.
#[derive(Debug)]
pub(super) struct SchemaRecord {
    pub(super) name: String,
    pub(super) version: u32,
}

impl SchemaRecord {
    pub(super) const KEY: [u8; 6] = *b"schema";

    /// Whether this program can go on from it, directly or by migrating.
    pub(super) fn accept(&self, path: &Path, wanted: Schema) -> Result<(), StoreError> {
        if self.name != wanted.name {
            return Err(StoreError::OtherSchema {
                path: path.to_path_buf(),
                found: self.name.clone(),
                wanted: wanted.name,
            });
        }
        let is_known = self.version == wanted.version || wanted.way_from(self.version).is_some();
        if is_known {
            Ok(())
        } else {
            Err(StoreError::SchemaVersion {
                path: path.to_path_buf(),
                name: wanted.name,
                found: self.version,
                supported: wanted.version,
            })
        }
    }
}

impl Record for SchemaRecord {
    const COLUMN: Column = Column::new("schema");
    const VERSION: u8 = 1;

    fn key(&self) -> Vec<u8> {
        Self::KEY.to_vec()
    }

    fn write(&self, out: &mut Writer) {
        out.bytes(self.name.as_bytes());
        out.u32(self.version);
    }

    fn read(_version: u8, _key: &[u8], fields: &mut Reader<'_>) -> Result<Self, RecordError> {
        let name = fields.bytes()?.to_vec();
        Ok(Self {
            name: String::from_utf8(name).map_err(|_| RecordError::BadValue("the schema name"))?,
            version: fields.u32()?,
        })
    }
}
