//! Values of get methods, to the library and back.
//!
//! The library has two forms for tuples: a chain of pairs that ends in null is a list, and so null alone is the empty list
//! (`is_list` in `tonlib/tonlib/TonlibClient.cpp`). Both become what the machine had.

use num_bigint::BigInt;
use tonlib_client::tl::{TvmCell, TvmList, TvmNumber, TvmSlice, TvmStackEntry, TvmTuple};
use tycho_types::boc::Boc;

use super::calls::bag;
use crate::chain::{ChainError, StackItem};
use crate::devnet::report::{MAX_TUPLE_DEPTH, MAX_VALUES};

/// Digits of a 257-bit number, with its sign.
const MAX_DIGITS: usize = 79;

fn bad_argument(reason: &str) -> ChainError {
    ChainError::Encoding {
        what: "get method argument",
        reason: reason.to_owned(),
    }
}

pub(super) fn to_tonlib(item: &StackItem, depth: u8) -> Result<TvmStackEntry, ChainError> {
    if depth > MAX_TUPLE_DEPTH {
        return Err(bad_argument("tuples are nested too deep"));
    }
    let checked = |boc: &[u8]| match bag(boc) {
        Ok(_) => Ok(boc.to_vec()),
        Err(reason) => Err(bad_argument(&reason)),
    };
    Ok(match item {
        StackItem::Null => TvmStackEntry::List {
            list: TvmList {
                elements: Vec::new(),
            },
        },
        StackItem::Num(value) => TvmStackEntry::Number {
            number: TvmNumber {
                number: value.to_string(),
            },
        },
        StackItem::Cell(boc) => TvmStackEntry::Cell {
            cell: TvmCell {
                bytes: checked(boc)?,
            },
        },
        StackItem::Slice(boc) => TvmStackEntry::Slice {
            slice: TvmSlice {
                bytes: checked(boc)?,
            },
        },
        StackItem::Tuple(items) => TvmStackEntry::Tuple {
            tuple: TvmTuple {
                elements: items
                    .iter()
                    .map(|item| to_tonlib(item, depth.saturating_add(1)))
                    .collect::<Result<_, _>>()?,
            },
        },
    })
}

/// What a get method left, bottom first.
pub(super) fn from_tonlib(values: &[TvmStackEntry]) -> Result<Vec<StackItem>, String> {
    if values.len() > MAX_VALUES {
        return Err(format!("get method left {} values", values.len()));
    }
    values.iter().map(|value| item(value, 0)).collect()
}

fn item(value: &TvmStackEntry, depth: u8) -> Result<StackItem, String> {
    let too_much = || "a tuple too deep or too long".to_owned();
    // As the other clients write bags.
    let again = |bytes: &[u8]| bag(bytes).map(Boc::encode);
    let deeper = |value| item(value, depth.saturating_add(1));
    Ok(match value {
        TvmStackEntry::Number { number } => {
            let digits = Some(number.number.as_str()).filter(|text| text.len() <= MAX_DIGITS);
            let value: Option<BigInt> = digits.and_then(|text| text.parse().ok());
            StackItem::Num(value.ok_or("a number that is none")?)
        }
        TvmStackEntry::Cell { cell } => StackItem::Cell(again(&cell.bytes)?),
        TvmStackEntry::Slice { slice } => StackItem::Slice(again(&slice.bytes)?),
        TvmStackEntry::Tuple { tuple } => {
            if depth >= MAX_TUPLE_DEPTH || tuple.elements.len() > MAX_VALUES {
                return Err(too_much());
            }
            let items: Result<_, _> = tuple.elements.iter().map(deeper).collect();
            StackItem::Tuple(items?)
        }
        TvmStackEntry::List { list } => {
            // Each pair is one level deeper than the one before.
            let levels = usize::from(MAX_TUPLE_DEPTH.saturating_sub(depth));
            if list.elements.len() > levels {
                return Err(too_much());
            }
            let mut rest = StackItem::Null;
            for head in list.elements.iter().rev() {
                rest = StackItem::Tuple(vec![deeper(head)?, rest]);
            }
            rest
        }
        TvmStackEntry::Unsupported {} => {
            return Err("a value that has no form outside the machine".to_owned());
        }
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::arithmetic_side_effects)]
    use proptest::prelude::*;
    use tycho_types::cell::Cell;

    use super::*;

    fn items() -> impl Strategy<Value = StackItem> {
        let boc = Boc::encode(Cell::default());
        let leaf = prop_oneof![
            Just(StackItem::Null),
            any::<i128>().prop_map(|number| StackItem::Num(BigInt::from(number) << 100)),
            Just(StackItem::Cell(boc.clone())),
            Just(StackItem::Slice(boc)),
        ];
        leaf.prop_recursive(4, 30, 5, |inner| {
            prop::collection::vec(inner, 0..5).prop_map(StackItem::Tuple)
        })
    }

    /// As the library writes it: lists where there are any.
    fn listed(entry: TvmStackEntry) -> TvmStackEntry {
        let TvmStackEntry::Tuple { tuple } = entry else {
            return entry;
        };
        let mut elements: Vec<_> = tuple.elements.into_iter().map(listed).collect();
        match elements.as_mut_slice() {
            [head, TvmStackEntry::List { list }] => {
                let mut all = vec![head.clone()];
                all.append(&mut list.elements);
                TvmStackEntry::List {
                    list: TvmList { elements: all },
                }
            }
            _ => TvmStackEntry::Tuple {
                tuple: TvmTuple { elements },
            },
        }
    }

    proptest! {
        #[test]
        fn values_come_back_as_they_went(item in items()) {
            let sent = to_tonlib(&item, 0).unwrap();
            prop_assert_eq!(from_tonlib(&[sent.clone()]).unwrap(), vec![item.clone()]);
            prop_assert_eq!(from_tonlib(&[listed(sent)]).unwrap(), vec![item]);
        }
    }

    #[test]
    fn what_is_too_deep_or_no_value_is_refused() {
        let mut deep = StackItem::Null;
        for _ in 0..=MAX_TUPLE_DEPTH {
            deep = StackItem::Tuple(vec![deep]);
        }
        assert!(to_tonlib(&deep, 0).is_err());
        let null = to_tonlib(&StackItem::Null, 0).unwrap();
        for bad in [
            TvmStackEntry::Unsupported {},
            TvmStackEntry::List {
                list: TvmList {
                    elements: vec![null; usize::from(MAX_TUPLE_DEPTH) + 1],
                },
            },
            TvmStackEntry::Number {
                number: TvmNumber {
                    number: "NaN".to_owned(),
                },
            },
            TvmStackEntry::Cell {
                cell: TvmCell { bytes: vec![1, 2] },
            },
        ] {
            assert!(from_tonlib(&[bad]).is_err());
        }
    }
}
