//! A person's or a node's coins: the ordinary wallet contract, version 4 revision 2.
//!
//! Code, data layout and message layout are the deployed contract's, so the same key opens the same wallet in any TON
//! wallet program. Every transfer carries the wallet's `seqno`, which the contract counts up, and a `valid_until` after
//! which it is worthless; a transfer that was sent twice happens once.
//!
//! The signed bytes do not name the network. To keep a transfer made on a devnet from being replayed on mainnet under
//! the same key, the wallet's id (32 bits of its data, chosen by the owner, part of the signed bytes and of the
//! address) is the customary one only on mainnet, and mixed with the network's `global_id` elsewhere.

use std::time::Duration;

use cocoon_protocol::{Digest, NanoTon, TonAddress};
use ed25519_dalek::{Signer, SigningKey};
use tycho_types::boc::Boc;
use tycho_types::cell::{Cell, CellBuilder};
use tycho_types::models::StateInit;

use crate::chain::{
    AccountState, AccountStatus, Chain, ChainError, StackItem, TransactionSummary,
    wait_for_transaction,
};
use crate::contract::OutMessage;
use crate::contract::encoding::{address_of, digest, encoding, state_init};
use crate::contract::external_message;

/// Mainnet's ConfigParam 19.
const MAINNET_GLOBAL_ID: i32 = -239;
/// The id wallets have by custom on mainnet's base chain.
const CUSTOMARY_WALLET_ID: u32 = 0x29a9_a317;
/// How many messages one transfer may carry.
pub const MAX_MESSAGES_PER_TRANSFER: usize = 4;
/// Pay forwarding fees apart from the value, and carry on where a message cannot be sent. The wallets' customary mode.
const SEND_MODE: u8 = 3;
/// What a transfer of one message may cost in fees, with room: about 0.0003 TON of gas, 0.0002 of forwarding at 2026
/// prices.
const FEE_ALLOWANCE: NanoTon = NanoTon::from_nano(5_000_000);
/// A transfer is worthless this long after it was made.
const VALID_FOR_SECONDS: u32 = 60;
/// How long [`Wallet::send`] waits for the transaction. Longer than the transfer is valid, so that afterwards it is sure.
const SEND_PATIENCE: Duration = Duration::from_secs(75);

/// A wallet whose key this process holds.
#[derive(Clone)]
pub struct Wallet {
    key: SigningKey,
    id: u32,
    address: TonAddress,
    init: StateInit,
}

/// A signed transfer that was not sent yet.
#[derive(Clone, Debug)]
pub struct PreparedTransfer {
    /// The external message, for [`Chain::send_external`].
    pub boc: Vec<u8>,
    /// Its hash.
    pub message: Digest,
    /// Unix second of chain time after which it can no longer be applied.
    pub valid_until: u32,
    /// The wallet's `last_lt` before it.
    pub after_lt: u64,
}

impl std::fmt::Debug for Wallet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wallet")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

impl Wallet {
    /// The wallet of `key` on the network with this global id.
    pub fn from_key(key: SigningKey, global_id: i32) -> Result<Self, ChainError> {
        let id = wallet_id(global_id);
        let init = state_init(
            code()?,
            first_data(id, &key).map_err(encoding("wallet data"))?,
        );
        Ok(Self {
            address: address_of(&init)?,
            key,
            id,
            init,
        })
    }

    /// Where its coins are.
    pub fn address(&self) -> TonAddress {
        self.address
    }

    pub(crate) fn state_init(&self) -> &StateInit {
        &self.init
    }

    /// A signed transfer of up to [`MAX_MESSAGES_PER_TRANSFER`] messages as an external message (bag of cells). With
    /// seqno 0 it brings the wallet's code along and so deploys it.
    pub fn transfer(
        &self,
        seqno: u32,
        valid_until: u32,
        messages: &[OutMessage],
    ) -> Result<Vec<u8>, ChainError> {
        if messages.is_empty() || messages.len() > MAX_MESSAGES_PER_TRANSFER {
            let reason = format!(
                "{} messages, of 1 to {MAX_MESSAGES_PER_TRANSFER}",
                messages.len()
            );
            return Err(ChainError::Encoding {
                what: "wallet transfer",
                reason,
            });
        }
        let cells = messages
            .iter()
            .map(OutMessage::to_cell)
            .collect::<Result<Vec<_>, _>>()?;
        // wallet_id:u32 valid_until:u32 seqno:u32 op:u8 = 0, then (mode:u8 message:^Cell) each; the signature before.
        let build = || {
            let mut unsigned = CellBuilder::new();
            unsigned.store_u32(self.id)?;
            unsigned.store_u32(valid_until)?;
            unsigned.store_u32(seqno)?;
            unsigned.store_u8(0)?;
            for cell in cells {
                unsigned.store_u8(SEND_MODE)?;
                unsigned.store_reference(cell)?;
            }
            let unsigned = unsigned.build()?;
            let mut body = CellBuilder::new();
            body.store_raw(
                &self.key.sign(unsigned.repr_hash().as_slice()).to_bytes(),
                512,
            )?;
            body.store_slice(unsigned.as_slice()?)?;
            body.build()
        };
        let init = (seqno == 0).then(|| self.init.clone());
        external_message(
            self.address,
            init,
            build().map_err(encoding("wallet transfer"))?,
        )
    }

