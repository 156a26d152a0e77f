//! The devnet behind TON's own protocol for light clients: liteserver queries in ADNL over TCP (TL scheme
//! `lite_api.tl`; whitepaper "TON Blockchain" §1.2.7 for light nodes). Any client that takes a global config can talk
//! to it; `docs/devnet.md` says how, and which queries it answers.

mod accounts;
mod answer;
mod blocks;
mod config;
mod faults;
mod fork;
mod ids;
mod lookup;
mod proofs;
mod session;
#[cfg(test)]
mod tests;
mod transactions;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use adnl::crypto::{KeyPair, SecretKey};
use sha2::{Digest as _, Sha256};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};

use self::fork::Forks;
use crate::chain::LocalChain;

pub use blocks::MAX_LINKS;
pub use config::global_config;
pub use faults::{Faults, Fork, MAX_DELAY_MS};
pub use session::{MAX_QUERIES_IN_FLIGHT, MAX_QUERY_BYTES, MAX_WAIT_MS};

/// The servers' ADNL keys are derived from this and their number, so that a config stays true over restarts. Anybody
/// can stand in for a devnet's server.
pub const LITESERVER_SEED: [u8; 32] = *b"cocoon devnet liteserver, public";
/// Connections of one liteserver; one more is closed at once.
pub const MAX_CONNECTIONS: usize = 64;

/// What all connections of a server share.
struct Shared {
    chain: LocalChain,
    key: KeyPair,
    faults: watch::Sender<Faults>,
    forks: Mutex<Forks>,
    connections: Arc<Semaphore>,
}

/// One liteserver of the devnet. It stops when this is dropped.
pub struct Liteserver {
    shared: Arc<Shared>,
    address: SocketAddr,
    accepting: tokio::task::JoinHandle<()>,
}

impl Drop for Liteserver {
    fn drop(&mut self) {
        self.accepting.abort();
        // Connections end with this.
        self.shared.faults.send_modify(|faults| faults.down = true);
    }
}

impl Liteserver {
    /// Serves the chain at `address`. Servers of one devnet differ in `number`, which decides the key.
    ///
    /// # Errors
    /// An address that cannot be listened on.
    pub async fn bind(
        chain: LocalChain,
        address: SocketAddr,
        number: u32,
    ) -> std::io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let (faults, _) = watch::channel(Faults::default());
        let shared = Arc::new(Shared {
            chain,
            key: key(number),
            faults,
            forks: Mutex::new(Forks::default()),
            connections: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
        });
        let accepting = tokio::spawn(session::accept(listener, Arc::downgrade(&shared)));
        Ok(Self {
            shared,
            address,
            accepting,
        })
    }

    /// Stops listening and waits until all connections have ended. The chain is not held by them any more then.
    pub async fn close(&self) {
        self.accepting.abort();
        self.shared.faults.send_modify(|faults| faults.down = true);
        let all = u32::try_from(MAX_CONNECTIONS).unwrap_or(u32::MAX);
        let _ = self.shared.connections.acquire_many(all).await;
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its Ed25519 public key, which clients know it by.
    pub fn public_key(&self) -> [u8; 32] {
        self.shared.key.public_key.to_bytes()
    }

    /// What it does wrong at the moment.
    pub fn faults(&self) -> Faults {
        *self.shared.faults.borrow()
    }

    /// Makes it do wrong from the next answer on.
    pub fn set_faults(&self, faults: Faults) {
        self.shared.faults.send_replace(faults.bounded());
    }
}

fn key(number: u32) -> KeyPair {
    let seed: [u8; 32] = Sha256::new()
        .chain_update(LITESERVER_SEED)
        .chain_update(number.to_be_bytes())
        .finalize()
        .into();
    KeyPair::from(&SecretKey::from_bytes(seed))
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
