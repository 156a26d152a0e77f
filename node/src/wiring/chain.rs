//! A node's side of the chain: the client, the wallet, and the ledger on disk.

use std::sync::Arc;
use std::time::Duration;

use cocoon_protocol::TonAddress;
use cocoon_settlement::chain::{Chain, ChainError, DevnetClient};
use cocoon_settlement::ledger::SCHEMA;
use cocoon_settlement::store::RocksStore;
use cocoon_settlement::wallet::Wallet;
use tokio::sync::Mutex;
use tracing::{info, warn};

use super::WiringError;
use super::keys::Keys;
use crate::config::Config;

/// Pause between two attempts to reach the chain at the start.
const RETRY: Duration = Duration::from_secs(2);
/// Attempts to reach the chain at the start.
const ATTEMPTS: u32 = 15;

/// See the module's doc.
#[derive(Clone)]
pub(super) struct ChainSide {
    pub(super) chain: Arc<dyn Chain>,
    pub(super) global_id: i32,
    pub(super) wallet: Arc<Mutex<Wallet>>,
    pub(super) address: TonAddress,
    pub(super) store: Arc<RocksStore>,
}

impl ChainSide {
    pub(super) async fn connect(config: &Config, keys: &Keys) -> Result<Self, WiringError> {
        let at = |source| WiringError::Chain {
            url: config.chain_url.clone(),
            source,
        };
        let client = DevnetClient::new(&config.chain_url).map_err(at)?;
        let global_id = reach(&client, &config.chain_url).await.map_err(at)?;
        let wallet = Wallet::from_key(keys.wallet_key.clone(), global_id).map_err(at)?;
        let address = wallet.address();
        let balance = wallet.balance(&client).await.map_err(at)?;
        info!(wallet = %address, %balance, "chain reached");
        if balance == cocoon_protocol::NanoTon::ZERO {
            warn!(wallet = %address, "the wallet is empty: send it some TON");
        }
        let store = Arc::new(RocksStore::open(config.data_dir.join("ledger"), SCHEMA)?);
        Ok(Self {
            chain: Arc::new(client),
            global_id,
            wallet: Arc::new(Mutex::new(wallet)),
            address,
            store,
        })
    }
}

/// The chain may start at the same moment as this node.
async fn reach(client: &DevnetClient, url: &str) -> Result<i32, ChainError> {
    let mut attempt = 1;
    loop {
        match client.global_id().await {
            Err(error) if error.is_transient() && attempt < ATTEMPTS => {
                warn!(%url, %error, attempt, "the chain does not answer yet");
                tokio::time::sleep(RETRY).await;
                attempt = attempt.saturating_add(1);
            }
            other => return other,
        }
    }
}