    /// The seqno the next transfer needs: 0 until the first one deployed the wallet.
    pub async fn seqno(&self, chain: &dyn Chain) -> Result<u32, ChainError> {
        let account = chain.account(self.address).await?;
        self.seqno_of(chain, account.as_ref()).await
    }

    async fn seqno_of(
        &self,
        chain: &dyn Chain,
        account: Option<&AccountState>,
    ) -> Result<u32, ChainError> {
        if account.is_none_or(|account| account.status != AccountStatus::Active) {
            return Ok(0);
        }
        let result = chain.get_method(self.address, "seqno", &[]).await?;
        match result.stack.first() {
            Some(StackItem::Num(value)) => u32::try_from(value).ok(),
            _ => None,
        }
        .ok_or_else(|| ChainError::BadData {
            address: self.address,
            expected: "wallet",
            reason: "seqno is no 32-bit number".to_owned(),
        })
    }

    /// All coins of the wallet; zero where nothing ever arrived.
    pub async fn balance(&self, chain: &dyn Chain) -> Result<NanoTon, ChainError> {
        Ok(chain
            .account(self.address)
            .await?
            .map_or(NanoTon::ZERO, |account| account.balance))
    }

    /// Signs and sends messages, and waits for the wallet's transaction. The receivers' transactions follow from its
    /// `sent`. One call at a time: two at once would use the same seqno, and one of them would be refused.
    pub async fn send(
        &self,
        chain: &dyn Chain,
        messages: &[OutMessage],
    ) -> Result<TransactionSummary, ChainError> {
        let (message, after_lt) = self.submit(chain, messages).await?;
        let transaction =
            wait_for_transaction(chain, self.address, message, after_lt, SEND_PATIENCE).await?;
        // Sending mode 3 goes on after a message that could not be paid for; the number of messages sent tells.
        if !transaction.success || transaction.sent.len() != messages.len() {
            return Err(ChainError::TransactionFailed {
                account: self.address,
                transaction: transaction.hash,
                exit_code: transaction.exit_code,
                action_result: transaction.action_result,
            });
        }
        Ok(transaction)
    }

    /// Signs and sends messages without waiting. Returns the hash of the external message and the wallet's `last_lt`
    /// before it, for [`wait_for_transaction`].
    pub async fn submit(
        &self,
        chain: &dyn Chain,
        messages: &[OutMessage],
    ) -> Result<(Digest, u64), ChainError> {
        let prepared = self.prepare(chain, messages).await?;
        let message = chain.send_external(&prepared.boc).await?;
        Ok((message, prepared.after_lt))
    }

    /// Signs messages that the wallet can pay for, without sending: for whoever has to write down what is about to
    /// happen first. One call at a time, up to the transaction, as with [`Wallet::send`].
    pub async fn prepare(
        &self,
        chain: &dyn Chain,
        messages: &[OutMessage],
    ) -> Result<PreparedTransfer, ChainError> {
        let account = chain.account(self.address).await?;
        let available = account
            .as_ref()
            .map_or(NanoTon::ZERO, |account| account.balance);
        let needed = messages.iter().try_fold(FEE_ALLOWANCE, |sum, message| {
            sum.checked_add(message.value())
        });
        match needed {
            Some(needed) if needed <= available => {}
            _ => {
                let needed = needed.unwrap_or(NanoTon::from_nano(u64::MAX));
                return Err(ChainError::InsufficientBalance {
                    wallet: self.address,
                    needed,
                    available,
                });
            }
        }
        let seqno = self.seqno_of(chain, account.as_ref()).await?;
        let valid_until = chain.head().await?.unix.saturating_add(VALID_FOR_SECONDS);
        let boc = self.transfer(seqno, valid_until, messages)?;
        let cell = Boc::decode(&boc).map_err(|error| ChainError::Encoding {
            what: "wallet transfer",
            reason: error.to_string(),
        })?;
        Ok(PreparedTransfer {
            message: digest(cell.repr_hash()),
            boc,
            valid_until,
            after_lt: account.map_or(0, |account| account.last_lt),
        })
    }
}

/// See the module's documentation.
fn wallet_id(global_id: i32) -> u32 {
    if global_id == MAINNET_GLOBAL_ID {
        CUSTOMARY_WALLET_ID
    } else {
        CUSTOMARY_WALLET_ID ^ global_id.cast_unsigned()
    }
}

/// The deployed contract's code; `contracts/wallet/README.md` says where it is from.
const CODE: &[u8] = include_bytes!("../contracts/wallet/v4r2.boc");

