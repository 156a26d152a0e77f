//! What a worker does by the clock: new keys and evidence every epoch, an advert every few seconds.
//!
//! A task, not an actor: it owns nothing that anybody asks for.

use crate::ask::{Address, AskError, ask, tell_surely};
use crate::attestor::{Attestor, Enclave, Install};
use crate::clock;
use crate::collateral::CollateralKeeper;
use crate::mesh::{Mesh, Publish};
use crate::negotiator::{Negotiator, NewEvidence};
use crate::port::Topic;
use cocoon_attestation::{EvidenceError, EvidenceSource, Expectation, Verifier};
use cocoon_protocol::evidence::{Beacon, Claims, EvidenceBundle, MAX_IMAGE_PROOF_BYTES};
use cocoon_protocol::ids::{Digest, Keypair, TonAddress};
use cocoon_protocol::session::EnclaveSecrets;
use cocoon_protocol::units::UnixMillis;
use cocoon_protocol::{Advert, ModelTerms, WireError};
use cocoon_settlement::chain::{Chain, ChainError};
use ed25519_dalek::SigningKey;
use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncReadExt as _;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

/// Time between two adverts. A newcomer hears of a worker within this time.
pub const ADVERT_INTERVAL: Duration = Duration::from_secs(3);
/// How long an advert counts: a few that get lost do not make a worker vanish.
pub const ADVERT_LIFETIME_MS: u32 = 30_000;
/// Time between two attempts to renew collateral that is about to end.
const RENEWAL_INTERVAL_MS: u64 = 600_000;
/// Milliseconds of an epoch: keys live no longer.
const EPOCH_MS: u64 = 3_600_000;

/// What a worker is.
pub struct WorkerLife {
    /// Its libp2p identity.
    pub key: Keypair,
    /// Where quotes come from.
    pub source: Arc<dyn EvidenceSource>,
    /// What a client would think of the evidence, by this node's own policy.
    pub verifier: Arc<Verifier>,
    /// Where collateral comes from and is served.
    pub collateral: Arc<CollateralKeeper>,
    /// Where beacons come from.
    pub chain: Arc<dyn Chain>,
    /// The proof that the guest's image stands in a log, as `cocoon log prove` writes it; read anew every epoch.
    pub image_proof: Option<PathBuf>,
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
    /// The proof of the image cannot be read.
    #[error("the proof of the image, {path}: {source}")]
    ImageProof {
        /// Which file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The thread that makes the quote failed.
    #[error("making evidence failed: {0}")]
    Thread(#[from] tokio::task::JoinError),
}

/// Lives until cancelled.
pub async fn live(life: WorkerLife, until: CancellationToken) {
    let mut current: Option<Arc<Enclave>> = None;
    let mut looked = clock::now();
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
        if let Some(enclave) = &current
            && clock::now().saturating_since(looked) >= RENEWAL_INTERVAL_MS
        {
            looked = clock::now();
            life.renew(&enclave.bundle).await;
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
            tcb_expires: self
                .collateral
                .expires(now, &enclave.bundle.quote)
                .unwrap_or_default(),
        };
        // Until the first peer has joined the topic there is nobody to tell; that is no failure.
        let publish = Publish {
            topic: Topic::Adverts,
            bytes: advert.sign(&self.key)?,
        };
        if let Err(error) = ask(&self.mesh, publish).await? {
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
        let mut bundle = tokio::task::spawn_blocking(move || source.make(now, &claims)).await??;
        if let Some(path) = &self.image_proof {
            bundle.attached.image_proof = read_proof(path).await?;
        }
        self.collateral.complete(now, &mut bundle, None).await;
        let bundle = self.judge(bundle).await?;
        info!(epoch, beacon = head.seqno, "entered an epoch with new keys");
        Ok(Enclave {
            secrets,
            receipt_key,
            bundle,
            valid_until: UnixMillis::from_millis(epoch.saturating_add(1).saturating_mul(EPOCH_MS)),
        })
    }

    /// Looks at our own evidence as a client with our policy would, so that an operator hears first what is
    /// wrong with it, and so that collateral whose signatures hold can be served to others.
    async fn judge(&self, bundle: EvidenceBundle) -> Result<EvidenceBundle, LifeError> {
        let (verifier, collateral) = (Arc::clone(&self.verifier), Arc::clone(&self.collateral));
        let judged = tokio::task::spawn_blocking(move || {
            let claims = &bundle.claims;
            let beacons = [claims.beacon];
            let expectation = Expectation {
                evaluation_floor: collateral.floor(&bundle.quote),
                ..Expectation::new(claims.peer, claims.model, claims.digest(), &beacons)
            };
            let verdict = verifier.verify(clock::now(), &bundle, &expectation);
            if let Some(factor) = verdict.first_failure() {
                warn!(
                    factor = factor.name,
                    reason = %factor.reason,
                    seen = %factor.seen,
                    wanted = %factor.wanted,
                    "a client with the policy of this node would refuse this evidence"
                );
            }
            if let Err(error) = collateral.learn(&bundle, &verdict) {
                warn!(%error, "collateral not stored");
            }
            bundle
        });
        Ok(judged.await?)
    }

    /// Asks for newer collateral when what there is ends soon.
    async fn renew(&self, bundle: &EvidenceBundle) {
        let Some(json) = self.collateral.renew(clock::now(), &bundle.quote).await else {
            return;
        };
        let renewed = EvidenceBundle {
            collateral_json: json,
            ..bundle.clone()
        };
        if let Err(error) = self.judge(renewed).await {
            warn!(%error, "newer collateral could not be looked at");
        }
    }
}

/// At most [`MAX_IMAGE_PROOF_BYTES`]; that it is one is for the verifier to see.
async fn read_proof(path: &Path) -> Result<Vec<u8>, LifeError> {
    let failed = |source| LifeError::ImageProof {
        path: path.to_owned(),
        source,
    };
    let file = tokio::fs::File::open(path).await.map_err(failed)?;
    let limit = u64::try_from(MAX_IMAGE_PROOF_BYTES).unwrap_or(u64::MAX);
    let mut proof = Vec::new();
    file.take(limit.saturating_add(1))
        .read_to_end(&mut proof)
        .await
        .map_err(failed)?;
    if proof.len() > MAX_IMAGE_PROOF_BYTES {
        let why = format!("longer than any proof, which has at most {MAX_IMAGE_PROOF_BYTES} bytes");
        return Err(failed(std::io::Error::other(why)));
    }
    Ok(proof)
}

fn epoch_of(now: UnixMillis) -> u64 {
    now.millis() / EPOCH_MS
}
