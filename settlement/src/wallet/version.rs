//! The wallet contracts: their code, the data they start with, and how a transfer is laid out.
//!
//! All of it is by `tonlib-core`, so the same key opens the same wallet in any TON program. Only signing is done here:
//! `tonlib-core` never sees a private key.

use cocoon_protocol::TonAddress;
use ed25519_dalek::{Signer, SigningKey};
use tonlib_core::cell::{ArcCell, Cell as TonlibCell, TonCellError};
use tonlib_core::tlb_types::tlb::TLB;
use tonlib_core::wallet::mnemonic::KeyPair;
use tonlib_core::wallet::version_helper::VersionHelper;
use tonlib_core::wallet::wallet_version::WalletVersion as Tonlib;
use tycho_types::boc::Boc;
use tycho_types::cell::{Cell, CellBuilder};
use tycho_types::models::StateInit;

use crate::chain::{AccountState, ChainError};
use crate::contract::encoding::{digest, encoding, state_init};

/// Mainnet's ConfigParam 19.
const MAINNET_GLOBAL_ID: i32 = -239;
/// The id version 4 wallets have by custom on mainnet's base chain.
const CUSTOMARY_WALLET_ID: i32 = 0x29a9_a317;
/// A version 5 wallet's id is the network's global id under this mask: an ordinary wallet (1 bit), base chain, version 0,
/// number 0 (wallet-contract-v5, `WalletId`).
const V5_CONTEXT: i32 = i32::MIN;

/// Which contract a wallet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WalletVersion {
    /// The ordinary wallet of 2021 to 2024; what a key file without a version means.
    V4R2,
    /// The newest; up to 255 messages in a transfer.
    V5R1,
}

impl WalletVersion {
    /// The version as it is written before a key, and shown.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V4R2 => "v4r2",
            Self::V5R1 => "v5r1",
        }
    }

    /// How many messages one transfer may carry.
    #[must_use]
    pub fn max_messages(self) -> usize {
        match self {
            Self::V4R2 => super::MAX_MESSAGES_PER_TRANSFER,
            Self::V5R1 => 255,
        }
    }

    /// See the module's documentation of [`wallet`](super).
    pub(super) fn wallet_id(self, global_id: i32) -> i32 {
        match self {
            Self::V4R2 if global_id == MAINNET_GLOBAL_ID => CUSTOMARY_WALLET_ID,
            Self::V4R2 => CUSTOMARY_WALLET_ID ^ global_id,
            Self::V5R1 => V5_CONTEXT ^ global_id,
        }
    }

    fn tonlib(self) -> Tonlib {
        match self {
            Self::V4R2 => Tonlib::V4R2,
            Self::V5R1 => Tonlib::V5R1,
        }
    }

    /// Code and first data.
    pub(super) fn init(self, key: &SigningKey, id: i32) -> Result<StateInit, ChainError> {
        let public = KeyPair {
            public_key: key.verifying_key().to_bytes().to_vec(),
            secret_key: Vec::new(),
        };
        let code = VersionHelper::get_code(self.tonlib()).map_err(failed("wallet code"))?;
        let data =
            VersionHelper::get_data(self.tonlib(), &public, id).map_err(failed("wallet data"))?;
        Ok(state_init(ours(code)?, ours(&data)?))
    }

    /// The signed body of an external message. `messages` are internal ones, sent with mode 3.
    pub(super) fn body(
        self,
        key: &SigningKey,
        id: i32,
        seqno: u32,
        valid_until: u32,
        messages: &[Cell],
    ) -> Result<Cell, ChainError> {
        let mut messages: Vec<ArcCell> = messages
            .iter()
            .map(|cell| TonlibCell::from_boc(&Boc::encode(cell)).map(TonlibCell::to_arc))
            .collect::<Result<_, _>>()
            .map_err(failed("wallet transfer"))?;
        if self == Self::V5R1 {
            // A list of actions is done from its innermost on, and tonlib-core 0.26.11 puts the last one there.
            messages.reverse();
        }
        let unsigned =
            VersionHelper::build_ext_msg(self.tonlib(), valid_until, seqno, id, messages)
                .map_err(failed("wallet transfer"))?;
        let unsigned = ours(&unsigned)?;
        let signature = key.sign(unsigned.repr_hash().as_slice()).to_bytes();
        let build = || {
            let mut body = CellBuilder::new();
            match self {
                Self::V4R2 => {
                    body.store_raw(&signature, 512)?;
                    body.store_slice(unsigned.as_slice()?)?;
                }
                Self::V5R1 => {
                    body.store_slice(unsigned.as_slice()?)?;
                    body.store_raw(&signature, 512)?;
                }
            }
            body.build()
        };
        build().map_err(encoding("wallet transfer"))
    }

    /// The seqno in the data of an active wallet.
    pub(super) fn seqno(
        self,
        address: TonAddress,
        init: &StateInit,
        account: &AccountState,
    ) -> Result<u32, ChainError> {
        let bad = |reason: &str| ChainError::BadData {
            address,
            expected: "wallet",
            reason: reason.to_owned(),
        };
        let code_hash = init.code.as_ref().map(|code| digest(code.repr_hash()));
        if account.code_hash != code_hash {
            return Err(bad("its code is not this wallet's"));
        }
        let data = account.data.as_ref().ok_or_else(|| bad("no data"))?;
        let cell = Boc::decode(data).map_err(|error| bad(&error.to_string()))?;
        let read = || {
            let mut slice = cell.as_slice()?;
            if self == Self::V5R1 && !slice.load_bit()? {
                // is_signature_allowed: an extension has taken the wallet over.
                return Ok(None);
            }
            slice.load_u32().map(Some)
        };
        read()
            .map_err(encoding("wallet data"))?
            .ok_or_else(|| bad("it takes no signatures any more"))
    }
}

impl std::fmt::Display for WalletVersion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

impl std::str::FromStr for WalletVersion {
    type Err = UnknownVersion;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "v4r2" => Ok(Self::V4R2),
            "v5r1" => Ok(Self::V5R1),
            other => Err(UnknownVersion(other.chars().take(16).collect())),
        }
    }
}

/// No wallet that this program knows.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no wallet version {0:?}; use v5r1 or v4r2")]
pub struct UnknownVersion(String);

fn failed(what: &'static str) -> impl Fn(TonCellError) -> ChainError {
    move |error| ChainError::Encoding {
        what,
        reason: error.to_string(),
    }
}

fn ours(cell: &TonlibCell) -> Result<Cell, ChainError> {
    let boc = cell.to_boc(false).map_err(failed("wallet"))?;
    Boc::decode(boc).map_err(|error| ChainError::Encoding {
        what: "wallet",
        reason: error.to_string(),
    })
}
