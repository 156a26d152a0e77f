//! What a transfer costs at most, from the network's prices of the moment.
//!
//! An external message pays for its import, the wallet's code for its gas, each message for its forwarding, and the account
//! for the rent since its last transaction (TVM whitepaper, transaction phases). The estimate is an upper bound: gas as
//! measured and rounded up, and rent for a year.

use cocoon_protocol::NanoTon;
use tycho_types::boc::Boc;
use tycho_types::cell::{Cell, CellBuilder};
use tycho_types::models::StateInit;

use super::WalletVersion;
use crate::chain::{ChainError, Prices};
use crate::contract::encoding::encoding;
use crate::contract::message::below;

/// Rent that may be due.
const RENT_SECONDS: u64 = 365 * 86_400;

impl WalletVersion {
    /// Gas of a transfer with so many messages: at least what the contracts use (a test measures it).
    fn gas(self, messages: usize) -> u64 {
        let (base, each) = match self {
            Self::V4R2 => (2_900, 660),
            Self::V5R1 => (4_500, 730),
        };
        u64::try_from(messages)
            .unwrap_or(u64::MAX)
            .saturating_mul(each)
            .saturating_add(base)
    }

    /// Of the external message `boc` that carries `messages`, and the rent that may be due.
    pub(super) fn fee(
        self,
        prices: &Prices,
        init: &StateInit,
        boc: &[u8],
        messages: &[Cell],
    ) -> Result<NanoTon, ChainError> {
        let state = CellBuilder::build_from(init).map_err(encoding("wallet"))?;
        let (cells, bits) = below(&state)?;
        let rent = prices.rent(
            cells.saturating_add(1),
            // The account's own fields besides code and data.
            bits.saturating_add(1_023),
            RENT_SECONDS,
        );
        Ok(self
            .transfer_fee(prices, boc, messages)?
            .saturating_add(rent))
    }

    /// The same without rent, which is due however many transfers there are.
    pub(super) fn transfer_fee(
        self,
        prices: &Prices,
        boc: &[u8],
        messages: &[Cell],
    ) -> Result<NanoTon, ChainError> {
        let external = Boc::decode(boc).map_err(|error| ChainError::Encoding {
            what: "wallet transfer",
            reason: error.to_string(),
        })?;
        let (cells, bits) = below(&external)?;
        let mut fee = prices
            .message_fee(cells, bits)
            .saturating_add(prices.gas_fee(self.gas(messages.len())));
        for message in messages {
            let (cells, bits) = below(message)?;
            fee = fee.saturating_add(prices.message_fee(cells, bits));
        }
        Ok(fee)
    }
}
