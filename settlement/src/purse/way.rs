//! One message to the opener, or one to each channel: whichever costs less now.
//!
//! Both ways bring the same messages to the channels. To send them itself a wallet needs a transfer for every
//! [`max_messages`](crate::wallet::WalletVersion::max_messages) of them, each with its import and its gas. The opener
//! needs one transfer for all, and besides that a message that carries the list, more gas for each item than a wallet
//! needs, and a message that brings back what is left; and its rent, once. So within one transfer of the wallet the opener
//! never pays, at no prices; beyond that it depends on what a message costs beside gas. At the prices of 2026 it does not
//! pay at all: see docs/contracts.md.

use cocoon_protocol::{NanoTon, TonAddress};

use crate::chain::{ChainError, Prices};
use crate::contract::{
    MAX_OPENER_ITEMS, OPENER_RESERVE, OpenerItem, OpenerTerms, OutMessage, open_many_message,
    opener_fee, top_up_message,
};
use crate::wallet::Wallet;

/// A top-up: which channel, and how much.
pub type TopUp = (TonAddress, NanoTon);

/// Whether the opener brings these top-ups to their channels for less than the wallet does by itself.
///
/// # Errors
/// A message that cannot be built.
pub fn opener_pays(
    prices: &Prices,
    wallet: &Wallet,
    is_deployed: bool,
    top_ups: &[TopUp],
) -> Result<bool, ChainError> {
    if top_ups.len() < 2 || top_ups.len() > MAX_OPENER_ITEMS {
        return Ok(false);
    }
    let (alone, together) = fees(prices, wallet, is_deployed, top_ups)?;
    Ok(together < alone)
}

/// What both ways cost: the wallet's own messages, and the opener's.
fn fees(
    prices: &Prices,
    wallet: &Wallet,
    is_deployed: bool,
    top_ups: &[TopUp],
) -> Result<(NanoTon, NanoTon), ChainError> {
    let mut alone = NanoTon::ZERO;
    for transfer in direct(top_ups)?.chunks(wallet.version().max_messages()) {
        alone = alone.saturating_add(wallet.transfer_fee(prices, transfer)?);
    }
    let list = through_opener(wallet, top_ups)?;
    let once = if is_deployed {
        NanoTon::ZERO
    } else {
        OPENER_RESERVE
    };
    let together = wallet
        .transfer_fee(prices, &[list])?
        .saturating_add(opener_fee(prices, top_ups.len()))
        .saturating_add(items_fee(prices, top_ups)?)
        .saturating_add(once);
    Ok((alone, together))
}

/// What the opener pays for sending the items on.
fn items_fee(prices: &Prices, top_ups: &[TopUp]) -> Result<NanoTon, ChainError> {
    direct(top_ups)?
        .iter()
        .try_fold(NanoTon::ZERO, |sum, message| {
            Ok(sum.saturating_add(message.fee(prices)?))
        })
}

/// A message to each channel.
///
/// # Errors
/// A message that cannot be built.
pub fn direct(top_ups: &[TopUp]) -> Result<Vec<OutMessage>, ChainError> {
    top_ups
        .iter()
        .map(|(channel, amount)| top_up_message(*channel, *amount))
        .collect()
}

/// One message to the wallet's opener.
///
/// # Errors
/// A message that cannot be built.
pub fn through_opener(wallet: &Wallet, top_ups: &[TopUp]) -> Result<OutMessage, ChainError> {
    let opener = OpenerTerms {
        owner: wallet.address(),
    };
    let items: Vec<_> = top_ups
        .iter()
        .map(|(channel, amount)| OpenerItem::TopUp {
            channel: *channel,
            amount: *amount,
        })
        .collect();
    open_many_message(&opener, 0, &items)
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )]

    use ed25519_dalek::SigningKey;

    use super::*;
    use crate::devnet::{Devnet, GLOBAL_ID};
    use crate::wallet::WalletVersion;

    fn wallet(version: WalletVersion) -> Wallet {
        Wallet::of_version(version, SigningKey::from_bytes(&[5; 32]), GLOBAL_ID).unwrap()
    }

    fn top_ups(count: usize) -> Vec<TopUp> {
        (0..count)
            .map(|n| {
                let mut hash = [9; 32];
                hash[0] = u8::try_from(n).unwrap();
                let channel = TonAddress { workchain: 0, hash };
                (channel, NanoTon::from_nano(500_000_000))
            })
            .collect()
    }

    /// The smallest list that pays, looked for at these sizes.
    fn least(prices: &Prices, version: WalletVersion, sizes: &[usize]) -> Option<usize> {
        let wallet = wallet(version);
        let pays = |n: &&usize| opener_pays(prices, &wallet, true, &top_ups(**n)).unwrap();
        sizes.iter().find(pays).copied()
    }

    #[test]
    fn at_the_prices_of_2026_the_opener_pays_for_no_list_of_any_wallet() {
        let prices = Devnet::in_memory(1_800_000_000).unwrap().prices();
        for version in [WalletVersion::V4R2, WalletVersion::V5R1] {
            let sizes = [2, 3, 4, 5, 8, 9, 32, 100, 250];
            assert_eq!(least(&prices, version, &sizes), None, "{version}");
            for count in [4, 32, 100] {
                let (alone, together) =
                    fees(&prices, &wallet(version), true, &top_ups(count)).unwrap();
                println!("{version}: {count} top-ups cost {alone} alone, {together} together");
            }
        }
    }

    #[test]
    fn where_messages_are_dear_and_gas_is_cheap_it_pays_for_small_wallets_from_thirteen_on() {
        // A lump for every message and nothing else. A wallet of four messages a transfer pays n + ⌈n/4⌉ lumps, the
        // opener n + 3: the import, the list, and what comes back.
        let dear = Prices {
            gas: 0,
            flat_gas_limit: 0,
            flat_gas_price: 0,
            message: 1_000_000_000,
            message_bit: 0,
            message_cell: 0,
            storage_bit: 0,
            storage_cell: 0,
        };
        let sizes: Vec<usize> = (0..=250).collect();
        assert_eq!(least(&dear, WalletVersion::V4R2, &sizes), Some(13));
        // Its rent must be earned first, where it is not deployed: 0.003 TON are less than a lump here.
        assert!(opener_pays(&dear, &wallet(WalletVersion::V4R2), false, &top_ups(13)).unwrap());
        let cheap = Prices {
            message: 2_000_000,
            ..dear
        };
        let small = wallet(WalletVersion::V4R2);
        assert!(opener_pays(&cheap, &small, true, &top_ups(13)).unwrap());
        assert!(!opener_pays(&cheap, &small, false, &top_ups(13)).unwrap());
        // One transfer of the large wallet carries whatever fits a list.
        assert_eq!(least(&dear, WalletVersion::V5R1, &sizes), None);
    }
}
