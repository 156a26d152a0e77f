//! A stranger's coins and channels, on the real chain.

use std::collections::BTreeMap;

use cocoon::local_mesh::fund;
use cocoon_protocol::{NanoTon, PublicKey32, SignedVoucher, TonAddress, Voucher};
use cocoon_settlement::chain::{Chain, DevnetClient};
use cocoon_settlement::contract::{ChannelTerms, fetch_channel, open_message, start_close_message};
use cocoon_settlement::wallet::{MAX_MESSAGES_PER_TRANSFER, Wallet};
use ed25519_dalek::SigningKey;

use super::mesh::{Mesh, wait};

/// What a well-behaved client gives a worker to claim in, seconds.
pub(crate) const DAY_S: u32 = 86_400;

/// See the module's doc.
pub(crate) struct Purse {
    chain: DevnetClient,
    wallet: Wallet,
    pub(crate) key: SigningKey,
    pub(crate) global_id: i32,
    nonce: u32,
}

impl Purse {
    /// A new wallet with coins from the faucet.
    pub(crate) async fn with(mesh: &Mesh, coins: NanoTon) -> Self {
        let chain = mesh.chain.clone();
        let global_id = chain.global_id().await.unwrap();
        let key = SigningKey::from_bytes(&rand::random());
        let wallet = Wallet::from_key(key.clone(), global_id).unwrap();
        fund(&chain, &[(wallet.address(), coins)]).await.unwrap();
        Self {
            chain,
            wallet,
            key,
            global_id,
            nonce: 0,
        }
    }

    /// Where the coins are: an account, and no channel.
    pub(crate) fn address(&self) -> TonAddress {
        self.wallet.address()
    }

    /// Terms of one more channel of ours.
    pub(crate) fn terms(&mut self, worker: TonAddress, close_delay_s: u32) -> ChannelTerms {
        self.nonce += 1;
        ChannelTerms {
            client: self.wallet.address(),
            worker,
            client_key: PublicKey32::from_bytes(self.key.verifying_key().to_bytes()),
            nonce: self.nonce,
            close_delay_s,
        }
    }

    /// Opens channels, and waits until they are there.
    pub(crate) async fn open(&self, wanted: &[(ChannelTerms, NanoTon)]) -> Vec<TonAddress> {
        for some in wanted.chunks(MAX_MESSAGES_PER_TRANSFER) {
            let messages: Vec<_> = some
                .iter()
                .map(|(terms, deposit)| open_message(terms, *deposit).unwrap())
                .collect();
            self.wallet.send(&self.chain, &messages).await.unwrap();
        }
        let addresses: Vec<_> = wanted
            .iter()
            .map(|(terms, _)| terms.address().unwrap())
            .collect();
        wait("the channels are open", async || {
            for address in &addresses {
                if fetch_channel(&self.chain, *address)
                    .await
                    .unwrap()
                    .is_none()
                {
                    return false;
                }
            }
            true
        })
        .await;
        addresses
    }

    /// Asks for a channel's deposit back.
    pub(crate) async fn start_close(&self, channel: TonAddress) {
        let message = start_close_message(channel).unwrap();
        self.wallet.send(&self.chain, &[message]).await.unwrap();
        wait("the channel is closing", async || {
            let state = fetch_channel(&self.chain, channel).await.unwrap().unwrap();
            !state.is_open()
        })
        .await;
    }

    /// A voucher with our signature.
    pub(crate) fn sign(&self, channel: TonAddress, cumulative: NanoTon) -> SignedVoucher {
        Voucher {
            channel,
            cumulative,
        }
        .sign(&self.key, self.global_id)
    }
}

/// What a worker holds, channel by channel, and what it has earned, by its own status.
pub(crate) async fn books(
    worker: &super::mesh::Watched,
) -> (BTreeMap<TonAddress, NanoTon>, NanoTon) {
    let status = worker.status().await;
    let held = status
        .channels
        .iter()
        .map(|channel| {
            (
                channel.address.parse().unwrap(),
                NanoTon::from_nano(channel.signed_nanoton),
            )
        })
        .collect();
    let earned = status.settlement.unwrap().earned_nanoton;
    (held, NanoTon::from_nano(earned))
}
