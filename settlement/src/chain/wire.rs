//! The JSON of the devnet's interface, as both ends write it. Described for people in `docs/devnet-api.md`.
//!
//! Integers that may pass 2^53 are decimal strings, stack integers are hexadecimal strings (as toncenter v3 has them),
//! bags of cells are base64, hashes are hex.

use serde::{Deserialize, Serialize};

use super::error::ChainError;
use super::types::StackItem;
use cocoon_protocol::{Digest, NanoTon, TonAddress};

/// Largest request or answer body in bytes. A full external message (64 KiB) fits after base64.
pub const MAX_BODY_BYTES: usize = 256 * 1024;
/// Most transactions one answer holds.
pub const MAX_TRANSACTIONS_PER_PAGE: u16 = 100;
/// Most arguments of a get method.
pub const MAX_STACK_ARGS: usize = 16;

pub const PATH_HEAD: &str = "/api/getMasterchainInfo";
pub const PATH_BLOCK: &str = "/api/lookupBlock";
pub const PATH_ACCOUNT: &str = "/api/getAddressInformation";
pub const PATH_TRANSACTIONS: &str = "/api/getTransactions";
pub const PATH_SEND: &str = "/api/sendBoc";
pub const PATH_METHOD: &str = "/api/runGetMethod";
pub const PATH_PRICES: &str = "/dev/prices";
pub const PATH_SUPPLY: &str = "/dev/supply";
pub const PATH_FAULT: &str = "/dev/fault";
pub const PATH_FAUCET: &str = "/dev/faucet";
pub const PATH_KEY_BLOCK: &str = "/dev/key-block";
pub const PATH_ADVANCE: &str = "/dev/advance";
pub const PATH_PAUSE: &str = "/dev/pause";
pub const PATH_RESUME: &str = "/dev/resume";

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Head {
    pub last: super::types::BlockRef,
    pub global_id: i32,
    pub paused: bool,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct BlockQuery {
    pub seqno: u32,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct AccountQuery {
    pub address: TonAddress,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct AccountAnswer {
    /// Null where nothing ever arrived.
    pub account: Option<super::types::AccountState>,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct TransactionsQuery {
    pub address: TonAddress,
    #[serde(default)]
    pub after_lt: u64,
    pub limit: Option<u16>,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct SendRequest {
    #[serde(with = "base64_bytes")]
    pub boc: Vec<u8>,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct SendAnswer {
    pub hash: Digest,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct MethodRequest {
    pub address: TonAddress,
    pub method: String,
    #[serde(default)]
    pub stack: Vec<StackItem>,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct AdvanceRequest {
    /// Blocks to make now.
    pub blocks: u32,
    /// Seconds the chain's clock jumps ahead before the first of them, and stays ahead.
    #[serde(default)]
    pub seconds: u32,
}

/// Coins from the faucet.
#[derive(Debug, Serialize, Deserialize)]
pub struct GiftRequest {
    pub address: TonAddress,
    #[serde(with = "decimal_nano")]
    pub nanoton: NanoTon,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct KeyBlockRequest {
    /// Whether other validators sign from the block after it on.
    #[serde(default)]
    pub new_validators: bool,
}

/// What a liteserver is to do wrong.
#[derive(Debug, Serialize, Deserialize)]
pub struct FaultRequest {
    /// Its number in the global config; all of them where there is none.
    #[serde(default)]
    pub server: Option<usize>,
    pub faults: crate::devnet::Faults,
}

/// What each liteserver does wrong.
#[derive(Debug, Serialize, Deserialize)]
pub struct FaultsAnswer {
    pub liteservers: Vec<crate::devnet::Faults>,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct TransactionQuery {
    pub account: TonAddress,
    #[serde(with = "decimal")]
    pub lt: u64,
}

/// `{"ok": true, "result": …}` or `{"ok": false, "error": …}`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Envelope<T> {
    pub ok: bool,
    #[serde(skip_serializing_if = "Option::is_none", default = "none")]
    pub result: Option<T>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub error: Option<WireError>,
}

fn none<T>() -> Option<T> {
    None
}

/// An error, for a program (`kind` and its fields) and for a person (`message`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WireError {
    #[serde(flatten)]
    pub fault: Fault,
    pub message: String,
}

/// What went wrong, with what a program needs to know about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Fault {
    NotAccepted {
        exit_code: Option<i32>,
    },
    BadMessage,
    Busy {
        waiting: usize,
    },
    NoSuchBlock {
        seqno: u32,
    },
    NoContract {
        address: TonAddress,
    },
    GetMethod {
        address: TonAddress,
        method: String,
        exit_code: i32,
    },
    BadRequest,
    Internal,
}

impl From<&ChainError> for WireError {
    fn from(error: &ChainError) -> Self {
        let fault = match error {
            ChainError::NotAccepted { exit_code, reason } => {
                return Self {
                    fault: Fault::NotAccepted {
                        exit_code: *exit_code,
                    },
                    message: reason.clone(),
                };
            }
            ChainError::BadMessage { reason } => {
                return Self {
                    fault: Fault::BadMessage,
                    message: reason.clone(),
                };
            }
            ChainError::Busy { waiting } => Fault::Busy { waiting: *waiting },
            ChainError::NoSuchBlock { seqno } => Fault::NoSuchBlock { seqno: *seqno },
            ChainError::NoContract { address } => Fault::NoContract { address: *address },
            ChainError::GetMethod {
                address,
                method,
                exit_code,
            } => Fault::GetMethod {
                address: *address,
                method: method.clone(),
                exit_code: *exit_code,
            },
            ChainError::Encoding { .. } => Fault::BadRequest,
            _ => Fault::Internal,
        };
        Self {
            fault,
            message: error.to_string(),
        }
    }
}

impl From<WireError> for ChainError {
    fn from(error: WireError) -> Self {
        let reason = error.message;
        match error.fault {
            Fault::NotAccepted { exit_code } => Self::NotAccepted { exit_code, reason },
            Fault::BadMessage => Self::BadMessage { reason },
            Fault::Busy { waiting } => Self::Busy { waiting },
            Fault::NoSuchBlock { seqno } => Self::NoSuchBlock { seqno },
            Fault::NoContract { address } => Self::NoContract { address },
            Fault::GetMethod {
                address,
                method,
                exit_code,
            } => Self::GetMethod {
                address,
                method,
                exit_code,
            },
            Fault::BadRequest => Self::Encoding {
                what: "request",
                reason,
            },
            Fault::Internal => Self::Internal { reason },
        }
    }
}

/// `u64` as a decimal string.
pub mod decimal {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(value: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(D::Error::custom)
    }
}

/// Nanotons as a decimal string.
pub mod decimal_nano {
    use cocoon_protocol::NanoTon;
    use serde::{Deserializer, Serializer};

    pub fn serialize<S: Serializer>(value: &NanoTon, serializer: S) -> Result<S::Ok, S::Error> {
        super::decimal::serialize(&value.nano(), serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<NanoTon, D::Error> {
        super::decimal::deserialize(deserializer).map(NanoTon::from_nano)
    }
}

/// Bytes as standard base64.
pub mod base64_bytes {
    use base64::{Engine, engine::general_purpose::STANDARD};
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(value: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(value))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        STANDARD
            .decode(String::deserialize(deserializer)?)
            .map_err(D::Error::custom)
    }
}

/// Bytes or nothing, as standard base64 or null.
pub mod base64_option {
    use base64::{Engine, engine::general_purpose::STANDARD};
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

    pub fn serialize<S: Serializer>(
        value: &Option<Vec<u8>>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        value
            .as_ref()
            .map(|bytes| STANDARD.encode(bytes))
            .serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Vec<u8>>, D::Error> {
        Option::<String>::deserialize(deserializer)?
            .map(|text| STANDARD.decode(text))
            .transpose()
            .map_err(D::Error::custom)
    }
}

/// Integers of the TVM as `0x…` or `-0x…`; decimal is understood too.
pub mod hex_int {
    use num_bigint::BigInt;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    /// 257 bits are 65 hexadecimal or 78 decimal digits.
    const MAX_INT_CHARS: usize = 80;

    pub fn serialize<S: Serializer>(value: &BigInt, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&format!("{value:#x}"))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BigInt, D::Error> {
        let text = String::deserialize(deserializer)?;
        parse(&text).ok_or_else(|| D::Error::custom("not a 257-bit integer"))
    }

    pub(super) fn parse(text: &str) -> Option<BigInt> {
        if text.len() > MAX_INT_CHARS {
            return None;
        }
        let (negative, digits) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let magnitude = match digits.strip_prefix("0x") {
            Some(hex) => BigInt::parse_bytes(hex.as_bytes(), 16)?,
            None => BigInt::parse_bytes(digits.as_bytes(), 10)?,
        };
        let value = if negative {
            BigInt::ZERO.checked_sub(&magnitude)?
        } else {
            magnitude
        };
        (value.bits() <= 256).then_some(value)
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
    use num_bigint::BigInt;
    use proptest::prelude::*;

    #[test]
    fn a_number_past_two_to_the_53_survives_as_a_string() {
        let supply = super::super::types::Supply {
            minted: u64::MAX,
            balances: 1,
            in_flight: 0,
            collected: 2,
        };
        let json = serde_json::to_value(supply).unwrap();
        assert_eq!(json["minted"], "18446744073709551615");
        assert_eq!(
            serde_json::from_value::<super::super::types::Supply>(json).unwrap(),
            supply
        );
    }

    #[test]
    fn stack_items_read_as_toncenter_writes_them() {
        let read = |text: &str| serde_json::from_str::<StackItem>(text).unwrap();
        assert_eq!(
            read(r#"{"type":"num","value":"0x1f"}"#),
            StackItem::Num(BigInt::from(31))
        );
        assert_eq!(
            read(r#"{"type":"num","value":"-0x1"}"#),
            StackItem::Num(BigInt::from(-1))
        );
        assert_eq!(read(r#"{"type":"null"}"#), StackItem::Null);
        assert!(
            serde_json::from_str::<StackItem>(&format!(
                r#"{{"type":"num","value":"0x1{}"}}"#,
                "0".repeat(65)
            ))
            .is_err()
        );
    }

    proptest! {
        #[test]
        fn every_integer_survives_the_wire(bytes in proptest::collection::vec(any::<u8>(), 0..32), negative: bool) {
            let sign = if negative { num_bigint::Sign::Minus } else { num_bigint::Sign::Plus };
            let item = StackItem::Num(BigInt::from_bytes_be(sign, &bytes));
            let text = serde_json::to_string(&item).unwrap();
            prop_assert_eq!(serde_json::from_str::<StackItem>(&text).unwrap(), item);
        }
    }

    #[test]
    fn no_request_body_makes_a_decoder_panic() {
        bolero::check!()
            .with_iterations(2000)
            .for_each(|bytes: &[u8]| {
                let _ = serde_json::from_slice::<SendRequest>(bytes);
                let _ = serde_json::from_slice::<MethodRequest>(bytes);
                let _ = serde_json::from_slice::<AdvanceRequest>(bytes);
                let _ = serde_json::from_slice::<Envelope<Head>>(bytes);
                let _ = std::str::from_utf8(bytes).map(hex_int::parse);
            });
    }
}
