//! What the network charges, as its configuration says now.
//!
//! Read it, never assume it: mainnet's prices fell about sixfold in April 2026. Amounts are nanoTON; the network keeps
//! some of them in units of 2⁻¹⁶ nanoTON, and rounds up once, at the end (TVM whitepaper, configuration parameters 18, 21
//! and 25).

use cocoon_protocol::NanoTon;
use serde::{Deserialize, Serialize};

/// Prices of the base chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prices {
    /// One unit of gas above [`flat_gas_limit`](Self::flat_gas_limit), in 2⁻¹⁶ nanoTON (ConfigParam 21).
    pub gas: u64,
    /// Gas that costs [`flat_gas_price`](Self::flat_gas_price), used or not.
    pub flat_gas_limit: u64,
    /// In nanoTON.
    pub flat_gas_price: u64,
    /// A message without extra cells, in nanoTON (ConfigParam 25).
    pub message: u64,
    /// One bit of a message's further cells, in 2⁻¹⁶ nanoTON.
    pub message_bit: u64,
    /// One further cell of a message, in 2⁻¹⁶ nanoTON.
    pub message_cell: u64,
    /// One bit kept for a second, in 2⁻¹⁶ nanoTON (ConfigParam 18, its newest entry).
    pub storage_bit: u64,
    /// One cell kept for a second, in 2⁻¹⁶ nanoTON.
    pub storage_cell: u64,
}

impl Prices {
    /// What running code costs.
    #[must_use]
    pub fn gas_fee(&self, gas: u64) -> NanoTon {
        let above = u128::from(gas.saturating_sub(self.flat_gas_limit));
        ceil(above.saturating_mul(self.gas.into()))
            .saturating_add(NanoTon::from_nano(self.flat_gas_price))
    }

    /// What a message costs its sender; `cells` and `bits` are those below its root.
    #[must_use]
    pub fn message_fee(&self, cells: u64, bits: u64) -> NanoTon {
        let cells = u128::from(cells).saturating_mul(self.message_cell.into());
        let bits = u128::from(bits).saturating_mul(self.message_bit.into());
        ceil(cells.saturating_add(bits)).saturating_add(NanoTon::from_nano(self.message))
    }

    /// Rent of an account.
    #[must_use]
    pub fn rent(&self, cells: u64, bits: u64, seconds: u64) -> NanoTon {
        let cells = u128::from(cells).saturating_mul(self.storage_cell.into());
        let bits = u128::from(bits).saturating_mul(self.storage_bit.into());
        ceil(cells.saturating_add(bits).saturating_mul(seconds.into()))
    }
}

/// From 2⁻¹⁶ nanoTON, rounded up. More coins than there can be are as many as there can be.
fn ceil(parts: u128) -> NanoTon {
    NanoTon::from_nano(u64::try_from(parts.div_ceil(1 << 16)).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use crate::devnet::{Devnet, GLOBAL_ID};
    use cocoon_protocol::NanoTon;

    #[test]
    fn prices_of_2026_are_those_of_the_notes() {
        let devnet = Devnet::in_memory(1_800_000_000).unwrap();
        assert_eq!(devnet.global_id(), GLOBAL_ID);
        let prices = devnet.prices();
        // 4,369,067 / 2^16 a unit of gas: 3,689 gas are 245,934 nanoTON; a message without further cells 66,667.
        assert_eq!(prices.gas_fee(3_689), NanoTon::from_nano(245_934));
        assert_eq!(prices.message_fee(0, 0), NanoTon::from_nano(66_667));
        // 135 · 2^-16 a cell and second: eleven cells for a year are 0.0007 TON.
        assert_eq!(
            prices.rent(11, 3_000, 365 * 86_400),
            NanoTon::from_nano(714_584)
        );
    }
}
