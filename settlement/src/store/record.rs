//! How a typed value becomes bytes on disk and back.
//!
//! ```text
//! value    = version (1 byte) ‖ fields ‖ checksum (8 bytes)
//! checksum = first 8 bytes of SHA-256( len(column) ‖ column ‖ len(key) ‖ key ‖ version ‖ fields )   lengths: u32 LE
//! ```
//!
//! RocksDB already checks its blocks against bit rot. This checksum binds a value to *its* column and key, so a record
//! that was copied, renamed or spliced from another database does not pass as this one. It is no protection against an
//! owner of the disk, who can compute it too; that is what the commits on chain are for.
//!
//! Fields are fixed little pieces written in order ([`Writer`]) and read back strictly ([`Reader`]): integers are
//! big-endian, byte strings carry a u32 length of at most [`MAX_FIELD_BYTES`], and nothing may be left over.

use cocoon_protocol::NanoTon;
use sha2::{Digest as _, Sha256};

use super::{Column, StoreError};

/// The longest byte string inside a record. Receipts are about 1 KiB; this leaves room without letting a damaged
/// length allocate much.
pub const MAX_FIELD_BYTES: usize = 64 * 1024;

const CHECKSUM_BYTES: usize = 8;

/// A type with a place in the store and a byte form.
pub trait Record: Sized {
    /// Where records of this type live.
    const COLUMN: Column;
    /// The version written; [`Record::read`] must also read all earlier ones.
    const VERSION: u8;

    /// The key of this record.
    fn key(&self) -> Vec<u8>;

    /// Writes the fields that are not in the key.
    fn write(&self, out: &mut Writer);

    /// Reads what [`Record::write`] wrote.
    ///
    /// # Errors
    /// [`RecordError`] for any bytes that `write` cannot have produced.
    fn read(version: u8, key: &[u8], fields: &mut Reader<'_>) -> Result<Self, RecordError>;
}

/// Why bytes are not a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Too short to hold a version and a checksum, or cut inside a field.
    #[error("cut short")]
    Truncated,
    /// The checksum does not match: damaged, or another record's bytes.
    #[error("its checksum does not match")]
    Checksum,
    /// Written by a newer program.
    #[error("its version is {found}, this program reads up to {supported}")]
    Version {
        /// On disk.
        found: u8,
        /// The newest this program reads.
        supported: u8,
    },
    /// Bytes after the last field.
    #[error("{0} bytes are left over")]
    TrailingBytes(usize),
    /// A byte string longer than [`MAX_FIELD_BYTES`].
    #[error("a field of {0} bytes is too long")]
    FieldTooLong(usize),
    /// A field holds a value its type does not have.
    #[error("{0} has a value it cannot have")]
    BadValue(&'static str),
}

/// Seals a record's bytes for `key`.
#[must_use]
pub fn seal<R: Record>(record: &R, key: &[u8]) -> Vec<u8> {
    let mut out = Writer {
        bytes: vec![R::VERSION],
    };
    record.write(&mut out);
    let sum = checksum(R::COLUMN, key, &out.bytes);
    out.bytes.extend_from_slice(&sum);
    out.bytes
}

/// Checks and reads a record's bytes.
///
/// # Errors
/// [`StoreError::Record`], naming the column and key.
pub fn open<R: Record>(key: &[u8], value: &[u8]) -> Result<R, StoreError> {
    open_fields(key, value).map_err(|source| StoreError::Record {
        column: R::COLUMN.name(),
        key: hex::encode(key),
        source,
    })
}

fn open_fields<R: Record>(key: &[u8], value: &[u8]) -> Result<R, RecordError> {
    let split = value
        .len()
        .checked_sub(CHECKSUM_BYTES)
        .ok_or(RecordError::Truncated)?;
    let (body, sum) = value
        .split_at_checked(split)
        .ok_or(RecordError::Truncated)?;
    if checksum(R::COLUMN, key, body) != sum {
        return Err(RecordError::Checksum);
    }
    open_body(key, body)
}

/// Reads version and fields, once the checksum has been taken off.
fn open_body<R: Record>(key: &[u8], body: &[u8]) -> Result<R, RecordError> {
    let (&version, bytes) = body.split_first().ok_or(RecordError::Truncated)?;
    if version == 0 || version > R::VERSION {
        return Err(RecordError::Version {
            found: version,
            supported: R::VERSION,
        });
    }
    let mut fields = Reader { bytes };
    let record = R::read(version, key, &mut fields)?;
    if fields.bytes.is_empty() {
        Ok(record)
    } else {
        Err(RecordError::TrailingBytes(fields.bytes.len()))
    }
}

/// For fuzzing what lies behind the checksum: a fuzzer would never guess one.
#[cfg(test)]
pub(crate) fn open_without_checksum<R: Record>(key: &[u8], body: &[u8]) -> Result<R, RecordError> {
    open_body(key, body)
}

fn checksum(column: Column, key: &[u8], body: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let mut hash = Sha256::new();
    for part in [column.name().as_bytes(), key] {
        // Column names and keys are tens of bytes; the cast cannot lose anything that matters to a checksum.
        hash.update(u32::try_from(part.len()).unwrap_or(u32::MAX).to_le_bytes());
        hash.update(part);
    }
    hash.update(body);
    let digest = hash.finalize();
    let mut sum = [0; CHECKSUM_BYTES];
    for (to, from) in sum.iter_mut().zip(digest.iter()) {
        *to = *from;
    }
    sum
}

/// Collects a record's fields.
#[derive(Debug, Default)]
pub struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    /// One byte.
    pub fn u8(&mut self, value: u8) {
        self.bytes.push(value);
    }

