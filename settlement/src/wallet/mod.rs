//! A person's or a node's coins: the ordinary wallet contracts, version 5 revision 1 and, for keys made earlier, version 4
//! revision 2.
//!
//! Code, data layout and message layout are the deployed contracts', so the same key opens the same wallet in any TON
//! wallet program. Every transfer carries the wallet's `seqno`, which the contract counts up, and a `valid_until` after
//! which it is worthless; a transfer that was sent twice happens once.
//!
//! The signed bytes do not name the network, but they hold the wallet's id, which is part of its address too. To keep a
//! transfer made on a devnet from being replayed on mainnet under the same key, the id is mixed with the network's
//! `global_id`: by custom of version 5, and for version 4, whose custom is one id for all, everywhere but on mainnet.

mod fees;
mod friendly;
mod key;
mod mnemonic;
mod version;

use std::sync::Arc;
use std::time::Duration;

use cocoon_protocol::{Digest, NanoTon, TonAddress};
use ed25519_dalek::SigningKey;
use tycho_types::boc::Boc;
use tycho_types::cell::Cell;
use tycho_types::models::StateInit;

use crate::chain::{
    AccountState, AccountStatus, Chain, ChainError, Prices, TransactionSummary,
    wait_for_transaction,
};
use crate::contract::OutMessage;
use crate::contract::encoding::{address_of, digest};
use crate::contract::external_message;

pub use friendly::{BadAddress, friendly, parse as parse_address};
pub use key::WalletKey;
pub use mnemonic::{Mnemonic, MnemonicError, WORDS};
pub use version::{UnknownVersion, WalletVersion};

/// How many messages one transfer of a version 4 wallet may carry; [`WalletVersion::max_messages`] says it for others.
pub const MAX_MESSAGES_PER_TRANSFER: usize = 4;
/// A transfer is worthless this long after it was made, by the chain's clock.
const VALID_FOR_SECONDS: u32 = 60;
/// The same transfer is handed in again so often while its transaction is not seen. It can take effect once only.
const RESEND_EVERY: Duration = Duration::from_secs(15);
/// How often it is waited for: longer in all than the transfer is valid, so that afterwards it is sure.
const WAITS: u32 = 5;
/// Pause after a failed attempt to hand a transfer in.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// A wallet whose key this process holds. Clones share one queue: see [`Wallet::send`].
#[derive(Clone)]
pub struct Wallet {
    key: SigningKey,
    version: WalletVersion,
    id: i32,
    address: TonAddress,
    init: StateInit,
    /// Held from reading the seqno until the transaction is seen.
    turn: Arc<tokio::sync::Mutex<()>>,
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
    /// What it costs at most besides what it sends.
    pub fee: NanoTon,
}

impl std::fmt::Debug for Wallet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wallet")
            .field("address", &self.address)
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}

impl Wallet {
    /// The version 4 wallet of `key` on the network with this global id.
    pub fn from_key(key: SigningKey, global_id: i32) -> Result<Self, ChainError> {
        Self::of_version(WalletVersion::V4R2, key, global_id)
    }

    /// The wallet of `key` on the network with this global id.
    pub fn of_version(
        version: WalletVersion,
        key: SigningKey,
        global_id: i32,
    ) -> Result<Self, ChainError> {
        let id = version.wallet_id(global_id);
        let init = version.init(&key, id)?;
        Ok(Self {
            address: address_of(&init)?,
            key,
            version,
            id,
            init,
            turn: Arc::default(),
        })
    }

    /// Where its coins are.
    pub fn address(&self) -> TonAddress {
        self.address
    }

    /// Which contract it is.
    pub fn version(&self) -> WalletVersion {
        self.version
    }

    pub(crate) fn state_init(&self) -> &StateInit {
        &self.init
    }

    /// A signed transfer of up to [`WalletVersion::max_messages`] messages as an external message (bag of cells). With
    /// seqno 0 it brings the wallet's code along and so deploys it.
    pub fn transfer(
        &self,
        seqno: u32,
        valid_until: u32,
        messages: &[OutMessage],
    ) -> Result<Vec<u8>, ChainError> {
        let most = self.version.max_messages();
        if messages.is_empty() || messages.len() > most {
            return Err(ChainError::Encoding {
                what: "wallet transfer",
                reason: format!("{} messages, of 1 to {most}", messages.len()),
            });
        }
        let body = self
            .version
            .body(&self.key, self.id, seqno, valid_until, &cells(messages)?)?;
        let init = (seqno == 0).then(|| self.init.clone());
        external_message(self.address, init, body)
    }

