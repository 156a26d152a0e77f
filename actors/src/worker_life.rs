//! What a worker does by the clock: new keys and evidence every epoch, an advert every few seconds.
//!
//! A task, not an actor: it owns nothing that anybody asks for.

use crate::ask::{Address, AskError, ask, tell_surely};
use crate::attestor::{Attestor, Enclave, Install};
use crate::clock;
use crate::mesh::{Mesh, Publish};
use crate::negotiator::{Negotiator, NewEvidence};
use cocoon_attestation::{EvidenceError, EvidenceSource};
use cocoon_protocol::evidence::{Beacon, Claims};
use cocoon_protocol::ids::{Digest, Keypair, TonAddress};
use cocoon_protocol::session::EnclaveSecrets;
use cocoon_protocol::units::UnixMillis;
use cocoon_protocol::{Advert, ModelTerms, WireError};
use cocoon_settlement::chain::{Chain, ChainError};
use ed25519_dalek::SigningKey;
use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

/// Time between two adverts. A newcomer hears of a worker within this time.
pub const ADVERT_INTERVAL: Duration = Duration::from_secs(3);
/// How long an advert counts: a few that get lost do not make a worker vanish.
pub const ADVERT_LIFETIME_MS: u32 = 30_000;
/// Milliseconds of an epoch: keys live no longer.
const EPOCH_MS: u64 = 3_600_000;

/// What a worker is.
pub struct WorkerLife {
    /// Its libp2p identity.
    pub key: Keypair,
    /// Where quotes come from.
    pub source: Arc<dyn EvidenceSource>,
    /// Where beacons come from.
    pub chain: Arc<dyn Chain>,
    /// What it serves.
    pub models: Vec<ModelTerms>,
    /// Jobs at once.
    pub slots: u16,
    /// Digest of the guest's configuration.
    pub config: Digest,
    /// Digest of the model's answers to the known questions, asked once at the start of this process.
    pub canary: Digest,
    /// Where it is paid.
    pub payout: TonAddress,
    /// Its ledger contract.
    pub ledger: TonAddress,
    /// Gets the keys and the evidence.
    pub attestor: Address<Attestor>,
    /// Offers name the evidence.
    pub negotiator: Address<Negotiator>,
    /// Adverts go out here.
    pub mesh: Address<Mesh>,
}

/// Why an epoch could not begin, or an advert not go out.
#[derive(Debug, thiserror::Error)]
pub enum LifeError {
    /// No quote.
    #[error("no evidence: {0}")]
    Evidence(#[from] EvidenceError),
    /// No beacon.
    #[error("no beacon: {0}")]
    Chain(#[from] ChainError),
    /// The advert breaks a bound.
    #[error("no advert: {0}")]
    Advert(#[from] WireError),
    /// An actor is busy or gone.
    #[error(transparent)]
    Ask(#[from] AskError),
    /// The worker has no model to make claims about.
    #[error("a worker without a model")]
    NoModel,
    /// The thread that makes the quote failed.
    #[error("making evidence failed: {0}")]
    Thread(#[from] tokio::task::JoinError),
}

/// Lives until cancelled.
pub async fn live(life: WorkerLife, until: CancellationToken) {
    let mut current: Option<Arc<Enclave>> = None;
    let mut ticks = tokio::time::interval(ADVERT_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = until.cancelled() => return,
            _ = ticks.tick() => {}
        }
        if let Err(error) = life.beat(&mut current).await {
            warn!(%error, "this worker is not advertised now; trying again shortly");
        }
    }
}

impl WorkerLife {
    async fn beat(&self, current: &mut Option<Arc<Enclave>>) -> Result<(), LifeError> {
        let now = clock::now();
        let epoch = epoch_of(now);
        let enclave = match current {
            Some(enclave) if enclave.bundle.claims.epoch == epoch => Arc::clone(enclave),
            _ => {
                let enclave = Arc::new(self.enter(now, epoch).await?);
                tell_surely(&self.attestor, Install(Arc::clone(&enclave))).await?;
                tell_surely(&self.negotiator, NewEvidence(enclave.evidence())).await?;
                *current = Some(Arc::clone(&enclave));
                enclave
            }
        };
        let advert = Advert {
            peer: self.key.public().to_peer_id(),
            // The clock as sequence survives restarts without a file.
            sequence: now.millis(),
            issued: now,
            lifetime_ms: ADVERT_LIFETIME_MS,
            models: self.models.clone(),
            slots: self.slots,
            evidence: enclave.evidence(),
            evidence_expires: enclave.valid_until,
            payout: self.payout,
            ledger: self.ledger,
        };
        // Until the first peer has joined the topic there is nobody to tell; that is no failure.
        if let Err(error) = ask(&self.mesh, Publish(advert.sign(&self.key)?)).await? {
            debug!(%error, "advert not published");
        }
        Ok(())
    }

    /// New keys, and a quote that binds them.
    async fn enter(&self, now: UnixMillis, epoch: u64) -> Result<Enclave, LifeError> {
        let model = self.models.first().ok_or(LifeError::NoModel)?.digest;
        let head = self.chain.head().await?;
        let mut rng = StdRng::from_os_rng();
        let secrets = EnclaveSecrets::generate(&mut rng);
        let mut seed = zeroize::Zeroizing::new([0; 32]);
        rng.fill_bytes(&mut *seed);
        let receipt_key = SigningKey::from_bytes(&seed);
        let claims = Claims {
            noise_key: *secrets.noise_key(),
            mlkem_key: secrets.mlkem_key().to_vec(),
            receipt_key: receipt_key.verifying_key().to_bytes(),
            peer: self.key.public().to_peer_id(),
            model,
            config: self.config,
            gpu_evidence: Digest::ZERO,
            canary: self.canary,
            beacon: Beacon {
                seqno: head.seqno,
                hash: head.hash,
            },
            epoch,
        };
        let source = Arc::clone(&self.source);
        // A quote takes tens of milliseconds of a guest's time.
        let bundle = tokio::task::spawn_blocking(move || source.make(now, &claims)).await??;
        info!(epoch, beacon = head.seqno, "entered an epoch with new keys");
        Ok(Enclave {
            secrets,
            receipt_key,
            bundle,
            valid_until: UnixMillis::from_millis(epoch.saturating_add(1).saturating_mul(EPOCH_MS)),
        })
    }
}

fn epoch_of(now: UnixMillis) -> u64 {
    now.millis() / EPOCH_MS
}
