//! The keys that outlive a process: the libp2p identity and the wallet. An enclave's keys are not
//! among them; they live in memory only.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use cocoon_protocol::ids::{Keypair, PeerId};
use cocoon_settlement::wallet::WalletKey;
use ed25519_dalek::SigningKey;

use super::WiringError;
use crate::secret_file::{SecretFileError, Token};

/// The wallet's key in the data directory.
pub(crate) const WALLET_KEY: &str = "wallet-key";

/// See the module's doc.
#[derive(Clone)]
pub(super) struct Keys {
    pub(super) peer_key: Keypair,
    pub(super) wallet_key: WalletKey,
    /// Signs the worker's commits: the wallet's key, unless the worker moved to a new ledger contract.
    pub(super) ledger_key: SigningKey,
}

/// In the data directory of a worker that moved to a new ledger contract (`cocoon ledger reconcile`).
pub(crate) const LEDGER_KEY_FILE: &str = "ledger-key";

impl Keys {
    /// Reads both from the data directory; makes what is missing, mode 600.
    pub(super) fn load_or_create(directory: &Path) -> Result<Self, WiringError> {
        let mut peer_seed = seed(directory.join("peer-key"))?;
        let wallet_key = match wallet_key(directory)? {
            Some(key) => key,
            None => keep_wallet_key(
                directory,
                WalletKey::generate().map_err(SecretFileError::Entropy)?,
            )?,
        };
        let ledger_key = ledger_key(directory)?.unwrap_or_else(|| wallet_key.key.clone());
        let peer_key =
            Keypair::ed25519_from_bytes(&mut peer_seed).map_err(|_| WiringError::NoKey {
                path: directory.join("peer-key"),
            })?;
        Ok(Self {
            peer_key,
            wallet_key,
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
pub(crate) fn wallet_key(directory: &Path) -> Result<Option<WalletKey>, WiringError> {
    let path = directory.join(WALLET_KEY);
    match Token::load(&path) {
        Ok(token) => WalletKey::parse(token.reveal())
            .map(Some)
            .ok_or(WiringError::NoKey { path }),
        Err(SecretFileError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The key of the ledger contract, if it is not the wallet's.
fn ledger_key(directory: &Path) -> Result<Option<SigningKey>, WiringError> {
    let path = directory.join(LEDGER_KEY_FILE);
    match Token::load(&path) {
        Ok(token) => Ok(Some(SigningKey::from_bytes(&bytes(&token, path)?))),
        Err(SecretFileError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Writes the key into a new file, mode 600.
///
/// # Errors
/// There is one already.
pub(crate) fn keep_wallet_key(directory: &Path, key: WalletKey) -> Result<WalletKey, WiringError> {
    Token::store(&directory.join(WALLET_KEY), key.to_text().to_string())?;
    Ok(key)
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