    /// The seqno the next transfer needs: 0 until the first one deployed the wallet.
    pub async fn seqno(&self, chain: &dyn Chain) -> Result<u32, ChainError> {
        self.seqno_of(chain.account(self.address).await?.as_ref())
    }

    fn seqno_of(&self, account: Option<&AccountState>) -> Result<u32, ChainError> {
        match account.filter(|account| account.status == AccountStatus::Active) {
            None => Ok(0),
            Some(account) => self.version.seqno(self.address, &self.init, account),
        }
    }

    /// All coins of the wallet; zero where nothing ever arrived.
    pub async fn balance(&self, chain: &dyn Chain) -> Result<NanoTon, ChainError> {
        Ok(chain
            .account(self.address)
            .await?
            .map_or(NanoTon::ZERO, |account| account.balance))
    }

    /// Coins for somebody; with `bounce` they come back where nothing takes them.
    #[must_use]
    pub fn payment(to: TonAddress, value: NanoTon, bounce: bool) -> OutMessage {
        let mut message = OutMessage::transfer(to, value);
        message.bounce = bounce;
        message
    }

    /// Signs and sends messages, and waits for the wallet's transaction. The receivers' transactions follow from its
    /// `sent`. Calls on one wallet and its clones take turns; two programs with one key do not, and one of two transfers
    /// under the same seqno is refused.
    ///
    /// What was signed is handed in again while its transaction is not seen and it is valid; it takes effect once.
    pub async fn send(
        &self,
        chain: &dyn Chain,
        messages: &[OutMessage],
    ) -> Result<TransactionSummary, ChainError> {
        let _turn = self.turn.lock().await;
        let prepared = self.prepare(chain, messages).await?;
        let transaction = self.settle(chain, &prepared).await?;
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

    /// Hands a prepared transfer in until its transaction is seen. May be called again with the same transfer, after a
    /// restart too.
    pub async fn settle(
        &self,
        chain: &dyn Chain,
        prepared: &PreparedTransfer,
    ) -> Result<TransactionSummary, ChainError> {
        let mut outcome = Err(ChainError::NotSeenInTime {
            account: self.address,
            message: prepared.message,
            waited_ms: 0,
        });
        for _ in 0..WAITS {
            match chain.send_external(&prepared.boc).await {
                Ok(_) => {}
                // It may have arrived all the same, so it is waited for too.
                Err(error) if error.is_transient() => tokio::time::sleep(RETRY_PAUSE).await,
                // Refused: perhaps because an earlier copy was applied. One look tells.
                Err(error) => {
                    let seen = wait_for_transaction(
                        chain,
                        self.address,
                        prepared.message,
                        prepared.after_lt,
                        Duration::ZERO,
                    )
                    .await;
                    return seen.map_err(|_| error);
                }
            }
            outcome = wait_for_transaction(
                chain,
                self.address,
                prepared.message,
                prepared.after_lt,
                RESEND_EVERY,
            )
            .await;
            match &outcome {
                Err(error) if error.is_transient() => {}
                _ => return outcome,
            }
        }
        outcome
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

    /// What a transfer of these messages costs at most, besides what it sends and the rent of the wallet, once that is
    /// deployed.
    pub fn transfer_fee(
        &self,
        prices: &Prices,
        messages: &[OutMessage],
    ) -> Result<NanoTon, ChainError> {
        let boc = self.transfer(1, 0, messages)?;
        self.version.transfer_fee(prices, &boc, &cells(messages)?)
    }

    /// Signs messages that the wallet can pay for, without sending: for whoever has to write down what is about to
    /// happen first. One call at a time, up to the transaction.
    pub async fn prepare(
        &self,
        chain: &dyn Chain,
        messages: &[OutMessage],
    ) -> Result<PreparedTransfer, ChainError> {
        let account = chain.account(self.address).await?;
        let available = account
            .as_ref()
            .map_or(NanoTon::ZERO, |account| account.balance);
        let seqno = self.seqno_of(account.as_ref())?;
        let valid_until = chain.head().await?.unix.saturating_add(VALID_FOR_SECONDS);
        let boc = self.transfer(seqno, valid_until, messages)?;
        let prices = chain.prices().await?;
        let fee = self
            .version
            .fee(&prices, &self.init, &boc, &cells(messages)?)?;
        let needed = messages
            .iter()
            .try_fold(fee, |sum, message| sum.checked_add(message.value()))
            .unwrap_or(NanoTon::from_nano(u64::MAX));
        if needed > available {
            return Err(ChainError::InsufficientBalance {
                wallet: self.address,
                needed,
                available,
            });
        }
        let cell = Boc::decode(&boc).map_err(|error| ChainError::Encoding {
            what: "wallet transfer",
            reason: error.to_string(),
        })?;
        Ok(PreparedTransfer {
            message: digest(cell.repr_hash()),
            boc,
            valid_until,
            after_lt: account.map_or(0, |account| account.last_lt),
            fee,
        })
    }
}

fn cells(messages: &[OutMessage]) -> Result<Vec<Cell>, ChainError> {
    messages.iter().map(OutMessage::to_cell).collect()
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

    use tycho_types::cell::CellBuilder;

    const MAINNET_GLOBAL_ID: i32 = -239;

    fn code_hash(version: WalletVersion) -> String {
        let wallet = Wallet::of_version(version, SigningKey::from_bytes(&[5; 32]), 1).unwrap();
        wallet.init.code.unwrap().repr_hash().to_string()
    }

    #[test]
    fn the_code_is_the_deployed_contracts() {
        assert_eq!(
            code_hash(WalletVersion::V4R2),
            "feb5ff6820e2ff0d9483e7e0d62c817d846789fb4ae580c878866d959dabd5c0"
        );
        assert_eq!(
            code_hash(WalletVersion::V5R1),
            "20834b7b72b112147e1b2fb457b84e74d1a30f04f737d4f62a668e9552d2b72f"
        );
    }

    /// For the key of 32 times 5, valid until 1,800,000,000, messages of 17, 18, … nanoTON to 32
    /// times 9: network, messages, seqno, hash of the body. By `WalletContractV5R1` of `@ton/ton` 16.3.0.
    const BODIES_V5: [(i32, usize, u32, &str); 6] = [
        (
            -239,
            1,
            0,
            "dfd7d31cf2332f4ce696037921626175cc52d5653885f167d4465c02ddaa5b7a",
        ),
        (
            -239,
            3,
            3,
            "6778426a37af809595f023d98297a8bbcbfb426f6e610717a371fb3067a81b41",
        ),
        (
            -239,
            255,
            3,
            "10489a4fced36614a59031a3c8431bac57c695dc4a7d150dfd4a8abdaf2ade53",
        ),
        (
            -31337,
            1,
            3,
            "5460bc1ff9b66ecad45faf217835c53663ca535337f102139dbc0afc17de6335",
        ),
        (
            -31337,
            3,
            0,
            "cf2f5c0280b7f5fe9e99a426b0ef4280a8e376c2dcff99986375f2900217b29f",
        ),
        (
            -31337,
            255,
            0,
            "63c085d0f1e73b87746bd32a64472cc511b6624ff6d24ace538b14c809ae8462",
        ),
    ];
    const ADDRESSES_V5: [(i32, &str); 3] = [
        (
            -239,
            "7fd215a40b81daadef08d32aec841f737c3dd92908d0b9231cf7058158991096",
        ),
        (
            -3,
            "373e8f72255ff86cd35fa56e499d28eb6319633209969ffcbfc8ce678cf18224",
        ),
        (
            -31337,
            "d6081fe78fc7f01bfdf5119e5e2a67f4a6a5c3bbe63d8f6d2d8a2e3d9c0837e0",
        ),
    ];

    #[test]
    fn version_5_is_that_of_an_independent_implementation() {
        let key = SigningKey::from_bytes(&[5; 32]);
        for (global_id, address) in ADDRESSES_V5 {
            let wallet = Wallet::of_version(WalletVersion::V5R1, key.clone(), global_id).unwrap();
            assert_eq!(wallet.address().to_string(), format!("0:{address}"));
        }
        for (global_id, count, seqno, hash) in BODIES_V5 {
            let wallet = Wallet::of_version(WalletVersion::V5R1, key.clone(), global_id).unwrap();
            let to = TonAddress {
                workchain: 0,
                hash: [9; 32],
            };
            let messages: Vec<_> = (0..count as u64)
                .map(|index| OutMessage::transfer(to, NanoTon::from_nano(17 + index)))
                .collect();
            let boc = wallet.transfer(seqno, 1_800_000_000, &messages).unwrap();
            assert_eq!(body_hash(&boc), hash, "{global_id} {count} {seqno}");
        }
    }

    fn body_hash(boc: &[u8]) -> String {
        let cell = Boc::decode(boc).unwrap();
        let parsed = cell.parse::<tycho_types::models::OwnedMessage>().unwrap();
        // Which parts of a message go into a cell of their own is the sender's choice; its content is not.
        let (range, root) = parsed.body;
        let body = CellBuilder::build_from(range.apply(&root).unwrap()).unwrap();
        body.repr_hash().to_string()
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
            let cell = Boc::decode(&boc).unwrap();
            let parsed = cell.parse::<tycho_types::models::OwnedMessage>().unwrap();
            assert_eq!(super::tests::body_hash(&boc), body_hash);
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
