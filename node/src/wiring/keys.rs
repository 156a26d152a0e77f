//! The keys that outlive a process: the libp2p identity and the wallet. An enclave's keys are not
//! among them; they live in memory only.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use cocoon_protocol::ids::{Keypair, PeerId};
use ed25519_dalek::SigningKey;

use super::WiringError;
use crate::secret_file::{SecretFileError, Token};

/// See the module's doc.
#[derive(Clone)]
pub(super) struct Keys {
    pub(super) peer_key: Keypair,
    pub(super) wallet_key: SigningKey,
    /// Signs the worker's commits: the wallet's key, unless the worker moved to a new ledger contract.
    pub(super) ledger_key: SigningKey,
}

/// In the data directory of a worker that moved to a new ledger contract (`cocoon ledger reconcile`).
pub(crate) const LEDGER_KEY_FILE: &str = "ledger-key";

impl Keys {
    /// Reads both from the data directory; makes what is missing, mode 600.
    pub(super) fn load_or_create(directory: &Path) -> Result<Self, WiringError> {
        let mut peer_seed = seed(directory.join("peer-key"))?;
        let wallet_seed = seed(directory.join("wallet-key"))?;
        let ledger_key =
            ledger_key(directory)?.unwrap_or_else(|| SigningKey::from_bytes(&wallet_seed));
        let peer_key =
            Keypair::ed25519_from_bytes(&mut peer_seed).map_err(|_| WiringError::NoKey {
                path: directory.join("peer-key"),
            })?;
        Ok(Self {
            peer_key,
            wallet_key: SigningKey::from_bytes(&wallet_seed),
            ledger_key,
        })
    }

    pub(super) fn peer(&self) -> PeerId {
        self.peer_key.public().to_peer_id()
    }
}

/// The wallet's key, if a node has started on this directory before. Makes nothing.
///
/// # Errors
/// A file that others can read, or that holds no key.
pub(crate) fn wallet_key(directory: &Path) -> Result<Option<SigningKey>, WiringError> {
    existing(directory.join("wallet-key"))
}

/// The key of the ledger contract, if it is not the wallet's.
fn ledger_key(directory: &Path) -> Result<Option<SigningKey>, WiringError> {
    existing(directory.join(LEDGER_KEY_FILE))
}

fn existing(path: PathBuf) -> Result<Option<SigningKey>, WiringError> {
    match Token::load(&path) {
        Ok(token) => Ok(Some(SigningKey::from_bytes(&bytes(&token, path)?))),
        Err(SecretFileError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// 32 random bytes as hexadecimal in a file of their own.
fn seed(path: PathBuf) -> Result<[u8; 32], WiringError> {
    bytes(&Token::load_or_create(&path)?, path)
}

fn bytes(token: &Token, path: PathBuf) -> Result<[u8; 32], WiringError> {
    hex::decode(token.reveal())
        .ok()
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or(WiringError::NoKey { path })
}
