//! An account's transactions, each proved by the one after it.
//!
//! A transaction names the hash and logical time of the one before (`prev_trans_hash`, `prev_trans_lt`), and the state of
//! the account names the newest; so whoever holds a proved state needs no proof of old blocks. The block that a
//! transaction is in is the server's word.

use cocoon_protocol::TonAddress;
use tycho_types::cell::Cell;
use tycho_types::models::Transaction;

use super::LiteError;
use super::proof::bag;
use super::wire;

/// Transactions in one answer; what servers of the TON repository give at most.
pub(in crate::chain) const PER_ANSWER: u32 = 16;
/// Transactions that one call walks back over.
pub(in crate::chain) const MAX_WALKED: usize = 4096;
/// Largest answer, bytes.
const MAX_BAG_BYTES: usize = 4 * 1024 * 1024;

/// Where a walk back stands: the transaction that comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::chain) struct Place {
    pub(in crate::chain) lt: u64,
    pub(in crate::chain) hash: [u8; 32],
}

/// Where to go on after this transaction, which must be the one at `place`.
pub(in crate::chain) fn before(
    address: TonAddress,
    place: Place,
    cell: &Cell,
) -> Result<Place, String> {
    if place.lt == 0 {
        return Err("there is nothing before the first transaction".to_owned());
    }
    if cell.repr_hash().0 != place.hash {
        return Err("a transaction is not the one that is named".to_owned());
    }
    let read = cell
        .parse::<Transaction>()
        .map_err(|error| error.to_string())?;
    if read.account.0 != address.hash || read.lt != place.lt {
        return Err("a transaction is of another account or time".to_owned());
    }
    if read.prev_trans_lt >= read.lt {
        return Err("time does not go back".to_owned());
    }
    Ok(Place {
        lt: read.prev_trans_lt,
        hash: read.prev_trans_hash.0,
    })
}

/// Reads an answer that must begin at `place`; newest first. The cells with the blocks they are said to be in, and where
/// to go on.
pub(super) fn read(
    address: TonAddress,
    mut place: Place,
    answer: &[u8],
) -> Result<(Vec<(Cell, u32)>, Place), LiteError> {
    const WHAT: &str = "transaction list";
    let wrong = |reason: &str| LiteError::NotProved {
        what: WHAT,
        reason: reason.to_owned(),
    };
    let most = usize::try_from(PER_ANSWER).unwrap_or(usize::MAX);
    let (blocks, bytes) = wire::transactions(answer, most)?;
    if bytes.len() > MAX_BAG_BYTES {
        return Err(LiteError::TooLarge {
            what: WHAT,
            size: bytes.len(),
            limit: MAX_BAG_BYTES,
        });
    }
    let roots = bag(bytes, WHAT)?;
    if roots.is_empty() || roots.len() != blocks.len() {
        return Err(wrong("the transactions are not as many as their blocks"));
    }
    let mut found = Vec::with_capacity(roots.len());
    for (cell, block) in roots.into_iter().zip(blocks) {
        place = before(address, place, &cell).map_err(|reason| wrong(&reason))?;
        found.push((cell, block.seqno));
    }
    Ok((found, place))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_bytes_make_the_reader_panic() {
        let address = TonAddress {
            workchain: 0,
            hash: [3; 32],
        };
        let place = Place {
            lt: 5,
            hash: [4; 32],
        };
        bolero::check!().for_each(|bytes: &[u8]| {
            // A list of one transaction, so that the bag is reached.
            let mut list = 0x6f26_c60bu32.to_le_bytes().to_vec();
            list.extend(1u32.to_le_bytes());
            list.extend([0; 80]);
            wire::write_bytes(&mut list, bytes);
            assert!(read(address, place, bytes).is_err());
            assert!(read(address, place, &list).is_err());
        });
    }
}