    /// Four bytes, big-endian.
    pub fn u32(&mut self, value: u32) {
        self.bytes.extend_from_slice(&value.to_be_bytes());
    }

    /// Eight bytes, big-endian.
    pub fn u64(&mut self, value: u64) {
        self.bytes.extend_from_slice(&value.to_be_bytes());
    }

    /// An amount in nanoTON, eight bytes.
    pub fn amount(&mut self, value: NanoTon) {
        self.u64(value.nano());
    }

    /// Bytes whose number both sides know.
    pub fn fixed<const N: usize>(&mut self, value: &[u8; N]) {
        self.bytes.extend_from_slice(value);
    }

    /// Bytes with their length in front. Callers keep them within [`MAX_FIELD_BYTES`]; a longer string is written with
    /// its true length and then refused on reading, rather than silently cut.
    pub fn bytes(&mut self, value: &[u8]) {
        debug_assert!(
            value.len() <= MAX_FIELD_BYTES,
            "a field that could not be read back"
        );
        self.u32(u32::try_from(value.len()).unwrap_or(u32::MAX));
        self.bytes.extend_from_slice(value);
    }

    /// What has been written so far.
    #[cfg(test)]
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// A byte 0 or 1 and, after 1, the value.
    pub fn option<T>(&mut self, value: Option<&T>, write: impl FnOnce(&mut Self, &T)) {
        match value {
            None => self.u8(0),
            Some(value) => {
                self.u8(1);
                write(self, value);
            }
        }
    }
}

