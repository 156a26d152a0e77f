//! What the tests are made of.

pub mod books;
pub mod chain;
pub mod model;
#[cfg(feature = "simulated-evidence")]
pub mod nodes;
pub mod port;

use cocoon_protocol::ids::{Keypair, PeerId};
use cocoon_protocol::{JobId, NanoTon};
use ed25519_dalek::SigningKey;

/// Runs on the one thread of an actix system, which is a tokio runtime too.
pub fn system<T>(body: impl Future<Output = T>) -> T {
    actix::System::new().block_on(body)
}

/// Lets everything run that can, until `done`. The limit is only for a test that would hang.
pub async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let turning = async {
        while !done() {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    };
    let limit = std::time::Duration::from_secs(60);
    let in_time = tokio::time::timeout(limit, turning).await;
    assert!(in_time.is_ok(), "never came: {what}");
}

/// As [`until`], for what has to be asked.
pub async fn until_async(what: &str, mut done: impl AsyncFnMut() -> bool) {
    let turning = async {
        while !done().await {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    };
    let limit = std::time::Duration::from_secs(60);
    let in_time = tokio::time::timeout(limit, turning).await;
    assert!(in_time.is_ok(), "never came: {what}");
}

pub fn milliton(amount: u64) -> NanoTon {
    NanoTon::from_nano(amount * 1_000_000)
}

pub fn nano(amount: u64) -> NanoTon {
    NanoTon::from_nano(amount)
}

pub fn key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

pub fn peer_key(seed: u8) -> Keypair {
    Keypair::ed25519_from_bytes([seed; 32]).unwrap()
}

pub fn peer(seed: u8) -> PeerId {
    peer_key(seed).public().to_peer_id()
}

pub fn job(seed: u8) -> JobId {
    JobId::from_bytes([seed; 16])
}
