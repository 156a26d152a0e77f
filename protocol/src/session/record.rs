//! What is inside one Noise message: `type (1) | length (2, big-endian) | data | zeros`, together a
//! multiple of [`PAD_BYTES`].
//!
//! A sender may pad further than it must (to hide more), a receiver accepts any multiple. A
//! [`RecordKind::More`] record is always full, so a frame cannot be cut into more records than it
//! needs.

use super::{
    MAX_RECORD_BYTES, MAX_RECORD_DATA_BYTES, PAD_BYTES, RECORD_HEADER_BYTES, RecordError, TAG_BYTES,
};

/// The first byte of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RecordKind {
    /// The last or only part of a frame.
    Last,
    /// Part of a frame that goes on in the next record.
    More,
    /// The end of this direction.
    Fin,
}

impl RecordKind {
    fn code(self) -> u8 {
        match self {
            Self::Last => 0,
            Self::More => 1,
            Self::Fin => 2,
        }
    }
}

/// The padded record, with room for a tag reserved behind it. `data` has at most
/// [`MAX_RECORD_DATA_BYTES`].
pub(super) fn encode(kind: RecordKind, data: &[u8]) -> Vec<u8> {
    debug_assert!(data.len() <= MAX_RECORD_DATA_BYTES, "the caller splits");
    let length = u16::try_from(data.len()).unwrap_or(u16::MAX);
    let size = data
        .len()
        .saturating_add(RECORD_HEADER_BYTES)
        .next_multiple_of(PAD_BYTES);
    debug_assert!(size <= MAX_RECORD_BYTES, "a record fits a message");
    let mut record = Vec::with_capacity(size.saturating_add(TAG_BYTES));
    record.push(kind.code());
    record.extend_from_slice(&length.to_be_bytes());
    record.extend_from_slice(data);
    record.resize(size, 0);
    record
}

/// Takes a record apart; what is returned points into it.
pub(super) fn decode(record: &[u8]) -> Result<(RecordKind, &[u8]), RecordError> {
    let size = record.len();
    if !size.is_multiple_of(PAD_BYTES) {
        return Err(RecordError::Size { got: size });
    }
    let Some(([code, high, low], rest)) = record.split_first_chunk() else {
        return Err(RecordError::Size { got: size });
    };
    let announced = usize::from(u16::from_be_bytes([*high, *low]));
    let wrong_length = RecordError::Length { announced, size };
    let Some((data, padding)) = rest.split_at_checked(announced) else {
        return Err(wrong_length);
    };
    let kind = match code {
        0 => RecordKind::Last,
        1 if announced == MAX_RECORD_DATA_BYTES => RecordKind::More,
        2 if announced == 0 => RecordKind::Fin,
        1 | 2 => return Err(wrong_length),
        unknown => return Err(RecordError::Type(*unknown)),
    };
    if padding.iter().any(|byte| *byte != 0) {
        return Err(RecordError::Padding);
    }
    Ok((kind, data))
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )]

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_record_comes_back_as_it_was(data in proptest::collection::vec(any::<u8>(), 0..300)) {
            let record = encode(RecordKind::Last, &data);
            prop_assert_eq!(record.len() % PAD_BYTES, 0);
            prop_assert_eq!(decode(&record).unwrap(), (RecordKind::Last, &data[..]));
        }

        #[test]
        fn any_bytes_decode_to_a_record_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            if let Ok((_, data)) = decode(&bytes) {
                prop_assert!(data.len() + RECORD_HEADER_BYTES <= bytes.len());
            }
        }
    }

    #[test]
    fn the_largest_record_fits_a_message_and_more_records_are_full() {
        let record = encode(RecordKind::More, &[1; MAX_RECORD_DATA_BYTES]);
        assert_eq!(record.len(), MAX_RECORD_BYTES);
        assert_eq!(decode(&record).unwrap().0, RecordKind::More);
        let partial = encode(RecordKind::More, &[1; 10]);
        let wrong = RecordError::Length {
            announced: 10,
            size: 64,
        };
        assert_eq!(decode(&partial).unwrap_err(), wrong);
    }

    #[test]
    fn extra_padding_is_accepted_if_it_is_zero() {
        let mut record = encode(RecordKind::Last, b"data");
        record.resize(3 * PAD_BYTES, 0);
        assert_eq!(decode(&record).unwrap(), (RecordKind::Last, &b"data"[..]));
        record[2 * PAD_BYTES] = 1;
        assert_eq!(decode(&record).unwrap_err(), RecordError::Padding);
    }

    #[test]
    fn each_malformation_has_its_own_error() {
        assert_eq!(decode(&[]).unwrap_err(), RecordError::Size { got: 0 });
        assert_eq!(decode(&[0; 63]).unwrap_err(), RecordError::Size { got: 63 });
        let mut record = [0u8; 64];
        record[0] = 3;
        assert_eq!(decode(&record).unwrap_err(), RecordError::Type(3));
        record[0] = 0;
        record[2] = 62;
        let wrong = RecordError::Length {
            announced: 62,
            size: 64,
        };
        assert_eq!(decode(&record).unwrap_err(), wrong);
        record[0] = 2;
        record[2] = 1;
        let wrong = RecordError::Length {
            announced: 1,
            size: 64,
        };
        assert_eq!(decode(&record).unwrap_err(), wrong);
    }
}
