//! Coins for whoever asks.

use cocoon_protocol::{NanoTon, TonAddress};

use super::{Devnet, faucet};
use crate::chain::{ChainError, StackItem, TransactionSummary};
use crate::contract::OutMessage;

/// Most coins of one gift: 10,000 TON, a hundredth of all.
pub const MAX_GIFT: NanoTon = NanoTon::from_nano(10_000_000_000_000);
/// A gift is made again when somebody else used the faucet's key at the same time.
const MAX_ATTEMPTS: u32 = 3;
/// Seconds for which the faucet's message is valid.
const VALID_FOR_SECONDS: u32 = 60;

impl Devnet {
    /// Sends coins from the faucet and makes a block at `unix` with it, whether blocks are made on a timer or not.
    /// Returns the faucet's transaction.
    pub fn give(
        &mut self,
        receiver: TonAddress,
        amount: NanoTon,
        unix: u32,
    ) -> Result<TransactionSummary, ChainError> {
        let wallet = faucet()?;
        if amount > MAX_GIFT {
            return Err(ChainError::Encoding {
                what: "gift",
                reason: format!("{amount} is more than {MAX_GIFT}, the most at once"),
            });
        }
        for _ in 0..MAX_ATTEMPTS {
            let seqno = self.get_method(wallet.address(), "seqno", &[])?;
            let seqno = seqno
                .stack
                .first()
                .and_then(StackItem::as_u64)
                .and_then(|seqno| u32::try_from(seqno).ok())
                .ok_or_else(|| ChainError::Internal {
                    reason: "the faucet has no seqno".to_owned(),
                })?;
            let after = self
                .account(wallet.address())?
                .map_or(0, |account| account.last_lt);
            let until = unix.max(self.head().unix).saturating_add(VALID_FOR_SECONDS);
            let message = OutMessage::transfer(receiver, amount);
            let hash = self.submit(&wallet.transfer(seqno, until, &[message])?)?;
            self.advance(unix)?;
            let found = self
                .transactions(wallet.address(), after, u16::MAX)?
                .into_iter()
                .find(|transaction| transaction.in_message == Some(hash));
            if let Some(transaction) = found {
                return Ok(transaction);
            }
        }
        Err(ChainError::Internal {
            reason: "others use the faucet's key faster than it gives".to_owned(),
        })
    }
}