/// Takes a record's fields off again.
#[derive(Debug)]
pub struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Reads over bare bytes, for fields that sit inside a key.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], RecordError> {
        let (head, tail) = self
            .bytes
            .split_at_checked(len)
            .ok_or(RecordError::Truncated)?;
        self.bytes = tail;
        Ok(head)
    }

    /// Bytes whose number both sides know.
    ///
    /// # Errors
    /// [`RecordError::Truncated`].
    pub fn fixed<const N: usize>(&mut self) -> Result<[u8; N], RecordError> {
        self.take(N)?.try_into().map_err(|_| RecordError::Truncated)
    }

    /// One byte.
    ///
    /// # Errors
    /// [`RecordError::Truncated`].
    pub fn u8(&mut self) -> Result<u8, RecordError> {
        let [byte] = self.fixed()?;
        Ok(byte)
    }

    /// Four bytes, big-endian.
    ///
    /// # Errors
    /// [`RecordError::Truncated`].
    pub fn u32(&mut self) -> Result<u32, RecordError> {
        self.fixed().map(u32::from_be_bytes)
    }

    /// Eight bytes, big-endian.
    ///
    /// # Errors
    /// [`RecordError::Truncated`].
    pub fn u64(&mut self) -> Result<u64, RecordError> {
        self.fixed().map(u64::from_be_bytes)
    }

    /// An amount in nanoTON.
    ///
    /// # Errors
    /// [`RecordError::Truncated`].
    pub fn amount(&mut self) -> Result<NanoTon, RecordError> {
        self.u64().map(NanoTon::from_nano)
    }

    /// Bytes with their length in front.
    ///
    /// # Errors
    /// [`RecordError::FieldTooLong`], [`RecordError::Truncated`].
    pub fn bytes(&mut self) -> Result<&'a [u8], RecordError> {
        let len = usize::try_from(self.u32()?).unwrap_or(usize::MAX);
        if len > MAX_FIELD_BYTES {
            return Err(RecordError::FieldTooLong(len));
        }
        self.take(len)
    }

    /// A byte 0 or 1 and, after 1, the value.
    ///
    /// # Errors
    /// [`RecordError::BadValue`] for any other byte, or the value's own error.
    pub fn option<T>(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<T, RecordError>,
    ) -> Result<Option<T>, RecordError> {
        match self.u8()? {
            0 => Ok(None),
            1 => read(self).map(Some),
            _ => Err(RecordError::BadValue("an option's tag")),
        }
    }

    /// What has not been read yet; for keys, where the rest must be empty.
    #[must_use]
    pub fn remaining(&self) -> usize {
        self.bytes.len()
    }
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )]
    use super::*;

    #[derive(Debug, PartialEq, Clone)]
    struct Note {
        id: u64,
        text: Vec<u8>,
        price: Option<NanoTon>,
    }

    impl Record for Note {
        const COLUMN: Column = Column::new("notes");
        const VERSION: u8 = 2;
        fn key(&self) -> Vec<u8> {
            self.id.to_be_bytes().to_vec()
        }
        fn write(&self, out: &mut Writer) {
            out.bytes(&self.text);
            out.option(self.price.as_ref(), |out, price| out.amount(*price));
        }
        fn read(version: u8, key: &[u8], fields: &mut Reader<'_>) -> Result<Self, RecordError> {
            Ok(Self {
                id: Reader::new(key).u64()?,
                text: fields.bytes()?.to_vec(),
                price: if version >= 2 {
                    fields.option(Reader::amount)?
                } else {
                    None
                },
            })
        }
    }

    fn note() -> Note {
        Note {
            id: 7,
            text: b"hello".to_vec(),
            price: Some(NanoTon::from_nano(5)),
        }
    }

    #[test]
    fn a_record_reads_back_what_was_written() {
        let value = seal(&note(), &note().key());
        assert_eq!(open::<Note>(&note().key(), &value).unwrap(), note());
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let key = note().key();
        let value = seal(&note(), &key);
        for at in 0..value.len() {
            for bit in 0..8 {
                let mut bad = value.clone();
                bad[at] ^= 1 << bit;
                assert!(open::<Note>(&key, &bad).is_err(), "byte {at} bit {bit}");
            }
            assert!(open::<Note>(&key, &value[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn a_record_moved_to_another_key_is_refused() {
        let value = seal(&note(), &note().key());
        let error = open_fields::<Note>(&8_u64.to_be_bytes(), &value);
        assert_eq!(error, Err(RecordError::Checksum));
    }

    #[test]
    fn an_older_record_is_read_and_a_newer_one_is_refused_by_number() {
        let key = note().key();
        let reseal = |body: &[u8]| {
            let mut value = body.to_vec();
            value.extend_from_slice(&checksum(Note::COLUMN, &key, body));
            value
        };
        let mut old = Writer { bytes: vec![1] };
        old.bytes(b"hello");
        assert_eq!(open::<Note>(&key, &reseal(&old.bytes)).unwrap().price, None);
        assert_eq!(
            open_fields::<Note>(&key, &reseal(&[3, 0])),
            Err(RecordError::Version {
                found: 3,
                supported: 2
            })
        );
        assert_eq!(
            open_fields::<Note>(&key, &reseal(&[2, 0, 0, 0, 0, 0, 9])),
            Err(RecordError::TrailingBytes(1))
        );
        assert_eq!(
            open_fields::<Note>(&key, &reseal(&[2, 255, 255, 255, 255])),
            Err(RecordError::FieldTooLong(u32::MAX as usize))
        );
    }

    #[test]
    fn arbitrary_bytes_never_panic() {
        bolero::check!()
            .with_iterations(2_000)
            .for_each(|bytes: &[u8]| {
                let _ = open::<Note>(&[0; 8], bytes);
                let mut reader = Reader::new(bytes);
                let _ = Note::read(2, &[0; 8], &mut reader);
            });
    }
}