fn code() -> Result<Cell, ChainError> {
    Boc::decode(CODE).map_err(|error| ChainError::Encoding {
        what: "wallet code",
        reason: error.to_string(),
    })
}

/// seqno:u32 wallet_id:u32 public_key:u256 plugins:(HashmapE 256 …)
fn first_data(id: u32, key: &SigningKey) -> Result<Cell, tycho_types::error::Error> {
    let mut data = CellBuilder::new();
    data.store_u32(0)?;
    data.store_u32(id)?;
    data.store_raw(key.verifying_key().as_bytes(), 256)?;
    data.store_bit_zero()?;
    data.build()
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

    #[test]
    fn the_code_is_the_deployed_contracts() {
        assert_eq!(
            code().unwrap().repr_hash().to_string(),
            "feb5ff6820e2ff0d9483e7e0d62c817d846789fb4ae580c878866d959dabd5c0"
        );
    }

    /// For the key of 32 times 5: network, seqno, address, whether code comes along, hash of the
    /// body of a transfer of 17 nanoTON to 32 times 9, valid until 1,800,000,000. Computed with
    /// `TonWallet::create_external_msg` of the crate tonlib-core 0.26.11.
    const INDEPENDENT: [(i32, u32, &str, bool, &str); 4] = [
        (
            -239,
            0,
            "c407047cd223cc106d4aea6ed9b5b0b3180ff75c2365b60de873727fdf4c3836",
            true,
            "0763b300732ecc2efe6294f423ed002c8b7531f842b8af1e2645a3a3a8a89479",
        ),
        (
            -239,
            3,
            "c407047cd223cc106d4aea6ed9b5b0b3180ff75c2365b60de873727fdf4c3836",
            false,
            "20d33b84e2a2217d6c58278b07376bb7ddf3dc054f63cbb81b534950411e9a0d",
        ),
        (
            -31337,
            0,
            "a601daa69cf15d4a66227bd6bd33b6d850afbf10c9df1c2981732cfdc7609e83",
            true,
            "b1d3e5a628a45f00af4f57eb824c68f4827ff7ee253d160b7837d3a4e6e7152e",
        ),
        (
            -31337,
            3,
            "a601daa69cf15d4a66227bd6bd33b6d850afbf10c9df1c2981732cfdc7609e83",
            false,
            "ba7d2c12f0d96917bc8dc1833459097e3685901564c1f54e31c7a5b6d69eb0f8",
        ),
    ];

    #[test]
    fn address_and_transfer_are_those_of_an_independent_implementation() {
        let key = SigningKey::from_bytes(&[5; 32]);
        let message = OutMessage::transfer(
            TonAddress {
                workchain: 0,
                hash: [9; 32],
            },
            NanoTon::from_nano(17),
        );
        for (global_id, seqno, address, deploys, body_hash) in INDEPENDENT {
            let wallet = Wallet::from_key(key.clone(), global_id).unwrap();
            assert_eq!(wallet.address().to_string(), format!("0:{address}"));
            let boc = wallet
                .transfer(seqno, 1_800_000_000, std::slice::from_ref(&message))
                .unwrap();
            let cell = Boc::decode(boc).unwrap();
            let parsed = cell.parse::<tycho_types::models::OwnedMessage>().unwrap();
            // Which parts of a message go into a cell of their own is the sender's choice; its content is not.
            let (range, root) = parsed.body;
            let body = CellBuilder::build_from(range.apply(&root).unwrap()).unwrap();
            assert_eq!(body.repr_hash().to_string(), body_hash);
            assert_eq!(parsed.init.is_some(), deploys);
        }
    }

    #[test]
    fn a_wallet_has_another_address_on_another_network() {
        let key = SigningKey::from_bytes(&[5; 32]);
        let here = Wallet::from_key(key.clone(), crate::devnet::GLOBAL_ID).unwrap();
        let there = Wallet::from_key(key, MAINNET_GLOBAL_ID).unwrap();
        assert_ne!(here.address(), there.address());
    }

    #[test]
    fn a_transfer_without_messages_or_with_too_many_is_refused() {
        let wallet = Wallet::from_key(SigningKey::from_bytes(&[5; 32]), 1).unwrap();
        let message = OutMessage::transfer(wallet.address(), NanoTon::ZERO);
        for count in [0, 5] {
            assert!(matches!(
                wallet.transfer(0, 1, &vec![message.clone(); count]),
                Err(ChainError::Encoding {
                    what: "wallet transfer",
                    ..
                })
            ));
        }
    }

    #[test]
    fn debug_output_holds_no_key() {
        let wallet = Wallet::from_key(SigningKey::from_bytes(&[0xAB; 32]), 1).unwrap();
        let text = format!("{wallet:?}").to_lowercase();
        assert!(!text.contains("abababab") && !text.contains("171, 171"));
    }
}
