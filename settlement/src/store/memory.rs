//! A store that forgets: for tests of other things, and for tools that only need the types.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{Column, Pair, Schema, Store, StoreError, Ticket, Write, WriteBatch};

type Columns = BTreeMap<Column, BTreeMap<Vec<u8>, Vec<u8>>>;

/// A [`Store`] in memory, with the same rules about columns and atomicity and no durability at all.
#[derive(Debug)]
pub struct MemoryStore {
    columns: Mutex<Columns>,
}

impl MemoryStore {
    /// An empty store with the schema's columns.
    #[must_use]
    pub fn new(schema: Schema) -> Self {
        let columns = schema.columns.iter();
        Self {
            columns: Mutex::new(columns.map(|column| (*column, BTreeMap::new())).collect()),
        }
    }

    fn columns(&self) -> MutexGuard<'_, Columns> {
        // A batch is checked before it is applied, so a panic elsewhere cannot have left half of one.
        self.columns.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn unknown(column: Column) -> StoreError {
    StoreError::UnknownColumn(column.name())
}

impl Store for MemoryStore {
    fn get(&self, column: Column, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let columns = self.columns();
        let pairs = columns.get(&column).ok_or_else(|| unknown(column))?;
        Ok(pairs.get(key).cloned())
    }

    fn scan(
        &self,
        column: Column,
        prefix: &[u8],
        from: &[u8],
        limit: usize,
    ) -> Result<Vec<Pair>, StoreError> {
        let columns = self.columns();
        let pairs = columns.get(&column).ok_or_else(|| unknown(column))?;
        Ok(pairs
            .range(from.max(prefix).to_vec()..)
            .take_while(|(key, _)| key.starts_with(prefix))
            .take(limit)
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect())
    }

    fn submit(&self, batch: WriteBatch) -> Result<Ticket, StoreError> {
        let mut columns = self.columns();
        for write in batch.writes() {
            let (Write::Put { column, .. } | Write::Delete { column, .. }) = write;
            if !columns.contains_key(column) {
                return Err(unknown(*column));
            }
        }
        for write in batch.writes {
            match write {
                Write::Put { column, key, value } => {
                    columns.entry(column).or_default().insert(key, value);
                }
                Write::Delete { column, key } => {
                    columns.entry(column).or_default().remove(&key);
                }
            }
        }
        Ok(Ticket(0))
    }

    fn wait(&self, _ticket: Ticket) -> Result<(), StoreError> {
        Ok(())
    }
}
