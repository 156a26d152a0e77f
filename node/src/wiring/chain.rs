//! A node's side of the chain: the client, the wallet, and the ledger on disk.

use std::sync::Arc;
use std::time::Duration;

use cocoon_protocol::TonAddress;
use cocoon_settlement::chain::lite::{GlobalConfig, Progress};
use cocoon_settlement::chain::{Chain, ChainError, LiteChain, LiteSettings};
use cocoon_settlement::ledger::SCHEMA;
use cocoon_settlement::store::RocksStore;
use cocoon_settlement::wallet::Wallet;
use tokio::sync::Mutex;
use tracing::{info, warn};

use super::WiringError;
use super::keys::Keys;
use crate::config::Config;

/// The newest verified key block, in the data directory: what the next start begins at.
const ANCHOR_FILE: &str = "chain-anchor.json";
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
        let (chain, global_id) = reach(config).await.map_err(at)?;
        let wallet = keys.wallet_key.wallet(global_id).map_err(at)?;
        let address = wallet.address();
        match wallet.balance(chain.as_ref()).await {
            Ok(balance) => {
                info!(wallet = %address, %balance, standing = %chain.standing(), "chain reached");
                if balance == cocoon_protocol::NanoTon::ZERO {
                    warn!(wallet = %address, "the wallet is empty: send it some TON");
                }
            }
            // The network may have been upgraded past this program: no reason not to start.
            Err(error @ ChainError::Unverifiable { .. }) => {
                warn!(wallet = %address, %error, "starting without a verified head of the chain");
            }
            Err(error) => return Err(at(error)),
        }
        let store = Arc::new(RocksStore::open(config.data_dir.join("ledger"), SCHEMA)?);
        Ok(Self {
            chain,
            global_id,
            wallet: Arc::new(Mutex::new(wallet)),
            address,
            store,
        })
    }
}

/// The chain that the configuration names. Its newest verified key block is kept in the data directory.
///
/// # Errors
/// No configuration at `chain_url`. Liteservers are not asked yet.
pub(crate) async fn connect(
    config: &Config,
    progress: Progress,
) -> Result<Arc<dyn Chain>, ChainError> {
    let settings = LiteSettings {
        // A command that only looks makes no directory.
        anchor_file: config
            .data_dir
            .is_dir()
            .then(|| config.data_dir.join(ANCHOR_FILE)),
        ..LiteSettings::default()
    };
    let global = GlobalConfig::load(&config.chain_url).await?;
    Ok(Arc::new(LiteChain::new(
        &config.chain_url,
        global,
        settings,
        progress,
    )))
}

/// The chain and its global id. It may start at the same moment as this node.
pub(super) async fn reach(config: &Config) -> Result<(Arc<dyn Chain>, i32), ChainError> {
    let mut attempt = 1;
    let mut chain = None;
    loop {
        let reached = async {
            let chain = match &chain {
                Some(chain) => Arc::clone(chain),
                None => Arc::clone(chain.insert(connect(config, Progress::default()).await?)),
            };
            match chain.head().await {
                // Whoever was on this network before knows its number.
                Ok(_) | Err(ChainError::Unverifiable { .. }) => {}
                Err(error) => return Err(error),
            }
            let global_id = chain.global_id().await?;
            Ok((chain, global_id))
        };
        match reached.await {
            Err(error) if ChainError::is_transient(&error) && attempt < ATTEMPTS => {
                warn!(url = %config.chain_url, %error, attempt, "the chain does not answer yet");
                tokio::time::sleep(RETRY).await;
                attempt = attempt.saturating_add(1);
            }
            other => return other,
        }
    }
}
