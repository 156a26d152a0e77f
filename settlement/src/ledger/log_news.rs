//! What is known of a transparency log, kept beside the books so that a restarted node is not shown another one. Column
//! `log.news`, key: digest of the log's name, its rebuilders and their threshold.

use cocoon_protocol::Digest;

use super::LOG_NEWS;
use crate::store::{Column, Reader, Record, RecordError, Writer};

/// The largest head that was proven, or the proof that there are two logs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptLogNews {
    /// Of which log, by which rebuilders.
    pub place: Digest,
    /// The encoded `LogNews`, at most 12 KiB.
    pub news: Vec<u8>,
}

impl Record for KeptLogNews {
    const COLUMN: Column = LOG_NEWS;
    const VERSION: u8 = 1;

    fn key(&self) -> Vec<u8> {
        self.place.as_bytes().to_vec()
    }

    fn write(&self, out: &mut Writer) {
        out.bytes(&self.news);
    }

    fn read(_version: u8, key: &[u8], fields: &mut Reader<'_>) -> Result<Self, RecordError> {
        let place = <[u8; 32]>::try_from(key).map_err(|_| RecordError::BadValue("a log"))?;
        Ok(Self {
            place: Digest::from_bytes(place),
            news: fields.bytes()?.to_vec(),
        })
    }
}
