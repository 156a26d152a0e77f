//! What survives every death: the chain, its clock, and chance.

use cocoon_protocol::{Digest, NanoTon, TonAddress, UnixMillis};
use cocoon_settlement::chain::{Chain, ChainError, LocalChain};
use cocoon_settlement::contract::OutMessage;
use cocoon_settlement::devnet::{Devnet, faucet};
use cocoon_settlement::wallet::Wallet;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::fuse::Fuse;

const GENESIS: u32 = 1_795_000_000;
/// Seconds between two blocks.
const BLOCK_S: u32 = 5;
/// Of a hundred messages handed to the chain, how many are lost, and how many arrive without their sender hearing of it.
const LOST_PERCENT: u32 = 8;
const UNHEARD_PERCENT: u32 = 8;

/// See the module's documentation.
pub(crate) struct World {
    pub(crate) chain: LocalChain,
    /// Seconds since 1970; all clocks agree.
    pub(crate) unix: u32,
    pub(crate) chance: ChaCha8Rng,
    /// Whether it still storms.
    pub(crate) stormy: bool,
    pub(crate) lost: u32,
    pub(crate) unheard: u32,
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            chain: LocalChain::new(Devnet::in_memory(GENESIS).unwrap()),
            unix: GENESIS,
            chance: ChaCha8Rng::seed_from_u64(seed),
            stormy: true,
            lost: 0,
            unheard: 0,
        }
    }

    pub(crate) fn now(&self) -> UnixMillis {
        UnixMillis::from_millis(u64::from(self.unix) * 1000)
    }

    /// Whether something with this many chances in a thousand happens.
    pub(crate) fn happens(&mut self, per_mille: u32) -> bool {
        self.chance.random_range(0..1000) < per_mille
    }

    /// A second passes; perhaps with a block.
    pub(crate) fn tick(&mut self) {
        self.unix += 1;
        if self.unix.is_multiple_of(BLOCK_S) {
            self.chain.devnet().advance(self.unix).unwrap();
        }
    }

    /// Coins for wallets, before the storm.
    pub(crate) async fn fund(&mut self, wallets: &[TonAddress], each: NanoTon) {
        let faucet = faucet().unwrap();
        for wallet in wallets {
            let gift = OutMessage::transfer(*wallet, each);
            let transfer = faucet.prepare(&self.chain, &[gift]).await.unwrap();
            self.chain.send_external(&transfer.boc).await.unwrap();
            self.unix += 1;
            self.chain.devnet().advance(self.unix).unwrap();
        }
    }

    /// Hands a message to the chain, which may lose it, or take it while the answer is lost. The sender may die before or
    /// after.
    pub(crate) async fn send(&mut self, fuse: &Fuse, boc: &[u8]) -> Result<Digest, ChainError> {
        let dead = |_| nobody();
        fuse.step().map_err(dead)?;
        let fate = match self.stormy {
            true => self.chance.random_range(0..100),
            false => 100,
        };
        let sent = if fate < LOST_PERCENT {
            self.lost += 1;
            Err(nobody())
        } else {
            self.chain.send_external(boc).await
        };
        fuse.step().map_err(dead)?;
        if (LOST_PERCENT..LOST_PERCENT + UNHEARD_PERCENT).contains(&fate) && sent.is_ok() {
            self.unheard += 1;
            return Err(nobody());
        }
        sent
    }

    /// Signs and sends messages of a wallet. `Ok` says nothing about whether they arrived.
    pub(crate) async fn transfer(
        &mut self,
        fuse: &Fuse,
        wallet: &Wallet,
        messages: &[OutMessage],
    ) -> Result<(), ChainError> {
        let prepared = wallet.prepare(&self.chain, messages).await?;
        self.send(fuse, &prepared.boc).await.map(drop)
    }
}

fn nobody() -> ChainError {
    ChainError::Unreachable {
        endpoint: "storm".to_owned(),
        attempts: 1,
        reason: "as the storm wants it".to_owned(),
    }
}
